"""What a verdict is: its answer with numbers and words, of one control or of all together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from iclgd_lens.phrases import listed, plain
from iclgd_lens.verdicts.evidence import Evidence
from iclgd_lens.verdicts.holm_correction import or_one

Answer = Literal["yes", "no", "undecided", "not applicable"]

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


def not_applicable(evidence: Evidence, control: str, reason: str) -> Verdict:
    """A line to which no verdict applies."""
    return Verdict(
        evidence.hypothesis, evidence.score, control, "not applicable", math.nan, math.nan, None,
        reason[:1].upper() + reason[1:].rstrip(".") + ".",
    )  # fmt: skip


def overall(evidence: Evidence, single: Sequence[Verdict], sure: Sequence[bool]) -> Verdict:
    """`yes` against each control; `no` against any; else `undecided`.

    Args:
        evidence: What they rest on.
        single: The verdicts against each control.
        sure: Whether each one's `no` is sure among so many controls.
    """
    by_answer = {
        answer: [each for each in single if each.verdict == answer]
        for answer in ("yes", "no", "undecided")
    }
    answer: Answer = "yes" if single and len(by_answer["yes"]) == len(single) else "undecided"
    against = by_answer["no"]
    held = [
        each for each, holds in zip(single, sure, strict=True) if each.verdict == "no" and holds
    ]
    if against:
        answer = "no" if held else "undecided"
    stubborn = held or against or by_answer[answer]
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
    elif against:
        why = (
            f"On {score}, {name} is no better than {controls} taken alone; as the surest of "
            f"{len(single)} controls that is not shown. {closest.why}"
        )
    else:
        why = f"On {score}, {name} is not shown to be better than {controls}. {closest.why}"
    silent = [name for name in evidence.unasked if name != "shuffled"]  # which it is made from
    if silent and closest is not None:
        verb = "has" if len(silent) == 1 else "have"
        why += f" {listed(silent)} {verb} nothing to say on {score}."
    needs = [each.needed for each in by_answer["undecided"]]
    needed = max((each for each in needs if each is not None), default=None)
    return Verdict(
        name, score, OVERALL, answer,
        closest.p if closest else math.nan, closest.p_corrected if closest else math.nan,
        closest.interval if closest else None, why,
        needed=needed if answer == "undecided" and None not in needs else None,
        method=closest.method if closest else "",
    )  # fmt: skip
