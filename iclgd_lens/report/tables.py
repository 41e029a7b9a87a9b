"""The report's tables in HTML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from iclgd_lens.errors import LensError
from iclgd_lens.report.glossary import score_meaning
from iclgd_lens.report.markup import Html, join, tag
from iclgd_lens.report.numbers import UNDEFINED, interval, number, p_value, signed
from iclgd_lens.report.view import MAIN_SCORES, Cell, View, rank
from iclgd_lens.report.words import outcomes
from iclgd_lens.tables import hypothesis_names
from iclgd_lens.tasks import get_task, list_tasks

PUBLISHED_SOURCE = (
    "Deutch et al. 2024 (arXiv 2311.07772): fairseq dense 1.3B, 24 layers, 32 demonstrations, "
    "three seeds, means over layers and seeds"
)
_RULES = {"gd": "GD", "lcgd": "LCGD", "gd_untrained": "GD, untrained model"}
_KINDS = {"hypotheses": "hypotheses", "control": "control", "untrained": "untrained"}


def table(
    caption: Any, columns: Sequence[Any], rows: Iterable[Html], *, label: str, class_: str = ""
) -> Html:
    """A table in a box of its own that scrolls sideways, also with the keyboard."""
    head = tag("tr", (tag("th", column, scope="col") for column in columns))
    return tag(
        "div",
        tag("table", tag("caption", tag("span", caption)), tag("thead", head), tag("tbody", rows)),
        class_=f"scroll {class_}".strip(), role="region", aria_label=label, tabindex=0,
    )  # fmt: skip


def row(header: Any, cells: Iterable[Html | None], **attributes: str) -> Html:
    """A table's row whose first cell is its header."""
    return tag("tr", tag("th", header, scope="row"), cells, **attributes)


def estimate_cell(cell: Cell | None) -> Html:
    """A mean with its interval under it; empty where nothing was measured."""
    if cell is None:
        return tag("td")
    if math.isnan(cell.value):
        return tag("td", UNDEFINED, " ", tag("small", "undefined"), class_="n")
    between = interval(cell.low, cell.high)
    return tag("td", number(cell.value), " ", tag("small", between), class_="n")


def score_tables(view: View, model: str) -> Html:
    """One table a score: hypotheses, controls and settings by task."""
    made = [(score, _score_table(view, model, score)) for score in view.scores]
    shown = [(score, each) for score, each in made if each is not None]
    main = [each for score, each in shown if score in (*MAIN_SCORES, "accuracy")]
    more = [
        tag("details", tag("summary", f"{score}: {score_meaning(score) or 'a score'}"), each)
        for score, each in shown
        if score not in (*MAIN_SCORES, "accuracy")
    ]
    return join([main, more])


def _score_table(view: View, model: str, score: str) -> Html | None:
    names, tasks = view.measured(model, score), view.tasks_of(model)
    if not names:
        return None
    rows = [
        row(
            name,
            (estimate_cell(view.cell(model, task, name, score)) for task in tasks),
            class_=_class(name),
        )
        for name in names
    ]
    meaning = score_meaning(score)
    caption = [tag("strong", score), f" — {meaning}" if meaning else ""]
    return table(
        caption, ["hypothesis", *tasks], rows, label=f"{score} of {model} by task", class_="scores"
    )


def verdict_table(view: View, model: str) -> Html | None:
    """Hypotheses by task: how many of its controls each beats."""
    tasks = view.tasks_of(model)
    rows: list[Html] = []
    for score in MAIN_SCORES:
        for name in hypothesis_names(view.hypotheses):
            by_task = outcomes(view, model, name, score)
            if by_task:
                cells = (_verdict_cell(by_task.get(task, [])) for task in tasks)
                rows.append(row([name, " ", tag("small", score)], cells))
    if not rows:
        return None
    caption = (
        "Controls that each hypothesis beats (corrected p below 0.05 and the interval above 0)"
    )
    return table(
        caption, ["hypothesis", *tasks], rows, label=f"Controls beaten, {model}", class_="verdicts"
    )


def _verdict_cell(lines: Sequence[Any]) -> Html:
    if not lines:
        return tag("td")
    won = sum(each.outcome > 0 for each in lines)
    state = "yes" if won == len(lines) else "partly" if won else "no"
    rest = [each.b for each in lines if each.outcome <= 0]
    title = f"not beaten: {', '.join(rest)}" if rest else None
    mark = tag("span", {"yes": "●", "partly": "◐", "no": "○"}[state], aria_hidden="true")
    return tag("td", mark, f" {won} of {len(lines)}", class_=f"n {state}", title=title)


def difference_table(view: View) -> Html | None:
    """All paired differences; the page's selectors filter its rows."""
    if not view.differences:
        return None
    several = len(view.models) > 1
    rows = [
        row(
            each.task,
            [
                tag("td", each.model) if several else None,
                tag("td", each.score),
                tag("td", f"{each.a} − {each.b}"),
                tag("td", signed(each.difference), " ", tag("small", interval(each.low, each.high)),
                    class_="n"),
                tag("td", p_value(each.p_corrected), class_="n"),
                tag("td", each.verdict, class_="wide"),
            ],
            data_model=each.model, data_task=each.task, data_score=each.score,
            data_kind=_KINDS.get(each.kind, each.kind),
        )
        for each in view.differences
    ]  # fmt: skip
    model = ["model"] if several else []
    columns = ["task", *model, "score", "a − b", "difference", "p, corrected", "in words"]
    caption = (
        "Paired query by query; intervals over seeds and queries; p of a sign-flip test, corrected "
        "for all lines (Holm). KL_ICL: lower is better."
    )
    return table(caption, columns, rows, label="Paired differences", class_="tall")


def order_table(view: View) -> Html | None:
    """Order sensitivity; None where no seed was run in several orders."""
    if not view.order:
        return None
    several = len(view.models) > 1
    rows = [
        row(
            each.task,
            [
                tag("td", each.model) if several else None,
                tag("td", each.hypothesis),
                estimate_cell(each.flips),
                tag("td", number(each.accuracy_range), class_="n"),
                tag("td", f"{each.permutations} × {each.flips.seeds}", class_="n"),
            ],
        )
        for each in view.order
    ]
    caption = (
        "Flip rate: share of the pairs of orders that disagree about a query. Range: highest minus "
        "lowest accuracy over orders, mean over seeds."
    )
    model = ["model"] if several else []
    columns = ["task", *model, "hypothesis", "flip rate", "accuracy range", "orders × seeds"]
    return table(caption, columns, rows, label="Order sensitivity", class_="tall")


def published_table(view: View) -> Html | None:
    """The published scores of the run's tasks: another model's, under another protocol."""
    shipped = list_tasks()
    found: list[tuple[str, Any]] = []
    for task in view.tasks:
        if task in shipped:
            try:
                found.append((task, get_task(task)))
            except LensError:
                continue
    found = [(name, task) for name, task in found if task.published]
    if not found:
        return None
    rules = list(dict.fromkeys(rule for _, task in found for rule in task.published))
    scores = list(dict.fromkeys(s for _, task in found for r in task.published.values() for s in r))
    columns = [(rule, score) for score in scores for rule in rules]
    rows = [
        row(
            name,
            [
                tag("td", f"{task.learning_rate:g}" if task.learning_rate else "", class_="n"),
                *(_published_cell(task.published, rule, score) for rule, score in columns),
            ],
        )
        for name, task in found
    ]
    heads = [f"{score}, {_RULES.get(rule, rule)}" for rule, score in columns]
    return table(
        f"Reference figures, not of this run. {PUBLISHED_SOURCE}.",
        ["task", "learning rate", *heads], rows, label="Published scores", class_="published",
    )  # fmt: skip


def _published_cell(published: Any, rule: str, score: str) -> Html:
    value = published.get(rule, {}).get(score)
    return tag("td", "not published" if value is None else number(value), class_="n")


def failure_table(view: View) -> Html | None:
    """Cells and hypotheses without scores; None where there are none."""
    if not view.failures:
        return None
    rows = [
        row(
            each.task,
            [
                tag("td", each.model),
                tag("td", each.hypothesis or "whole cell"),
                tag("td", each.seed, class_="n"),
                tag("td", each.permutation, class_="n"),
                tag("td", each.reason, class_="wide"),
            ],
        )
        for each in view.failures
    ]
    columns = ["task", "model", "what", "seed", "permutation", "reason"]
    return table("No scores from these", columns, rows, label="Failures")


def _class(name: str) -> str:
    return ("hypothesis", "control", "setting", "setting control")[rank(name)]
