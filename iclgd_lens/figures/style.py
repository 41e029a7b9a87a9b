"""What all figures share: colours, marks, axes, and how a builder becomes a Plotly figure.

A hypothesis has a colour; its controls have the same colour with an open mark and a dash of their
own, so that they can be told apart in print and by every kind of colour vision.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, ParamSpec

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.display_names import control_index, home, is_check, label, rank, subject_of
from iclgd_lens.errors import LensError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

P = ParamSpec("P")
Spec = dict[str, Any]
"""A figure as plain values: "data" and "layout", as plotly.js reads them."""
Floats = NDArray[np.float64]

# Vermilion through near-white to blue, which every kind of colour vision tells apart.
DIVERGING = (
    (0.0, "#8c3b00"), (0.2, "#d55e00"), (0.4, "#f6c9a4"), (0.5, "#f7f7f7"),
    (0.6, "#a9d3ec"), (0.8, "#0072b2"), (1.0, "#003a63"),
)  # fmt: skip
# Okabe and Ito's palette, without its yellow, which is lost on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
UNDEFINED = "#bdbdbd"
INK, QUIET, LINE, GROUND = "#1a1e23", "#5a626c", "#dfe3e7", "#ffffff"
FAINT = "#f6f6f5"

DARK = {
    **dict(zip(COLOURS, ("#56b4e9", "#f08a4b", "#3ecf9f", "#e6a5c6", "#9ad4f5", "#f2c14e"),
               strict=True)),
    "#8c3b00": "#ffd0a6", "#f6c9a4": "#87481f", "#f7f7f7": "#2a2f35", "#a9d3ec": "#22608c",
    "#003a63": "#d3eefc", UNDEFINED: "#4a4f57", INK: "#e7e9ec", QUIET: "#a3abb5",
    LINE: "#363c44", GROUND: "#1b1f24", FAINT: "#20252b",
}  # fmt: skip
"""The same colours on a dark ground."""

_CLOSED = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_OPEN = (
    "square-open", "triangle-up-open", "triangle-down-open", "diamond-open", "star-diamond-open",
    "hexagon-open", "cross-open", "x-open", "circle-open", "star-open", "asterisk-open",
)  # fmt: skip
_DASHES = ("dot", "dashdot", "longdashdot", "dash", "longdash")


class FigureBuilder(Generic[P]):
    """A function that describes a figure; called, it returns the figure."""

    def __init__(self, describe: Callable[P, Spec]) -> None:
        self.spec = describe
        functools.update_wrapper(self, describe)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> go.Figure:
        """Return the figure; Plotly checks every property of it."""
        import plotly.graph_objects as go

        return go.Figure(self.spec(*args, **kwargs))


def builder(describe: Callable[P, Spec]) -> FigureBuilder[P]:
    """Make a figure builder of a function that returns a `Spec`."""
    return FigureBuilder(describe)


@dataclass(frozen=True)
class Look:
    """How a name in results is drawn.

    Attributes:
        label: What people call it.
        colour: Its colour on white.
        symbol: A Plotly marker symbol.
        dash: A Plotly dash.
        own: Whether it is a hypothesis, under no control.
        shown: Whether it is drawn before anything is chosen.
    """

    label: str
    colour: str
    symbol: str
    dash: str
    own: bool
    shown: bool

    def line(self) -> Spec:
        """Its line."""
        return {"color": self.colour, "dash": self.dash, "width": 2.5 if self.own else 1.5}

    def marker(self, size: int | float = 9) -> Spec:
        """Its mark."""
        line = {"color": self.colour, "width": 0 if self.own else 1.5}
        return {"symbol": self.symbol, "color": self.colour, "size": size, "line": line}


def looks(names: Iterable[str]) -> dict[str, Look]:
    """The look of every name: hypotheses in order, each one's controls in its colour."""
    unique = list(dict.fromkeys(names))
    rules = [str(subject_of(name)) for name in unique if rank(name) == 0]
    return {name: _look(name, rules) for name in unique}


_SETTINGS = {
    "ZS": ("circle-open", "dot", QUIET),
    "ICL": ("star", "solid", INK),
    "ICL_shuffled": ("star-open", "dash", QUIET),
}
"""Mark, dash and colour of the model's own settings, where several stand beside one another."""


def apart(found: dict[str, Look]) -> dict[str, Look]:
    """Looks in which the model's own settings are told apart, too."""
    for name, (symbol, dash, colour) in _SETTINGS.items():
        if name in found:
            found[name] = replace(found[name], symbol=symbol, dash=dash, colour=colour)
    return found


def _look(name: str, rules: Sequence[str]) -> Look:
    own, index = rank(name) == 0, control_index(name)
    place = rules.index(home(name)) if home(name) in rules else -1
    index += bool(subject_of(name).settings) and not own  # another budget's twins stand apart
    colour = COLOURS[place % len(COLOURS)] if place >= 0 else QUIET
    symbol = (
        _CLOSED[(place + place // len(COLOURS)) % len(_CLOSED)]
        if own
        else _OPEN[index % len(_OPEN)]
    )
    dash = "solid" if own else _DASHES[index % len(_DASHES)]
    return Look(label(name), colour, symbol, dash, own, rank(name) < 3 and not is_check(name))


def layout(*, x: str, y: str, title: str = "", height: int | float = 420, **more: Any) -> Spec:
    """A layout with named axes and nothing from the user's default template."""
    found: Spec = {
        "template": {}, "height": height, "width": 760,
        "paper_bgcolor": GROUND, "plot_bgcolor": GROUND,
        "font": {"family": "Helvetica, Arial, sans-serif", "size": 13, "color": INK},
        "margin": {"l": 64, "r": 16, "t": 44 if title else 16, "b": 52},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom",
                   "font": {"size": 12}},
        "xaxis": axis(x), "yaxis": axis(y),
    }  # fmt: skip
    if title:
        found["title"] = {"text": plain(title), "font": {"size": 15}, "x": 0.01, "xanchor": "left"}
        found["margin"]["t"] = 96
    for key, value in more.items():
        found[key] = {**found[key], **value} if isinstance(found.get(key), dict) else value
    return found


def axis(title: str, **more: Any) -> Spec:
    """An axis with its name and units."""
    return {
        "title": {"text": plain(title)}, "gridcolor": LINE, "zerolinecolor": QUIET,
        "linecolor": LINE, "automargin": True, **more,
    }  # fmt: skip


def plain(text: str) -> str:
    """Text that Plotly shows as it is: it reads markup, templates and formulas otherwise."""
    for old, new in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("$", "&#36;")):
        text = text.replace(old, new)
    return text.replace("%{", "%\u200b{")


def error_bars(value: ArrayLike, low: ArrayLike, high: ArrayLike) -> Spec:
    """Bars from low to high, none where there is no interval."""
    v, a, b = (np.asarray(each, np.float64) for each in (value, low, high))
    known = np.isfinite(a) & np.isfinite(b)
    return {
        "type": "data", "symmetric": False, "thickness": 1.5, "width": 0,
        "array": np.where(known, np.maximum(b - v, 0), 0.0),
        "arrayminus": np.where(known, np.maximum(v - a, 0), 0.0),
    }  # fmt: skip


def records(frame: pd.DataFrame, needed: Sequence[str], who: str) -> list[Any]:
    """A frame's lines as named tuples.

    Raises:
        LensError: A column is missing, or there is no line.
    """
    missing = [column for column in needed if column not in frame]
    if missing:
        raise LensError(f"{who} needs the columns {', '.join(missing)}")
    if not len(frame):
        raise LensError(f"{who} needs at least one line")
    return list(frame.itertuples(index=False))


def one_score(lines: Sequence[Any], score: str, who: str) -> str:
    """The one score of all lines, for an axis.

    Raises:
        LensError: There are several.
    """
    named = sorted({str(line.score) for line in lines if hasattr(line, "score")})
    if len(named) > 1:
        raise LensError(f"{who} draws one score, but the frame has {', '.join(named)}")
    return score or "".join(named) or "value"


def by_name(lines: Sequence[Any], column: str = "hypothesis") -> dict[str, list[Any]]:
    """Lines by what they are about: hypotheses first, then controls, then settings."""
    found: dict[str, list[Any]] = {}
    for line in lines:
        found.setdefault(str(getattr(line, column)), []).append(line)
    return {name: found[name] for name in sorted(found, key=rank)}


def numbers(lines: Sequence[Any], column: str) -> Floats:
    """A column of lines; NaN for what is missing."""
    values = (getattr(line, column, None) for line in lines)
    return np.array([_number(value) for value in values], np.float64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except TypeError:  # None, or pandas' NA
        return float("nan")
