"""Remarks beside the verdicts: hypotheses among themselves, training, the instrument, losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from iclgd_lens.bench.contrasts import LOWER_IS_BETTER
from iclgd_lens.report.numbers import count, estimate, interval, listed, number, p_value, signed
from iclgd_lens.report.view import MAIN_SCORES, Cell, Difference, View
from iclgd_lens.tables import hypothesis_names

Tone = Literal["yes", "partly", "no", "note", "caution"]
_INSTRUMENT = 0.999  # what the oracle has to read
# How often a 95 % bootstrap interval over so few draws holds the truth, where nothing but the draw
# varies (normal values; simulated, tests/report/test_words.py does it again).
_COVERAGE = {2: 51, 3: 72, 4: 79, 5: 83, 6: 86, 7: 87, 8: 88, 9: 89}


@dataclass(frozen=True)
class Finding:
    """One thing that the numbers say.

    Attributes:
        tone: "yes" if what was asked is shown everywhere, "partly", "no"; "note" for a fact that
            is no verdict, "caution" for what weakens the numbers.
        lead: A sentence that can stand alone.
        body: The numbers behind it.
    """

    tone: Tone
    lead: str
    body: str = ""


def between(view: View, model: str, score: str) -> list[Finding]:
    """Which of two hypotheses scores higher."""
    groups = _groups(view, model, score, "hypotheses")
    return [_pair(view, score, a, b, lines) for (a, b), lines in groups.items()]


def untrained(view: View, model: str, score: str) -> list[Finding]:
    """Whether training raises a score at all: untrained models are the first control."""
    groups = _groups(view, model, score, "untrained")
    return [_training(view, score, a, b, lines) for (a, b), lines in groups.items()]


def instrument(view: View, model: str) -> list[Finding]:
    """The oracle injects what in-context learning does, so it has to read 1."""
    read = [
        (cell.value, f"{score} {number(cell.value)} on {task}")
        for score in MAIN_SCORES
        for task in view.tasks
        if (cell := view.cell(model, task, "oracle", score)) is not None
    ]
    if not read:
        return []
    wrong = [text for value, text in read if not value >= _INSTRUMENT]
    if not wrong:
        lead = "The instrument reads right: the oracle scores 1 wherever it was measured."
        return [Finding("note", lead)]
    lead = "The instrument reads wrong: the oracle should score 1 and does not."
    return [
        Finding("caution", lead, f"It reads {'; '.join(wrong)}. Distrust the other scores there.")
    ]


def behaviour(view: View, model: str) -> list[Finding]:
    """Whether there is any in-context learning to explain."""
    better: list[str] = []
    read: list[str] = []
    for task in view.tasks:
        zs, icl = (view.cell(model, task, name, "accuracy") for name in ("ZS", "ICL"))
        if zs is None or icl is None or math.isnan(zs.value) or math.isnan(icl.value):
            continue
        read.append(f"{task} {number(zs.value)} → {number(icl.value)}")
        if icl.low > zs.high:
            better.append(task)
    if not read:
        return []
    body = f"Accuracy, ZS → ICL: {'; '.join(read)}."
    if better:
        where = all_of(better) if len(better) == len(read) else listed(better)
        lead = f"In-context learning is clearly more accurate than no demonstrations on {where}."
        return [Finding("note", lead, body)]
    where = "on any task" if len(read) > 1 else f"on {read[0].split(' ')[0]}"
    lead = (
        f"In-context learning is not clearly more accurate than no demonstrations {where}: there "
        "is little behaviour to explain."
    )
    return [Finding("note", lead, body)]


def order(view: View, model: str) -> list[Finding]:
    """How far predictions depend on the order of the demonstrations."""
    shown = ("ICL", *hypothesis_names(view.hypotheses))
    worst: dict[str, float] = {}
    for each in view.order:
        if each.model == model and each.hypothesis in shown and not math.isnan(each.flips.value):
            worst[each.hypothesis] = max(worst.get(each.hypothesis, 0.0), each.flips.value)
    if not worst:
        return []
    if max(worst.values()) == 0:
        return [Finding("note", "The order of the demonstrations changed no prediction.")]
    rates = "; ".join(f"{name} up to {number(rate)}" for name, rate in worst.items())
    lead = "The order of the demonstrations changes predictions."
    return [Finding("note", lead, f"Pairs of orders that disagree about a query: {rates}.")]


def draws(view: View, model: str) -> list[Finding]:
    """Whether there are enough draws of demonstrations for the intervals to mean what they say."""
    seeds = [
        cell.seeds for key, cell in view.cells.items() if key[0] == model and key[3] in MAIN_SCORES
    ]
    fewest = min(seeds, default=0)
    if fewest == 1:
        lead = "One draw of demonstrations: the numbers say nothing about other draws."
        return [Finding("caution", lead, "The intervals are over queries alone.")]
    if fewest not in _COVERAGE:
        return []
    lead = f"Only {fewest} draws of demonstrations: intervals are too narrow where draws differ."
    body = (
        f"Over {fewest} draws, a 95 % interval holds the truth about {_COVERAGE[fewest]} times in "
        "100 if nothing but the draw varies; more seeds are the remedy."
    )
    return [Finding("caution", lead, body)]


def losses(view: View, model: str) -> list[Finding]:
    """What the numbers lack."""
    lost = [each for each in view.failures if each.model == model]
    if not lost:
        return []
    whole = sum(not each.hypothesis for each in lost)
    single = len(lost) - whole
    parts = [count(whole, "whole cell")] if whole else []
    parts += [count(single, "hypothesis in a cell", "hypotheses in cells")] if single else []
    body = "The numbers rest on the others; the reasons are under Failures."
    return [Finding("caution", f"Without scores: {listed(parts)}.", body)]


# -- wording ---------------------------------------------------------------------------------------


def contrast(view: View, each: Difference) -> str:
    """One contrast with its numbers."""
    own = view.cell(each.model, each.task, each.a, each.score)
    other = view.cell(each.model, each.task, each.b, each.score)
    values = ""
    if own is not None and other is not None:
        values = f"{each.a} {reading(own)} against {each.b} {reading(other)}, "
    p = p_value(each.p_corrected)
    return (
        f"{each.task}: {values}difference {signed(each.difference)} "
        f"{interval(each.low, each.high)}, corrected p {p if p.startswith('<') else f'= {p}'}"
    )


def advantage_of(each: Difference) -> float:
    """How far a is ahead of b; what cannot be compared is infinitely far."""
    if math.isnan(each.difference):
        return math.inf
    return -each.difference if each.score in LOWER_IS_BETTER else each.difference


def reading(cell: Cell) -> str:
    """A mean with its interval."""
    return estimate(cell.value, cell.low, cell.high)


def all_of(tasks: Sequence[str]) -> str:
    """The one task, or how many all are."""
    return tasks[0] if len(tasks) == 1 else f"all {len(tasks)} tasks"


def _groups(
    view: View, model: str, score: str, kind: str
) -> dict[tuple[str, str], list[Difference]]:
    groups: dict[tuple[str, str], list[Difference]] = {}
    for each in view.differences:
        if (each.model, each.score, each.kind) == (model, score, kind):
            groups.setdefault((each.a, each.b), []).append(each)
    return groups


def _pair(view: View, score: str, a: str, b: str, lines: Sequence[Difference]) -> Finding:
    ahead = [each.task for each in lines if each.outcome > 0]
    behind = [each.task for each in lines if each.outcome < 0]
    even = [each.task for each in lines if each.outcome == 0]

    def where(tasks: list[str]) -> str:
        return all_of(tasks) if len(tasks) == len(lines) else listed(tasks)

    parts = [f"{a} beats {b} on {where(ahead)}"] if ahead else []
    parts += [f"{b} beats {a} on {where(behind)}"] if behind else []
    parts += [f"no difference of {a} and {b} is shown on {where(even)}"] if even else []
    known = [each for each in lines if not math.isnan(each.difference)]
    if not known:
        body = ""
    elif len(known) == 1:
        body = f"{contrast(view, known[0])}."
    else:
        low, high = min(known, key=advantage_of), max(known, key=advantage_of)
        body = f"Differences {a} − {b} go from {_short(low)} to {_short(high)}."
    return Finding("note", f"{score}: {'; '.join(parts)}.", body)


def _training(view: View, score: str, a: str, b: str, lines: Sequence[Difference]) -> Finding:
    more = [each.task for each in lines if each.outcome > 0]
    less = [each.task for each in lines if each.outcome < 0]
    known = [each for each in lines if not math.isnan(each.difference)]
    best = max(known, key=advantage_of) if known else None
    body = f"Most in favour of training is {contrast(view, best)}." if best is not None else ""
    claim = f"raise the score of {a} over {b}"
    if len(more) == len(lines):
        return Finding("yes", f"{score}: training is shown to {claim} on {all_of(more)}.", body)
    lower = f"; it is shown to lower it on {listed(less)}" if less else ""
    if more:
        where = f"on {len(more)} of {len(lines)} tasks ({listed(more)})"
        return Finding("partly", f"{score}: training is shown to {claim} {where}{lower}.", body)
    where = f"on {lines[0].task}" if len(lines) == 1 else f"on any of {len(lines)} tasks"
    return Finding("no", f"{score}: training is not shown to {claim} {where}{lower}.", body)


def _short(each: Difference) -> str:
    return f"{signed(each.difference)} {interval(each.low, each.high)} ({each.task})"
