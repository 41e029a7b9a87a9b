"""Figures for papers, drawn on the package's own canvas: SVG anywhere, PNG where a browser is."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from iclgd_lens.report.heads import draw_heads
from iclgd_lens.report.picture import OFF, Picture, bounds, colour, legend, legend_rows
from iclgd_lens.report.profiles import draw_profiles
from iclgd_lens.report.style import looks
from iclgd_lens.report.svg import FAINT, QUIET, Canvas, ticks
from iclgd_lens.report.view import MAIN_SCORES, View
from iclgd_lens.tables import hypothesis_names


def draw(view: View) -> list[Picture]:
    """Draw means by task, layer profiles and heads, for the main scores of every model."""
    made: list[Picture] = []
    for model in view.models:
        prefix = f"{slug(model)}_" if len(view.models) > 1 else ""
        for score in MAIN_SCORES:
            names = [name for name in view.measured(model, score) if name not in OFF]
            if not names:
                continue
            made.append(_means(view, model, score, names, f"{prefix}means_{slug(score)}"))
            more = [draw_profiles(view, model, score, f"{prefix}layers_{slug(score)}")]
            for name in hypothesis_names(names):
                file = f"{prefix}heads_{slug(score)}_{slug(name)}"
                more.append(draw_heads(view, model, score, name, file))
            made += [picture for picture in more if picture is not None]
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


def _means(view: View, model: str, score: str, names: Sequence[str], file: str) -> Picture:
    tasks, look = view.tasks_of(model), looks(view.hypotheses)
    left, right, row = 90.0, 20.0, 13.0
    width = 640.0
    top = 34 + 16.0 * legend_rows(names, width - 100)
    band = row * len(names) + 10
    height = top + band * len(tasks) + 44
    canvas = Canvas(width, height, f"{score} by task, {model}")
    canvas.text((10, 18), f"{score} by task, {model}", size=13, bold=True)
    legend(canvas, left, 38, names, look)
    cells = {
        (task, name): cell
        for task in tasks
        for name in names
        if (cell := view.cell(model, task, name, score)) is not None and math.isfinite(cell.value)
    }
    low, high = bounds([n for c in cells.values() for n in (c.value, c.low, c.high)])

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
                    canvas.line((x(cell.low), y), (x(cell.high), y), colour(look[name]), 1.5)
                canvas.mark((x(cell.value), y), look[name].symbol, colour(look[name]))
    text = f"{score} by task, {model}, with intervals over seeds and queries"
    return Picture(file, text, canvas.svg(), (width, height))
