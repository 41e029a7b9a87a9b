"""Against controls: means by task, paired differences, a control's draws beside what was seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.display_names import label
from iclgd_lens.figures.style import (
    COLOURS,
    QUIET,
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

_MEANS = ("task", "hypothesis", "value", "ci_low", "ci_high")
_FOREST = ("task", "a", "b", "difference", "ci_low", "ci_high", "verdict")
_NULLS = ("hypothesis", "control", "value")
_HOVER = "%{text}<extra></extra>"
VERDICTS: Mapping[str, tuple[str, str]] = {
    "yes": ("circle", COLOURS[0]),
    "no": ("diamond", COLOURS[1]),
    "undecided": ("circle-open", QUIET),
    "not applicable": ("x-open", QUIET),
}
"""Mark and colour of each verdict, in the order of the legend."""


@builder
def means(frame: pd.DataFrame, *, score: str = "", title: str = "") -> Spec:
    """A score by task: one mark with its interval per hypothesis, control or setting.

    Args:
        frame: Columns task, hypothesis, value, ci_low, ci_high; n where it is known.
        score: What the values are; by default what the frame's column "score" says.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or the frame holds several scores or no line.
    """
    lines = records(frame, _MEANS, "means")
    score = one_score(lines, score, "means")
    tasks = list(dict.fromkeys(_task(line) for line in lines))
    groups = by_name(lines)
    look = looks(groups)
    data = [_dots(own, look[name], score, name, _task) for name, own in groups.items()]
    spec = _dot_layout(score, title, tasks, len(groups))
    return {"data": data, "layout": spec}


@builder
def trained_untrained(frame: pd.DataFrame, *, score: str = "", title: str = "") -> Spec:
    """The same hypothesis on the trained model (filled) and on untrained twins of it (open).

    Args:
        frame: Columns task, hypothesis, of (the hypothesis it is or belongs to), value, ci_low,
            ci_high.
        score: What the values are.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or the frame holds several scores or no line.
    """
    lines = records(frame, (*_MEANS, "of"), "trained_untrained")
    score = one_score(lines, score, "trained_untrained")
    rows = list(dict.fromkeys(_pair(line) for line in lines))
    groups = by_name(lines)
    look = looks([*dict.fromkeys(str(line.of) for line in lines), *groups])
    data = [_dots(own, look[name], score, name, _pair) for name, own in groups.items()]
    return {"data": data, "layout": _dot_layout(score, title, rows, 3)}


def _task(line: Any) -> str:
    return plain(str(line.task))


def _pair(line: Any) -> str:
    return f"{plain(str(line.task))}<br>{plain(label(str(line.of)))}"


def _dots(lines: Sequence[Any], look: Look, score: str, name: str, row: Any) -> Spec:
    value, low, high = (numbers(lines, column) for column in ("value", "ci_low", "ci_high"))
    said = [
        f"{plain(str(line.task))}, {plain(look.label)}<br>{plain(score)} {_between(v, a, b)}"
        + ("" if np.isnan(n) else f"<br>n = {n:.0f}")
        for line, v, a, b, n in zip(lines, value, low, high, numbers(lines, "n"), strict=True)
    ]
    return {
        "type": "scatter", "mode": "markers", "orientation": "h", "name": plain(look.label),
        "offsetgroup": plain(name), "x": value, "y": [row(line) for line in lines],
        "marker": look.marker(), "error_x": {**error_bars(value, low, high), "color": look.colour},
        "text": said, "hovertemplate": _HOVER, "visible": True if look.shown else "legendonly",
    }  # fmt: skip


def _dot_layout(score: str, title: str, rows: Sequence[str], marks: int) -> Spec:
    return layout(
        x=score, y="", title=title, height=120 + len(rows) * max(46, 15 * marks),
        scattermode="group", scattergap=0.25, xaxis={"zeroline": True, "rangemode": "tozero"},
        yaxis=_categories(rows, showdividers=True, tickson="boundaries", showgrid=False),
    )  # fmt: skip


@builder
def forest(frame: pd.DataFrame, *, score: str = "", title: str = "") -> Spec:
    """Paired differences a - b with intervals, marked by verdict.

    A filled disc is shown (yes), a diamond says no, an open mark is undecided or not applicable.

    Args:
        frame: Columns task, a, b, difference, ci_low, ci_high, verdict ("yes", "no", "undecided"
            or "not applicable"), and p_corrected where it is known.
        score: What the values are; by default what the frame's column "score" says.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or the frame holds several scores or no line.
    """
    lines = records(frame, _FOREST, "forest")
    one_score(lines, score, "forest")
    rows = [_contrast(line) for line in lines]
    data: list[Spec] = []
    for verdict, (symbol, colour) in VERDICTS.items():
        own = [line for line in lines if str(line.verdict) == verdict]
        if own:
            data.append(_forest_marks(own, verdict, symbol, colour))
    return {
        "data": data,
        "layout": layout(
            x="difference a − b", y="", title=title,
            height=120 + 34 * len(rows), xaxis={"zeroline": True, "zerolinewidth": 2},
            yaxis=_categories(rows, tickfont={"size": 11}),
        ),
    }  # fmt: skip


def _contrast(line: Any) -> str:
    pair = f"{label(str(line.a))} − {label(str(line.b))}"
    return f"{plain(pair)}<br>{plain(str(line.task))}"


def _forest_marks(lines: Sequence[Any], verdict: str, symbol: str, colour: str) -> Spec:
    value, low, high = (numbers(lines, column) for column in ("difference", "ci_low", "ci_high"))
    p = numbers(lines, "p_corrected")
    said = [
        f"{_contrast(line)}<br>{_between(v, a, b)}<br>{verdict}"
        + (f", corrected p {'&lt; 0.001' if q < 0.001 else f'= {q:.3f}'}" if q == q else "")
        for line, v, a, b, q in zip(lines, value, low, high, p, strict=True)
    ]
    return {
        "type": "scatter", "mode": "markers", "name": verdict, "x": value,
        "y": [_contrast(line) for line in lines],
        "marker": {"symbol": symbol, "size": 9, "color": colour,
                   "line": {"width": 2 if symbol.endswith("open") else 0, "color": colour}},
        "error_x": {**error_bars(value, low, high), "color": colour},
        "text": said, "hovertemplate": _HOVER,
    }  # fmt: skip


@builder
def nulls(
    frame: pd.DataFrame, observed: Mapping[str, float], *, score: str = "", title: str = ""
) -> Spec:
    """A control's draws or networks (open marks) with the observed value (filled) in each row.

    Args:
        frame: One line per draw of a control, or per network; columns hypothesis, control (the
            label in results), value.
        observed: The hypothesis's own value.
        score: What the values are; by default what the frame's column "score" says.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or the frame holds several scores or no line.
    """
    lines = records(frame, _NULLS, "nulls")
    score = one_score(lines, score, "nulls")
    groups = by_name(lines, "control")
    look = looks([*observed, *groups])
    data: list[Spec] = []
    for name, own in groups.items():
        x = numbers(own, "value")
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": x, "y": [plain(label(name))] * len(x),
                "name": plain(label(name)), "marker": {**look[name].marker(8), "opacity": 0.75},
                "hovertemplate": "%{fullData.name}: %{x:.4f}<extra></extra>",
            }
        )  # fmt: skip
    for name, value in observed.items():
        rows = [plain(label(c)) for c, own in groups.items() if str(own[0].hypothesis) == name]
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": [value] * len(rows), "y": rows,
                "name": f"{plain(label(name))}, observed", "marker": look[name].marker(13),
                "hovertemplate": "%{fullData.name}: %{x:.4f}<extra></extra>",
            }
        )  # fmt: skip
    rows = [plain(label(name)) for name in groups]
    return {
        "data": data,
        "layout": layout(x=score, y="", title=title, height=130 + 44 * len(rows),
                         xaxis={"zeroline": True}, yaxis=_categories(rows)),
    }  # fmt: skip


def _categories(rows: Sequence[str], **more: Any) -> Spec:
    """Rows from top to bottom."""
    return axis("", type="category", categoryorder="array", categoryarray=list(rows),
                range=[len(rows) - 0.5, -0.5], **more)  # fmt: skip


def _between(value: float, low: float, high: float) -> str:
    if np.isnan(value):
        return "undefined"
    between = "" if np.isnan(low) or np.isnan(high) else f" [{low:.4f}, {high:.4f}]"
    return f"{value:.4f}{between}".replace("-", "−")
