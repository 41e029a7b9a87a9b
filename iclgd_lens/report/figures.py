"""Figures for papers, drawn on the package's own canvas: SVG anywhere, PNG where a browser is."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.report.style import DIVERGING_LIGHT, LIGHT, UNDEFINED_LIGHT, Look, looks
from iclgd_lens.report.svg import FAINT, INK, QUIET, Canvas, scale_colour, ticks
from iclgd_lens.report.twins import twins
from iclgd_lens.report.view import MAIN_SCORES, View
from iclgd_lens.tables import hypothesis_names

Floats = NDArray[np.float64]


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
    size: tuple[float, float]


@dataclass(frozen=True)
class Pictures:
    """What the page says about the figure files.

    Attributes:
        named: File names and what they show.
        note: Whether there are PNG files, and why not.
    """

    named: tuple[tuple[str, str], ...]
    note: str


def draw(view: View) -> list[Picture]:
    """Draw means by task, layer profiles and heads, for the main scores of every model."""
    made: list[Picture] = []
    for model in view.models:
        prefix = f"{slug(model)}_" if len(view.models) > 1 else ""
        for score in MAIN_SCORES:
            names = [name for name in view.measured(model, score) if name not in _OFF]
            if not names:
                continue
            made.append(_means(view, model, score, names, f"{prefix}means_{slug(score)}"))
            found = _by_layer(view, model, score)
            if any(task in found for task in view.tasks):
                made.append(_profiles(view, model, score, found, f"{prefix}layers_{slug(score)}"))
            for name in hypothesis_names(names):
                picture = _heads(
                    view, model, score, name, f"{prefix}heads_{slug(score)}_{slug(name)}"
                )
                made += [picture] if picture is not None else []
    return _distinct(made)


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:60] or "x"


def _distinct(made: Sequence[Picture]) -> list[Picture]:
    """Names that differ in punctuation alone get numbers."""
    seen: dict[str, int] = {}
    found: list[Picture] = []
    for each in made:
        times = seen[each.name.lower()] = seen.get(each.name.lower(), 0) + 1
        name = each.name if times == 1 else f"{each.name}_{times}"
        found.append(Picture(name, each.text, each.svg, each.size))
    return found


_OFF = ("oracle", "zero")  # they check the instrument, and would stretch every axis


def _colour(look: Look) -> str:
    return QUIET if look.colour < 0 else LIGHT[look.colour]


def _legend(canvas: Canvas, x: float, y: float, names: Sequence[str], look: Mapping[str, Look]) -> None:
    left, right = x, canvas.width - 10
    for name in names:
        width = 26 + 6.4 * len(name)
        if x > left and x + width > right:
            x, y = left, y + 16
        canvas.mark((x + 5, y - 4), look[name].symbol, _colour(look[name]))
        canvas.text((x + 14, y), name, size=11)
        x += width + 8


def _legend_rows(names: Sequence[str], room: float) -> int:
    rows, x = 1, 0.0
    for name in names:
        width = 34 + 6.4 * len(name)
        if x and x + width > room:
            rows, x = rows + 1, 0.0
        x += width
    return rows


# -- means by task ---------------------------------------------------------------------------------


def _means(view: View, model: str, score: str, names: Sequence[str], file: str) -> Picture:
    tasks, look = view.tasks_of(model), looks(view.hypotheses)
    left, right, row = 90.0, 20.0, 13.0
    width = 640.0
    top = 34 + 16.0 * _legend_rows(names, width - 100)
    band = row * len(names) + 10
    height = top + band * len(tasks) + 44
    canvas = Canvas(width, height, f"{score} by task, {model}")
    canvas.text((10, 18), f"{score} by task, {model}", size=13, bold=True)
    _legend(canvas, left, 38, names, look)
    cells = {
        (task, name): cell
        for task in tasks
        for name in names
        if (cell := view.cell(model, task, name, score)) is not None and math.isfinite(cell.value)
    }
    low, high = _bounds([n for c in cells.values() for n in (c.value, c.low, c.high)])

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (width - left - right)

    bottom = top + band * len(tasks)
    for tick in ticks(low, high, 6):
        canvas.line((x(tick), top), (x(tick), bottom), QUIET if tick == 0 else FAINT)
        canvas.text((x(tick), bottom + 15), f"{tick:g}", anchor="middle", colour=QUIET)
    canvas.text((left + (width - left - right) / 2, bottom + 34), score, anchor="middle")
    for i, task in enumerate(tasks):
        canvas.line((left - 80, top + band * i), (width - right, top + band * i), FAINT)
        canvas.text((left - 10, top + band * (i + 0.5) + 4), task, anchor="end")
        for j, name in enumerate(names):
            cell = cells.get((task, name))
            if cell is not None:
                y = top + band * i + 5 + row * (j + 0.5)
                if math.isfinite(cell.low) and math.isfinite(cell.high):
                    canvas.line((x(cell.low), y), (x(cell.high), y), _colour(look[name]), 1.5)
                canvas.mark((x(cell.value), y), look[name].symbol, _colour(look[name]))
    text = f"{score} by task, {model}, with intervals over seeds and queries"
    return Picture(file, text, canvas.svg(), (width, height))


# -- by layer --------------------------------------------------------------------------------------


def _by_layer(view: View, model: str, score: str) -> dict[str, dict[str, Any]]:
    """Lines of the summary with a layer and no head, by task and hypothesis."""
    frame = view.summary
    kept = frame[
        (frame["model"] == model) & (frame["score"] == score)
        & frame["layer"].notna() & frame["head"].isna()
    ]  # fmt: skip
    found: dict[str, dict[str, Any]] = {}
    for name in view.hypotheses:
        if name in _OFF:
            continue
        for task, lines in kept[kept["hypothesis"] == name].groupby("task", sort=False):
            found.setdefault(str(task), {})[name] = lines.sort_values("layer")
    return found


def _profiles(
    view: View, model: str, score: str, found: Mapping[str, Mapping[str, Any]], file: str
) -> Picture:
    tasks, look = [task for task in view.tasks if task in found], looks(view.hypotheses)
    names = [name for name in view.hypotheses if any(name in found[task] for task in tasks)]
    columns = min(3, len(tasks))
    rows = math.ceil(len(tasks) / columns)
    wide, tall, left = 250.0, 170.0, 52.0
    width = max(420.0, left + columns * wide + 14)
    top = 34 + 16.0 * _legend_rows(names, width - 30)
    height = top + rows * (tall + 46) + 8
    canvas = Canvas(width, height, f"{score} by layer, {model}")
    canvas.text((10, 18), f"{score} by layer, {model}", size=13, bold=True)
    _legend(canvas, 12, 38, names, look)
    every = [lines[c] for task in tasks for lines in found[task].values() for c in _BOUNDS]
    low, high = _bounds([n for column in every for n in _floats(column)])
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


def _floats(column: Any) -> list[float]:
    return [float(each) for each in column.to_numpy(dtype=np.float64, na_value=np.nan)]


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds 0 and every defined value, with a little room."""
    known = [value for value in values if math.isfinite(value)]
    low, high = min([0.0, *known]), max([0.0, *known])
    room = (high - low) * 0.05 or 1.0
    return low - (room if low < 0 else 0.0), high + room


@dataclass(frozen=True)
class _Panel:
    canvas: Canvas
    corner: tuple[float, float]
    width: float
    height: float
    low: float
    high: float

    def y(self, value: float) -> float:
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
        value, low, high = (_floats(lines[column]) for column in _BOUNDS)
        for part in _runs([math.isfinite(a) and math.isfinite(b) for a, b in zip(low, high)]):  # noqa: B905
            outline = [(at[i], self.y(high[i])) for i in part]
            outline += [(at[i], self.y(low[i])) for i in reversed(part)]
            self.canvas.polygon(outline, _colour(look), 0.15 if own else 0.08)
        for part in _runs([math.isfinite(each) for each in value]):
            points = [(at[i], self.y(value[i])) for i in part]
            self.canvas.polyline(points, _colour(look), 2.0 if own else 1.2, look.dash)
            for point in points[:: max(1, len(points) // 6)]:
                self.canvas.mark(point, look.symbol, _colour(look), 3.0 if own else 2.4)


def _runs(defined: Sequence[bool]) -> Iterator[list[int]]:
    """Neighbouring places that are defined."""
    run: list[int] = []
    for i, each in enumerate([*defined, False]):
        if each:
            run.append(i)
        elif run:
            yield run
            run = []


# -- heads -----------------------------------------------------------------------------------------


def _heads(view: View, model: str, score: str, name: str, file: str) -> Picture | None:
    """A hypothesis's heads on every task, above those of an untrained copy."""
    sources = [(model, name), *twins(view, model, name)[:1]]
    tasks = view.tasks_of(model)
    found = {
        (source, task): matrix
        for source in sources
        for task in tasks
        if (matrix := _matrix(view, *source, task, score)) is not None
    }
    if not found:
        return None
    sources = [source for source in sources if any(key[0] == source for key in found)]
    layers, heads = (max(m.shape[axis] for m in found.values()) for axis in (0, 1))
    cell = max(3.0, min(12.0, 180 / max(layers, heads)))
    wide, tall = heads * cell + 16, layers * cell + 34
    width = max(420.0, 64 + len(tasks) * wide + 70)
    height = 44 + len(sources) * (tall + 14) + 20
    canvas = Canvas(width, height, f"{score} of {name} by head, {model}")
    canvas.text((10, 18), f"{score} by layer and head, {model}", size=13, bold=True)
    reach = max([0.01, *(float(np.nanmax(np.abs(m))) for m in found.values() if _any(m))])
    for i, source in enumerate(sources):
        y0 = 58 + i * (tall + 14)
        label = source[1] if source[0] == model else f"{source[1]} ({source[0]})"
        canvas.text((16, y0 + layers * cell / 2), label, anchor="middle", turned=True, bold=True)
        canvas.text((32, y0 + layers * cell / 2), "layer", anchor="middle", turned=True, size=10)
        for j, task in enumerate(tasks):
            corner = (56 + j * wide, y0)
            if (source, task) in found:
                _heat(canvas, corner, found[source, task], cell, reach, numbered=j == 0)
            if i == 0:
                canvas.text((corner[0], y0 - 6), task, bold=True)
    _bar(canvas, (56 + len(tasks) * wide + 6, 58), layers * cell, reach)
    beside = f", above its untrained copy ({sources[1][1]})" if len(sources) > 1 else ""
    text = f"{score} of {name} by layer and head for every task, {model}{beside}"
    return Picture(file, text, canvas.svg(), (width, height))


def _matrix(view: View, model: str, name: str, task: str, score: str) -> Floats | None:
    frame = view.summary
    lines = frame[
        (frame["model"] == model) & (frame["task"] == task) & (frame["hypothesis"] == name)
        & (frame["score"] == score) & frame["head"].notna()
    ]  # fmt: skip
    if lines.empty:
        return None
    layer, head = (lines[column].to_numpy(dtype=int) for column in ("layer", "head"))
    matrix = np.full((layer.max() + 1, head.max() + 1), np.nan)
    matrix[layer, head] = lines["value"].to_numpy(dtype=np.float64, na_value=np.nan)
    return matrix


def _any(matrix: Floats) -> bool:
    return bool(np.isfinite(matrix).any())


def _heat(
    canvas: Canvas, corner: tuple[float, float], matrix: Floats, cell: float, reach: float, *,
    numbered: bool,
) -> None:  # fmt: skip
    x0, y0 = corner
    layers, heads = matrix.shape
    bottom = y0 + layers * cell
    for (layer, head), value in np.ndenumerate(matrix):
        colour = UNDEFINED_LIGHT
        if math.isfinite(value):
            colour = scale_colour(DIVERGING_LIGHT, 0.5 + 0.5 * value / reach)
        canvas.rectangle((x0 + head * cell, bottom - (layer + 1) * cell), cell, cell, colour)
    canvas.frame(corner, heads * cell, layers * cell)
    for tick in ticks(0, heads - 1, 3):
        if tick == int(tick):
            at = (x0 + (tick + 0.5) * cell, bottom + 12)
            canvas.text(at, f"{tick:g}", anchor="middle", size=9, colour=QUIET)
    canvas.text((x0 + heads * cell / 2, bottom + 24), "head", anchor="middle", size=10)
    for tick in ticks(0, layers - 1, 4) if numbered else ():
        if tick == int(tick):
            at = (x0 - 4, bottom - (tick + 0.5) * cell + 3)
            canvas.text(at, f"{tick:g}", anchor="end", size=9, colour=QUIET)


def _bar(canvas: Canvas, corner: tuple[float, float], height: float, reach: float) -> None:
    x0, y0 = corner
    steps = 60
    for i in range(steps):
        colour = scale_colour(DIVERGING_LIGHT, 1 - (i + 0.5) / steps)
        canvas.rectangle((x0, y0 + height * i / steps), 10, height / steps + 0.3, colour)
    for share, value in ((0.0, reach), (0.5, 0.0), (1.0, -reach)):
        canvas.text((x0 + 14, y0 + height * share + 4), f"{value:.2g}", size=10, colour=INK)
