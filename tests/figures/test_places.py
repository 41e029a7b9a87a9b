"""Heat maps and profiles: what they show; undefined is never a number; no default is changed."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io as pio
import pytest

from iclgd_lens.errors import LensError
from iclgd_lens.figures import head_maps, heatmap, layer_profiles

NAMES = ("gd", "lcgd", "random[gd]", "gd@untrained", "oracle")


def profile_frame(score: str = "SimAOU", layers: int = 3) -> pd.DataFrame:
    lines: list[dict[str, Any]] = []
    for i, name in enumerate(NAMES):
        for layer in range(layers):
            value = 0.1 * i + 0.01 * layer
            lines.append(
                {"hypothesis": name, "score": score, "layer": layer, "head": None, "value": value,
                 "ci_low": value - 0.05, "ci_high": value + 0.05}
            )  # fmt: skip
    return pd.DataFrame(lines).astype({"layer": "Int64", "head": "Int64"})


def lines_of(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.name}


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


def test_an_infinity_is_undefined_and_takes_no_part_in_the_scale() -> None:
    panels = {"one": [[math.inf, 0.2]], "other": [[-0.4, -math.inf]]}
    figure = head_maps(panels)
    maps = [trace for trace in figure.data if "undefined" not in trace.hovertemplate]
    grey = [trace for trace in figure.data if "undefined" in trace.hovertemplate]
    assert [(trace.zmin, trace.zmax) for trace in maps] == [(-0.4, 0.4)] * 2
    marked = [(~np.isnan(np.asarray(trace.z, dtype=float))).tolist() for trace in grey]
    assert marked == [[[True, False]], [[False, True]]]


def test_the_interval_of_a_layer_that_stands_alone_is_a_bar() -> None:
    frame = pd.DataFrame(
        {"hypothesis": "gd", "layer": [0, 1, 2, 3], "value": [0.1, math.nan, 0.4, 0.5],
         "ci_low": [0.0, math.nan, 0.2, 0.4], "ci_high": [0.3, math.nan, 0.5, 0.6]}
    )  # fmt: skip
    (line,) = (trace for trace in layer_profiles(frame).data if trace.name)
    assert list(line.error_y.array) == pytest.approx([0.2, 0, 0, 0])
    assert list(line.error_y.arrayminus) == pytest.approx([0.1, 0, 0, 0])
    (one,) = (trace for trace in layer_profiles(frame.iloc[2:3]).data if trace.name)
    assert list(one.error_y.array) == pytest.approx([0.1])
    (two,) = (trace for trace in layer_profiles(frame.iloc[2:]).data if trace.name)
    assert two.error_y.array is None


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


def test_heads_that_survive_correction_have_a_mark_and_nothing_else_has() -> None:
    shown = np.array([[False, True], [True, False], [False, False]])
    figure = heatmap(np.full((3, 2), 0.5), shown=shown)
    marks = figure.data[-1]
    assert marks.mode == "markers"
    assert set(zip(marks.y, marks.x, strict=True)) == {(0, 1), (1, 0)}
    assert "after correction" in marks.name
    with pytest.raises(LensError, match=r"shape \(1, 2\).*\(3, 2\)"):
        heatmap(np.full((3, 2), 0.5), shown=np.ones((1, 2)))


def test_head_maps_share_one_scale_with_one_named_bar() -> None:
    trained, twin = np.array([[0.1, -0.4]]), np.array([[0.3, math.nan]])
    panels = {"GD": trained, "GD, untrained twins": twin, "difference": trained - twin}
    figure = head_maps(panels, score="SimAOU", intervals={"GD": (trained - 0.1, trained + 0.1)})
    maps = [trace for trace in figure.data if "undefined" not in trace.hovertemplate]
    assert [(trace.zmin, trace.zmax) for trace in maps] == [(-0.4, 0.4)] * 3
    assert [trace.showscale for trace in maps] == [False, False, True]
    assert maps[-1].colorbar.title.text == "SimAOU"
    assert [trace.xaxis for trace in maps] == ["x", "x2", "x3"]
    titles = [each.text for each in figure.layout.annotations]
    assert titles == ["<b>GD</b>", "<b>GD, untrained twins</b>", "<b>difference</b>"]
    assert np.allclose(maps[0].customdata, [[[0.0, 0.2], [-0.5, -0.3]]])
    assert "customdata" in maps[0].hovertemplate
    assert "customdata" not in maps[1].hovertemplate
    ends = [figure.layout[f"xaxis{n}"].domain for n in ("", "2", "3")]
    assert all(left[1] < right[0] for left, right in pairwise(ends))
    with pytest.raises(LensError, match="at least one panel"):
        head_maps({})


def test_profiles_are_a_line_and_a_band_each_with_controls_dashed() -> None:
    figure = layer_profiles(profile_frame())
    lines = lines_of(figure)
    assert set(lines) == {"GD", "LCGD", "GD, random directions", "GD, untrained twins", "oracle"}
    for name, trace in lines.items():
        assert (trace.line.dash == "solid") == (name in ("GD", "LCGD"))
        assert trace.marker.symbol.endswith("open") == (name not in ("GD", "LCGD"))
        assert list(trace.x) == [0, 1, 2]
    assert lines["oracle"].visible == "legendonly"  # it would stretch the axis
    assert lines["GD"].line.color == lines["GD, untrained twins"].line.color
    assert lines["GD"].line.color != lines["LCGD"].line.color
    assert list(lines["LCGD"].y) == pytest.approx([0.1, 0.11, 0.12])
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert {band.legendgroup for band in bands} == set(lines)
    assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("layer", "SimAOU")


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


def test_profiles_refuse_what_they_cannot_draw() -> None:
    frame = profile_frame()
    with pytest.raises(LensError, match="ci_low"):
        layer_profiles(frame.drop(columns="ci_low"))
    with pytest.raises(LensError, match=r"one score.*SimAM.*SimAOU"):
        layer_profiles(pd.concat([frame, profile_frame("SimAM")]))
    with pytest.raises(LensError, match="at least one line"):
        layer_profiles(frame.assign(layer=None))


def test_figures_leave_plotly_as_it_was() -> None:
    before = (pio.templates.default, pio.renderers.default, go.Figure().to_dict())
    heatmap([[0.1]])
    layer_profiles(profile_frame())
    assert (pio.templates.default, pio.renderers.default, go.Figure().to_dict()) == before


def test_figures_look_the_same_whatever_the_users_template() -> None:
    usual = heatmap([[0.1]]).to_dict()
    before = pio.templates.default
    pio.templates.default = "plotly_dark"
    try:
        assert repr(heatmap([[0.1]]).to_dict()) == repr(usual)
    finally:
        pio.templates.default = before
