"""What verdicts say of other queries than those that were asked, which all draws share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from iclgd_lens.controls import CONTROLS
from iclgd_lens.phrases import interval, listed, p_value
from iclgd_lens.results.parts import Parts
from iclgd_lens.scores import SCORES
from iclgd_lens.subjects import under_control
from iclgd_lens.verdicts.draws_and_queries import Compared, crossed_mean
from iclgd_lens.verdicts.statistics import holm
from iclgd_lens.verdicts.verdict import OVERALL, Verdict


def over_queries(parts: Parts, verdict: Verdict, confidence: float) -> Compared | None:
    """A difference from a control over draws and queries.

    None where there is none: of networks, which answer queries of their own, of one draw, and of
    scores that are not one of each query.
    """
    label, name, score = verdict.hypothesis, verdict.control, verdict.score
    if CONTROLS[name].acts_on == "network":
        return None
    mine, theirs = (
        parts.by_query(score, label),
        parts.by_query(score, under_control(label, name), label),
    )
    if mine is None or theirs is None or mine.shape != theirs.shape or len(mine) < 2:
        return None
    sign = 1 if SCORES[score].better == "higher" else -1
    return crossed_mean(sign * (mine - theirs), confidence=confidence)


def told_of_queries(
    verdicts: Sequence[Verdict],
    compared: Callable[[Verdict], Compared | None],
    *,
    alpha: float,
    asked: Sequence[bool],
) -> list[Verdict]:
    """Verdicts with `over_queries`; a "yes" says whether it is shown for other queries, too.

    It is where the difference is sure over draws and queries after Holm's correction over the lines
    of its control, as verdicts are corrected: what has no such difference counts as asked, too.

    Args:
        verdicts: As `decide` gives them: those of each hypothesis and score, the overall one last.
        compared: The difference over draws and queries of a verdict against one control.
        alpha: Two-sided level.
        asked: Whether each is a question at all: only an explanation is.
    """
    lines = {at: each for at, each in enumerate(verdicts) if each.control != OVERALL}
    found = {
        at: difference
        for at, each in lines.items()
        if each.verdict != "not applicable"
        and (difference := compared(each)) is not None
        and math.isfinite(difference.low)
    }
    corrected: dict[int, tuple[float, int]] = {}
    for control in dict.fromkeys(each.control for each in lines.values()):
        places = [at for at, each in lines.items() if each.control == control and asked[at]]
        p = holm([found[at].p if at in found else math.nan for at in places], count_undefined=True)
        corrected |= {at: (float(p[i]), len(places)) for i, at in enumerate(places)}
    told: list[Verdict] = []
    first = 0  # of the lines of one hypothesis and score
    for at, verdict in enumerate(verdicts):
        own = range(first, at) if verdict.control == OVERALL else range(at, at + 1)
        known = [each for each in own if each in found]
        why = verdict.why
        if verdict.control == OVERALL:
            first = at + 1
        if known and verdict.verdict == "yes":
            least = max(known, key=lambda each: corrected[each][0])
            p, family = corrected[least]
            where = lines[least].control
            rest = [lines[each].control for each in own if each not in found]
            why += " " + _sentence(where, found[least], p, family, p < alpha)
            why += f" Beside {listed(rest)} that is not known." if rest else ""
        bounds = min(((found[each].low, found[each].high) for each in known), default=None)
        told.append(replace(verdict, over_queries=bounds, why=why))
    return told


def _sentence(control: str, difference: Compared, p: float, family: int, sure: bool) -> str:
    said = (
        "is shown for other queries, too" if sure
        else "is for these queries, and not shown for others"
    )  # fmt: skip
    questions = f" corrected for {family} questions" if family > 1 else ""
    return (
        f"Against {control} it {said}: over draws and queries"
        f"{interval(difference.low, difference.high)} ({p_value(p)}{questions})."
    )
