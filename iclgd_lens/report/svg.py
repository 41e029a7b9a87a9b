"""A small SVG canvas: the same bytes for the same drawing, and no browser needed to make one."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

FONT = "Helvetica, Arial, sans-serif"
INK, QUIET, FAINT = "#1a1e23", "#5a626c", "#dcdfe3"

Number = int | float
Point = tuple[Number, Number]


def _star(points: int, inner: float) -> list[Point]:
    return [
        (
            math.sin(math.pi * i / points) * (inner if i % 2 else 1),
            -math.cos(math.pi * i / points) * (inner if i % 2 else 1),
        )
        for i in range(2 * points)
    ]


_PLUS = [
    (-0.35, -1.0), (0.35, -1.0), (0.35, -0.35), (1.0, -0.35), (1.0, 0.35), (0.35, 0.35),
    (0.35, 1.0), (-0.35, 1.0), (-0.35, 0.35), (-1.0, 0.35), (-1.0, -0.35), (-0.35, -0.35),
]  # fmt: skip
_SHAPES: dict[str, list[Point]] = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "diamond": [(0, -1.15), (1.15, 0), (0, 1.15), (-1.15, 0)],
    "triangle-up": [(0, -1.1), (1.05, 0.8), (-1.05, 0.8)],
    "triangle-down": [(0, 1.1), (1.05, -0.8), (-1.05, -0.8)],
    "cross": _PLUS,
    "x": [((x - y) * 0.7071, (x + y) * 0.7071) for x, y in _PLUS],
    "star": _star(5, 0.45),
    "star-diamond": _star(4, 0.45),
    "asterisk": _star(8, 0.3),
}
_DASHES = {
    "dot": "1.5 3", "dash": "6 3", "dashdot": "6 3 1.5 3", "longdash": "10 4",
    "longdashdot": "10 3 1.5 3",
}  # fmt: skip


class Canvas:
    """Shapes on a white ground; coordinates in pixels, y downwards."""

    def __init__(self, width: Number, height: Number, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self._parts: list[str] = []

    def line(self, a: Point, b: Point, colour: str, width: Number = 1.0) -> None:
        """A straight line."""
        self._parts.append(
            f'<path d="M{_at(a)}L{_at(b)}" stroke="{colour}" stroke-width="{width:g}"/>'
        )

    def polyline(self, points: Sequence[Point], colour: str, width: Number, dash: str) -> None:
        """Joined lines, with a dash by its Plotly name."""
        dashed = f' stroke-dasharray="{_DASHES[dash]}"' if dash in _DASHES else ""
        self._parts.append(
            f'<path d="M{"L".join(map(_at, points))}" fill="none" stroke="{colour}" '
            f'stroke-width="{width:g}"{dashed}/>'
        )

    def polygon(self, points: Iterable[Point], fill: str, opacity: Number = 1.0) -> None:
        """A filled outline."""
        faint = f' fill-opacity="{opacity:g}"' if opacity < 1 else ""
        self._parts.append(f'<path d="M{"L".join(map(_at, points))}Z" fill="{fill}"{faint}/>')

    def rectangles(
        self, corners: Iterable[Point], width: Number, height: Number, fill: str
    ) -> None:
        """Filled rectangles of one size and colour."""
        shape = f"h{_n(width)}v{_n(height)}h{_n(-width)}z"
        outline = "".join(f"M{_at(corner)}{shape}" for corner in corners)
        self._parts.append(f'<path d="{outline}" fill="{fill}"/>')

    def frame(self, corner: Point, width: Number, height: Number, colour: str = FAINT) -> None:
        """A rectangle's outline."""
        self._parts.append(
            f'<path d="M{_at(corner)}h{_n(width)}v{_n(height)}h{_n(-width)}z" fill="none" '
            f'stroke="{colour}"/>'
        )

    def mark(self, at: Point, symbol: str, colour: str, size: Number = 4.0) -> None:
        """A marker, by its Plotly name."""
        shape = symbol.removesuffix("-open")
        fill = "#ffffff" if symbol.endswith("-open") else colour
        paint = f'fill="{fill}" stroke="{colour}" stroke-width="1.4"'
        if shape in _SHAPES:
            outline = [(at[0] + size * x, at[1] + size * y) for x, y in _SHAPES[shape]]
            self._parts.append(f'<path d="M{"L".join(map(_at, outline))}Z" {paint}/>')
        else:
            self._parts.append(
                f'<circle cx="{_n(at[0])}" cy="{_n(at[1])}" r="{_n(size)}" {paint}/>'
            )

    def text(
        self, at: Point, text: str, *, size: Number = 11, anchor: str = "start",
        colour: str = INK, bold: bool = False, turned: bool = False,
    ) -> None:  # fmt: skip
        """A line of text; `anchor` is start, middle or end."""
        weight = ' font-weight="bold"' if bold else ""
        turn = f' transform="rotate(-90 {_n(at[0])} {_n(at[1])})"' if turned else ""
        self._parts.append(
            f'<text x="{_n(at[0])}" y="{_n(at[1])}" font-size="{size:g}" '
            f'text-anchor="{anchor}" fill="{colour}"{weight}{turn}>{html.escape(text)}</text>'
        )

    def svg(self) -> str:
        """The whole file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width:g}" '
            f'height="{self.height:g}" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'font-family="{FONT}">\n<title>{html.escape(self.title)}</title>\n'
            f'<rect width="{self.width:g}" height="{self.height:g}" fill="#ffffff"/>\n'
            + "\n".join(self._parts)
            + "\n</svg>\n"
        )


def ticks(low: Number, high: Number, count: int = 4) -> list[float]:
    """Round numbers within [low, high], about `count` of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def mix(a: str, b: str, share: Number) -> str:
    """The colour that is `share` of the way from a to b."""
    pairs = ((int(a[i : i + 2], 16), int(b[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(x + (y - x) * share):02x}" for x, y in pairs)


def scale_colour(scale: Sequence[tuple[float, str]], at: Number) -> str:
    """The colour of a scale at a place in [0, 1]."""
    place = min(max(at, 0.0), 1.0)
    for (left, a), (right, b) in pairwise(scale):
        if place <= right:
            return mix(a, b, (place - left) / (right - left))
    return scale[-1][1]


def _n(value: Number) -> str:
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def _at(point: Point) -> str:
    return f"{_n(point[0])} {_n(point[1])}"
