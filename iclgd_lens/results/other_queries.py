"""What verdicts say of other queries than those that were asked, which all draws share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from iclgd_lens.controls import CONTROLS
from iclgd_lens.phrases import interval
from iclgd_lens.results.parts import Parts
from iclgd_lens.scores import SCORES
from iclgd_lens.subjects import Subject
from iclgd_lens.verdicts.draws_and_queries import Compared, crossed_mean
from iclgd_lens.verdicts.verdict import OVERALL, Verdict


def over_queries(parts: Parts, verdict: Verdict, confidence: float) -> Compared | None:
    """A difference from a control over draws and queries.

    None where there is none: of networks, which answer queries of their own, of one draw, and of
    scores that are not one of each query.
    """
    label, name, score = verdict.hypothesis, verdict.control, verdict.score
    if CONTROLS[name].acts_on == "network":
        return None
    own = name if CONTROLS[name].stands_alone else str(Subject.parse(label).under(name))
    mine, theirs = parts.by_query(score, label), parts.by_query(score, own, label)
    if mine is None or theirs is None or mine.shape != theirs.shape or len(mine) < 2:
        return None
    sign = 1 if SCORES[score].better == "higher" else -1
    return crossed_mean(sign * (mine - theirs), confidence=confidence)


def told_of_queries(
    verdicts: Iterable[Verdict], compared: Callable[[Verdict], Compared | None]
) -> Iterator[Verdict]:
    """Verdicts with `over_queries`; a "yes" says whether it is shown for other queries, too.

    Args:
        verdicts: As `decide` gives them: those of each hypothesis and score, the overall one last.
        compared: The difference over draws and queries of a verdict against one control.
    """
    below: list[tuple[float, float]] = []  # of the lines of one hypothesis and score
    for verdict in verdicts:
        found = None
        if verdict.control == OVERALL:
            found, below = min(below, default=None), []
        elif verdict.verdict != "not applicable":
            difference = compared(verdict)
            if difference is not None and math.isfinite(difference.low):
                found = (difference.low, difference.high)
                below.append(found)
        told = replace(verdict, over_queries=found)
        if found is not None and verdict.verdict == "yes":
            said = (
                "It is shown for other queries, too" if found[0] > 0
                else "It is for these queries, and not shown for others"
            )  # fmt: skip
            told = replace(told, why=f"{told.why} {said}: over both{interval(*found)}.")
        yield told
