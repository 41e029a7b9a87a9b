"""The one rule by which a verdict is given: compare, bench, demo, notebook and report use this.

Each hypothesis is tested on each score against each control that was asked for (see
`iclgd_lens.verdicts.evidence`). The lines that share a control ask one question ("is it more than a
random direction?"), and Holm's correction is over that family, failed tests included. A line is

- `yes`: better than the control, corrected p < .05, interval above zero;
- `no`: the control is better (corrected p < .05), or the two are shown to be equal within a margin,
  also where a difference is sure but smaller than that;
- `undecided`: neither, or something failed, is undefined or is too little; it says how many draws
  or networks would do. Also a `yes` or `no` over less than nine tenths of the queries and layers
  in which the hypothesis itself has the score, since a control lacks it in the others;
- `not applicable`: no in-context learning, an update that has not learned, or a hypothesis that is
  no explanation.

A hypothesis is `yes` on a score if it is `yes` against each control, and `no` if it is against any
after Bonferroni's correction over its controls: the surest of several is asked as often.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from iclgd_lens.errors import VerdictError
from iclgd_lens.phrases import layers_named, listed, number
from iclgd_lens.plateaus import range_around
from iclgd_lens.verdicts.answer import NO_EXPLANATION, Answer, not_applicable, overall
from iclgd_lens.verdicts.answer import OVERALL as OVERALL
from iclgd_lens.verdicts.answer import Verdict as Verdict
from iclgd_lens.verdicts.evidence import (
    MOST_UNREAD,
    Evidence,
    Tested,
    facts,
    test_of,
    tests_against,
    would_do,
)
from iclgd_lens.verdicts.holm_correction import Corrected, Line, corrected
from iclgd_lens.verdicts.power import units_needed, units_to_equivalence

ALPHA = 0.05
MARGIN = 0.05
"""Differences smaller than this are as good as none, in a score's units."""


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
            often they are wrong there. What is no explanation, or no comparison, stays without.
        asked: Names of controls that every hypothesis has to beat; one without evidence is held to
            be missing, not absent.

    Returns:
        For each hypothesis and score one line per control, and last the overall one.

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
                found.append([not_applicable(evidence, name, reason) for name in (*names, OVERALL)])
                continue
            single = [self._verdict(evidence, one) for one in each]
            sure = [self._sure_no(one, len(each)) for one in each]
            found.append([*single, overall(evidence, single, sure)])
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
        return evidence.incomparable or (evidence.inapplicable if self.gate else None)

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
        if answer != "undecided" and evidence.unread > MOST_UNREAD:
            why = (
                f"Cannot be a {answer}: the means leave out {evidence.unread:.0%} of the queries "
                f"and layers in which {evidence.hypothesis} has the score. On the rest: {why}"
            )
            answer = "undecided"
        known = math.isfinite(tested.low) and math.isfinite(tested.high)
        if evidence.left_out:
            why += f". Means leave out {layers_named(evidence.left_out)}"
        return Verdict(
            evidence.hypothesis, evidence.score, name, answer, tested.p,
            one.p if math.isfinite(tested.p) else math.nan,
            (tested.low, tested.high) if known else None, why + ".", needed=needed,
            method=tested.method,
        )  # fmt: skip

    def _sure_no(self, one: Corrected, controls: int) -> bool:
        """Whether a line's `no` holds, being the surest of so many controls' (Bonferroni)."""
        worse = math.isfinite(one.line.decisive.p) and one.line.decisive.high < 0
        p = min(one.p if worse else 1.0, 1.0 if one.line.faults else one.equivalent)
        return p * controls < self.alpha

    def _needed(self, tested: Tested, margin: float, family: int) -> int | None:
        """Units that would decide it either way, at the family's strictest level."""
        level = self.alpha / max(family, 1)
        apart = units_needed(
            tested.difference, tested.spread, alpha=level, prediction=tested.unit != "draw"
        )
        equal = units_to_equivalence(tested.difference, tested.spread, margin, alpha=level)
        found = [each for each in (apart, equal) if each is not None]
        return max(min(found), tested.n + 1) if found else None


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
    return range_around(ordered, same, rate)


# -- what was given ------------------------------------------------------------------------------


def _check(
    evidences: Sequence[Evidence], alpha: float, margin: float | Mapping[str, float]
) -> None:
    if not 0 < alpha < 1:
        raise VerdictError(f"alpha must lie between 0 and 1 (such as 0.05), but is {alpha}")
    margins = margin.values() if isinstance(margin, Mapping) else [margin]
    if not all(math.isfinite(each) and each >= 0 for each in margins):
        raise VerdictError(f"A margin must be finite and not negative, but got {margin}")
    places = [(each.hypothesis, each.score) for each in evidences]
    twice = [f"{name} on {score}" for name, score in dict.fromkeys(places)
             if places.count((name, score)) > 1]  # fmt: skip
    if twice:
        raise VerdictError(f"Evidence was given twice for {listed(twice)}")
