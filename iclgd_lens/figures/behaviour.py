"""What the model answers, how large changes are, and which tokens the readout token attends to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iclgd_lens.display_names import in_order, label
from iclgd_lens.figures.style import (
    COLOURS,
    DIVERGING,
    QUIET,
    Spec,
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

_BARS = ("hypothesis", "score", "value")
_NORMS = ("hypothesis", "icl_norm", "ft_norm")
_ATTENTION = ("setting", "position", "token", "weight")
_PATTERNS = ("", "/", ".", "x")


@builder
def behaviour_bars(frame: pd.DataFrame, *, title: str = "", unit: str = "share") -> Spec:
    """Accuracy and AUC with no demonstrations, after demonstrations, and after each update.

    Args:
        frame: Columns hypothesis (ZS, ICL and what was measured), score, value, and ci_low, ci_high
            where they are known.
        title: Over the figure.
        unit: What the values are, beside the axis.

    Raises:
        LensError: A column is missing, or there is no line.
    """
    lines = records(frame, _BARS, "behaviour_bars")
    names = list(dict.fromkeys(str(line.hypothesis) for line in lines))
    order = {name: plain(label(name)) for name in names}
    data: list[Spec] = []
    for index, score in enumerate(in_order(str(line.score) for line in lines)):
        own = [line for line in lines if str(line.score) == score]
        value, low, high = (numbers(own, column) for column in ("value", "ci_low", "ci_high"))
        colour = COLOURS[(0, 5, 2, 3)[index % 4]]
        data.append(
            {
                "type": "bar", "name": plain(score), "y": value,
                "x": [order[str(line.hypothesis)] for line in own],
                "marker": {"color": colour, "pattern": {"shape": _PATTERNS[index % 4]}},
                "error_y": {**error_bars(value, low, high), "color": QUIET},
                "hovertemplate": "%{x}<br>%{fullData.name} %{y:.4f}<extra></extra>",
            }
        )  # fmt: skip
    return {
        "data": data,
        "layout": layout(
            x="", y=unit, title=title, height=380, barmode="group",
            xaxis={"type": "category", "categoryorder": "array",
                   "categoryarray": list(order.values())},
            yaxis={"rangemode": "tozero"},
        ),
    }  # fmt: skip


@builder
def norms(frame: pd.DataFrame, *, title: str = "") -> Spec:
    """How large in-context learning's change is, and the hypothesis's, query by query.

    On the diagonal both are as large; a cosine says nothing about that.

    Args:
        frame: One line per query; columns hypothesis, icl_norm, ft_norm.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or there is no line.
    """
    lines = records(frame, _NORMS, "norms")
    groups = by_name(lines)
    look = looks(groups)
    data: list[Spec] = []
    largest = 0.0
    for name, own in groups.items():
        x, y = numbers(own, "icl_norm"), numbers(own, "ft_norm")
        known = np.concatenate([x, y])
        largest = max([largest, *known[np.isfinite(known)]])
        data.append(
            {
                "type": "scatter", "mode": "markers", "x": x, "y": y,
                "name": plain(look[name].label), "marker": {**look[name].marker(7), "opacity": 0.7},
                "visible": True if look[name].shown else "legendonly",
                "hovertemplate": "%{fullData.name}<br>ICL %{x:.3g}, update %{y:.3g}<extra></extra>",
            }
        )  # fmt: skip
    data.append(
        {
            "type": "scatter", "mode": "lines", "x": [0, largest], "y": [0, largest],
            "line": {"color": QUIET, "width": 1, "dash": "dash"}, "hoverinfo": "skip",
            "name": "as large as ICL's",
        }
    )  # fmt: skip
    return {
        "data": data,
        "layout": layout(
            x="norm of the change that demonstrations make", title=title, height=460,
            y="norm of the change that the update makes",
            xaxis={"rangemode": "tozero"}, yaxis={"rangemode": "tozero"},
        ),
    }  # fmt: skip


@builder
def attention(frame: pd.DataFrame, *, title: str = "") -> Spec:
    """Attention of the readout token over tokens: zero-shot, in context, after the update.

    Args:
        frame: One line per setting and token; columns setting, position (of the token in the prompt
            with demonstrations), token, weight. Of several lines of a setting and token (of each
            layer and head, say) the mean is drawn. A setting that does not see a token has none.
        title: Over the figure.

    Raises:
        LensError: A column is missing, or there is no line.
    """
    lines = records(frame, _ATTENTION, "attention")
    settings = list(dict.fromkeys(str(line.setting) for line in lines))
    tokens = {int(line.position): str(line.token) for line in lines}
    places = sorted(tokens)
    column = {position: index for index, position in enumerate(places)}
    cells: dict[tuple[int, int], list[float]] = {}
    for line in lines:
        cell = settings.index(str(line.setting)), column[int(line.position)]
        cells.setdefault(cell, []).append(float(line.weight))
    z = np.full((len(settings), len(places)), np.nan)
    for cell, weights in cells.items():
        z[cell] = np.mean(weights)
    text = [plain(tokens[place].replace("\n", "\\n")) for place in places]
    few = len(places) <= 48
    return {
        "data": [
            {
                "type": "heatmap", "z": z, "x": places, "y": [plain(label(s)) for s in settings],
                "customdata": [text] * len(settings), "xgap": 1, "ygap": 3, "zmin": 0,
                "colorscale": [[2 * (at - 0.5), colour] for at, colour in DIVERGING if at >= 0.5],
                "colorbar": {"title": {"text": "attention"}, "thickness": 14, "outlinewidth": 0},
                "hoverongaps": False,
                "hovertemplate": "%{y}<br>token %{x}: %{customdata}<br>%{z:.4f}<extra></extra>",
            }
        ],
        "layout": layout(
            x="token", y="", title=title, height=170 + 46 * len(settings),
            xaxis={"showgrid": False, "tickangle": -60 if few else 0,
                   **({"tickvals": places, "ticktext": text} if few else {"tickformat": "d"})},
            yaxis={"autorange": "reversed", "showgrid": False},
        ),
    }  # fmt: skip
