"""Means as a LaTeX table (booktabs), and the tables as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterator

from iclgd_lens.report.numbers import interval, number
from iclgd_lens.report.view import Cell, View

SCORES = ("SimAOU", "SimAM", "Tok2Attn", "KL_ICL", "accuracy")
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    '"': r"\textquotedbl{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def latex_table(view: View) -> str:
    """One table a model: tasks and hypotheses by score. Needs booktabs."""
    lines = ["% Written by iclgd_lens. Needs \\usepackage{booktabs}."]
    for model in view.models:
        lines += _table(view, model)
    return "\n".join(lines) + "\n"


def _table(view: View, model: str) -> Iterator[str]:
    scores = [score for score in SCORES if view.measured(model, score)]
    yield r"\begin{table}"
    yield r"\centering\small"
    yield (rf"\caption{{Means over seeds and queries with 95\,\% intervals, {escape(model)}.}}")
    yield rf"\begin{{tabular}}{{ll{'r' * len(scores)}}}"
    yield r"\toprule"
    yield " & ".join(["Task", "Hypothesis", *map(escape, scores)]) + r" \\"
    for task in view.tasks_of(model):
        yield r"\midrule"
        first = True
        for name in view.hypotheses:
            cells = [view.cell(model, task, name, score) for score in scores]
            if any(cell is not None for cell in cells):
                head = [escape(task) if first else "", escape(name)]
                yield " & ".join([*head, *map(_cell, cells)]) + r" \\"
                first = False
    yield r"\bottomrule"
    yield r"\end{tabular}"
    yield r"\end{table}"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    if math.isnan(cell.value):
        return "--"
    value = f"${number(cell.value, minus='-')}$"
    if math.isnan(cell.low) or math.isnan(cell.high):
        return value
    between = interval(cell.low, cell.high, minus="-")
    return rf"{value} {{\scriptsize ${between}$}}"
