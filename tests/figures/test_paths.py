"""Curves along factors and of sets of heads: panels, axes, and looks that are told apart."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from iclgd_lens import figures
from iclgd_lens.errors import LensError


def lines(values: list[Any]) -> pd.DataFrame:
    names = ["ZS", "ICL", "ICL_shuffled", "gd", "random[gd]"]
    rows = [
        (name, value, score, number / 10, 0.0, 1.0)
        for score in ("AUC", "SimAOU_label")
        for number, name in enumerate(names)
        for value in values
    ]
    columns = ["hypothesis", "value_of_factor", "score", "value", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def test_a_factor_has_a_panel_a_score_and_one_entry_a_name_in_the_legend() -> None:
    found: Any = figures.factor_curves(lines([1, 4, 16]), axis_name="demonstrations", log=True)
    assert [found.layout[name].title.text for name in ("yaxis", "yaxis2")] == [
        "AUC", "SimAOU_label"
    ]  # fmt: skip
    assert found.layout.xaxis.type == "log"
    assert list(found.layout.xaxis2.ticktext) == ["1", "4", "16"]
    shown = [trace.name for trace in found.data if trace.showlegend]
    assert shown == ["GD", "GD, random directions", "ZS", "ICL", "ICL shuffled"]
    own = {(t.marker.symbol, t.line.dash, t.line.color) for t in found.data if t.showlegend}
    assert len(own) == len(shown)


def test_a_line_never_turns_back_in_whatever_order_values_were_measured() -> None:
    frame = lines([10.0, 0.01, 1.0]).assign(value=[10.0, 0.01, 1.0] * 10)
    found: Any = figures.factor_curves(frame, axis_name="learning rate", log=True)
    for trace in found.data:
        assert list(trace.x) == list(trace.y) == [0.01, 1.0, 10.0]
    assert [found.layout[name].title.text for name in ("yaxis", "yaxis2")] == [
        "AUC", "SimAOU_label"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([["W_V", "b_V"], ["W_K"]], ["W_V, b_V", "W_K"]),
        ([("W_V",), "all"], ["W_V", "all"]),
        ([[(3, 0), (7, 2)], "none"], ["3.0, 7.2", "none"]),
        ([4, None], [4, "none"]),
    ],
)
def test_values_that_are_lists_or_none_are_words(values: list[Any], words: list[Any]) -> None:
    frame = lines(list(range(len(values))))
    frame["value_of_factor"] = pd.Series(values * 10, dtype=object)
    found: Any = figures.factor_curves(frame, axis_name="weights", log=True)
    assert found.layout.xaxis.type == "category"
    assert list(found.data[0].x) == words


def test_words_stand_in_their_own_order() -> None:
    found: Any = figures.factor_curves(lines(["V", "K", "all"]), axis_name="weights", log=True)
    assert found.layout.xaxis.type == "category"
    assert list(found.data[0].x) == ["V", "K", "all"]


def test_curves_of_sets_of_heads_have_lines_at_none_and_all_of_the_gain() -> None:
    found: Any = figures.set_curves(
        {"ICL": ([0, 1, 4], [0, 0.5, 1]), "gd": ([0, 1, 4], [0, 0, 0.1])}
    )
    assert [shape.y0 for shape in found.layout.shapes] == [0, 1]
    assert list(found.data[1].y) == [0, 0, 0.1]
    with pytest.raises(LensError, match="at least one curve"):
        figures.set_curves({})


def test_heads_are_points_with_their_place_and_a_line_where_all_is_kept() -> None:
    frame = pd.DataFrame(
        {"hypothesis": ["gd", "gd"], "layer": [0, 1], "head": [2, 3], "necessity": [1.0, -0.5],
         "kept": [0.2, float("nan")]}
    )  # fmt: skip
    found: Any = figures.head_scatter(frame)
    assert list(found.data[0].text) == ["layer 0, head 2", "layer 1, head 3"]
    assert list(found.data[1].x) == list(found.data[1].y) == [-0.5, 1.0]
    with pytest.raises(LensError, match="kept"):
        figures.head_scatter(frame.drop(columns="kept"))
