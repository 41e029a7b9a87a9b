"""Trainings of one rule side by side, each a row of a batch: at several rates, on several sets."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from iclgd_lens.cost import Ledger
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations
from iclgd_lens.errors import DivergedError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.training.batched import Training as Training
from iclgd_lens.training.sgd import (
    UpdateRule,
    checked,
    learning_rate,
    trained_names,
    training_facts,
)
from iclgd_lens.training.shared_batches import Chain, Lane, Lap, run


def row_trainings(
    rule: UpdateRule,
    host: Host,
    shown: Demonstrations | Sequence[Demonstrations],
    rates: Sequence[float],
    epochs: int,
    *,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> Iterator[Training]:
    """Train one row for each rate, one demonstration per step; yields after each epoch.

    It yields the same object each time: rows may be dropped from it before the next epoch, equally
    many of each set of demonstrations. The caller's model is frozen while an epoch runs, and as
    before in between.

    Args:
        rule: What one step does.
        host: The model.
        shown: Demonstrations, or several sets of equal size: each is learned from at every rate,
            set by set. More than one needs a model that can be padded (`Host.can_pad`).
        rates: Learning rates.
        epochs: Passes over the demonstrations.
        loss_on: Tokens whose loss is minimised; None takes the protocol's.
        weights: What is trained; None takes the protocol's.
        layers: Which layers are trained; None for all.
    """
    lane = lane_of(rule, host, shown, rates, loss_on=loss_on, weights=weights, layers=layers)
    for _ in range(epochs):
        run([lane], len(lane.steps))
        yield lane.training


def lane_of(
    rule: UpdateRule,
    host: Host,
    shown: Demonstrations | Sequence[Demonstrations],
    rates: Sequence[float],
    *,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> Lane:
    """Rows at several rates: for each set of demonstrations one per rate; see `row_trainings`."""
    sets = [shown] if isinstance(shown, Demonstrations) else list(shown)
    names = trained_names(host, sets[0].protocol.trained if weights is None else weights, layers)
    steps = zip(*(each.sequences(loss_on) for each in sets), strict=True)
    with torch.inference_mode(False):
        training = Training(host, names, list(rates) * len(sets))
    together = [dataclasses.replace(first, others=tuple(others)) for first, *others in steps]
    return Lane(host, rule, training, together)


SIDE_BY_SIDE = frozenset({"lr", "epochs", "loss_on", "weights", "layers"})
"""Settings with which several sets of demonstrations can be learnt from side by side."""


def rule_of(hypothesis: Hypothesis, settings: Mapping[str, Any]) -> UpdateRule | None:
    """The step by which a hypothesis trains at some settings; None where rows cannot share it."""
    if hypothesis.rows is None or not set(settings) <= SIDE_BY_SIDE | {*hypothesis.row_settings}:
        return None
    own = {key: settings[key] for key in hypothesis.row_settings if key in settings}
    return partial(hypothesis.rows, **own) if own else hypothesis.rows


def built_beside(
    rule: UpdateRule,
    name: str,
    host: Host,
    shown: Sequence[Demonstrations],
    *,
    lr: float | None = None,
    epochs: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> Chain[tuple[list[ParameterDelta | DivergedError], Ledger] | None]:
    """One rule's updates from several sets of demonstrations of the same texts, side by side.

    For right and wrong labels: one pass serves both. Equal to training them one after the other, up
    to rounding.

    Returns:
        One update per set, or why it diverged, and what each cost; None where the sets' sequences
        differ in shape (label words of different length), so that they cannot be rows of one batch.
    """
    sequences = [each.sequences(loss_on) for each in shown]
    shapes = [[(len(s.tokens), s.targets) for s in each] for each in sequences]
    if any(shape != shapes[0] for shape in shapes):
        return None
    rate = learning_rate(lr, shown[0])
    names = trained_names(host, shown[0].protocol.trained if weights is None else weights, layers)
    first, *others = sequences
    together = [
        dataclasses.replace(sequence, beside=tuple(other[i].tokens for other in others))
        for i, sequence in enumerate(first)
    ]
    with torch.inference_mode(False):
        training = Training(host, names, [rate] * len(shown))
    cost = yield Lap(Lane(host, rule, training, together), epochs)
    facts = training_facts(host, shown[0], name, rate, epochs, 1, loss_on, names)
    built = [_one_of(training, row, facts) for row in range(len(shown))]
    return built, cost.shared(len(shown))


def _one_of(training: Training, row: int, facts: dict[str, Any]) -> ParameterDelta | DivergedError:
    with torch.inference_mode(False):
        tensors = {
            name: value.detach()[row].clone(memory_format=torch.contiguous_format)
            for name, value in training.delta.items()
        }
    try:
        return checked(ParameterDelta(tensors, facts))
    except DivergedError as error:
        return error
