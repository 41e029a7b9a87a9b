"""Means as LaTeX tables (booktabs), each small enough for a page of a paper."""

from __future__ import annotations

import math
from collections.abc import Iterator

from iclgd_lens.report.numbers import interval, number
from iclgd_lens.report.view import Cell, View, rank

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
    """One table a model and score, hypotheses by task. Needs booktabs."""
    lines = [
        "% Written by iclgd_lens. Needs \\usepackage{booktabs}; six tasks take 14 cm of width, so",
        "% that a paper of two columns wants table* in place of table.",
    ]
    for model in view.models:
        for score in SCORES:
            if view.measured(model, score):
                lines += _table(view, model, score)
    return "\n".join(lines) + "\n"


def _table(view: View, model: str, score: str) -> Iterator[str]:
    tasks, names = view.tasks_of(model), view.measured(model, score)
    yield r"\begin{table}"
    yield r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"
    yield (
        rf"\caption{{{escape(score)} of {escape(model)}: means over seeds and queries with "
        r"95\,\% intervals.}"
    )
    yield rf"\begin{{tabular}}{{@{{}}l{'c' * len(tasks)}@{{}}}}"
    yield r"\toprule"
    yield " & ".join(["Hypothesis", *map(escape, tasks)]) + r" \\"
    yield r"\midrule"
    for i, name in enumerate(names):
        if i and rank(name) != rank(names[i - 1]):
            yield r"\addlinespace"
        cells = [_cell(view.cell(model, task, name, score)) for task in tasks]
        yield " & ".join([escape(name), *cells]) + r" \\[2pt]"
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
    return rf"\shortstack{{{value}\\{{\tiny ${between}$}}}}"
