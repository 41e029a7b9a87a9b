"""How a name in results looks in every figure: its hypothesis's colour, its control's shape.

Shape and dash tell controls apart where colours do not (other colour vision, black and white).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iclgd_lens.figures import COLOURS, DIVERGING, UNDEFINED
from iclgd_lens.report.view import rank
from iclgd_lens.tables import hypothesis_names

LIGHT = COLOURS
# The same hues, lighter: legible on a dark ground.
DARK = ("#56b4e9", "#f08a4b", "#3ecf9f", "#e6a5c6", "#9ad4f5", "#f2c14e")
DIVERGING_LIGHT = DIVERGING
DIVERGING_DARK = (
    (0.0, "#ffd0a6"), (0.2, "#f08a4b"), (0.4, "#87481f"), (0.5, "#1d2126"),
    (0.6, "#22608c"), (0.8, "#56b4e9"), (1.0, "#d3eefc"),
)  # fmt: skip
UNDEFINED_LIGHT, UNDEFINED_DARK = UNDEFINED, "#4a4f57"
NEUTRAL = -1
"""Colour of what belongs to no hypothesis: settings, and controls that all hypotheses share."""

_SHAPES = {
    "random": ("square-open", "dot"),
    "untrained": ("diamond-open", "dash"),
    "untrained_norms": ("star-diamond-open", "longdash"),
    "shuffled": ("triangle-up-open", "dashdot"),
    "other_task": ("triangle-down-open", "longdashdot"),
    "gaussian": ("cross-open", "dot"),
    "uniform": ("x-open", "dot"),
    "oracle": ("star", "solid"),
    "zero": ("asterisk-open", "dot"),
    "ZS": ("line-ns-open", "dot"),
    "ICL": ("circle-open", "solid"),
}
_OWN_SHAPES = ("circle", "square", "diamond", "cross", "x", "triangle-up")


@dataclass(frozen=True)
class Look:
    """How a name is drawn.

    Attributes:
        colour: Index into a palette, or `NEUTRAL`.
        symbol: A Plotly marker symbol.
        dash: A Plotly dash.
        shown: Whether figures show it before anything is chosen.
    """

    colour: int
    symbol: str
    dash: str
    shown: bool


def looks(names: Sequence[str]) -> dict[str, Look]:
    """The look of every name of a run."""
    own = hypothesis_names(names)
    return {name: _look(name, own) for name in names}


def _look(name: str, own: Sequence[str]) -> Look:
    if name in own:
        index = own.index(name)
        return Look(index % len(LIGHT), _OWN_SHAPES[index % len(_OWN_SHAPES)], "solid", True)
    base, _, control = name.partition("@")
    if name.startswith("random["):
        base, control = name.removeprefix("random[").removesuffix("]"), "random"
    colour = own.index(base) % len(LIGHT) if base in own else NEUTRAL
    symbol, dash = _SHAPES.get(control or name, ("hexagon-open", "dot"))
    shown = name not in ("oracle", "zero") and rank(name) < 3
    return Look(colour, symbol, dash, shown)
