"""Along a path: scores as training goes on, against the learning rate, along a factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.display_names import value_of_factor
from iclgd_lens.figures.style import (
    Look,
    Spec,
    apart,
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

BEHAVIOUR = "KL_removed"
"""The score that tells how near the answers are to those of in-context learning."""
_TRAJECTORY = ("hypothesis", "kl_removed", "value")
_RATES = ("hypothesis", "lr", "measure", "value")


@builder
def trajectory(frame: pd.DataFrame, *, score: str = "", title: str = "") -> Spec:
    """A score against the share of KL to ICL removed, as training goes on: one line per hypothesis.

    It answers what one point cannot: does attention come nearer to in-context learning's as the
    answers do? Twins and wrong labels stand beside, dashed with open marks.

    Args:
        frame: One line per hypothesis or control and number of passes; columns hypothesis,
            kl_removed (0 is what ZS has, 1 is ICL), value, and where they are known passes (the
            order of the points), ci_low, ci_high, score.
        score: What the values are; by default what the frame's column "score" says.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or the frame holds several scores or no line.
    """
    lines = records(frame, _TRAJECTORY, "trajectory")
    score = one_score(lines, score, "trajectory")
    look = looks(str(line.hypothesis) for line in lines)
    data = [_path(own, look[name]) for name, own in by_name(lines).items()]
    return {
        "data": data,
        "layout": layout(
            x="share of KL to ICL removed (0: zero-shot, 1: in-context learning)", y=score,
            title=title, height=460, xaxis={"zeroline": True}, yaxis={"zeroline": True},
        ),
    }  # fmt: skip


def against_behaviour(frame: pd.DataFrame) -> pd.DataFrame:
    """Lines of `Comparison.trajectory()` as `trajectory` draws them: each score beside behaviour.

    Args:
        frame: Columns hypothesis, passes, score, value, with the score KL_removed among them, and
            model, task, draw, network where there are several.

    Returns:
        Means over the draws and networks that have both: columns (model, task,) hypothesis, score,
        passes, kl_removed, value.
    """
    keys = [k for k in ("model", "task", "hypothesis", "passes", "draw", "network") if k in frame]
    removed = frame[frame["score"] == BEHAVIOUR].rename(columns={"value": "kl_removed"})
    others = frame[frame["score"] != BEHAVIOUR]
    both = others.merge(removed[[*keys, "kl_removed"]], on=keys)
    measures = ["kl_removed", "value"]
    both[measures] = both[measures].where(both[measures].notna().all(axis=1))
    kept = [key for key in keys if key not in ("draw", "network")]
    means = both.groupby([*kept, "score"], sort=False)[measures].mean()
    return means.reset_index()


def _path(lines: Sequence[Any], look: Look) -> Spec:
    passes = numbers(lines, "passes")
    if np.isfinite(passes).all():
        lines = [lines[i] for i in np.argsort(passes, kind="stable")]
        passes = np.sort(passes)
    value, low, high = (numbers(lines, column) for column in ("value", "ci_low", "ci_high"))
    said = [f"{number:g} passes" if np.isfinite(number) else "" for number in passes]
    return {
        "type": "scatter", "mode": "lines+markers", "name": plain(look.label),
        "x": numbers(lines, "kl_removed"), "y": value, "line": look.line(),
        "marker": look.marker(8), "text": said,
        "error_y": {**error_bars(value, low, high), "color": look.colour},
        "visible": True if look.shown else "legendonly",
        "hovertemplate": "%{fullData.name}, %{text}<br>KL removed %{x:.3f}, "
        "score %{y:.4f}<extra></extra>",
    }  # fmt: skip


@builder
def rate_curve(
    frame: pd.DataFrame,
    *,
    chosen: Mapping[str, Sequence[float]] | None = None,
    title: str = "",
) -> Spec:
    """Score, accuracy or held-out loss against the learning rate, one panel per measure.

    Chosen rates have a ring; a ring at the end of the grid is marked as being at its edge, since a
    better rate may lie beyond.

    Args:
        frame: Columns hypothesis, lr, measure (what the value is, with its unit), value.
        chosen: Rates that were chosen, by hypothesis: one, or one per draw.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or there is no line.
    """
    lines = records(frame, _RATES, "rate_curve")
    look = looks(str(line.hypothesis) for line in lines)
    measures = by_name_unsorted(lines, "measure")
    count = len(measures)
    spec: Spec = {
        "data": [],
        "layout": layout(x="learning rate", y="", title=title, height=130 + 250 * count),
    }  # fmt: skip
    tall = (1 - 0.08 * (count - 1)) / count
    for index, (measure, own) in enumerate(measures.items()):
        number = "" if index == 0 else str(index + 1)
        top = 1 - index * (tall + 0.08)
        spec["layout"][f"yaxis{number}"] = axis(measure, domain=[max(0.0, top - tall), top])
        spec["layout"][f"xaxis{number}"] = axis(
            "learning rate" if index == count - 1 else "", type="log", exponentformat="power",
            anchor=f"y{number}", matches="x" if index else None, dtick=1,
        )  # fmt: skip
        for name, points in by_name(own).items():
            traces = _rates(points, look[name], (chosen or {}).get(name, ()), legend=index == 0)
            spec["data"] += [{**t, "xaxis": f"x{number}", "yaxis": f"y{number}"} for t in traces]
    return spec


def by_name_unsorted(lines: Sequence[Any], column: str) -> dict[str, list[Any]]:
    """Lines by a column, in the order in which its values come."""
    found: dict[str, list[Any]] = {}
    for line in lines:
        found.setdefault(str(getattr(line, column)), []).append(line)
    return found


def _rates(lines: list[Any], look: Look, chosen: Sequence[float], *, legend: bool) -> list[Spec]:
    lines = sorted(lines, key=lambda line: float(line.lr))
    x, y = numbers(lines, "lr"), numbers(lines, "value")
    shared: Spec = {"type": "scatter", "legendgroup": plain(look.label), "line": look.line()}
    curve: Spec = {
        **shared, "mode": "lines+markers", "name": plain(look.label), "x": x, "y": y,
        "marker": look.marker(7), "showlegend": legend,
        "hovertemplate": "%{fullData.name}<br>rate %{x:.3g}: %{y:.4f}<extra></extra>",
    }  # fmt: skip
    picked = [i for i, rate in enumerate(x) if any(np.isclose(rate, each) for each in chosen)]
    if not picked:
        return [curve]
    edge = {0: "at the grid's edge", len(x) - 1: "at the grid's edge"}
    ring: Spec = {
        **shared, "mode": "markers+text", "x": x[picked], "y": y[picked], "showlegend": False,
        "name": f"{plain(look.label)}: chosen", "text": [edge.get(i, "") for i in picked],
        "textposition": ["middle right" if i == 0 else "middle left" for i in picked],
        "marker": {"symbol": "circle-open", "size": 16,
                   "line": {"width": 2.5, "color": look.colour}, "color": look.colour},
        "hovertemplate": "%{fullData.name}, rate %{x:.3g} %{text}<extra></extra>",
    }  # fmt: skip
    return [curve, ring]


_COLUMNS = ("hypothesis", "value_of_factor", "score", "value", "ci_low", "ci_high")


@builder
def factor_curves(
    frame: pd.DataFrame, *, axis_name: str, log: bool = False, title: str = ""
) -> Spec:
    """Scores along a factor, one panel per score in the frame's order, with intervals.

    Args:
        frame: Lines of a sweep: columns hypothesis, value_of_factor, score, value, ci_low, ci_high.
        axis_name: Name of the factor's axis, with its unit.
        log: Whether that axis is logarithmic; values that are words stand in their own order.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or there is no line.
    """
    lines = records(frame, _COLUMNS, "factor_curves")
    look = apart(looks(str(line.hypothesis) for line in lines))
    names = list(dict.fromkeys(str(line.score) for line in lines))
    count = len(names)
    values = list(dict.fromkeys(value_of_factor(line.value_of_factor) for line in lines))
    words = any(isinstance(value, str) for value in values)
    if not words:  # no line turns back, in whatever order values were measured
        lines = sorted(lines, key=lambda line: float(line.value_of_factor))
    kind: Spec = {"type": "category"} if words else {"type": "log" if log else "linear"}
    if not words and (log or len(values) <= 10):
        kind |= {"tickvals": values, "ticktext": [f"{value:g}" for value in values]}
    spec: Spec = {
        "data": [],
        "layout": layout(
            x=axis_name, y="", title=title, height=240 + 230 * count,
            # Below: the names of many controls take several lines.
            legend={"y": -90 / (150 + 230 * count), "yanchor": "top"}, margin={"b": 160, "t": 56},
        ),
    }  # fmt: skip
    tall = (1 - 0.06 * (count - 1)) / count
    named: set[str] = set()
    panels = by_name_unsorted(lines, "score")
    for index, score in enumerate(names):
        own = panels[score]
        number = "" if index == 0 else str(index + 1)
        top = 1 - index * (tall + 0.06)
        spec["layout"][f"yaxis{number}"] = axis(score, domain=[max(0.0, top - tall), top])
        spec["layout"][f"xaxis{number}"] = axis(
            axis_name if index == count - 1 else "", anchor=f"y{number}",
            matches="x" if index else None, showticklabels=index == count - 1, **kind,
        )  # fmt: skip
        for name, points in by_name(own).items():
            trace = _line(points, look[name], legend=name not in named)
            named.add(name)
            spec["data"].append({**trace, "xaxis": f"x{number}", "yaxis": f"y{number}"})
    return spec


def _line(lines: list[Any], look: Look, *, legend: bool) -> Spec:
    value, low, high = (numbers(lines, column) for column in ("value", "ci_low", "ci_high"))
    return {
        "type": "scatter", "mode": "lines+markers", "name": plain(look.label),
        "legendgroup": plain(look.label), "showlegend": legend,
        "x": [value_of_factor(line.value_of_factor) for line in lines], "y": np.asarray(value),
        "line": look.line(), "marker": look.marker(7),
        "error_y": {**error_bars(value, low, high), "color": look.colour},
        "hovertemplate": "%{fullData.name}<br>%{x}: %{y:.4f}<extra></extra>",
    }  # fmt: skip
