"""Trainings that a search for a budget compares: what they cost in memory, and what they reach.

Rates that this package's own loop can train are rows of one batch, those of every fold together.
Anything else is built anew for each number of passes.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from typing import Any

import torch

from iclgd_lens.budget.held_out import row_losses
from iclgd_lens.budget.training_rows import SIDE_BY_SIDE, lane_of
from iclgd_lens.cost import Ledger, counted
from iclgd_lens.episode import Demonstrations, Episode, Query
from iclgd_lens.errors import DivergedError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.training.folds import Fold
from iclgd_lens.training.label_losses import label_losses
from iclgd_lens.training.sgd import UpdateRule, trained_names
from iclgd_lens.training.shared_batches import Lane, Lap

ROOM = 64 * 2**20
"""Bytes of deltas that are held together on a model of any size."""

BudgetPoint = tuple["float | None", "int | None", "str | None"]
"""Rate, epochs and loss tokens; None where the hypothesis takes none, or was given one."""


@dataclass(frozen=True)
class LeftOutLosses:
    """Label losses of the left-out demonstrations, one by one."""

    each: tuple[float, ...]

    @property
    def mean(self) -> float:
        """In nats per label word; infinite where one is not finite."""
        finite = all(math.isfinite(value) for value in self.each)
        return sum(self.each) / len(self.each) if finite and self.each else math.inf

    def is_next_to(self, better: LeftOutLosses) -> bool:
        """Whether it is worse by no more than one standard error of the paired difference."""
        if not math.isfinite(self.mean):
            return False
        pairs = zip(self.each, better.each, strict=True)
        differences = torch.tensor([mine - other for mine, other in pairs])
        error = float(differences.std()) / len(differences) ** 0.5 if len(differences) > 1 else 0.0
        return float(differences.mean()) <= error


@dataclass(frozen=True)
class Course:
    """What is trained, and on what.

    Attributes:
        host: The model.
        episode: Its demonstrations are cut into the folds.
        hypothesis: What is built.
        given: Its settings that are not searched.
        folds: What is learned from, and what judges.
        beside: How many courses run beside one another and share the room for deltas.
        spent: Passes through the model so far.
    """

    host: Host
    episode: Episode
    hypothesis: Hypothesis
    given: Mapping[str, Any]
    folds: Sequence[Fold]
    beside: int = 1
    spent: Ledger = field(default_factory=Ledger)

    @property
    def bundles(self) -> list[list[Fold]]:
        """Folds that are trained in one batch: all, if sequences can be padded."""
        return [list(self.folds)] if self.host.can_pad else [[fold] for fold in self.folds]

    @cached_property
    def rates_at_once(self) -> int:
        """How many rates' deltas, for all folds, take no more than the model's weights, or `ROOM`.

        At least one.
        """
        trained = self.given.get("weights")
        trained = self.episode.demonstrations.protocol.trained if trained is None else trained
        size = 0
        for name in trained_names(self.host, trained, self.given.get("layers")):
            site = self.host.site(name)
            size += 4 * math.prod(site.shape if name == site.weight else site.bias_shape)
        weights = sum(each.numel() * each.element_size() for each in self.host.model.parameters())
        return max(1, max(weights, ROOM) // max(1, size * len(self.folds) * self.beside))

    def unchanged(self) -> list[float]:
        """Label losses of the left-out demonstrations without an update."""
        with self.counted():
            by_fold = [_losses(self.host, Intervention(), fold.left_out) for fold in self.folds]
        return [value for part in by_fold for value in part]

    @contextlib.contextmanager
    def counted(self) -> Generator[None, None, None]:
        """Add what runs inside to what was spent."""
        with counted(self.host) as ledger:
            yield
        self.spent.add(*astuple(ledger))


class RateRows:
    """Trainings at several rates on the same tokens, as rows of one batch, fold by fold."""

    def __init__(
        self,
        course: Course,
        rule: UpdateRule,
        rates: list[float | None],
        loss_on: str | None,
    ) -> None:
        self.course, self.rule, self.rates, self.loss_on = course, rule, rates, loss_on
        self.passes = 0
        self._lanes: list[Lane] = []

    def laps(self, count: int | None) -> list[Lap]:
        """What has to be run to go on to `count` passes."""
        if not self._lanes:
            self._lanes, self.passes = [self._begun(each) for each in self.course.bundles], 0
        passes = (count or 1) - self.passes
        self.passes += passes
        return [Lap(lane, passes) for lane in self._lanes]

    def losses(self, count: int | None) -> list[tuple[float, ...]]:
        """Label losses of the left-out demonstrations by rate, after the laps to `count` passes."""
        parts = [
            row_losses(self.course.host, lane.training, [fold.left_out for fold in bundle])
            for lane, bundle in zip(self._lanes, self.course.bundles, strict=True)
        ]
        return [tuple(row) for row in torch.cat(parts).T.tolist()]

    def _begun(self, bundle: Sequence[Fold]) -> Lane:
        given = self.course.given
        settings: dict[str, Any] = {
            key: value
            for key, value in given.items()
            if key in SIDE_BY_SIDE and key not in ("lr", "epochs")
        }
        if self.loss_on is not None:
            settings["loss_on"] = self.loss_on
        rates = [rate for rate in self.rates if rate is not None]
        shown = [fold.train for fold in bundle]
        return lane_of(self.rule, self.course.host, shown, rates, **settings)

    def takes_in(self, other: RateRows | Built) -> bool:
        """Let another's trainings go on in this batch, where both have come equally far."""
        if not isinstance(other, RateRows) or not self._lanes or not other._lanes:
            return False
        if (self.loss_on, self.passes) != (other.loss_on, other.passes):
            return False
        sides = zip(self._lanes, other._lanes, self.course.bundles, strict=True)
        for mine, theirs, bundle in sides:
            mine.training.take_in(theirs.training, len(bundle))
        self.rates += other.rates
        return True

    def keep(self, rates: list[float | None]) -> None:
        """Go on with these rates alone."""
        rows = [row for row, rate in enumerate(self.rates) if rate in rates]
        if len(rows) < len(self.rates):
            for lane, bundle in zip(self._lanes, self.course.bundles, strict=False):
                starts = [each * len(self.rates) for each in range(len(bundle))]
                lane.training.keep([start + row for start in starts for row in rows])
            self.rates = [self.rates[row] for row in rows]

    def release(self) -> None:
        """Forget the deltas; going on begins anew."""
        self._lanes = []


class Built:
    """Interventions that are built anew at each stage."""

    def __init__(self, course: Course, rates: list[float | None], loss_on: str | None) -> None:
        self.course, self.rates, self.loss_on = course, rates, loss_on

    def laps(self, count: int | None) -> list[Lap]:
        """Nothing: each stage trains by itself."""
        return []

    def losses(self, count: int | None) -> list[tuple[float, ...]]:
        """Label losses of the left-out demonstrations by rate."""
        return [self._of(named((rate, count, self.loss_on))) for rate in self.rates]

    def _of(self, chosen: Mapping[str, Any]) -> tuple[float, ...]:
        found: list[float] = []
        for fold in self.course.folds:
            found += self._built(fold, chosen)
        return tuple(found)

    def _built(self, fold: Fold, chosen: Mapping[str, Any]) -> list[float]:
        course, own = self.course, self.course.episode
        asked = tuple(Query(each.content, max(each.gold, 0)) for each in fold.left_out.examples)
        shown = Episode(
            fold.train, asked, own.label_tokens, {"task": own.task}, auxiliary=own.auxiliary
        )
        try:
            built = course.hypothesis.built(course.host, shown, **{**course.given, **chosen})
            return _losses(course.host, built, fold.left_out)
        except DivergedError:
            return [math.inf] * len(fold.left_out)

    def keep(self, rates: list[float | None]) -> None:
        """Go on with these rates alone."""
        self.rates = rates

    def release(self) -> None:
        """Nothing is held."""


def _losses(host: Host, built: Intervention, left_out: Demonstrations) -> list[float]:
    return label_losses(host, left_out, built, per="word").tolist()


def named(point: BudgetPoint) -> dict[str, Any]:
    """A budget's settings by name."""
    names = ("lr", "epochs", "loss_on")
    return {name: value for name, value in zip(names, point, strict=True) if value is not None}
