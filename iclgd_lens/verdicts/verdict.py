"""The one rule by which a verdict is given: compare, bench, demo, notebook and report use this.

Each hypothesis is tested on each score against each control that was asked for (see
`iclgd_lens.verdicts.evidence`). The lines that share a control ask one question ("is it more than a
random direction?"), and Holm's correction is over that family, failed tests included. A line is

- `yes`: better than the control, corrected p < .05, interval above zero;
- `no`: the control is better (corrected p < .05), or the two are shown to be equal within a margin,
  also where a difference is sure but smaller than that;
- `undecided`: neither, or something failed, is undefined or is too little; it says how many draws
  or networks would do. Also a `no` over less than nine tenths of the layers that the hypothesis
  itself has, since a control lacks the score in the others;
- `not applicable`: no in-context learning, an update that has not learned, or a hypothesis that is
  no explanation.

A hypothesis is `yes` on a score if it is `yes` against each control, and `no` if it is against any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from iclgd_lens.errors import VerdictError
from iclgd_lens.phrases import layers_named, listed, number, plain
from iclgd_lens.verdicts.evidence import (
    MOST_UNREAD,
    Evidence,
    Tested,
    facts,
    test_of,
    tests_against,
    would_do,
)
from iclgd_lens.verdicts.holm_correction import Corrected, Line, corrected, or_one
from iclgd_lens.verdicts.power import units_needed, units_to_equivalence

Answer = Literal["yes", "no", "undecided", "not applicable"]

ALPHA = 0.05
MARGIN = 0.05
"""Differences smaller than this are as good as none, in a score's units."""
OVERALL = "all controls"
"""The control of a verdict over all of them."""
NO_EXPLANATION = {
    "fitted": "it was fitted to in-context learning's own passes, so that its score is no evidence",
    "check": "it tells whether the instrument works, and explains nothing",
    "control": "it is a control itself",
}


@dataclass(frozen=True)
class Verdict:
    """One verdict.

    Attributes:
        hypothesis: The hypothesis's label.
        score: On which score.
        control: Against which control; `OVERALL` for all of them.
        verdict: The answer.
        p: Two-sided p-value of the test alone; NaN if there was none.
        p_corrected: The same after Holm's correction within the question; the verdict rests on it.
        interval: Of the difference in favour of the hypothesis (above zero: better); None if there
            is none. Student's t over draws, or a prediction interval over networks.
        why: In plain words, with the numbers.
        robust: Lowest and highest of the rates around the chosen one at which the verdict is the
            same, each over the layers that it and its controls have; None if no other rate was
            tried.
        needed: How many draws or networks would do, where that is known.
        method: The test.
        over_queries: Of the same difference from a control of each draw, the interval over draws
            and queries: what other rows of the task would give. Verdicts are for the queries that
            were asked, which all draws share. Of all controls the least; None where there is none.
    """

    hypothesis: str
    score: str
    control: str
    verdict: Answer
    p: float
    p_corrected: float
    interval: tuple[float, float] | None
    why: str
    robust: tuple[float, float] | None = None
    needed: int | None = None
    method: str = ""
    over_queries: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; `p` is the corrected one, which the verdict rests on."""
        return {
            "hypothesis": self.hypothesis,
            "score": self.score,
            "control": self.control,
            "verdict": self.verdict,
            "p": plain(self.p_corrected),
            "interval": None if self.interval is None else list(self.interval),
            "why": self.why,
            "robust": None if self.robust is None else list(self.robust),
            "over_queries": None if self.over_queries is None else list(self.over_queries),
        }


def decide(
    evidences: Iterable[Evidence],
    *,
    alpha: float = ALPHA,
    margin: float | Mapping[str, float] = MARGIN,
    gate: bool = True,
    asked: Iterable[str] = (),
) -> list[Verdict]:
    """Give the verdicts of one comparison: each hypothesis, score and control, then overall.

    Args:
        evidences: All of the comparison at once: they correct one another.
        alpha: Two-sided level, also one minus the intervals' coverage.
        margin: Of equivalence, in scores' units; one for all, or by score (others take `MARGIN`).
        gate: False gives verdicts also where evidence says that they do not apply, to measure how
            often they are wrong there. What is no explanation stays without.
        asked: Names of controls that every hypothesis has to beat; one without evidence is held to
            be missing, not absent.

    Returns:
        For each hypothesis and score one line a control, and last the overall one.

    Raises:
        VerdictError: Values do not fit together, or a setting is out of range.
    """
    given = list(evidences)
    _check(given, alpha, margin)
    rule = _Rule(alpha, margin, gate, tuple(dict.fromkeys(asked)))
    found = rule.verdicts(given)
    ranges = [_robust(rule, given, index, found[index]) for index in range(len(given))]
    return [
        replace(verdict, robust=robust)
        for verdicts, robusts in zip(found, ranges, strict=True)
        for verdict, robust in zip(verdicts, robusts, strict=True)
    ]


@dataclass(frozen=True)
class _Rule:
    alpha: float
    margins: float | Mapping[str, float]
    gate: bool
    asked: tuple[str, ...]

    def margin(self, score: str) -> float:
        if isinstance(self.margins, Mapping):
            return self.margins.get(score, MARGIN)
        return self.margins

    def verdicts(self, evidences: Sequence[Evidence]) -> list[list[Verdict]]:
        """For each evidence its verdicts, the overall one last."""
        reasons = [self._inapplicable(each) for each in evidences]
        lines = corrected(
            [self._lines(each) for each in evidences],
            asked=[each.kind == "explanation" for each in evidences],
            applies=[reason is None for reason in reasons],
        )
        found: list[list[Verdict]] = []
        for evidence, each, reason in zip(evidences, lines, reasons, strict=True):
            if reason is not None:
                names = [one.line.control for one in each]
                found.append(
                    [_not_applicable(evidence, name, reason) for name in (*names, OVERALL)]
                )
                continue
            single = [self._verdict(evidence, one) for one in each]
            found.append([*single, _overall(evidence, single)])
        return found

    def _lines(self, evidence: Evidence) -> list[Line]:
        margin = self.margin(evidence.score)
        lines = [
            Line(name, tuple(tests_against(evidence, name, alpha=self.alpha, margin=margin)))
            for name in evidence.controls
        ]
        asked = dict.fromkeys((*self.asked, *evidence.asked))
        missing = [name for name in asked if name not in evidence.controls]
        lost = [Line(name, (Tested(fault=f"{name} was not measured"),)) for name in missing]
        return lines + lost

    def _inapplicable(self, evidence: Evidence) -> str | None:
        if evidence.kind != "explanation":
            return NO_EXPLANATION.get(evidence.kind, f"its kind is {evidence.kind}")
        return evidence.inapplicable if self.gate else None

    def _verdict(self, evidence: Evidence, one: Corrected) -> Verdict:
        line, name = one.line, one.line.control
        tested, faults = line.decisive, line.faults
        test = "" if math.isnan(tested.p) else test_of(tested.method, one.p, one.family)
        sure = math.isfinite(tested.p) and one.p < self.alpha
        answer: Answer = "undecided"
        needed: int | None = None
        if sure and tested.high < 0:
            answer, why = "no", f"{name} does better: {facts(evidence, name, tested, test)}"
        elif not faults and one.equivalent < self.alpha:
            # Also where the difference is sure: one that is as good as none is no yes.
            answer, tested = "no", line.equal
            same = "Better, but by next to nothing, than" if tested.low > 0 else "As good as"
            test = test_of("TOST", one.equivalent, one.family)
            # Beside networks the interval is of one more of them, and may well be the wider one.
            what = "its distance from their mean" if tested.unit != "draw" else "it"
            why = (
                f"{same} {name}: {facts(evidence, name, tested)}; {what} is shown to be smaller "
                f"than {number(self.margin(evidence.score))} ({test})"
            )
        elif faults:
            short = next((each for each in line.tests if each.least), None)
            numbers = (
                f". On the rest: {facts(evidence, name, tested, test)}" if tested.n > 1 else ""
            )
            why = f"Cannot be a yes: {listed(faults)}{numbers}"
            if short is not None:
                needed, why = short.least, why + would_do(short.least, short)
        elif sure and tested.low > 0:
            answer, why = "yes", f"Better than {name}: {facts(evidence, name, tested, test)}"
        else:
            needed = self._needed(tested, self.margin(evidence.score), one.family)
            numbers = facts(evidence, name, tested, test)
            why = f"Not told apart from {name}: {numbers}{would_do(needed, tested)}"
        if answer == "no" and evidence.unread > MOST_UNREAD:
            answer = "undecided"
            why = (
                f"Cannot be a no: the means leave out {evidence.unread:.0%} of the layers in which "
                f"{evidence.hypothesis} has the score. On the rest: {why}"
            )
        known = math.isfinite(tested.low) and math.isfinite(tested.high)
        return Verdict(
            evidence.hypothesis, evidence.score, name, answer, tested.p,
            one.p if math.isfinite(tested.p) else math.nan,
            (tested.low, tested.high) if known else None, why + ".", needed=needed,
            method=tested.method,
        )  # fmt: skip

    def _needed(self, tested: Tested, margin: float, family: int) -> int | None:
        """Units that would decide it either way, at the family's strictest level."""
        level = self.alpha / max(family, 1)
        apart = units_needed(
            tested.difference, tested.spread, alpha=level, prediction=tested.unit != "draw"
        )
        equal = units_to_equivalence(tested.difference, tested.spread, margin, alpha=level)
        found = [each for each in (apart, equal) if each is not None]
        return max(min(found), tested.n + 1) if found else None


# -- lines without a test, and all lines together -------------------------------------------------


def _not_applicable(evidence: Evidence, control: str, reason: str) -> Verdict:
    return Verdict(
        evidence.hypothesis, evidence.score, control, "not applicable", math.nan, math.nan, None,
        reason[:1].upper() + reason[1:].rstrip(".") + ".",
    )  # fmt: skip


def _overall(evidence: Evidence, single: Sequence[Verdict]) -> Verdict:
    """`yes` against each control; `no` against any; else `undecided`."""
    by_answer = {
        answer: [each for each in single if each.verdict == answer]
        for answer in ("yes", "no", "undecided")
    }
    answer: Answer = "yes" if single and len(by_answer["yes"]) == len(single) else "undecided"
    if by_answer["no"]:
        answer = "no"
    stubborn = by_answer[answer]
    closest = max(stubborn, key=lambda each: or_one(each.p_corrected), default=None)
    name, score = evidence.hypothesis, evidence.score
    controls = listed([each.control for each in stubborn])
    if closest is None and evidence.unasked:
        why = (
            f"{listed(evidence.unasked)} {'has' if len(evidence.unasked) == 1 else 'have'} nothing "
            f"to say on {score}, and no other control was asked for: by itself it shows nothing."
        )
    elif closest is None:
        why = f"No control was asked for: a {score} by itself shows nothing."
    elif answer == "yes":
        why = f"On {score}, {name} is better than {controls}. Closest: {closest.why}"
    elif answer == "no":
        why = f"On {score}, {name} is no better than {controls}. {closest.why}"
    else:
        why = f"On {score}, {name} is not shown to be better than {controls}. {closest.why}"
    silent = [name for name in evidence.unasked if name != "shuffled"]  # which it is made from
    if silent and closest is not None:
        why += f" {listed(silent)} {'has' if len(silent) == 1 else 'have'} nothing to say on it."
    if evidence.left_out:
        why += f" Means leave out {layers_named(evidence.left_out)}."
    needs = [each.needed for each in by_answer["undecided"]]
    needed = max((each for each in needs if each is not None), default=None)
    return Verdict(
        name, score, OVERALL, answer,
        closest.p if closest else math.nan, closest.p_corrected if closest else math.nan,
        closest.interval if closest else None, why,
        needed=needed if answer == "undecided" and None not in needs else None,
        method=closest.method if closest else "",
    )  # fmt: skip


# -- rates ---------------------------------------------------------------------------------------


def _robust(
    rule: _Rule, evidences: Sequence[Evidence], index: int, found: Sequence[Verdict]
) -> list[tuple[float, float] | None]:
    """For each verdict the rates around the chosen one at which it is the same."""
    evidence = evidences[index]
    if evidence.rate is None or not evidence.rates:
        return [None] * len(found)
    at_rates = {evidence.rate: {each.control: each.verdict for each in found}}
    for rate, other in evidence.rates.items():
        if rate != evidence.rate:
            swapped = [other if place == index else each for place, each in enumerate(evidences)]
            again = rule.verdicts(swapped)[index]
            at_rates[rate] = {each.control: each.verdict for each in again}
    ordered = sorted(at_rates)
    return [_range(ordered, at_rates, evidence.rate, each) for each in found]


def _range(
    ordered: Sequence[float], at_rates: Mapping[float, Mapping[str, str]], rate: float, own: Verdict
) -> tuple[float, float]:
    same = [at_rates[each].get(own.control) == own.verdict for each in ordered]
    low = high = ordered.index(rate)
    while low > 0 and same[low - 1]:
        low -= 1
    while high + 1 < len(ordered) and same[high + 1]:
        high += 1
    return ordered[low], ordered[high]


# -- what was given ------------------------------------------------------------------------------


def _check(
    evidences: Sequence[Evidence], alpha: float, margin: float | Mapping[str, float]
) -> None:
    if not 0 < alpha < 1:
        raise VerdictError(f"alpha must lie between 0 and 1 (such as 0.05), but is {alpha}")
    margins = margin.values() if isinstance(margin, Mapping) else [margin]
    if not all(math.isfinite(each) and each >= 0 for each in margins):
        raise VerdictError(f"a margin must be finite and not negative, but got {margin}")
    places = [(each.hypothesis, each.score) for each in evidences]
    twice = [f"{name} on {score}" for name, score in dict.fromkeys(places)
             if places.count((name, score)) > 1]  # fmt: skip
    if twice:
        raise VerdictError(f"evidence was given twice for {listed(twice)}")
