"""The leaderboard: every hypothesis beside its best control, with verdicts, cost and ceiling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from iclgd_lens.display_names import control_label, label, lower_is_better
from iclgd_lens.phrases import TABLE, layers_named
from iclgd_lens.report.answers import overall_answer, verdicts_by_task
from iclgd_lens.report.run_frames import number_of, records
from iclgd_lens.report.run_records import RunRecords
from iclgd_lens.report.tables import MARKS, PageTable, TableCell, TableRow, filled, number_cell
from iclgd_lens.results.display import SUMMARY_SCORES
from iclgd_lens.scores import SCORES

SCORE_ORDER = tuple(sorted(SUMMARY_SCORES, key=lambda score: SCORES[score].group == "behaviour"))
"""Scores of attention come first: worlds stand above, with what they must read."""
KIND_ORDER = ("explanation", "fitted", "check", "control")
_ANGLE = 60.0
"""Degrees between the rules of the worlds that are shown; the page's own table has all."""


def leaderboard(run: RunRecords, model: str) -> PageTable | None:
    """Hypotheses by kind: gate, verdicts, each short score beside the best control's, cost."""
    scores = [s for s in SCORE_ORDER if s in run.scores and run.measured(model, s)]
    names = {name for score in scores for name in run.measured(model, score)}
    described: Mapping[str, Any] = run.provenance.get("hypotheses") or {}
    own = [name for name in run.bare_hypotheses() if name in names]
    kinds = {name: str((described.get(name) or {}).get("kind") or "hypothesis") for name in own}
    gate, (spent, cost) = _gate(run, model), _costs(run, model)
    judged = [s for s in run.main_scores if any(verdicts_by_task(run, model, n, s) for n in own)]
    ceiling = next((name for name in own if _rule_behind(described, name) == "ceiling"), None)
    shares = [s for s in run.main_scores if ceiling and run.over_tasks(model, ceiling, s)]
    lines: list[TableRow] = []
    known = [kind for kind in KIND_ORDER if kind in kinds.values()]
    for kind in dict.fromkeys((*known, *kinds.values())):
        for name in (each for each in own if kinds[each] == kind):
            cells = [TableCell(kind), *([TableCell(gate)] if gate else [])]
            cells += [_tally(run, model, name, score) for score in judged]
            cells += [_beside(run, model, name, score) for score in scores]
            cells += [number_cell(cost.get(name, ""))] if cost else []
            cells += [_share(run, model, name, str(ceiling), score) for score in shares]
            lost = _without(_left_out(run, model, name, scores), len(run.tasks))
            lines.append(TableRow(label(name), tuple(cells), small=lost))
    before = 1 + bool(gate) + len(judged)
    lines = [*_worlds(run, scores, before, bool(cost) + len(shares)), *lines]
    columns = ("hypothesis", "kind", *(["ICL shown on"] if gate else []),
               *(f"verdict, {score}" for score in judged), *scores,
               *([spent] if cost else []),
               *(f"share of the ceiling, {score}" for score in shares))  # fmt: skip
    caption = (
        "Means over tasks; in small, the best control's mean over tasks and its name. Verdicts: "
        "on how many tasks each hypothesis beats every control; what is no explanation has none. "
        "Share of the ceiling: the score over that of the best change found on the queries "
        "themselves. Cost: counted passes of sequences through blocks, in units of LCGD's. Below a "
        "name: layers that means of scores of attention leave out, on any task; numbers over other "
        "layers are no comparison"
    )
    return filled(f"All hypotheses, {model}", caption, columns, lines, "scores board")


def _worlds(run: RunRecords, scores: Sequence[str], before: int, after: int) -> list[TableRow]:
    """What each rule reads in each world, at one angle: a line above those of the model."""
    frame = run.optional.get("worlds")
    if frame is None or "SimAOU" not in scores:
        return []
    marks: dict[tuple[str, str], list[Any]] = {}
    for row in records(frame):
        if "[" not in str(row.rule):  # heads have a table of their own
            marks.setdefault((str(row.world), str(row.rule)), []).append(row)
    lines: list[TableRow] = []
    for (world, rule), rows in marks.items():
        one = next((row for row in rows if row.theta == _ANGLE), rows[-1])
        angle = number_of(one.theta)
        where = f"{world} world" if math.isnan(angle) else f"{world} world, {angle:g}°"
        read = number_cell(
            TABLE.number(number_of(one.value)),
            f"must be {TABLE.number(number_of(one.exact))}",
        )
        cells = [TableCell("world"), *[TableCell()] * (before - 1)]
        cells += [read if score == "SimAOU" else TableCell() for score in scores]
        cells += [TableCell()] * after
        lines.append(TableRow(label(rule), tuple(cells), small=where))
    return lines


def _gate(run: RunRecords, model: str) -> str:
    """On how many tasks the model learns in context; empty where the run does not say."""
    frame = run.optional.get("gate")
    lines = [] if frame is None else [r for r in records(frame) if str(r.model) == model]
    learns = sum(str(row.learns).lower() in ("true", "yes") for row in lines)
    return f"{learns} of {len(lines)} tasks" if lines else ""


def _costs(run: RunRecords, model: str) -> tuple[str, dict[str, str]]:
    """What each hypothesis cost over all tasks, by its ledger or else the frame's first number."""
    frame = run.optional.get("cost")
    columns = [] if frame is None else list(frame.select_dtypes("number"))
    if frame is None or not columns:
        return "", {}
    own = frame[frame["model"] == model] if "model" in frame else frame
    if "times_lcgd" in columns and own["times_lcgd"].notna().any():
        means = own.groupby("hypothesis", sort=False)["times_lcgd"].mean()
        return "cost, times LCGD", {str(k): f"{v:,.3g}" for k, v in means.items()}
    sums = own.groupby("hypothesis", sort=False)[columns[0]].sum()
    return str(columns[0]).replace("_", " "), {str(k): f"{v:,.4g}" for k, v in sums.items()}


def _left_out(
    run: RunRecords, model: str, name: str, scores: Sequence[str]
) -> set[tuple[str, str, int]]:
    """Task, score and layer of what a hypothesis's means leave out."""
    frame = run.optional.get("partial_layers")
    return {
        (str(row.task), str(row.score), int(row.layer))
        for row in (() if frame is None else records(frame))
        if (str(row.model), str(row.hypothesis)) == (model, name) and row.score in scores
    }


def _without(left_out: set[tuple[str, str, int]], tasks: int) -> str:
    """The layers among these, and on how many of the tasks; empty where there are none."""
    by_task: dict[str, set[int]] = {}
    for task, _, layer in left_out:
        by_task.setdefault(task, set()).add(layer)
    if not by_task:
        return ""
    some = "" if len({frozenset(layers) for layers in by_task.values()}) == 1 else "some of "
    where = "" if len(by_task) == tasks else f" on {len(by_task)} of {tasks} tasks"
    return f"without {some}{layers_named(sorted(set().union(*by_task.values())))}{where}"


def _rule_behind(described: Mapping[str, Any], name: str) -> str:
    """The registered hypothesis behind a name of results."""
    return str((described.get(name) or {}).get("rule") or name)


def _tally(run: RunRecords, model: str, name: str, score: str) -> TableCell:
    """On how many tasks the rule says yes, out of those on which it was asked."""
    by_task = verdicts_by_task(run, model, name, score)
    answers = [overall_answer(run, lines) for lines in by_task.values()]
    if not answers or all(each == "not applicable" for each in answers):
        return TableCell(MARKS["not applicable"], "not asked" if not answers else "not applicable")
    counts = {each: answers.count(each) for each in dict.fromkeys(answers)}
    state = (
        "yes" if answers.count("yes") == len(answers) else "partly" if "yes" in answers else "no"
    )
    rest = ", ".join(f"{n} {each}" for each, n in counts.items() if each != "yes")
    state = "undecided" if state == "no" and "undecided" in counts else state
    return TableCell(f"{MARKS[state]} yes on {answers.count('yes')} of {len(answers)}", rest, state)


def _share(run: RunRecords, model: str, name: str, ceiling: str, score: str) -> TableCell:
    """A score's mean over tasks, as a share of the ceiling's; none where their layers differ."""
    own, best = (run.over_tasks(model, each, score) for each in (name, ceiling))
    left, lost = (_left_out(run, model, each, [score]) for each in (name, ceiling))
    if own is None or best is None or not best > 0 or left != lost:
        return number_cell(TABLE.undefined)
    return number_cell(f"{own / best:.0%}".replace("-", "−"))


def _beside(run: RunRecords, model: str, name: str, score: str) -> TableCell:
    own = run.over_tasks(model, name, score)
    if own is None:
        return TableCell()
    rivals = run.rivals(name, run.measured(model, score))
    means = {other: run.over_tasks(model, other, score) for other in rivals}
    known = {other: value for other, value in means.items() if value is not None}
    if not known:
        return number_cell(TABLE.number(own), "no control")
    best = (min if lower_is_better(score) else max)(known, key=lambda other: known[other])
    return number_cell(TABLE.number(own), f"{TABLE.number(known[best])} {control_label(best)}")
