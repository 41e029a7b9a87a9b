"""Tables: what they show; undefined is never a number."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console
from rich.table import Table

from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.display import (
    comparison_table,
    interval,
    layer_table,
    number,
)

N, LAYERS, HEADS = 40, 3, 4


def measured(level: float, seed: int = 0) -> dict[str, torch.Tensor]:
    """Per-query scores around `level`, by layer and head."""
    noise = torch.Generator().manual_seed(seed)
    by_head = level + 0.02 * torch.randn(N, LAYERS, HEADS, generator=noise)
    return {
        "SimAOU": by_head.mean(2),
        "SimAOU/head": by_head,
        "SimAM": by_head.mean(2),
        "accuracy": torch.arange(N).remainder(2).float(),
        "Tok2Attn": torch.full((N, LAYERS), math.nan),
    }


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    settings = {name: {"accuracy": torch.arange(N).remainder(2).float()} for name in ("ZS", "ICL")}
    values = {
        **settings,
        "gd": measured(0.5),
        "lcgd": measured(0.3, 1),
        "random[gd]": measured(0.1, 2),
        "oracle": measured(1.0, 3),
        "gd@untrained": measured(0.2, 4),
        "lcgd@untrained": measured(0.3, 5),
    }
    return Comparison.of(
        values, torch.zeros(N, dtype=torch.int64), failures={"lcgd": "it diverged [here]"}
    )


@pytest.fixture(scope="module")
def frame(comparison: Comparison) -> pd.DataFrame:
    return comparison.frame()


def text_of(table: Table, width: int = 250) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def line_of(text: str, start: str) -> str:
    (found,) = [line for line in text.splitlines() if line.strip().startswith(start)]
    return found


# -- tables ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.434, ".43"), (-0.434, "-.43"), (1.0, "1.00"), (0.0, ".00"), (-0.001, ".00"),
        (12.345, "12.35"), (-77.3, "-77.30"), (10.5, "10.50"), (12345.0, "1.23e+04"),
        (math.nan, "—"), (math.inf, "—"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_keep_their_size(value: float, text: str) -> None:
    assert number(value) == text


def test_an_interval_is_left_out_where_it_does_not_exist() -> None:
    assert interval(0.5, 0.4, 0.6) == ".50 [.40,.60]"
    assert interval(0.5, math.nan, math.nan) == ".50"
    assert interval(1.0, 1.0, 1.0) == "1.00"


def test_the_summary_names_everything_once_with_intervals(
    comparison: Comparison, frame: pd.DataFrame
) -> None:
    text = text_of(comparison.table())
    for name in comparison.values:
        assert len([line for line in text.splitlines() if line.split()[:1] == [name]]) == 1
    row = frame[(frame["hypothesis"] == "gd") & (frame["score"] == "SimAOU")].iloc[0]
    shown = interval(row["value"], row["ci_low"], row["ci_high"])
    assert shown in line_of(text, "gd ")
    assert "[" in shown


def test_brackets_of_names_and_of_messages_survive(comparison: Comparison) -> None:
    text = text_of(comparison_table(comparison))
    assert "random[gd]" in text
    assert "it diverged [here]" in " ".join(text.split())


def test_undefined_scores_are_a_dash_with_their_count(comparison: Comparison) -> None:
    assert f"— ({N})" in line_of(text_of(comparison.table()), "gd ")
    assert "nan" not in text_of(comparison.table()).lower()


def test_scores_that_a_setting_does_not_have_stay_empty(comparison: Comparison) -> None:
    cells = line_of(text_of(comparison.table()), "ZS ").split()
    assert cells == ["ZS", *interval_of(comparison, "ZS", "accuracy").split()]


def interval_of(comparison: Comparison, name: str, score: str) -> str:
    frame = comparison.frame()
    rows = frame[(frame["hypothesis"] == name) & (frame["score"] == score)]
    row = rows[rows["layer"].isna()].iloc[0]
    return interval(row["value"], row["ci_low"], row["ci_high"])


def test_the_caption_says_what_intervals_are_over(comparison: Comparison) -> None:
    draws = [replace(comparison.parts[0], draw=draw) for draw in range(3)]
    several = Comparison(tuple(draws), confidence=0.9)
    for each in (comparison, several):
        for table in (comparison_table(each), layer_table(each)):
            caption = str(table.caption)
            assert f"[{each.confidence:.0%} interval: {each.frame().attrs['interval']}]" in caption
    assert "Student t over draws" in str(several.table().caption)
    assert "bootstrap over queries" in str(comparison.table().caption)
    read = several.frame()
    read.attrs = {}  # as of a file: nothing is claimed
    assert str(comparison_table(several, frame=read).caption).startswith("Mean [90% interval].")


def test_the_layers_stand_beside_their_controls(comparison: Comparison) -> None:
    table = layer_table(comparison, ["SimAOU", "SimAM"])
    names = [str(column.header) for column in table.columns[2:]]
    assert [name.replace("\n", "") for name in names] == [
        "gd", "lcgd", "random[gd]", "oracle", "gd@untrained", "lcgd@untrained",
    ]  # fmt: skip
    layers = list(table.columns[1].cells)
    assert layers == [*map(str, range(LAYERS)), "mean"] * 2


def test_one_hypothesis_stands_beside_its_own_controls_only(comparison: Comparison) -> None:
    table = layer_table(comparison, ["SimAOU"], hypothesis="gd")
    names = [str(column.header).replace("\n", "") for column in table.columns[2:]]
    assert names == ["gd", "random[gd]", "oracle", "gd@untrained"]


def test_the_frame_is_computed_once_where_it_is_given(
    comparison: Comparison, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Any) -> None:
        raise AssertionError("frame() was called again")

    monkeypatch.setattr(Comparison, "frame", refuse)
    comparison_table(comparison, frame=frame)
    layer_table(comparison, frame=frame)


# -- widths ----------------------------------------------------------------------------------------


def shown_cells(table: Table) -> list[str]:
    """What stands in the cells, names of lines left out."""
    return [str(cell) for column in table.columns[1:] for cell in column.cells if str(cell)]


@pytest.mark.parametrize("width", [40, 60, 80, 160, 250])
def test_no_number_is_ever_broken(comparison: Comparison, width: int) -> None:
    for table in (comparison.table(), layer_table(comparison)):
        text = text_of(table, width)
        lines = text.splitlines()
        assert all(len(line) <= width for line in lines)
        for cell in shown_cells(table):
            assert any(cell in line for line in lines), cell
        assert "\u2026" not in text


def test_what_does_not_fit_follows_below_with_its_names(comparison: Comparison) -> None:
    table = comparison.table()
    wide, narrow = text_of(table, 250), text_of(table, 60)
    heads = [line.split() for line in wide.splitlines() if "SimAOU" in line]
    assert len(heads) == 1
    below = [line for line in narrow.splitlines() if line.strip().startswith("random[gd] ")]
    assert len(below) > 1
    assert narrow.count("Mean [95%") == wide.count("Mean [95%") == 1
    # ZS has no similarity: a part that holds nothing else leaves its line out.
    assert len([line for line in narrow.splitlines() if line.strip().startswith("ZS ")]) == 1


def test_a_table_is_text_for_print(comparison: Comparison, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(comparison.table()).split() == text_of(comparison.table(), 400).split()
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "60")
    assert max(map(len, str(comparison.table()).splitlines())) <= 60
