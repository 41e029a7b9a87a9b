"""What a run found, in words that follow the numbers whichever way they fall."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from iclgd_lens.report.numbers import count, listed, number
from iclgd_lens.report.remarks import (
    Finding,
    advantage_of,
    all_of,
    behaviour,
    between,
    contrast,
    draws,
    instrument,
    losses,
    order,
    reading,
    untrained,
)
from iclgd_lens.report.view import MAIN_SCORES, Difference, View
from iclgd_lens.tables import hypothesis_names


def headline(view: View) -> str:
    """One paragraph: what was compared, and whether any hypothesis beats its controls."""
    plan, provenance = view.plan, view.provenance
    names = hypothesis_names(view.hypotheses)
    if not view.cells:
        cells = provenance.get("cells") or {}
        done = ", ".join(f"{value} {key}" for key, value in cells.items())
        return f"This run has no numbers yet{f' (cells: {done})' if done else ''}."
    what = listed(names) if names else "no hypothesis"
    shots = f"{count(plan['shots'], 'demonstration')} a prompt, " if "shots" in plan else ""
    protocol = (provenance.get("protocol") or {}).get("name")
    text = (
        f"In-context learning against {what} on {count(len(view.tasks), 'task')} with "
        f"{listed(view.models) if view.models else 'no model'} "
        f"({shots}protocol {protocol or 'not named'})."
    )
    missing = (provenance.get("cells") or {}).get("missing") or 0
    if missing:
        text += f" The run is not finished: {count(missing, 'cell')} of it not measured yet."
    counts = [_beaten(view, model, name) for model in view.models for name in names]
    asked, won = sum(total for total, _ in counts), sum(good for _, good in counts)
    if not asked:
        return text + " No control was measured, so that the scores by themselves show nothing."
    if won == asked:
        return text + " Every hypothesis beats all its controls on every task and score asked."
    if won:
        return text + (
            f" Of {count(asked, 'question')} (hypothesis, task, and SimAOU or SimAM), a hypothesis "
            f"beats all its controls in {won}; in {asked - won} it does not."
        )
    who = f"{names[0]} does not beat its" if len(names) == 1 else "No hypothesis beats its"
    return text + f" {who} controls on any task: the scores are no evidence for it."


def findings(view: View, model: str) -> list[Finding]:
    """What the numbers of one model say, the most important first."""
    names = hypothesis_names(view.hypotheses)
    found: list[Finding] = []
    for score in (each for each in MAIN_SCORES if each in view.scores):
        for name in names:
            found += _against_controls(view, model, name, score)
        found += between(view, model, score)
        found += untrained(view, model, score)
    found += instrument(view, model)
    found += behaviour(view, model)
    found += order(view, model)
    found += draws(view, model)
    found += losses(view, model)
    return found


def outcomes(view: View, model: str, name: str, score: str) -> dict[str, list[Difference]]:
    """The paired differences of a hypothesis with its controls, by task."""
    found: dict[str, list[Difference]] = {}
    for each in view.differences:
        if (each.model, each.a, each.score) == (model, name, score) and each.kind != "hypotheses":
            found.setdefault(each.task, []).append(each)
    return found


def _beaten(view: View, model: str, name: str) -> tuple[int, int]:
    by_task = [
        lines
        for score in MAIN_SCORES
        for lines in outcomes(view, model, name, score).values()
    ]  # fmt: skip
    return len(by_task), sum(all(each.outcome > 0 for each in lines) for lines in by_task)


# -- one hypothesis --------------------------------------------------------------------------------


def _against_controls(view: View, model: str, name: str, score: str) -> list[Finding]:
    by_task = outcomes(view, model, name, score)
    extent = _extent(view, model, name, score)
    if not by_task:
        if not extent:
            return []
        lead = f"{score}: {name} was not compared with any control."
        return [Finding("note", lead, f"{extent} Without a control that shows nothing.")]
    beaten = [task for task, lines in by_task.items() if all(each.outcome > 0 for each in lines)]
    rest = [task for task in by_task if task not in beaten]
    if not rest:
        closest = min((each for lines in by_task.values() for each in lines), key=advantage_of)
        return [
            Finding(
                "yes",
                f"{score}: {name} beats all its controls on {all_of(beaten)}.",
                f"{extent} The closest is {contrast(view, closest)}.",
            )
        ]
    lines = [each for task in rest for each in by_task[task] if each.outcome <= 0]
    known = [each for each in lines if not math.isnan(each.difference)]
    body = f"{extent} {_stubborn(lines, len(by_task))}"
    if known:
        body += f" The clearest case is {contrast(view, min(known, key=advantage_of))}."
    if not beaten:
        where = f"on {rest[0]}" if len(rest) == 1 else f"on any of {len(rest)} tasks"
        return [Finding("no", f"{score}: {name} does not beat its controls {where}.", body)]
    lead = (
        f"{score}: {name} beats all its controls on {len(beaten)} of {len(by_task)} tasks "
        f"({listed(beaten)}), and does not on {listed(rest)}."
    )
    return [Finding("partly", lead, body)]


def _stubborn(lines: Sequence[Difference], tasks: int) -> str:
    """Which controls are not beaten, on how many tasks, and which score higher."""
    controls = Counter(each.b for each in lines)
    above = Counter(each.b for each in lines if each.outcome < 0)
    unknown = Counter(each.b for each in lines if math.isnan(each.difference))
    parts: list[str] = []
    for control, times in sorted(controls.items(), key=lambda item: (-item[1], item[0])):
        more: list[str] = []
        if above[control]:
            more.append(f"does better than it on {above[control]}")
        if unknown[control]:
            more.append(f"cannot be compared on {unknown[control]}")
        said = f" (the control {', '.join(more)})" if more else ""
        parts.append(f"{control} on {times} of {count(tasks, 'task')}{said}")
    return f"Not shown to beat {'; '.join(parts)}."


def _extent(view: View, model: str, name: str, score: str) -> str:
    """The lowest and highest of a hypothesis's means over tasks."""
    read = [(task, view.cell(model, task, name, score)) for task in view.tasks]
    known = [
        (cell.value, task, cell)
        for task, cell in read
        if cell is not None and not math.isnan(cell.value)
    ]
    if not known:
        return ""
    low, high = min(known), max(known)
    if len(known) == 1:
        return f"It reads {reading(low[2])} on {low[1]}, where 1 is what in-context learning does."
    return (
        f"It reads from {number(low[0])} ({low[1]}) to {number(high[0])} ({high[1]}), where 1 is "
        "what in-context learning does."
    )
