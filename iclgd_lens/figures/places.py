"""Where it happens: heat maps by layer and head, and profiles by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.errors import LensError
from iclgd_lens.figures.style import (
    DIVERGING,
    INK,
    UNDEFINED,
    Floats,
    Look,
    Spec,
    axis,
    builder,
    by_name,
    error_bars,
    layout,
    looks,
    numbers,
    one_score,
    plain,
    records,
)

if TYPE_CHECKING:
    import pandas as pd

_PROFILE = ("hypothesis", "layer", "value", "ci_low", "ci_high")


@builder
def heatmap(
    values: ArrayLike,
    *,
    title: str = "",
    score: str = "",
    bounds: tuple[int | float, int | float] = (-1.0, 1.0),
    shown: ArrayLike | None = None,
) -> Spec:
    """Values by layer and head, on a diverging scale centred at 0.

    Args:
        values: [layer head]; undefined cells (not finite) are grey and say so when hovered.
        title: Over the figure.
        score: What the values are, beside the colour bar and when hovered.
        bounds: Values at the ends of the colour scale; those of cosines by default.
        shown: [layer head], true where the value differs from its control after correction for all
            heads; such cells have a mark.

    Raises:
        LensError: An array is not two-dimensional, or the bounds are not (negative, positive).
    """
    array = _matrix(values)
    spec = _maps({"": array}, score=score, bounds=bounds, shown=shown, title=title)
    spec["layout"]["width"] = max(420, 220 + 34 * array.shape[1])
    spec["layout"]["height"] = max(320, 160 + 26 * array.shape[0])
    return spec


@builder
def head_maps(
    panels: Mapping[str, ArrayLike],
    *,
    score: str = "",
    title: str = "",
    intervals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    shown: ArrayLike | None = None,
    reach: int | float | None = None,
) -> Spec:
    """Heat maps side by side on one colour scale: trained, untrained, their difference.

    Args:
        panels: [layer head] by the panel's title.
        score: What the values are.
        title: Over the figure.
        intervals: Lower and upper bounds [layer head] by panel, shown when hovered.
        shown: [layer head], true where the first panel's value survives correction for all heads.
        reach: The value at the ends of the colour scale; default, the largest there is.

    Raises:
        LensError: There is no panel, or an array is not two-dimensional.
    """
    if not panels:
        raise LensError("head_maps needs at least one panel")
    arrays = {name: _matrix(values) for name, values in panels.items()}
    largest = max([0.01, *(float(np.nanmax(np.abs(a))) for a in arrays.values() if _any(a))])
    edge = reach or largest
    return _maps(
        arrays, score=score, bounds=(-edge, edge), shown=shown, title=title, intervals=intervals
    )


def _maps(
    arrays: Mapping[str, Floats], *, score: str, bounds: tuple[int | float, int | float],
    title: str, shown: ArrayLike | None = None,
    intervals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> Spec:  # fmt: skip
    reach, count = _reach(bounds), len(arrays)
    layers, heads = (max(a.shape[i] for a in arrays.values()) for i in (0, 1))
    height = 150 + min(26.0, max(7.0, 420 / layers)) * layers
    spec: Spec = {
        "data": [],
        "layout": layout(x="head", y="layer", title=title, height=height, annotations=[],
                         meta={"panels": count}, showlegend=False),
    }  # fmt: skip
    if count > 1:
        spec["layout"]["margin"]["t"] += 30
    gap = 0.06
    wide = (1 - gap * (count - 1)) / count
    for index, (name, array) in enumerate(arrays.items()):
        number = "" if index == 0 else str(index + 1)
        start = index * (wide + gap)
        spec["layout"][f"xaxis{number}"] = axis(
            "head", showgrid=False, zeroline=False, tickformat="d",
            domain=[start, min(1.0, start + wide)], anchor=f"y{number}", **_ticks(heads, wide),
        )  # fmt: skip
        spec["layout"][f"yaxis{number}"] = axis(
            "layer" if index == 0 else "", showgrid=False, zeroline=False, tickformat="d",
            anchor=f"x{number}", **_ticks(layers, 1.0),
        )  # fmt: skip
        between = (intervals or {}).get(name)
        traces = _traces(array, score=score, reach=reach, colour_bar=index == count - 1,
                         between=between)  # fmt: skip
        if index == 0 and shown is not None:
            traces.append(_marks(array, shown))
        for trace in traces:
            spec["data"].append({**trace, "xaxis": f"x{number}", "yaxis": f"y{number}"})
        if name:
            spec["layout"]["annotations"].append(
                {"text": f"<b>{plain(name)}</b>", "showarrow": False, "xref": f"x{number} domain",
                 "yref": f"y{number} domain", "x": 0, "y": 1, "xanchor": "left",
                 "yanchor": "bottom"}
            )  # fmt: skip
    return spec


def _ticks(count: int, share: int | float) -> Spec:
    """A tick at every place where they are few."""
    return {"dtick": 1} if count <= 16 * share else {}


def _traces(
    array: Floats, *, score: str, reach: int | float, colour_bar: bool,
    between: tuple[ArrayLike, ArrayLike] | None = None,
) -> list[Spec]:  # fmt: skip
    hover = "layer %{y}, head %{x}<br>" + (f"{plain(score)} " if score else "")
    places: Spec = {"x": list(range(array.shape[1])), "y": list(range(array.shape[0]))}
    more: Spec = {}
    tail = ""
    if between is not None:
        more["customdata"] = np.stack([np.asarray(each, np.float64) for each in between], axis=-1)
        tail = " [%{customdata[0]:.4f}, %{customdata[1]:.4f}]"
    gap = 1 if max(array.shape) <= 40 else 0
    traces: list[Spec] = [
        {
            "type": "heatmap", "z": array, **places, "zmin": -reach, "zmax": reach,
            "colorscale": [list(each) for each in DIVERGING], "xgap": gap, "ygap": gap,
            "colorbar": {"title": {"text": plain(score)}, "thickness": 14, "outlinewidth": 0},
            "showscale": colour_bar, "hoverongaps": False, **more,
            "hovertemplate": hover + "%{z:.4f}" + tail + "<extra></extra>",
        }
    ]  # fmt: skip
    undefined = np.isnan(array)
    if undefined.any():
        traces.append(
            {
                "type": "heatmap", "z": np.where(undefined, 0.0, np.nan), **places,
                "showscale": False, "xgap": gap, "ygap": gap, "hoverongaps": False,
                "colorscale": [[0, UNDEFINED], [1, UNDEFINED]],
                "hovertemplate": hover + "undefined<extra></extra>",
            }
        )  # fmt: skip
    return traces


def _marks(array: Floats, shown: ArrayLike) -> Spec:
    marks: NDArray[np.bool_] = np.asarray(shown, np.bool_)
    if marks.shape != array.shape:
        raise LensError(f"shown has shape {marks.shape}, but the values have {array.shape}")
    layer, head = np.nonzero(marks)
    return {
        "type": "scatter", "mode": "markers", "x": head.tolist(), "y": layer.tolist(),
        "marker": {"symbol": "diamond", "size": 6, "color": "#f7f7f7",
                   "line": {"width": 1, "color": INK}},
        "name": "shown after correction for all heads", "hoverinfo": "skip",
    }  # fmt: skip


@builder
def layer_profiles(frame: pd.DataFrame, *, title: str = "", score: str = "") -> Spec:
    """A score by layer: a line per hypothesis with its interval as a band; controls dashed.

    Args:
        frame: Lines of `Comparison.frame()` for one score, with a layer and without a head:
            columns hypothesis, layer, value, ci_low, ci_high.
        title: Over the figure.
        score: What the values are; by default what the frame's column "score" says.

    Raises:
        LensError: A column is missing, or the frame holds several scores or no line.
    """
    lines = records(frame, _PROFILE, "layer_profiles")
    heads = numbers(lines, "head")
    layers = numbers(lines, "layer")
    lines = [
        line for line, layer, head in zip(lines, layers, heads, strict=True)
        if np.isfinite(layer) and np.isnan(head)
    ]  # fmt: skip
    if not lines:
        raise LensError("layer_profiles needs at least one line with a layer")
    score = one_score(lines, score, "layer_profiles")
    look = looks(str(line.hypothesis) for line in lines)
    data: list[Spec] = []
    for name, own in by_name(lines).items():
        data += _profile(sorted(own, key=lambda line: int(line.layer)), look[name])
    last = int(np.nanmax(layers))
    return {
        "data": data,
        "layout": layout(
            x="layer", y=score, title=title, height=440, hovermode="x unified",
            xaxis={"tickformat": "d", "zeroline": False, "dtick": 1 if last < 24 else None},
            yaxis={"zeroline": True},
        ),
    }  # fmt: skip


def _profile(lines: list[Any], look: Look) -> list[Spec]:
    x = [int(line.layer) for line in lines]
    value, low, high = (numbers(lines, column) for column in ("value", "ci_low", "ci_high"))
    visible: bool | str = True if look.shown else "legendonly"
    shared: Spec = {"type": "scatter", "x": x, "legendgroup": plain(look.label), "visible": visible}
    line: Spec = {
        **shared, "y": value, "name": plain(look.label), "mode": "lines+markers",
        "line": look.line(), "marker": look.marker(7 if look.own else 6),
        "customdata": np.stack([low, high], axis=1),
        "hovertemplate": "%{y:.4f} [%{customdata[0]:.4f}, %{customdata[1]:.4f}]",
    }  # fmt: skip
    runs = _defined_runs(low, high)
    bands: list[Spec] = [
        {
            **shared, "x": [x[i] for i in part] + [x[i] for i in reversed(part)],
            "y": np.concatenate([high[part], low[part][::-1]]), "mode": "lines",
            "fill": "toself", "fillcolor": look.colour, "opacity": 0.2 if look.own else 0.1,
            "line": {"width": 0, "color": look.colour}, "hoverinfo": "skip", "showlegend": False,
        }
        for part in runs
    ]  # fmt: skip
    alone = [part[0] for part in runs if len(part) == 1]
    if alone:  # a band of one layer has no width: there the interval is a bar
        known = np.isin(np.arange(len(x)), alone)
        bars = error_bars(value, np.where(known, low, np.nan), np.where(known, high, np.nan))
        line["error_y"] = {**bars, "color": look.colour}
    return [*bands, line]


def _defined_runs(low: Floats, high: Floats) -> list[list[int]]:
    """Runs of neighbouring layers whose interval exists: a band never spans an undefined layer."""
    runs: list[list[int]] = []
    open_run = False
    for index, defined in enumerate(np.isfinite(low) & np.isfinite(high)):
        if defined and open_run:
            runs[-1].append(index)
        elif defined:
            runs.append([index])
        open_run = bool(defined)
    return runs


def _matrix(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise LensError(f"A heatmap needs [layer head], but got an array of shape {array.shape}")
    return np.where(np.isfinite(array), array, np.nan)  # an infinity is no value, and has no colour


def _reach(bounds: tuple[int | float, int | float]) -> int | float:
    low, high = bounds
    if not low < 0 < high:
        raise LensError(f"bounds is {bounds}; the scale is centred at 0: give (negative, positive)")
    return max(-low, high)


def _any(matrix: Floats) -> bool:
    return bool(np.isfinite(matrix).any())
