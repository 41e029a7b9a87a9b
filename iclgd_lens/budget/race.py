"""The search for a budget: trainings at several rates, thinned out as they go.

The steps:

1. All rates of the grid are trained on the label for one pass, those of all folds as rows of one
   batch.
2. At each stage (1, 2, 4, ... passes; stages of one training) the best few go on (`GO_ON`).
3. At the second stage every other rate joins on the other tokens, where none does well on the
   label's; only those go on that learn from the leader's tokens. From there on (`EARLY`) rates
   beyond the leader join while it lies on the edge of what was tried.
4. It ends early (`Race._is_over`) where next to nothing is left to gain, where more passes no
   longer gain anything, where nothing improves on the unchanged model, or where all that are left
   begin to forget.

Few may go on: what a rate learns much later than others, a higher rate has learned sooner, and
which of several good budgets is best is more than a handful of left-out demonstrations can tell.
What a search costs is counted (`Budget.trainings`). Rows of one batch share the reading of every
weight and the calls of every kernel, so they take less time than as many trainings.

Memory: the deltas that are held together take no more than the model's own weights, or 64 MB (one
rate is always held). Where all trainings do not fit, those that go on are trained anew from the
start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple

from iclgd_lens.budget.training_rows import rule_of
from iclgd_lens.budget.trials import BudgetPoint, Built, Course, LeftOutLosses, RateRows
from iclgd_lens.training.shared_batches import Chain

GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Learning rates that are tried first."""
LOWEST, HIGHEST = 1e-6, 100.0
"""Rates beyond which the grid is not widened."""
SOLVED_LOSS = 0.1
"""Nats per label word below which no more training is tried: there is next to nothing to gain."""
GO_ON = (4, 2, 1)
"""Trainings that go on after the first, second, ... stage; one after later ones."""
EARLY = 4
"""Passes up to which the grid is widened, and from which on a stage has to gain."""
FORGETS = 0.5
"""Nats above the best so far at which all that are left have begun to forget."""
GAIN = 0.05
"""Nats per label word that a late stage has to gain, or the search ends."""
_WIDER = 10**0.5

_Arm = tuple["float | None", "str | None"]


class Race:
    """What was tried so far, and what can go on.

    Args:
        course: What is trained, and on what.
        alone: Label loss of the unchanged model on the left-out demonstrations.

    Attributes:
        found: Losses by budget.
    """

    def __init__(self, course: Course, alone: float) -> None:
        self.course, self.alone = course, alone
        self.found: dict[BudgetPoint, LeftOutLosses] = {}
        self._groups: list[RateRows | Built] = []

    @property
    def best(self) -> tuple[BudgetPoint, LeftOutLosses]:
        """The budget of the lowest loss; among equals, the one of the lowest rate."""
        return min(self.found.items(), key=lambda item: (item[1].mean, item[0][0] or 0.0))

    def search(
        self,
        rates: Sequence[float | None],
        passes: Sequence[int | None],
        losses: Sequence[str | None],
    ) -> Chain[bool]:
        """Search, and return whether the best rate still lies on the edge of the widest grid.

        A chain of laps, so that several searches can share their batches: see
        `iclgd_lens.training.shared_batches`.
        """
        lowest, last = math.inf, len(passes) - 1
        for stage, count in enumerate(passes):
            if stage == 0:
                yield from self._join(rates, losses[0], count, passes)
            else:
                yield from self._advance(self._groups, count)
            if stage == min(1, last):  # one pass tells too little about either
                for loss_on in losses[1:]:
                    if not self._does_well:
                        yield from self._join(rates[::2], loss_on, count, passes)
            if stage >= min(1, last) and (count is None or count <= EARLY):
                yield from self._widen(count, passes)
            leading = min(self._alive(count).values(), default=math.inf)
            if self._is_over(count, leading, lowest):
                break
            lowest = min(lowest, leading)
            self._thin(count, GO_ON[stage] if stage < len(GO_ON) else 1)
        self._groups.clear()
        return self._on_edge(self.best[0]) != 0

    def _is_over(self, count: int | None, leading: float, lowest: float) -> bool:
        """Whether more passes are not worth their price.

        Args:
            count: Passes so far.
            leading: The lowest loss at this stage.
            lowest: That of earlier stages.
        """
        if not math.isfinite(leading) or leading < SOLVED_LOSS or leading > lowest + FORGETS:
            return True
        if count is not None and count >= EARLY:
            return leading > lowest - GAIN
        return count is not None and count > 1 and min(leading, lowest) >= self.alone

    def _alive(self, count: int | None) -> dict[_Arm, float]:
        arms = [(rate, group.loss_on) for group in self._groups for rate in group.rates]
        return {(rate, tokens): self.found[rate, count, tokens].mean for rate, tokens in arms}

    @property
    def _does_well(self) -> bool:
        """Whether a budget does twice as well as guessing; other loss tokens then go untried."""
        guess = math.log(self.course.episode.n_labels)
        return any(outcome.mean < guess / 2 for outcome in self.found.values())

    def _join(
        self,
        rates: Sequence[float | None],
        loss_on: str | None,
        count: int | None,
        passes: Sequence[int | None],
    ) -> Chain[None]:
        """Trainings at new rates, up to this stage."""
        numbers = [each for each in passes if each is not None]
        rule = rule_of(self.course.hypothesis, self.course.given)
        known = [rate for rate in rates if rate is not None]
        new: list[RateRows | Built] = []
        if rule is None or not numbers or not known:
            new = [Built(self.course, list(rates), loss_on)]
        else:
            step = self.course.rates_at_once
            for start in range(0, len(known), step):
                some: list[float | None] = list(known[start : start + step])
                new.append(RateRows(self.course, rule, some, loss_on))
        self._groups += new
        # Those that join late are asked on their way, too: they may be best there.
        earlier = [each for each in numbers if count is not None and each < count]
        for each in [*earlier, count]:
            yield from self._advance(new, each)
        self._merge()

    def _merge(self) -> None:
        """Make one batch of trainings that have come equally far on the same tokens."""
        merged: list[RateRows | Built] = []
        for group in self._groups:
            if not any(isinstance(other, RateRows) and other.takes_in(group) for other in merged):
                merged.append(group)
        self._groups = merged

    def _advance(self, groups: Sequence[RateRows | Built], count: int | None) -> Chain[None]:
        for group in groups:
            for lap in group.laps(count):
                cost = yield lap
                self.course.spent.add(*astuple(cost))
            with self.course.counted():
                found = group.losses(count)
            for rate, losses in zip(group.rates, found, strict=True):
                self.found[rate, count, group.loss_on] = LeftOutLosses(losses)
            held = [each for each in self._groups if isinstance(each, RateRows)]
            if held and sum(len(each.rates) for each in held) > self.course.rates_at_once:
                group.release()

    def _widen(self, count: int | None, passes: Sequence[int | None]) -> Chain[None]:
        """Let rates beyond the leader join while it lies on the edge."""
        while alive := self._alive(count):
            rate, loss_on = min(alive, key=lambda arm: (alive[arm], arm[0] or 0.0))
            side = self._on_edge((rate, count, loss_on))
            beyond = (rate or 0.0) * _WIDER**side
            if not side or not LOWEST <= beyond <= HIGHEST:
                return
            yield from self._join([float(f"{beyond:.2g}")], loss_on, count, passes)

    def _rates(self, loss_on: str | None) -> list[float]:
        tried = {rate for rate, _, tokens in self.found if tokens == loss_on}
        return sorted(rate for rate in tried if rate is not None)

    def _on_edge(self, point: BudgetPoint) -> int:
        """-1 for the lowest of the tried rates, 1 for the highest, else 0.

        The lowest is no edge where it is no better than the unchanged model: lower ones come ever
        nearer to that.
        """
        rate, _, loss_on = point
        known, mean = self._rates(loss_on), self.found[point].mean
        if rate is None or not math.isfinite(mean) or mean < SOLVED_LOSS:
            return 0
        if rate == known[-1]:
            return 1
        return -1 if rate == known[0] and mean < self.alone else 0

    def _thin(self, count: int | None, room: int) -> None:
        """Let the best `room` trainings on the leader's loss tokens go on."""
        alive = {arm: mean for arm, mean in self._alive(count).items() if math.isfinite(mean)}
        ordered = sorted(alive, key=lambda arm: (alive[arm], arm[0] or 0.0))
        kept = {arm for arm in ordered[:room] if arm[1] == ordered[0][1]}
        for group in self._groups:
            group.keep([rate for rate in group.rates if (rate, group.loss_on) in kept])
        self._groups = [group for group in self._groups if group.rates]
