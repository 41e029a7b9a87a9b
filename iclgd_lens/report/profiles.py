"""Layer profiles for papers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iclgd_lens.report.picture import OFF, Picture, bounds, colour, floats, legend, legend_rows
from iclgd_lens.report.style import Look, looks
from iclgd_lens.report.svg import FAINT, QUIET, Canvas, Number, Point, ticks
from iclgd_lens.report.view import View, where
from iclgd_lens.tables import hypothesis_names


def _by_layer(view: View, model: str, score: str) -> dict[str, dict[str, Any]]:
    """Lines of the summary with a layer and no head, by task and hypothesis."""
    frame = view.summary
    kept = where(
        frame,
        (frame["model"] == model) & (frame["score"] == score)
        & frame["layer"].notna() & frame["head"].isna(),
    )  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for name in view.hypotheses:
        if name in OFF:
            continue
        for task in view.tasks:
            lines = where(kept, (kept["hypothesis"] == name) & (kept["task"] == task))
            if len(lines):
                found.setdefault(task, {})[name] = lines.sort_values("layer")
    return found


def draw_profiles(view: View, model: str, score: str, file: str) -> Picture | None:
    """A panel a task, a line a hypothesis; None where the score has no layers."""
    found = _by_layer(view, model, score)
    if not found:
        return None
    tasks, look = [task for task in view.tasks if task in found], looks(view.hypotheses)
    names = [name for name in view.hypotheses if any(name in found[task] for task in tasks)]
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    wide, tall, left = 250.0, 170.0, 52.0
    width = max(420.0, left + columns * wide + 14)
    top = 34 + 16.0 * legend_rows(names, width - 30)
    height = top + rows * (tall + 46) + 8
    canvas = Canvas(width, height, f"{score} by layer, {model}")
    canvas.text((10, 18), f"{score} by layer, {model}", size=13, bold=True)
    legend(canvas, 12, 38, names, look)
    every = [lines[c] for task in tasks for lines in found[task].values() for c in _BOUNDS]
    low, high = bounds([n for column in every for n in floats(column)])
    for i, task in enumerate(tasks):
        corner = (left + (i % columns) * wide, top + 18 + (i // columns) * (tall + 46))
        panel = _Panel(canvas, corner, wide - 20, tall, low, high)
        panel.axes(task, _layers(found[task]), numbered=i % columns == 0)
        for name in reversed(names):  # hypotheses come first, and are drawn over their controls
            if name in found[task]:
                panel.profile(found[task][name], look[name], own=name in hypothesis_names([name]))
    text = f"{score} by layer for every task, {model}"
    return Picture(file, text, canvas.svg(), (width, height))


_BOUNDS = ("value", "ci_low", "ci_high")


def _layers(lines: Mapping[str, Any]) -> int:
    return max(int(each["layer"].max()) for each in lines.values()) + 1


@dataclass(frozen=True)
class _Panel:
    canvas: Canvas
    corner: Point
    width: Number
    height: Number
    low: Number
    high: Number

    def y(self, value: Number) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.corner[1] + self.height * (1 - share)

    def axes(self, title: str, layers: int, *, numbered: bool) -> None:
        x0, y0 = self.corner
        self.canvas.text((x0, y0 - 6), title, bold=True)
        for tick in ticks(self.low, self.high):
            colour = QUIET if tick == 0 else FAINT
            self.canvas.line((x0, self.y(tick)), (x0 + self.width, self.y(tick)), colour)
            if numbered:
                at = (x0 - 6, self.y(tick) + 4)
                self.canvas.text(at, f"{tick:g}", anchor="end", colour=QUIET)
        bottom = y0 + self.height
        for tick in ticks(0, layers - 1, 6):
            if tick == int(tick):
                at = (self.x(int(tick), layers), bottom + 14)
                self.canvas.text(at, f"{tick:g}", anchor="middle", colour=QUIET, size=10)
        self.canvas.text((x0 + self.width / 2, bottom + 26), "layer", anchor="middle", size=10)

    def x(self, layer: int, layers: int) -> float:
        return self.corner[0] + 6 + (self.width - 12) * layer / max(1, layers - 1)

    def profile(self, lines: Any, look: Look, *, own: bool) -> None:
        layers = int(lines["layer"].max()) + 1
        at = [self.x(int(layer), layers) for layer in lines["layer"]]
        value, low, high = (floats(lines[column]) for column in _BOUNDS)
        for part in _runs(
            [math.isfinite(a) and math.isfinite(b) for a, b in zip(low, high, strict=True)]
        ):
            outline = [(at[i], self.y(high[i])) for i in part]
            outline += [(at[i], self.y(low[i])) for i in reversed(part)]
            self.canvas.polygon(outline, colour(look), 0.15 if own else 0.08)
        for part in _runs([math.isfinite(each) for each in value]):
            points = [(at[i], self.y(value[i])) for i in part]
            self.canvas.polyline(points, colour(look), 2.0 if own else 1.2, look.dash)
            for point in points[:: max(1, len(points) // 6)]:
                self.canvas.mark(point, look.symbol, colour(look), 3.0 if own else 2.4)


def _runs(defined: Sequence[bool]) -> Iterator[list[int]]:
    """Neighbouring places that are defined."""
    run: list[int] = []
    for i, each in enumerate([*defined, False]):
        if each:
            run.append(i)
        elif run:
            yield run
            run = []
