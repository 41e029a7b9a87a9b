"""The leaderboard: every hypothesis beside its best control, with verdicts, cost and ceiling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from iclgd_lens.display_names import control_label, label, lower_is_better
from iclgd_lens.phrases import TABLE, layers_named
from iclgd_lens.report.tables import MARKS, Item, Line, Table, filled, value_item
from iclgd_lens.report.view import View, number_of, records
from iclgd_lens.report.words import answer, questions
from iclgd_lens.results.display import SUMMARY_SCORES
from iclgd_lens.scores import SCORES

ORDER = tuple(sorted(SUMMARY_SCORES, key=lambda score: SCORES[score].group == "behaviour"))
"""Scores of attention come first: worlds stand above, with what they must read."""
KINDS = ("explanation", "fitted", "check", "control")
_ANGLE = 60.0
"""Degrees between the rules of the worlds that are shown; the page's own table has all."""


def leaderboard(view: View, model: str) -> Table | None:
    """Hypotheses by kind: gate, verdicts, each short score beside the best control's, cost."""
    scores = [s for s in ORDER if s in view.scores and view.measured(model, s)]
    names = {name for score in scores for name in view.measured(model, score)}
    facts: Mapping[str, Any] = view.provenance.get("hypotheses") or {}
    own = [name for name in view.own() if name in names]
    kinds = {name: str((facts.get(name) or {}).get("kind") or "hypothesis") for name in own}
    gate, (spent, cost) = _gate(view, model), _costs(view, model)
    judged = [s for s in view.main_scores if any(questions(view, model, n, s) for n in own)]
    ceiling = next((name for name in own if _rule(facts, name) == "ceiling"), None)
    shares = [s for s in view.main_scores if ceiling and view.over_tasks(model, ceiling, s)]
    lines: list[Line] = []
    known = [kind for kind in KINDS if kind in kinds.values()]
    for kind in dict.fromkeys((*known, *kinds.values())):
        for name in (each for each in own if kinds[each] == kind):
            items = [Item(kind), *([Item(gate)] if gate else [])]
            items += [_tally(view, model, name, score) for score in judged]
            items += [_beside(view, model, name, score) for score in scores]
            items += [value_item(cost.get(name, ""))] if cost else []
            items += [_share(view, model, name, str(ceiling), score) for score in shares]
            lost = _without(_left_out(view, model, name, scores), len(view.tasks))
            lines.append(Line(label(name), tuple(items), small=lost))
    before = 1 + bool(gate) + len(judged)
    lines = [*_worlds(view, scores, before, bool(cost) + len(shares)), *lines]
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


def _worlds(view: View, scores: Sequence[str], before: int, after: int) -> list[Line]:
    """What each rule reads in each world, at one angle: a line above those of the model."""
    frame = view.more.get("worlds")
    if frame is None or "SimAOU" not in scores:
        return []
    marks: dict[tuple[str, str], list[Any]] = {}
    for row in records(frame):
        if "[" not in str(row.rule):  # heads have a table of their own
            marks.setdefault((str(row.world), str(row.rule)), []).append(row)
    lines: list[Line] = []
    for (world, rule), rows in marks.items():
        one = next((row for row in rows if row.theta == _ANGLE), rows[-1])
        angle = number_of(one.theta)
        where = f"{world} world" if math.isnan(angle) else f"{world} world, {angle:g}°"
        read = value_item(
            TABLE.number(number_of(one.value)),
            f"must be {TABLE.number(number_of(one.exact))}",
        )
        items = [Item("world"), *(Item() for _ in range(before - 1))]
        items += [read if score == "SimAOU" else Item() for score in scores]
        lines.append(Line(label(rule), (*items, *(Item() for _ in range(after))), small=where))
    return lines


def _gate(view: View, model: str) -> str:
    """On how many tasks the model learns in context; empty where the run does not say."""
    frame = view.more.get("gate")
    lines = [] if frame is None else [r for r in records(frame) if str(r.model) == model]
    learns = sum(str(row.learns).lower() in ("true", "yes") for row in lines)
    return f"{learns} of {len(lines)} tasks" if lines else ""


def _costs(view: View, model: str) -> tuple[str, dict[str, str]]:
    """What each hypothesis cost over all tasks, by its ledger or else the frame's first number."""
    frame = view.more.get("cost")
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
    view: View, model: str, name: str, scores: Sequence[str]
) -> set[tuple[str, str, int]]:
    """Task, score and layer of what a hypothesis's means leave out."""
    frame = view.more.get("partial_layers")
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


def _rule(facts: Mapping[str, Any], name: str) -> str:
    """The registered hypothesis behind a name of results."""
    return str((facts.get(name) or {}).get("rule") or name)


def _tally(view: View, model: str, name: str, score: str) -> Item:
    """On how many tasks the rule says yes, out of those on which it was asked."""
    said = [answer(view, lines) for lines in questions(view, model, name, score).values()]
    if not said or all(each == "not applicable" for each in said):
        return Item(MARKS["not applicable"], "not asked" if not said else "not applicable")
    counts = {each: said.count(each) for each in dict.fromkeys(said)}
    state = "yes" if said.count("yes") == len(said) else "partly" if "yes" in said else "no"
    rest = ", ".join(f"{n} {each}" for each, n in counts.items() if each != "yes")
    state = "undecided" if state == "no" and "undecided" in counts else state
    return Item(f"{MARKS[state]} yes on {said.count('yes')} of {len(said)}", rest, state)


def _share(view: View, model: str, name: str, ceiling: str, score: str) -> Item:
    """A score's mean over tasks, as a share of the ceiling's; none where their layers differ."""
    own, best = (view.over_tasks(model, each, score) for each in (name, ceiling))
    left, lost = (_left_out(view, model, each, [score]) for each in (name, ceiling))
    if own is None or best is None or not best > 0 or left != lost:
        return value_item(TABLE.undefined)
    return value_item(f"{own / best:.0%}".replace("-", "−"))


def _beside(view: View, model: str, name: str, score: str) -> Item:
    own = view.over_tasks(model, name, score)
    if own is None:
        return Item()
    rivals = view.rivals(name, view.measured(model, score))
    means = {other: view.over_tasks(model, other, score) for other in rivals}
    known = {other: value for other, value in means.items() if value is not None}
    if not known:
        return value_item(TABLE.number(own), "no control")
    best = (min if lower_is_better(score) else max)(known, key=lambda other: known[other])
    return value_item(TABLE.number(own), f"{TABLE.number(known[best])} {control_label(best)}")
