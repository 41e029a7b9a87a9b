"""One question of a comparison, and Holm's correction within it.

The lines of one control ask one question of every hypothesis and score: "is it more than a random
direction?", "does it need the right labels?", "did training bring it about?". Asked of thirty
hypotheses, noise would answer yes once or twice. What fails must not make the others easier: a line
that could not be tested, or to which no verdict applies, counts as asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from iclgd_lens.verdicts.evidence import Tested
from iclgd_lens.verdicts.statistics import holm


@dataclass(frozen=True)
class Line:
    """One hypothesis and score against one control, once for each variant of the control."""

    control: str
    tests: tuple[Tested, ...]

    @property
    def decisive(self) -> Tested:
        """The variant that speaks least for the hypothesis: `yes` needs them all."""
        return min(self.tests, key=lambda tested: tested.evidence_for)

    @property
    def equal(self) -> Tested:
        """The variant that is most surely as good as the hypothesis."""
        return min(self.tests, key=lambda tested: or_one(tested.equivalent))

    @property
    def faults(self) -> list[str]:
        """Why no `yes` is possible."""
        return [tested.fault for tested in self.tests if tested.fault]


@dataclass(frozen=True)
class Corrected:
    """A line with its question's corrections.

    Attributes:
        line: The line.
        p: Two-sided p-value of its decisive test, corrected; 1 where there is none.
        equivalent: P-value that a difference lies within the margin, corrected.
        family: How many lines the correction is for.
    """

    line: Line
    p: float
    equivalent: float
    family: int


def corrected(
    lines: Sequence[Sequence[Line]], asked: Sequence[bool], applies: Sequence[bool]
) -> list[list[Corrected]]:
    """Correct all lines of a comparison, question by question.

    Args:
        lines: Of each hypothesis and score.
        asked: Whether it asks the questions at all (what is no explanation asks none).
        applies: Whether a verdict can be given; what cannot be a yes is counted, with p = 1.

    Returns:
        As `lines`.
    """
    found = [[Corrected(line, 1.0, 1.0, 0) for line in each] for each in lines]
    for name in dict.fromkeys(line.control for each in lines for line in each):
        family = [
            (index, place)
            for index, each in enumerate(lines)
            for place, line in enumerate(each)
            if line.control == name and asked[index]
        ]
        members = [lines[index][place] for index, place in family]
        # What cannot be a yes must not be rejected first and so free the others of its share.
        open_ = [applies[index] and not lines[index][place].faults for index, place in family]
        p = [or_one(line.decisive.p) for line in members]
        # The best of several variants: as many chances.
        equal = [min(1.0, or_one(line.equal.equivalent) * len(line.tests)) for line in members]
        p, equal = (_holm(values, open_) for values in (p, equal))
        for (index, place), line, one, two in zip(family, members, p, equal, strict=True):
            found[index][place] = Corrected(line, one, two, len(family))
    return found


def _holm(p: Sequence[float], open_: Sequence[bool]) -> list[float]:
    """Holm's correction of what is open; of the rest, Bonferroni's, which frees nothing."""
    stepped = holm([value if ok else 1.0 for value, ok in zip(p, open_, strict=True)]).tolist()
    return [
        float(value) if ok else min(1.0, own * len(p))
        for value, own, ok in zip(stepped, p, open_, strict=True)
    ]


def or_one(p: float) -> float:
    """A p-value, 1 where there is none."""
    return p if math.isfinite(p) else 1.0
