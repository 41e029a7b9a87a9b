"""What a run found, in words that follow the numbers whichever way they fall."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from iclgd_lens.display_names import control_label, is_check, label, lower_is_better, rank
from iclgd_lens.phrases import TABLE, all_of, count, listed, partial_layer_sentences
from iclgd_lens.report.answers import overall_answer, verdicts_by_task
from iclgd_lens.report.run_frames import number_of, records, text_of
from iclgd_lens.report.run_records import PairVerdict, Reading, RunRecords
from iclgd_lens.scores import SCORES

Tone = Literal["yes", "partly", "no", "undecided", "note", "caution"]
_MOST_NAMED = 8
"""Hypotheses that one sentence can name."""
_YES: tuple[Tone, str] = ("yes", "the model learns in context.")
_NO: tuple[Tone, str] = ("no", "the model does not learn in context; no verdict applies.")
_UNKNOWN: tuple[Tone, str] = ("undecided", "whether the model learns in context is undecided.")
_LEARNS = {"true": _YES, "yes": _YES, "false": _NO, "no": _NO, "": _UNKNOWN}


@dataclass(frozen=True)
class Finding:
    """One thing that the numbers say.

    Attributes:
        tone: "yes" if what was asked is shown everywhere, "partly", "no", "undecided"; "note" for a
            fact that is no verdict, "caution" for what weakens the numbers.
        lead: A sentence that can stand alone.
        body: The numbers behind it.
    """

    tone: Tone
    lead: str
    body: str = ""


# -- verdicts --------------------------------------------------------------------------------------


def headline(run: RunRecords) -> str:
    """One paragraph: what was compared, and whether any hypothesis beats its controls."""
    names = run.bare_hypotheses()
    if not run.readings:
        cells = run.provenance.get("cells") or {}
        done = ", ".join(f"{value} {key}" for key, value in cells.items())
        return f"This run has no numbers yet{f' (cells: {done})' if done else ''}."
    few = len(names) <= _MOST_NAMED
    named = listed([label(name) for name in names]) if names else "no hypothesis"
    what = named if few else f"{len(names)} hypotheses"
    shots = f"{count(run.plan['shots'], 'demonstration')} a prompt, " if "shots" in run.plan else ""
    protocol = (run.provenance.get("protocol") or {}).get("name")
    text = (
        f"In-context learning against {what} on {count(len(run.tasks), 'task')} with "
        f"{listed(run.models) if run.models else 'no model'} "
        f"({shots}protocol {protocol or 'not named'})."
    )
    missing = (run.provenance.get("cells") or {}).get("missing") or 0
    if missing:
        text += f" The run is not finished: {count(missing, 'cell')} of it not measured yet."
    return f"{text} {_outcome(run)}"


def _outcome(run: RunRecords) -> str:
    """How many questions are answered yes, no or not at all."""
    answers = Counter(
        overall_answer(run, lines)
        for model in run.models
        for name in run.bare_hypotheses()
        for score in run.main_scores
        for lines in verdicts_by_task(run, model, name, score).values()
    )
    asked = sum(answers.values())
    if not asked:
        return "No control was measured, so that the scores by themselves show nothing."
    if answers["yes"] == asked:
        return "Every hypothesis beats all its controls on every task and score asked."
    if answers["not applicable"] == asked:
        return "No verdict is given: see below why none applies."
    if not answers["yes"] and answers["no"] + answers["undecided"] == asked:
        who = "No hypothesis is shown to beat its"
        return f"{who} controls on any task: the scores are no evidence for one."
    rest = [f"{n} {what}" for what, n in answers.items() if what != "yes"]
    scores = listed(run.main_scores).replace(" and ", " or ")
    return (
        f"Of {count(asked, 'question')} (hypothesis, task, and {scores}), {answers['yes']} are "
        f"answered yes, against every control; {listed(rest)}."
    )


def findings(run: RunRecords, model: str) -> list[Finding]:
    """What the numbers of one model say, the most important first."""
    found: list[Finding] = []
    for score in run.main_scores:
        for name in run.bare_hypotheses():
            found += _against_controls(run, model, name, score)
        found += _between(run, model, score)
    found += _instrument(run, model)
    found += [] if "gate" in run.optional else _behaviour(run, model)
    found += [*_order(run, model), *_draws(run), *_layers(run, model), *_losses(run, model)]
    return found


def gate_findings(run: RunRecords, model: str) -> list[Finding]:
    """Whether there is any in-context learning, task by task; nothing where the run has no gate."""
    found: list[Finding] = []
    for row in records(run.optional["gate"]) if "gate" in run.optional else ():
        if str(row.model) == model:
            tone, usual = _LEARNS.get(str(row.learns).lower(), _LEARNS[""])
            if tone == "no" and str(getattr(row, "ruled_out", True)).lower() == "false":
                tone = "undecided"  # not shown, nor ruled out
            sentence = text_of(getattr(row, "sentence", "")) or usual
            found.append(Finding(tone, f"{row.task}: {sentence}"))
    return found


def heads_findings(run: RunRecords, model: str) -> list[Finding]:
    """Which heads do the work, task by task; nothing where that was not asked for."""
    return [
        Finding("note", f"{row.task}: {row.sentence}")
        for row in (records(run.optional["agreement"]) if "agreement" in run.optional else ())
        if str(row.model) == model and text_of(getattr(row, "sentence", ""))
    ]


# -- one hypothesis --------------------------------------------------------------------------------


def _against_controls(run: RunRecords, model: str, name: str, score: str) -> list[Finding]:
    by_task, who = verdicts_by_task(run, model, name, score), label(name)
    extent = _extent(run, model, name, score)
    if not by_task:
        lead = f"{score}: {who} was not compared with any control."
        return (
            [Finding("note", lead, f"{extent} Without a control that shows nothing.")]
            if extent
            else []
        )
    answers = {task: overall_answer(run, lines) for task, lines in by_task.items()}
    groups = {
        what: [task for task in answers if answers[task] == what] for what in answers.values()
    }
    everywhere = next(iter(groups)) if len(groups) == 1 else ""
    tasks = list(answers)
    body = f"{extent} {_rest(run, by_task)}".strip()
    if everywhere == "yes":
        return [Finding("yes", f"{score}: {who} beats all its controls on {all_of(tasks)}.", body)]
    where = f"on {tasks[0]}" if len(tasks) == 1 else f"on any of {len(tasks)} tasks"
    if everywhere == "not applicable":
        return [Finding("note", f"{score}: no verdict on {who} applies {where}.", body)]
    if "yes" not in groups:
        tone: Tone = "no" if everywhere == "no" else "undecided"
        verb = "does not beat" if tone == "no" else "is not shown to beat"
        return [Finding(tone, f"{score}: {who} {verb} its controls {where}.", body)]
    rest = "; ".join(
        f"{what} on {listed(these)}" for what, these in groups.items() if what != "yes"
    )
    lead = (
        f"{score}: {who} beats all its controls on {len(groups['yes'])} of {len(tasks)} tasks "
        f"({listed(groups['yes'])}); {rest}."
    )
    return [Finding("partly", lead, body)]


def _rest(run: RunRecords, by_task: Mapping[str, list[PairVerdict]]) -> str:
    """What stands against a yes, control by control, in the rule's own words if it gives any."""
    lines = [each for these in by_task.values() for each in these if each.verdict != "yes"]
    if not lines:
        return ""
    parts: list[str] = []
    controls = Counter(each.b for each in lines)
    for control, times in sorted(controls.items(), key=lambda item: (-item[1], item[0])):
        above = sum(each.verdict == "no" for each in lines if each.b == control)
        more = f" (no on {above})" if above else ""
        parts.append(f"{control_label(control)} on {times} of {count(len(by_task), 'task')}{more}")
    why = dict.fromkeys(
        each.why.rstrip(".") for each in lines if each.why and "verdicts" in run.optional
    )
    reasons = f" Why: {'; '.join(list(why)[:4])}." if why else ""
    robust = dict.fromkeys(
        each.robust for these in by_task.values() for each in these if each.robust
    )
    held = f" Holds over: {'; '.join(robust)}." if robust else ""
    return f"Not shown to beat {'; '.join(parts)}.{reasons}{held}"


def _extent(run: RunRecords, model: str, name: str, score: str) -> str:
    """The lowest and highest of a hypothesis's means over tasks."""
    read = [(task, run.reading(model, task, name, score)) for task in run.tasks]
    known = [(r.value, task, r) for task, r in read if r is not None and not math.isnan(r.value)]
    if not known:
        return ""
    low, high = min(known, key=lambda k: k[:2]), max(known, key=lambda k: k[:2])
    if len(known) == 1:
        return f"It reads {estimate(low[2])} on {low[1]}, where 1 is what in-context learning does."
    return (
        f"It reads from {TABLE.number(low[0])} ({low[1]}) to {TABLE.number(high[0])} "
        f"({high[1]}), where 1 is what in-context learning does."
    )


# -- remarks ---------------------------------------------------------------------------------------


def _between(run: RunRecords, model: str, score: str) -> list[Finding]:
    """Which of two hypotheses scores higher."""
    groups: dict[tuple[str, str], list[PairVerdict]] = {}
    for each in run.differences:
        if (each.model, each.score, each.kind) == (model, score, "hypotheses"):
            groups.setdefault((each.a, each.b), []).append(each)
    return [_pair(score, label(a), label(b), lines) for (a, b), lines in groups.items()]


def _pair(score: str, a: str, b: str, lines: Sequence[PairVerdict]) -> Finding:
    def where(verdict: str) -> str:
        tasks = [each.task for each in lines if each.verdict == verdict]
        return all_of(tasks) if len(tasks) == len(lines) else listed(tasks) if tasks else ""

    parts = [f"{a} beats {b} on {where('yes')}"] if where("yes") else []
    parts += [f"{b} beats {a} on {where('no')}"] if where("no") else []
    if where("undecided"):
        parts.append(f"no difference of {a} and {b} is shown on {where('undecided')}")
    known = [each for each in lines if not math.isnan(each.difference)]
    ends = sorted(known, key=_advantage)
    shown = [
        f"{TABLE.signed(e.difference)} {TABLE.interval(e.ci_low, e.ci_high)} ({e.task})"
        for e in ends
    ]
    body = f"Differences {a} − {b}: {shown[0]}" if shown else ""
    if len(shown) > 1:
        body += f" to {shown[-1]}"
    return Finding("note", f"{score}: {'; '.join(parts)}.", f"{body}." if body else "")


def estimate(reading: Reading) -> str:
    """A value with its interval."""
    return f"{TABLE.number(reading.value)} {TABLE.interval(reading.low, reading.high)}".rstrip()


def _advantage(each: PairVerdict) -> float:
    return -each.difference if lower_is_better(each.score) else each.difference


def _instrument(run: RunRecords, model: str) -> list[Finding]:
    """A check injects what in-context learning does, so that what it must read is known."""
    read = [
        (reading.value, SCORES[score].oracle, f"{score} {TABLE.number(reading.value)} on {task}")
        for name in run.hypotheses if is_check(name)
        for score in run.main_scores if score in SCORES for task in run.tasks
        if (reading := run.reading(model, task, name, score)) and not math.isnan(reading.value)
    ]  # fmt: skip
    wrong = [text for value, must, text in read if must is not None and abs(value - must) > 0.001]
    if not read:
        return []
    if not wrong:
        lead = "The instrument reads right: the oracle scores 1 wherever it was measured."
        return [Finding("note", lead)]
    lead = "The instrument reads wrong: the oracle should score 1 and does not."
    body = f"It reads {'; '.join(wrong)}. Distrust the other scores there."
    return [Finding("caution", lead, body)]


def _behaviour(run: RunRecords, model: str) -> list[Finding]:
    """Whether there is any in-context learning to explain, by accuracy alone."""
    better: list[str] = []
    read: list[str] = []
    for task in run.tasks:
        zs, icl = (run.reading(model, task, name, "accuracy") for name in ("ZS", "ICL"))
        if zs is None or icl is None or math.isnan(zs.value) or math.isnan(icl.value):
            continue
        read.append(f"{task} {TABLE.number(zs.value)} → {TABLE.number(icl.value)}")
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
    lead = f"In-context learning is not clearly more accurate than no demonstrations {where}."
    return [Finding("note", lead, f"{body} There is little behaviour to explain.")]


def _order(run: RunRecords, model: str) -> list[Finding]:
    """How far predictions depend on the order of the demonstrations."""
    worst: dict[str, float] = {}
    for each in records(run.order_sensitivity):
        name, flips = str(each.hypothesis), number_of(each.flip_rate)
        if str(each.model) == model and rank(name) in (0, 2) and not math.isnan(flips):
            worst[label(name)] = max(worst.get(label(name), 0.0), flips)
    if not worst:
        return []
    if max(worst.values()) == 0:
        return [Finding("note", "The order of the demonstrations changed no prediction.")]
    rates = "; ".join(f"{name} up to {TABLE.number(rate)}" for name, rate in worst.items())
    lead = "The order of the demonstrations changes predictions."
    return [Finding("note", lead, f"Pairs of orders that disagree about a query: {rates}.")]


def _draws(run: RunRecords) -> list[Finding]:
    """One draw says nothing about others."""
    if run.draws != 1:
        return []
    lead = "One draw of demonstrations: the numbers say nothing about other draws."
    return [Finding("caution", lead, "The intervals are over queries alone.")]


def _layers(run: RunRecords, model: str) -> list[Finding]:
    """Which layers are in no mean."""
    frame = run.optional.get("partial_layers")
    own = [] if frame is None else frame[frame["model"] == model].groupby("task", sort=False)
    told = [f"{task}: {each}" for task, own in own for each in partial_layer_sentences(own)]
    return [Finding("note", "Some means are not over all layers.", " ".join(told))] if told else []


def _losses(run: RunRecords, model: str) -> list[Finding]:
    """What the numbers lack."""
    lost = sum(text_of(row.model) == model for row in records(run.failures))
    if not lost:
        return []
    body = "The numbers rest on the others; the reasons are under Failures."
    return [Finding("caution", f"Without scores: {count(lost, 'cell')}.", body)]
