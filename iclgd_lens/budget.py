"""How far an update is trained: rate, epochs and loss tokens, chosen on left-out demonstrations.

In-context learning that solves a task is to be compared with an update that solves it too, or a
score says only how far training went. Some demonstrations are left out; every budget of a grid
trains on the rest, and the one whose update gives the left-out label words the lowest negative
log-likelihood is taken. Neither queries nor in-context learning are looked at: a budget tuned on
the scores would favour the hypothesis that it is meant to test.

Cost. All rates of the grid train side by side, one row of a batch each, and the epochs of the grid
are stages of one training. After a few passes the worse half of the rates is dropped at each stage.
A hypothesis that does not train by this package's own loop is built anew for each budget, for more
passes only while that helps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from iclgd_lens.episode import Episode, Query
from iclgd_lens.errors import DivergedError
from iclgd_lens.held_out import FOLDS, Fold, held_out_losses, make_folds, row_losses
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.hypotheses.rows import SIDE_BY_SIDE, row_trainings, rule_of
from iclgd_lens.intervention import Intervention

GRID = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
"""Learning rates that are tried first."""
LOWEST, HIGHEST = 1e-6, 30.0
"""Rates beyond which the grid is not widened."""
EPOCHS = (1, 2, 4, 8, 16)
LOSSES = ("label", "all")
SOLVED = 0.1
"""Nats a label word below which no more training is tried: there is next to nothing to gain."""
PATIENCE = 4
"""Passes before the worse half of the rates is dropped."""
_WIDER = 10**0.5


@dataclass(frozen=True)
class Tried:
    """One budget of the grid.

    Attributes:
        settings: lr, epochs, loss_on: those that the hypothesis takes.
        loss: Label negative log-likelihood of the left-out demonstrations, in nats a label word,
            mean over folds; infinite where training diverged.
    """

    settings: Mapping[str, Any]
    loss: float

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values; an infinite loss is None."""
        return {**self.settings, "loss": self.loss if math.isfinite(self.loss) else None}


@dataclass(frozen=True)
class Budget:
    """The budget that was chosen, and how.

    Attributes:
        settings: lr, epochs, loss_on: those that the hypothesis takes.
        loss: Its label negative log-likelihood of left-out demonstrations, in nats a label word.
        zs_loss: That of the unchanged model.
        improves: Whether it is better than the unchanged model by more than two standard errors
            over left-out demonstrations.
        tried: Every budget that was tried.
        left_out: Left-out demonstrations behind each loss.
        edge: Whether the best rate still lies on the edge of the widest grid.
    """

    settings: Mapping[str, Any]
    loss: float
    zs_loss: float
    improves: bool
    tried: tuple[Tried, ...] = field(repr=False)
    left_out: int
    edge: bool

    @property
    def sentence(self) -> str:
        """How it was chosen, and whether it learns anything."""
        chosen = ", ".join(f"{key} {_short(value)}" for key, value in self.settings.items())
        verdict = (
            f"{self.loss:.2f} nats a label word on {self.left_out} left-out demonstrations, "
            f"{self.zs_loss:.2f} without an update"
        )
        edge = "; the best rate lies on the edge of the widest grid" if self.edge else ""
        if not self.improves:
            return f"No budget improves on the unchanged model (best: {chosen}; {verdict}){edge}."
        return f"{chosen}: {verdict}{edge}."

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "settings": dict(self.settings), "loss": _plain(self.loss), "zs_loss": self.zs_loss,
            "improves": self.improves, "left_out": self.left_out, "edge": self.edge,
            "sentence": self.sentence, "tried": [each.as_dict() for each in self.tried],
        }  # fmt: skip


def choose_budget(
    model: Any,
    episode: Episode,
    hypothesis: Hypothesis,
    settings: Mapping[str, Any] | None = None,
    *,
    grid: Sequence[float] = GRID,
    epochs: Sequence[int] = EPOCHS,
    losses: Sequence[str] = LOSSES,
    folds: int = FOLDS,
) -> Budget:
    """Return the budget with the lowest label loss on left-out demonstrations.

    Args:
        model: The model or its host.
        episode: Its demonstrations; its queries are not read.
        hypothesis: Takes `lr`; epochs and loss tokens are chosen where it takes `epochs` and
            `loss_on`.
        settings: The hypothesis's other settings; what is given here is not chosen. Those that it
            is `budgeted_at` stand in their place.
        grid: Rates tried first; widened while the best lies on its edge.
        epochs: Passes over the demonstrations.
        losses: Tokens whose loss is minimised.
        folds: How often other demonstrations are left out; each costs as much again.

    Raises:
        LensError: Fewer than two demonstrations, or they are another task's.
        DivergedError: Training diverges at every rate.
    """
    host, given = as_host(model), {**(settings or {}), **hypothesis.budgeted_at}
    parts = make_folds(episode.demonstrations, folds)
    alone = [held_out_losses(host, Intervention(), fold.left_out) for fold in parts]
    search = _Search(host, episode, hypothesis, given, parts)
    takes = hypothesis.settings()
    passes = tuple(epochs) if "epochs" in takes and "epochs" not in given else (None,)
    tokens = tuple(losses) if "loss_on" in takes and "loss_on" not in given else (None,)
    for loss_on in tokens:
        if not search.does_well:
            search.run(tuple(grid), passes, loss_on)
    edge = search.widen(passes)
    found = min(search.found.items(), key=lambda item: (item[1].mean, item[0]))
    chosen, outcome = found
    if not math.isfinite(outcome.mean):
        raise DivergedError(
            f"{hypothesis.name} diverges at every learning rate tried, down to "
            f"{min(rate for rate, _, _ in search.found):g}."
        )
    before = [value for part in alone for value in part]
    gains = torch.tensor(before) - torch.tensor(outcome.each)
    error = float(gains.std() / len(gains) ** 0.5) if len(gains) > 1 else math.inf
    return Budget(
        _named(chosen), outcome.mean, sum(before) / len(before),
        bool(float(gains.mean()) > 2 * error), search.tried(), len(before), edge,
    )  # fmt: skip


Point = tuple[float, "int | None", "str | None"]
"""Rate, epochs and loss tokens; None where the hypothesis takes none."""


@dataclass(frozen=True)
class _Outcome:
    """Label losses of the left-out demonstrations, one by one."""

    each: tuple[float, ...]

    @property
    def mean(self) -> float:
        finite = all(math.isfinite(value) for value in self.each)
        return sum(self.each) / len(self.each) if finite and self.each else math.inf


class _Search:
    """What was tried so far."""

    def __init__(
        self, host: Host, episode: Episode, hypothesis: Hypothesis, given: Mapping[str, Any],
        folds: Sequence[Fold],
    ) -> None:  # fmt: skip
        self.host, self.episode, self.hypothesis = host, episode, hypothesis
        self.given, self.folds = given, folds
        self.found: dict[Point, _Outcome] = {}

    def run(
        self, rates: Sequence[float], passes: Sequence[int | None], loss_on: str | None
    ) -> None:
        """Try rates at every number of passes, for one choice of loss tokens."""
        together = rule_of(self.hypothesis, self.given)
        if together is None or passes[0] is None:
            self._one_by_one(rates, passes, loss_on)
        else:
            self._together(together, rates, [count for count in passes if count], loss_on)

    def _together(
        self, rule: Any, rates: Sequence[float], passes: Sequence[int], loss_on: str | None
    ) -> None:
        """All rates as rows of one training, the worse half dropped at each stage."""
        own = {key: value for key, value in self.given.items() if key in SIDE_BY_SIDE}
        settings: dict[str, Any] = {"loss_on": loss_on, **own}
        trainings = [
            row_trainings(
                rule, self.host, fold.train, list(rates), max(passes),
                **settings,
            )
            for fold in self.folds
        ]  # fmt: skip
        alive = list(rates)
        best = math.inf
        for count in range(1, max(passes) + 1):
            states = [next(training) for training in trainings]
            if count not in passes:
                continue
            parts = [
                row_losses(self.host, state, fold.left_out)
                for state, fold in zip(states, self.folds, strict=True)
            ]
            each = torch.cat(parts)  # left-out demonstration, row
            for row, rate in enumerate(alive):
                self.found[rate, count, loss_on] = _Outcome(tuple(each[:, row].tolist()))
            means = [self.found[rate, count, loss_on].mean for rate in alive]
            if min(means) < SOLVED or min(means) > best + 0.5 or not math.isfinite(min(means)):
                break  # solved, or every rate that is left has begun to forget
            best = min(best, *means)
            # A rate that will be best may be slow at first: none is dropped for that early on.
            room = len(alive) if count < PATIENCE else max(2, len(alive) // 2)
            kept = sorted(range(len(alive)), key=lambda row: means[row])[:room]
            kept = sorted(row for row in kept if math.isfinite(means[row]))
            for state in states:
                state.keep(kept)
            alive = [alive[row] for row in kept]

    def _one_by_one(
        self, rates: Sequence[float], passes: Sequence[int | None], loss_on: str | None
    ) -> None:
        """Build the hypothesis anew for every rate, and for more passes while that helps."""
        for rate in rates:
            last = math.inf
            for count in passes:
                point = (rate, count, loss_on)
                parts: list[float] = []
                for fold in self.folds:
                    parts += self._built(fold, _named(point))
                outcome = _Outcome(tuple(parts))
                self.found[point] = outcome
                if outcome.mean >= last or outcome.mean < SOLVED:
                    break
                last = outcome.mean

    def _built(self, fold: Fold, chosen: Mapping[str, Any]) -> list[float]:
        asked = tuple(Query(each.content, max(each.gold, 0)) for each in fold.left_out.examples)
        own = self.episode
        shown = Episode(
            fold.train, asked, own.label_tokens, {"task": own.task}, auxiliary=own.auxiliary
        )
        try:
            built = self.hypothesis.build(self.host, shown, **{**self.given, **chosen})
            return held_out_losses(self.host, built, fold.left_out)
        except DivergedError:
            return [math.inf] * len(fold.left_out)

    @property
    def solved(self) -> bool:
        """Whether a budget was found that leaves next to nothing to gain."""
        return any(outcome.mean < SOLVED for outcome in self.found.values())

    @property
    def does_well(self) -> bool:
        """Whether a budget was found that does twice as well as guessing: others are not tried."""
        guess = math.log(self.episode.n_labels)
        return any(outcome.mean < guess / 2 for outcome in self.found.values())

    def widen(self, passes: Sequence[int | None]) -> bool:
        """Try rates beyond the edge while the best lies there; whether it still does."""
        while True:
            best = min(self.found, key=lambda point: (self.found[point].mean, point))
            rates = sorted({rate for rate, _, loss_on in self.found if loss_on == best[2]})
            below, above = best[0] == rates[0], best[0] == rates[-1]
            if self.solved or not (below or above):
                return False
            beyond = best[0] / _WIDER if below else best[0] * _WIDER
            if not LOWEST <= beyond <= HIGHEST or not math.isfinite(self.found[best].mean):
                return True
            self.run([beyond], passes, best[2])

    def tried(self) -> tuple[Tried, ...]:
        """Every budget, by loss tokens, rate and epochs."""
        points = sorted(self.found, key=lambda point: (str(point[2]), point[0], point[1] or 0))
        return tuple(Tried(_named(point), self.found[point].mean) for point in points)


def _named(point: Point) -> dict[str, Any]:
    names = ("lr", "epochs", "loss_on")
    return {name: value for name, value in zip(names, point, strict=True) if value is not None}


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
