"""Along a factor: what the model answers above, scores with their controls below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.figures.paths import by_name_unsorted
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
    plain,
    records,
)

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("hypothesis", "value_of_factor", "score", "value", "ci_low", "ci_high")


@builder
def factor_curves(
    frame: pd.DataFrame, *, axis_name: str, log: bool = False, title: str = ""
) -> Spec:
    """Scores along a factor, one panel a score in the frame's order, with intervals.

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
    panels = by_name_unsorted(lines, "score")
    count = len(panels)
    values = list(dict.fromkeys(line.value_of_factor for line in lines))
    words = any(isinstance(value, str) for value in values)
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
    for index, (score, own) in enumerate(panels.items()):
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
        "x": [line.value_of_factor for line in lines], "y": np.asarray(value),
        "line": look.line(), "marker": look.marker(7),
        "error_y": {**error_bars(value, low, high), "color": look.colour},
        "hovertemplate": "%{fullData.name}<br>%{x}: %{y:.4f}<extra></extra>",
    }  # fmt: skip
