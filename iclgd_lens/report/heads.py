"""Layer x head heatmaps for papers."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.report.picture import Picture
from iclgd_lens.report.style import DIVERGING_LIGHT, UNDEFINED_LIGHT
from iclgd_lens.report.svg import INK, QUIET, Canvas, Number, Point, scale_colour, ticks
from iclgd_lens.report.twins import twins
from iclgd_lens.report.view import View, where

Floats = NDArray[np.float64]
_STEPS = 200  # of the colour scale


def draw_heads(view: View, model: str, score: str, name: str, file: str) -> Picture | None:
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
    lines = where(
        frame,
        (frame["model"] == model) & (frame["task"] == task) & (frame["hypothesis"] == name)
        & (frame["score"] == score) & frame["head"].notna(),
    )  # fmt: skip
    if lines.empty:
        return None
    layer, head = (lines[column].to_numpy(dtype=int) for column in ("layer", "head"))
    matrix = np.full((layer.max() + 1, head.max() + 1), np.nan)
    matrix[layer, head] = lines["value"].to_numpy(dtype=np.float64, na_value=np.nan)
    return matrix


def _any(matrix: Floats) -> bool:
    return bool(np.isfinite(matrix).any())


def _heat(
    canvas: Canvas, corner: Point, matrix: Floats, cell: Number, reach: Number, *,
    numbered: bool,
) -> None:  # fmt: skip
    x0, y0 = corner
    layers, heads = matrix.shape
    bottom = y0 + layers * cell
    by_step: dict[int | None, list[tuple[float, float]]] = {}
    for (layer, head), value in np.ndenumerate(matrix):
        step = round(_STEPS * (0.5 + 0.5 * value / reach)) if math.isfinite(value) else None
        place = (x0 + head * cell, bottom - (layer + 1) * cell)
        by_step.setdefault(step, []).append(place)
    for step, places in by_step.items():  # one path a colour: half the bytes
        colour = UNDEFINED_LIGHT if step is None else scale_colour(DIVERGING_LIGHT, step / _STEPS)
        canvas.rectangles(places, cell, cell, colour)
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


def _bar(canvas: Canvas, corner: Point, height: Number, reach: Number) -> None:
    x0, y0 = corner
    steps = 60
    for i in range(steps):
        colour = scale_colour(DIVERGING_LIGHT, 1 - (i + 0.5) / steps)
        canvas.rectangles([(x0, y0 + height * i / steps)], 10, height / steps + 0.3, colour)
    for share, value in ((0.0, reach), (0.5, 0.0), (1.0, -reach)):
        canvas.text((x0 + 14, y0 + height * share + 4), f"{value:.2g}", size=10, colour=INK)
