"""The report's tables, as plain values that the page's template writes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iclgd_lens.display_names import control_label, label, rank, score_meaning
from iclgd_lens.errors import LensError
from iclgd_lens.phrases import TABLE
from iclgd_lens.report.answers import overall_answer, verdicts_by_task
from iclgd_lens.report.run_frames import number_of, records, text_of
from iclgd_lens.report.run_records import PairVerdict, Reading, RunRecords
from iclgd_lens.subjects import TRAINED
from iclgd_lens.tasks import get_task, list_tasks

PUBLISHED = (
    "Reference figures, not of this run. Deutch et al. 2024 (arXiv 2311.07772): fairseq dense "
    "1.3B, 24 layers, 32 demonstrations, three seeds, means over layers and seeds."
)
MARKS = {"yes": "●", "partly": "◐", "no": "◆", "undecided": "○", "not applicable": "–"}
_ROW_CLASSES = ("hypothesis", "control", "setting", "setting control")
_WIDE = ("sentence", "why", "reason")
_COUNTS = ("block_forwards", "block_backwards", "unembeddings", "demonstrations")
"""Columns of `cost()` that are means of counts, written as counts where they are whole."""


@dataclass(frozen=True)
class TableCell:
    """A table's cell, with smaller text after it and a class of the style sheet."""

    text: str = ""
    small: str = ""
    kind: str = ""
    title: str = ""


@dataclass(frozen=True)
class TableRow:
    """A table's row under its header; `data` are attributes that selectors filter by."""

    head: str
    cells: tuple[TableCell, ...]
    small: str = ""
    kind: str = ""
    data: Mapping[str, str] | None = None


@dataclass(frozen=True)
class PageTable:
    """A table with its caption; `label` names the region for screen readers."""

    label: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[TableRow, ...]
    kind: str = ""
    strong: str = ""
    main: bool = True


def filled(
    name: str, caption: str, columns: Iterable[str], lines: Iterable[TableRow], kind: str = "tall"
) -> PageTable | None:
    """A table, or None where it would have no line."""
    found = tuple(lines)
    return PageTable(name, caption, tuple(columns), found, kind) if found else None


def number_cell(text: str, small: str = "") -> TableCell:
    """A number, and smaller text after it."""
    return TableCell(text, small, "n")


def _reading(reading: Reading | None) -> TableCell:
    """A mean with its interval; empty where nothing was measured."""
    if reading is None:
        return TableCell()
    if math.isnan(reading.value):
        return number_cell(TABLE.undefined, "undefined")
    return number_cell(TABLE.number(reading.value), TABLE.interval(reading.low, reading.high))


def _model_beside(run: RunRecords, model: Any) -> str:
    """The model's name, where there are several."""
    return text_of(model) if len(run.models) > 1 else ""


# -- frames as they are ----------------------------------------------------------------------------


def frame_table(
    run: RunRecords, name: str, model: str, caption: str, head: str
) -> PageTable | None:
    """A frame that the run offers (gate, cost), as it is; None where there is none."""
    frame = run.optional.get(name)
    if frame is None:
        return None
    if "model" in frame:
        frame = frame[frame["model"] == model]
    # Their sentences stand above them.
    told = ("model", head, *(["sentence"] if name in ("gate", "agreement") else []))
    columns = [str(each) for each in frame.columns if each not in told]
    lines = (
        TableRow(
            _plain(getattr(row, head), head).text,
            tuple(_plain(getattr(row, c), c) for c in columns),
        )
        for row in records(frame)
    )
    titles = (head, *(each.replace("_", " ") for each in columns))
    return filled(f"{caption}, {model}" if model else caption, caption, titles, lines)


def _plain(value: Any, column: str) -> TableCell:
    if isinstance(value, bool | np.bool_):
        return TableCell("yes" if value else "no", kind="yes" if value else "no")
    if isinstance(value, float | np.floating):
        number = float(value)
        counted = column in _COUNTS and number.is_integer()
        return number_cell(f"{number:,.0f}" if counted else TABLE.number(number))
    text = text_of(value)
    text = label(text) if column == "hypothesis" else text
    return TableCell(text, kind="wide" if column in _WIDE else "")


def verdict_matrix(run: RunRecords, model: str) -> PageTable | None:
    """Hypotheses by task: the answer to all controls together, and how many say yes."""
    tasks = run.tasks_of(model)
    lines: list[TableRow] = []
    for score in run.main_scores:
        for name in run.bare_hypotheses():
            by_task = verdicts_by_task(run, model, name, score)
            if by_task:
                cells = tuple(_answer(run, by_task.get(task, [])) for task in tasks)
                lines.append(TableRow(label(name), cells, small=score))
    marks = ", ".join(f"{mark} {what}" for what, mark in MARKS.items())
    caption = f"Is each hypothesis better than every control? With how many say yes ({marks})"
    return filled(f"Verdicts, {model}", caption, ("hypothesis", *tasks), lines, "verdicts")


def _answer(run: RunRecords, lines: Sequence[PairVerdict]) -> TableCell:
    if not lines:
        return TableCell()
    verdict, won = overall_answer(run, lines), sum(each.verdict == "yes" for each in lines)
    state = "partly" if won and verdict in ("undecided", "no") else verdict
    rest = [f"{control_label(each.b)}: {each.verdict}" for each in lines if each.verdict != "yes"]
    text = f"{MARKS[state]} {won} of {len(lines)}"
    return TableCell(text, kind=f"n {state.replace(' ', '-')}", title="; ".join(rest))


# -- scores and differences ------------------------------------------------------------------------


def score_tables(run: RunRecords, model: str) -> list[PageTable]:
    """One table per score: hypotheses, controls and settings by task."""
    tasks, found = run.tasks_of(model), list[PageTable]()
    for score in (each for each in run.scores if run.measured(model, each)):
        lines = tuple(
            TableRow(
                label(name),
                tuple(_reading(run.reading(model, task, name, score)) for task in tasks),
                kind=_ROW_CLASSES[rank(name)],
            )
            for name in run.measured(model, score)
        )
        meaning = score_meaning(score)
        found.append(
            PageTable(
                f"{score} of {model} by task", f" — {meaning}" if meaning else "",
                ("hypothesis", *tasks), lines, "scores", strong=score,
                main=score in run.main_scores or score == "accuracy",
            )
        )  # fmt: skip
    return found


def twin_table(run: RunRecords) -> PageTable | None:
    """Trained beside untrained: the means, and their paired difference where there is one."""
    known = {(d.model, d.task, d.score, d.a, d.b): d for d in run.differences}
    lines: list[TableRow] = []
    for model, score, name, task, other_model, other in run.twin_places():
        means = (run.reading(model, task, name, score),
                 run.reading(other_model, task, other, score))  # fmt: skip
        who = label(other) if other_model == model else other_model
        own = known.get((model, task, score, name, other))
        cells = (
            TableCell(label(name)),
            TableCell(score),
            *map(_reading, means),
            TableCell(who),
            *_difference(own),
        )
        lines.append(TableRow(task, cells, small=_model_beside(run, model)))
    columns = ("task", "hypothesis", "score", "trained", "untrained", "twin", "difference",
               "p, corrected")  # fmt: skip
    caption = "The same hypothesis on the trained model and on untrained twins of it"
    return filled("Trained beside untrained", caption, columns, lines)


def _difference(own: PairVerdict | None) -> tuple[TableCell, TableCell]:
    if own is None:
        return number_cell(TABLE.undefined), number_cell(TABLE.undefined)
    between = TABLE.interval(own.ci_low, own.ci_high)
    return number_cell(TABLE.signed(own.difference), between), number_cell(TABLE.p_value(own.p))


def difference_table(run: RunRecords) -> PageTable | None:
    """All paired differences; the page's selectors filter its rows."""
    lines = (
        TableRow(
            each.task,
            (TableCell(each.score), TableCell(f"{label(each.a)} − {label(each.b)}"),
             *_difference(each),
             TableCell(f"{MARKS[each.verdict]} {each.verdict}"), TableCell(each.why, kind="wide")),
            small=_model_beside(run, each.model), data={"model": each.model, "score": each.score},
        )
        for each in run.differences
    )  # fmt: skip
    columns = ("task", "score", "a − b", "difference", "p, corrected", "is a better?", "in words")
    caption = "Paired differences with their intervals; p is corrected for their number"
    return filled("Paired differences", caption, columns, lines)


def order_table(run: RunRecords) -> PageTable | None:
    """Order sensitivity; None where no seed was run in several orders."""
    lines = (
        TableRow(
            text_of(row.task),
            (TableCell(label(str(row.hypothesis))),
             number_cell(TABLE.number(number_of(row.flip_rate)),
                    TABLE.interval(number_of(row.ci_low), number_of(row.ci_high))),
             number_cell(TABLE.number(number_of(row.accuracy_range))),
             number_cell(f"{int(row.permutations)} × {int(row.seeds)}")),
            small=_model_beside(run, row.model),
        )
        for row in records(run.order_sensitivity)
    )  # fmt: skip
    caption = (
        "Flip rate: share of the pairs of orders that disagree about a query. Range: highest minus "
        "lowest accuracy over orders, mean over seeds."
    )
    columns = ("task", "hypothesis", "flip rate", "accuracy range", "orders × seeds")
    return filled("Order sensitivity", caption, columns, lines)


def published_table(run: RunRecords) -> PageTable | None:
    """The published scores of the run's tasks: another model's, under another protocol."""
    shipped, found = list_tasks(), dict[str, Any]()
    for name in (each for each in run.tasks if each in shipped):
        try:
            found[name] = get_task(name)
        except LensError:
            continue
    found = {name: task for name, task in found.items() if task.published}
    read = [(rule, s) for t in found.values() for rule, own in t.published.items() for s in own]
    scores, rules = (list(dict.fromkeys(pair[i] for pair in read)) for i in (1, 0))
    columns = [(rule, score) for score in scores for rule in rules]

    def cell(task: Any, rule: str, score: str) -> TableCell:
        value = task.published.get(rule, {}).get(score)
        return number_cell("not published" if value is None else TABLE.number(value))

    lines = (
        TableRow(name, (number_cell(f"{task.learning_rate:g}" if task.learning_rate else ""),
                    *(cell(task, *column) for column in columns)))
        for name, task in found.items()
    )  # fmt: skip
    heads = ("task", "learning rate", *(f"{score}, {label(rule)}" for rule, score in columns))
    return filled("Published scores", PUBLISHED, heads, lines, "published")


def failure_table(run: RunRecords) -> PageTable | None:
    """Cells without scores; None where there are none."""
    lines = (
        TableRow(
            text_of(row.task),
            (TableCell(text_of(row.model)), TableCell(_lost(row)), number_cell(text_of(row.seed)),
             number_cell(text_of(row.permutation)), TableCell(text_of(row.reason), kind="wide")),
        )
        for row in records(run.failures)
    )  # fmt: skip
    columns = ("task", "model", "what", "seed", "permutation", "reason")
    return filled("Failures", "No scores from these", columns, lines, "")


def _lost(row: Any) -> str:
    """What has no scores: a subject, on which network."""
    what = label(text_of(getattr(row, "subject", ""))) or "whole cell"
    network = text_of(getattr(row, "network", TRAINED))
    return what if network == TRAINED else f"{what} on {network} {text_of(row.index)}".rstrip()
