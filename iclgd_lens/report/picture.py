"""What the figures for papers share: a picture, its legend, its range."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iclgd_lens.report.style import LIGHT, Look
from iclgd_lens.report.svg import QUIET, Canvas, Number

OFF = ("oracle", "zero")  # they check the instrument, and would stretch every axis


@dataclass(frozen=True)
class Picture:
    """One figure.

    Attributes:
        name: File name without its ending.
        text: What it shows.
        svg: The drawing.
        size: Width and height in pixels.
    """

    name: str
    text: str
    svg: str
    size: tuple[Number, Number]


@dataclass(frozen=True)
class Pictures:
    """What the page says about the figure files.

    Attributes:
        named: File names and what they show.
        note: Whether there are PNG files, and why not.
    """

    named: tuple[tuple[str, str], ...]
    note: str


def colour(look: Look) -> str:
    """A look's colour on white."""
    return QUIET if look.colour < 0 else LIGHT[look.colour]


def legend(
    canvas: Canvas, x: Number, y: Number, names: Sequence[str], look: Mapping[str, Look]
) -> None:
    """Names with their marks, in as many rows as they take."""
    left, right = x, canvas.width - 10
    for name in names:
        width = 26 + 6.4 * len(name)
        if x > left and x + width > right:
            x, y = left, y + 16
        canvas.mark((x + 5, y - 4), look[name].symbol, colour(look[name]))
        canvas.text((x + 14, y), name, size=11)
        x += width + 8


def legend_rows(names: Sequence[str], room: Number) -> int:
    """How many rows a legend takes."""
    rows, x = 1, 0.0
    for name in names:
        width = 34 + 6.4 * len(name)
        if x and x + width > room:
            rows, x = rows + 1, 0.0
        x += width
    return rows


def floats(column: Any) -> list[float]:
    """A column's numbers; NaN for what is missing."""
    return [float(each) for each in column.to_numpy(dtype=np.float64, na_value=np.nan)]


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds 0 and every defined value, with a little room."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *known]), max([0.0, *known])
    room = (high - low) * 0.05 or 1.0
    return low - (room if low < 0 else 0.0), high + room
