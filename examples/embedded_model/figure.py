"""The model card's figure, accuracy against shots, as a plain SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 190, 20, 50
_COLOURS = ("#0072b2", "#d55e00", "#7f7f7f", "#009e73")


def line_chart(shots: Sequence[int], lines: Mapping[str, Sequence[float]], *, chance: float) -> str:
    """Return an SVG document: one line for each entry of `lines`, chance dashed.

    Args:
        shots: The horizontal axis, evenly spaced.
        lines: By name, one accuracy from 0 to 1 for each of `shots`.
        chance: Accuracy of a blind guess.
    """
    inner = _WIDTH - _LEFT - _RIGHT

    def x(i: float) -> float:
        return _LEFT + inner * i / (len(shots) - 1)

    def y(value: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - value)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="13">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_line(_LEFT, y(tick), _LEFT + inner, y(tick), "#dddddd"))
        parts.append(_text(_LEFT - 8, y(tick) + 4, f"{tick:.2f}", "end"))
    for i, n in enumerate(shots):
        parts.append(_text(x(i), _HEIGHT - _BOTTOM + 20, str(n), "middle"))
    parts.append(_text(_LEFT + inner / 2, _HEIGHT - 10, "demonstrations", "middle"))
    parts.append(_line(_LEFT, y(chance), _LEFT + inner, y(chance), "#333333", dashed=True))
    parts.append(_text(_LEFT + inner + 8, y(chance) + 16, "chance", "start"))
    for k, (name, values) in enumerate(lines.items()):
        colour = _COLOURS[k % len(_COLOURS)]
        points = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, v in enumerate(values))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts += [
            f'<circle cx="{x(i):.1f}" cy="{y(v):.1f}" r="3.5" fill="{colour}"/>'
            for i, v in enumerate(values)
        ]
        legend = _TOP + 20 + 20 * k
        parts.append(_line(_LEFT + inner + 12, legend, _LEFT + inner + 32, legend, colour, 2))
        parts.append(_text(_LEFT + inner + 38, legend + 4, name, "start"))
    return "\n".join([*parts, "</svg>", ""])


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, width: int = 1, dashed: bool = False
) -> str:
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{colour}" stroke-width="{width}"{dash}/>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
