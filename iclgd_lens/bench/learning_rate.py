"""A learning rate chosen on demonstrations alone.

Some demonstrations are held out; each rate of a grid trains on the rest, and the rate whose update
gives the held-out ones the lowest loss is taken. Neither queries nor in-context learning are
looked at: a rate tuned on the scores would favour the hypothesis that it is meant to test.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from iclgd_lens.bench.plan import RateChoice
from iclgd_lens.episode import FOREIGN, Demonstrations, Episode, Query
from iclgd_lens.errors import DivergedError, LensError
from iclgd_lens.host import Host, as_host, frozen
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.intervention import Intervention, hooks_of
from iclgd_lens.readout import demonstration_batch


@dataclass(frozen=True)
class ChosenRate:
    """A chosen learning rate.

    Attributes:
        lr: The rate.
        losses: Held-out loss in nats a token, by rate; infinite where training diverged.
    """

    lr: float
    losses: Mapping[float, float]


def choose_rate(
    model: Any,
    episode: Episode,
    hypothesis: Hypothesis,
    choice: RateChoice,
    settings: Mapping[str, Any] | None = None,
) -> ChosenRate:
    """Return the rate of the grid with the lowest loss on held-out demonstrations.

    Args:
        model: The model or its host.
        episode: Its queries are not read: the hypothesis is shown the held-out demonstrations in
            their place.
        hypothesis: Takes `lr`.
        choice: The grid, and the share that is held out: the last ones in the order drawn.
        settings: The hypothesis's other settings.

    Raises:
        LensError: Fewer than two demonstrations.
        DivergedError: Training diverges at every rate of the grid.
    """
    host = as_host(model)
    train, held_out = split(episode.demonstrations, choice.held_out)
    queries = tuple(Query(example.content, max(example.gold, 0)) for example in held_out.examples)
    shown = Episode(train, queries, episode.label_tokens, {"task": episode.task})
    losses: dict[float, float] = {}
    for rate in choice.grid:
        try:
            intervention = hypothesis.build(host, shown, **{**(settings or {}), "lr": rate})
            loss = held_out_loss(host, intervention, held_out)
        except DivergedError:
            loss = math.inf
        losses[rate] = loss if math.isfinite(loss) else math.inf
    best = min(losses, key=lambda rate: (losses[rate], rate))
    if losses[best] == math.inf:
        raise DivergedError(
            f"{hypothesis.name} diverges at every learning rate of the grid, down to "
            f"{min(choice.grid):g}: add smaller ones."
        )
    return ChosenRate(best, losses)


def split(shown: Demonstrations, share: float) -> tuple[Demonstrations, Demonstrations]:
    """Training and held-out demonstrations, both in prompt order.

    The held-out ones are the last drawn, so every permutation of a draw holds out the same.

    Raises:
        LensError: Fewer than two demonstrations.
    """
    count = len(shown)
    if count < 2:
        raise LensError(f"Choosing a learning rate needs at least 2 demonstrations, not {count}.")
    out = min(count - 1, max(1, round(count * share)))
    drawn = shown.drawn or tuple(range(count))
    last = set(drawn[count - out :])
    return _part(shown, [i for i in range(count) if i not in last]), _part(shown, sorted(last))


def _part(shown: Demonstrations, places: list[int]) -> Demonstrations:
    drawn = shown.drawn or tuple(range(len(shown)))
    order = [places.index(place) for place in drawn if place in places]
    return dataclasses.replace(
        shown, examples=tuple(shown.examples[place] for place in places), drawn=tuple(order)
    )


def held_out_loss(host: Host, intervention: Intervention, held_out: Demonstrations) -> float:
    """Mean loss in nats a predicted token, over the demonstrations, under the intervention.

    Raises:
        LensError: The demonstrations are of another task, or the intervention needs a prefix.
    """
    if any(example.gold == FOREIGN for example in held_out.examples):
        raise LensError("Demonstrations of another task cannot choose this task's learning rate.")
    if intervention.prefix(host) is not None:
        raise LensError("An intervention with a prefix has no loss on demonstrations read alone.")
    total, count = 0.0, 0
    with frozen(host.model), torch.no_grad():
        for sequence in held_out.sequences():
            tokens = host.tensor(sequence.tokens)
            batch = demonstration_batch(host, sequence.label_start, tokens)
            with host.hooked(hooks_of(intervention, host, batch)):
                residual = host.run(tokens).residual
            total += float(sequence_loss(host, residual, sequence))
            count += len(sequence.targets)
    return total / count
