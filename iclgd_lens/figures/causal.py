"""What heads do to the answer: curves of sets of heads, and an update's effects beside ICL's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from iclgd_lens.errors import LensError
from iclgd_lens.figures.style import QUIET, Spec, apart, builder, layout, looks, plain, records

if TYPE_CHECKING:
    import pandas as pd


@builder
def set_curves(curves: Mapping[str, tuple[Sequence[int], ArrayLike]], *, title: str = "") -> Spec:
    """Faithfulness against the number of heads put into ZS: a line for ICL, one per update.

    Args:
        curves: Numbers of heads and faithfulness, by label.
        title: Over the figure.

    Raises:
        LensError: There is no curve.
    """
    if not curves:
        raise LensError("set_curves needs at least one curve")
    look = apart(looks(curves))
    data: list[Spec] = []
    for name, (heads, value) in curves.items():
        own = look[name]
        data.append(
            {
                "type": "scatter", "mode": "lines+markers", "name": plain(own.label),
                "x": list(heads), "y": np.asarray(value, np.float64), "line": own.line(),
                "marker": own.marker(7),
                "hovertemplate": "%{x} heads: %{y:.3f}<extra>" + plain(own.label) + "</extra>",
            }
        )  # fmt: skip
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": level, "y1": level,
         "line": {"color": QUIET, "width": 1, "dash": "dot"}}
        for level in (0, 1)
    ]  # fmt: skip
    return {
        "data": data,
        "layout": layout(
            x="heads put into ZS, most necessary first",
            y="share of ICL's gain of the label margin", title=title, shapes=shapes,
            xaxis={"tickformat": "d", "rangemode": "tozero"},
        ),
    }  # fmt: skip


@builder
def head_scatter(
    frame: pd.DataFrame, *, x: str = "necessity", y: str = "kept", title: str = "",
    unit: str = "nats of label margin",
) -> Spec:  # fmt: skip
    """Heads as points: what ICL needs of each against what an update keeps of it.

    Args:
        frame: Columns hypothesis, layer, head, and those that `x` and `y` name.
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        title: Over the figure.
        unit: Of both axes.

    Raises:
        LensError: A column is missing, or there is no line.
    """
    lines = records(frame, ("hypothesis", "layer", "head", x, y), "head_scatter")
    names = list(dict.fromkeys(str(line.hypothesis) for line in lines))
    look = looks(names)
    data: list[Spec] = []
    for name in names:
        own = [line for line in lines if str(line.hypothesis) == name]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": plain(look[name].label),
                "x": [float(getattr(line, x)) for line in own],
                "y": [float(getattr(line, y)) for line in own],
                "marker": look[name].marker(8),
                "text": [f"layer {line.layer}, head {line.head}" for line in own],
                "hovertemplate": "%{text}<br>" + f"{plain(x)} " + "%{x:.3f}<br>" + f"{plain(y)} "
                + "%{y:.3f}<extra>" + plain(look[name].label) + "</extra>",
            }
        )  # fmt: skip
    values = np.array([[getattr(line, x), getattr(line, y)] for line in lines], np.float64)
    known = values[np.isfinite(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    data.append(
        {
            "type": "scatter", "mode": "lines", "x": [low, high], "y": [low, high],
            "name": "all of it kept", "line": {"color": QUIET, "dash": "dot", "width": 1},
            "hoverinfo": "skip",
        }
    )  # fmt: skip
    return {
        "data": data,
        "layout": layout(x=f"{x} ({unit})", y=f"{y} ({unit})", title=title, height=480),
    }
