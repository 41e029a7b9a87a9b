"""Figures and tables: what they show; undefined is never a number; no default is changed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest
import torch
from rich.console import Console
from rich.table import Table

from iclgd_lens.comparison import Comparison
from iclgd_lens.errors import LensError
from iclgd_lens.figures import heatmap, layer_profiles
from iclgd_lens.tables import (
    comparison_table,
    controls_of,
    hypothesis_names,
    interval,
    is_control,
    layer_table,
    number,
    verdicts,
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
        "Rec2FTP": torch.full((N,), math.nan),
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


# -- figures ---------------------------------------------------------------------------------------


def test_a_heatmap_has_layers_upwards_heads_across_and_zero_in_the_middle() -> None:
    values = np.array([[0.1, -0.2, 0.3], [0.4, 0.5, -0.6]])
    figure = heatmap(values, title="t", score="SimAOU")
    (trace,) = figure.data
    assert np.array_equal(np.asarray(trace.z, dtype=float), values)
    assert (list(trace.y), list(trace.x)) == ([0, 1], [0, 1, 2])
    assert (trace.zmin, trace.zmax) == (-1, 1)
    assert figure.layout.yaxis.autorange != "reversed"
    assert figure.layout.title.text == "t"
    colours = [colour for place, colour in trace.colorscale if place == 0.5]
    assert len(colours) == 1
    for part in ("layer %{y}", "head %{x}", "SimAOU %{z"):
        assert part in trace.hovertemplate


def test_undefined_cells_are_drawn_apart_and_never_as_a_value() -> None:
    values = np.array([[0.1, math.nan], [0.4, 0.0]])
    shown, undefined = heatmap(values).data
    assert np.isnan(np.asarray(shown.z, dtype=float)[0, 1])
    marked = ~np.isnan(np.asarray(undefined.z, dtype=float))
    assert np.array_equal(marked, np.isnan(values))
    assert "undefined" in undefined.hovertemplate
    assert not undefined.showscale
    scale = {colour for _, colour in shown.colorscale}
    assert {colour for _, colour in undefined.colorscale}.isdisjoint(scale)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (0, 4)])
def test_a_heatmap_of_anything_but_layers_and_heads_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LensError, match=r"layer head.*shape"):
        heatmap(np.zeros(shape))


def test_a_colour_scale_that_zero_is_not_inside_of_is_refused() -> None:
    with pytest.raises(LensError, match="centred at 0"):
        heatmap(np.zeros((1, 1)), bounds=(0.0, 1.0))


def test_a_lopsided_scale_stays_centred_at_zero() -> None:
    (trace,) = heatmap(np.zeros((1, 1)), bounds=(-0.2, 0.6)).data
    assert (trace.zmin, trace.zmax) == (-0.6, 0.6)


def test_profiles_are_a_line_and_a_band_each_with_controls_dashed(comparison: Comparison) -> None:
    figure = comparison.layers("SimAOU")
    lines = {trace.name: trace for trace in figure.data if trace.name}
    assert set(lines) == set(comparison.values) - {"ZS", "ICL"}
    for name, trace in lines.items():
        dash = trace.line.dash
        assert (dash is not None and dash != "solid") == is_control(name)
        assert list(trace.x) == list(range(LAYERS))
    expected = comparison.values["gd"]["SimAOU"].mean(0).numpy()
    assert np.allclose(np.asarray(lines["gd"].y, dtype=float), expected, atol=1e-6)
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert {band.legendgroup for band in bands} == set(lines)


def test_a_band_holds_the_interval_and_stops_at_undefined_layers() -> None:
    frame = pd.DataFrame(
        {
            "hypothesis": "gd",
            "layer": [0, 1, 2, 3],
            "value": [0.1, 0.2, math.nan, 0.4],
            "ci_low": [0.0, 0.1, math.nan, 0.3],
            "ci_high": [0.2, 0.3, math.nan, 0.5],
        }
    )
    bands = [trace for trace in layer_profiles(frame).data if trace.fill == "toself"]
    assert [sorted(set(band.x)) for band in bands] == [[0, 1], [3]]
    assert sorted(bands[0].y) == [0.0, 0.1, 0.2, 0.3]


def test_profiles_refuse_what_they_cannot_draw(frame: pd.DataFrame) -> None:
    with pytest.raises(LensError, match="ci_low"):
        layer_profiles(frame.drop(columns="ci_low"))
    with pytest.raises(LensError, match=r"one score.*SimAM.*SimAOU"):
        layer_profiles(frame[frame["layer"].notna()])
    with pytest.raises(LensError, match="at least one line"):
        layer_profiles(frame[frame["layer"].isna()])


def test_figures_leave_plotly_as_it_was(comparison: Comparison) -> None:
    before = (pio.templates.default, pio.renderers.default, go.Figure().to_dict())
    comparison.heatmap("SimAOU", "gd")
    comparison.layers("SimAM")
    assert (pio.templates.default, pio.renderers.default, go.Figure().to_dict()) == before


def test_figures_look_the_same_whatever_the_users_template(comparison: Comparison) -> None:
    usual = comparison.heatmap("SimAOU", "gd").to_dict()
    before = pio.templates.default
    pio.templates.default = "plotly_dark"
    try:
        assert repr(comparison.heatmap("SimAOU", "gd").to_dict()) == repr(usual)
    finally:
        pio.templates.default = before


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


def test_the_layers_stand_beside_their_controls(comparison: Comparison) -> None:
    table = layer_table(comparison)
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


# -- verdicts --------------------------------------------------------------------------------------


def test_names_are_sorted_into_hypotheses_and_their_controls() -> None:
    names = ["ZS", "ICL", "gd", "gd2", "random[gd]", "random[gd2]", "oracle", "zero", "gd@shuffled",
             "gd2@shuffled", "gaussian", "uniform", "ZS@untrained"]  # fmt: skip
    assert hypothesis_names(names) == ["gd", "gd2"]
    assert controls_of("gd", names) == ["random[gd]", "gd@shuffled", "gaussian", "uniform"]


def line(hypothesis: str, value: float, low: float, high: float) -> dict[str, Any]:
    return {
        "hypothesis": hypothesis, "score": "SimAOU", "layer": None, "head": None, "value": value,
        "ci_low": low, "ci_high": high, "n": 40, "undefined": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("control", "beats", "word"),
    [
        ((0.1, 0.0, 0.2), True, " yes"),
        ((0.35, 0.25, 0.45), False, " no, the interval"),
        ((0.8, 0.7, 0.9), False, " no, .40 [.30,.50] is below"),
        ((math.nan, math.nan, math.nan), None, "untested"),
    ],
)
def test_a_verdict_says_yes_only_above_every_control(
    control: tuple[float, float, float], beats: bool | None, word: str
) -> None:
    lines = [line("gd", 0.4, 0.3, 0.5), line("random[gd]", *control), line("oracle", 1, 1, 1)]
    (verdict,) = verdicts(pd.DataFrame(lines))
    assert verdict.beats is beats
    assert word in verdict.text
    assert verdict.text.startswith("gd, SimAOU:")


def test_the_strongest_control_decides() -> None:
    lines = [line("gd", 0.4, 0.3, 0.5), line("random[gd]", 0.0, -0.1, 0.1)]
    lines.append(line("gd@untrained", 0.4, 0.3, 0.5))
    (verdict,) = verdicts(pd.DataFrame(lines))
    assert (verdict.beats, verdict.control) == (False, "gd@untrained")


def test_an_undefined_score_has_no_verdict() -> None:
    lines = [line("gd", math.nan, math.nan, math.nan), line("random[gd]", 0.0, -0.1, 0.1)]
    (verdict,) = verdicts(pd.DataFrame(lines))
    assert verdict.beats is None
    assert "cannot be told" in verdict.text
