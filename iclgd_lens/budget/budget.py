"""How far an update is trained: rate, epochs and loss tokens, chosen on left-out demonstrations.

In-context learning that solves a task is to be compared with an update that solves it, too;
otherwise a score says only how far training went. Some demonstrations are left out; every budget of
a grid trains on the rest, and the one whose update gives the left-out label words the lowest
negative log-likelihood is taken. Neither queries nor in-context learning are looked at: a budget
tuned on the scores would favour the hypothesis that it is meant to test.

How the budgets are searched, and what that costs: see `iclgd_lens.budget.race`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from iclgd_lens.budget.asked_search import BudgetMode as BudgetMode
from iclgd_lens.budget.asked_search import check_search
from iclgd_lens.budget.race import GRID, Race
from iclgd_lens.budget.trials import BudgetPoint, Course, LeftOutLosses, named
from iclgd_lens.episode import Episode
from iclgd_lens.errors import DivergedError, LensError
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.plateaus import range_around
from iclgd_lens.rules import Rule
from iclgd_lens.training.folds import FOLDS, LEFT_OUT, balanced_folds
from iclgd_lens.training.shared_batches import Chain, alone

EPOCHS = (1, 2, 4, 8, 16)
LOSSES = ("label", "all")


@dataclass(frozen=True)
class Tried:
    """One budget of the grid.

    Attributes:
        settings: lr, epochs, loss_on: those that the hypothesis takes.
        loss: Label negative log-likelihood of the left-out demonstrations, in nats per label word,
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
        loss: Its label negative log-likelihood of left-out demonstrations, in nats per label word.
        zs_loss: That of the unchanged model.
        improves: Whether it is better than the unchanged model by more than two standard errors
            over left-out demonstrations.
        tried: Every budget that was tried.
        left_out: Left-out demonstrations behind each loss.
        edge: Whether the best rate still lies on the edge of the widest grid.
        rates: Lowest and highest of the neighbouring rates, at the same loss tokens, that do as
            well: worse by no more than one standard error. None where it takes no rate.
        trainings: What the search cost: its block passes, in units of one training on all
            demonstrations at the chosen budget. Each row of a batch counts, though rows take much
            less time than as many trainings.
    """

    settings: Mapping[str, Any]
    loss: float
    zs_loss: float
    improves: bool
    tried: tuple[Tried, ...] = field(repr=False)
    left_out: int
    edge: bool
    rates: tuple[float, float] | None = None
    trainings: float = math.nan

    @property
    def sentence(self) -> str:
        """How it was chosen, and whether it learns anything."""
        chosen = ", ".join(f"{key} {_short(value)}" for key, value in self.settings.items())
        verdict = (
            f"{self.loss:.2f} nats per label word on {self.left_out} left-out demonstrations, "
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
            "rates": None if self.rates is None else list(self.rates),
            "trainings": _plain(self.trainings),
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
    left_out: float = LEFT_OUT,
) -> Budget:
    """Return the budget with the lowest label loss on left-out demonstrations.

    Args:
        model: The model or its host.
        episode: Its demonstrations; its queries are not read.
        hypothesis: Takes `lr`; epochs and loss tokens are chosen where it takes `epochs` and
            `loss_on`.
        settings: The hypothesis's other settings; what is given here is not chosen. Its
            `budgeted_at` settings override these.
        grid: Rates tried first; widened while the best lies on its edge.
        epochs: Passes over the demonstrations.
        losses: Tokens whose loss is minimised.
        folds: How often other demonstrations are left out; each costs as much again.
        left_out: Share of the demonstrations that a fold leaves out. One fold of a half costs a
            third of two folds of a quarter, and chooses somewhat worse (`benchmarks/README.md`).

    Raises:
        LensError: Fewer than two demonstrations, or they are another task's; a part of the search
            is out of range.
        DivergedError: Training diverges at every rate.
    """
    search: dict[str, Any] = {
        "grid": grid, "epochs": epochs, "losses": losses, "folds": folds, "left_out": left_out,
    }  # fmt: skip
    check_search(search)
    return alone(choosing(as_host(model), episode, hypothesis, settings, **search))


def choosing(
    host: Host,
    episode: Episode,
    hypothesis: Hypothesis,
    settings: Mapping[str, Any] | None = None,
    *,
    grid: Sequence[float] = GRID,
    epochs: Sequence[int] = EPOCHS,
    losses: Sequence[str] = LOSSES,
    folds: int = FOLDS,
    left_out: float = LEFT_OUT,
    beside: int = 1,
) -> Chain[Budget]:
    """`choose_budget` as one of `beside` searches that run together (`shared_batches`)."""
    given = {**(settings or {}), **hypothesis.budgeted_at}
    takes = hypothesis.settings()
    passes = tuple(sorted(set(epochs))) if "epochs" in takes and "epochs" not in given else (None,)
    tokens = tuple(losses) if "loss_on" in takes and "loss_on" not in given else (None,)
    free = hypothesis.takes_rate and given.get("lr") is None
    rates = tuple(dict.fromkeys(grid)) if free else (None,)
    made = balanced_folds(episode.demonstrations, folds, left_out)
    course = Course(host, episode, hypothesis, given, made, beside)
    before = course.unchanged()
    race = Race(course, sum(before) / len(before))
    edge = yield from race.search(rates, passes, tokens)
    chosen, outcome = race.best
    if not math.isfinite(outcome.mean):
        down = min(rate or math.nan for rate, _, _ in race.found)
        raise DivergedError(
            f"{hypothesis.name} diverges at every learning rate tried, down to {down:g}."
        )
    return Budget(
        named(chosen), outcome.mean, sum(before) / len(before), _improves(before, outcome),
        _tried(race.found), len(before), edge, _as_good(race.found, chosen),
        course.spent.total / _passes(host, episode, chosen[1] or given.get("epochs") or 1),
    )  # fmt: skip


def _tried(found: Mapping[BudgetPoint, LeftOutLosses]) -> tuple[Tried, ...]:
    """Every budget, by loss tokens, rate and epochs."""
    points = sorted(found, key=lambda point: (str(point[2]), point[0] or 0, point[1] or 0))
    return tuple(Tried(named(point), found[point].mean) for point in points)


def _improves(before: Sequence[float], outcome: LeftOutLosses) -> bool:
    """Whether the gain is above two standard errors over the left-out demonstrations."""
    gains = torch.tensor(before) - torch.tensor(outcome.each)
    error = float(gains.std() / len(gains) ** 0.5) if len(gains) > 1 else math.inf
    return bool(float(gains.mean()) > 2 * error)


def _as_good(
    found: Mapping[BudgetPoint, LeftOutLosses], chosen: BudgetPoint
) -> tuple[float, float] | None:
    """The range of tried rates around the chosen one whose best loss is next to its own."""
    rate, _, loss_on = chosen
    if rate is None:
        return None
    best: dict[float, LeftOutLosses] = {}
    for (other, _, tokens), outcome in found.items():
        if other is not None and tokens == loss_on:
            best[other] = min(best.get(other, outcome), outcome, key=lambda each: each.mean)
    ordered = sorted(best)
    good = [best[other].is_next_to(found[chosen]) for other in ordered]
    return range_around(ordered, good, rate)


def _passes(host: Host, episode: Episode, epochs: int) -> int:
    """Block passes, forward and back, of one training on all demonstrations."""
    return 2 * host.n_layers * len(episode.demonstrations) * epochs


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def with_settings_of(rule: Rule, settings: Mapping[str, Any]) -> Rule:
    """The rule with settings that it takes and has not been given."""
    if not isinstance(rule.value, Hypothesis):
        return rule
    takes = rule.value.settings()
    more = {key: value for key, value in settings.items() if key in takes}
    return replace(rule, settings={**more, **rule.settings})


def needs_budget(rule: Rule) -> bool:
    """Whether a rule takes a learning rate, was given none, and does not choose it itself."""
    takes = isinstance(rule.value, Hypothesis) and rule.value.takes_budget
    return takes and rule.settings.get("lr") is None


def with_budget(rule: Rule, host: Host, episode: Episode, **search: Any) -> Rule:
    """The rule at the budget that left-out demonstrations choose on a network and draw.

    A rule that takes no rate, was given one or chooses it itself is returned as it is. Where none
    can be chosen (too few demonstrations, say, or training that diverges everywhere) the rule keeps
    its defaults, and the record says why. `search` goes to `choose_budget`: parts of
    `asked_search.SEARCHED`.
    """
    return alone(budgeted(rule, host, episode, **search))


def budgeted(rule: Rule, host: Host, episode: Episode, **search: Any) -> Chain[Rule]:
    """`with_budget` beside others (`iclgd_lens.training.shared_batches`)."""
    if not needs_budget(rule) or not isinstance(rule.value, Hypothesis):
        return rule
    try:
        found = yield from choosing(host, episode, rule.value, rule.settings, **search)
    except LensError as error:
        return replace(rule, facts={**rule.facts, "budget": {"problem": str(error)}})
    chosen = with_settings_of(rule, found.settings)
    return replace(chosen, facts={**rule.facts, "budget": found.as_dict()})
