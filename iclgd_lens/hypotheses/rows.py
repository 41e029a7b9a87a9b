"""Several trainings side by side, one row of a batch each: the same steps at different rates.

Each row has a delta of its own, added to its own activations. Rows do not see one another, so each
one's gradient is that of its own loss, and one pass forward and one back serve all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, TrainingSequence
from iclgd_lens.errors import DivergedError, HookError
from iclgd_lens.host import Hook, Host, LinearSite, frozen
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.hypotheses.sgd import (
    UpdateRule,
    checked,
    described,
    learning_rate,
    trained_names,
)


class Training:
    """Deltas of several rows, "row *weight" each, while they are trained.

    Attributes:
        rates: Learning rate of each row.
    """

    def __init__(self, host: Host, names: Iterable[str], rates: Sequence[float]) -> None:
        self.host = host
        self.rates = list(rates)
        self.delta: dict[str, Tensor] = {}
        for name in names:
            site = host.site(name)
            shape = site.shape if name == site.weight else site.bias_shape
            # Made where gradients may be taken, whatever the caller's mode is.
            zeros = torch.zeros(len(rates), *shape, dtype=torch.float32, device=host.device)
            self.delta[name] = zeros.requires_grad_(True)

    @property
    def rows(self) -> int:
        """How many rows are left."""
        return len(self.rates)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone."""
        self.rates = [self.rates[row] for row in rows]
        with torch.inference_mode(False), torch.no_grad():
            for name, value in self.delta.items():
                self.delta[name] = value.detach()[list(rows)].clone().requires_grad_(True)

    def take_in(self, other: Training, sets: int = 1) -> None:
        """Go on with another training's rows, too, of each set after one's own."""
        mine, theirs = self.rows // sets, other.rows // sets
        order = [
            row
            for each in range(sets)
            for row in (
                *range(each * mine, (each + 1) * mine),
                *range(self.rows + each * theirs, self.rows + (each + 1) * theirs),
            )
        ]
        self.rates = [[*self.rates, *other.rates][row] for row in order]
        with torch.inference_mode(False), torch.no_grad():
            for name, value in self.delta.items():
                both = torch.cat([value.detach(), other.delta[name].detach()])[order]
                self.delta[name] = both.requires_grad_(True)

    def hooks(self) -> list[Hook]:
        """Hooks that add each row's x ΔW + Δb at the sites that are trained.

        A batch may hold several sequences of each row, row by row.
        """
        host, found = self.host, list[Hook]()
        for weight in dict.fromkeys(host.site(name).weight for name in self.delta):
            site, seen = host.site(weight), list[Tensor]()
            bias = None if site.bias is None else self.delta.get(site.bias)
            value = self.delta.get(weight)
            if value is not None:
                found.append((site.input_hook, partial(_read, site, seen)))
            found.append((site.output_hook, partial(_add, site, value, bias, seen)))
        return found

    def learn(self, counts: Sequence[int], name: str, gradient: Tensor) -> None:
        """Take one step with gradients of each row's summed loss of so many predicted tokens."""
        steps = [rate / count for rate, count in zip(self.rates, counts, strict=True)]
        rates = torch.tensor(steps, device=gradient.device)
        with torch.no_grad():
            self.delta[name].sub_(gradient * rates.view(-1, *[1] * (gradient.ndim - 1)))


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
    """Train a row for each rate, one demonstration a step; yields after each epoch.

    The same object each time: rows may be dropped from it before the next epoch, of each set of
    demonstrations as many. The caller's model is frozen while an epoch runs, and as before in
    between.

    Args:
        rule: What one step does.
        host: The model.
        shown: Demonstrations, or several sets of as many: each is learned from at every rate, set
            by set. More than one needs a model that can be padded (`Host.can_pad`).
        rates: Learning rates.
        epochs: Passes over the demonstrations.
        loss_on: Tokens whose loss is minimised; None takes the protocol's.
        weights: What is trained; None takes the protocol's.
        layers: Which layers are trained; None for all.
    """
    sets = [shown] if isinstance(shown, Demonstrations) else list(shown)
    names = trained_names(host, sets[0].protocol.trained if weights is None else weights, layers)
    steps = zip(*(each.sequences(loss_on) for each in sets), strict=True)
    sequences = [dataclasses.replace(first, others=tuple(others)) for first, *others in steps]
    with torch.inference_mode(False):
        training = Training(host, names, list(rates) * len(sets))
    for _ in range(epochs):
        with frozen(host.model), torch.enable_grad(), host.laid_out():
            for sequence in sequences:
                _step(rule, host, training, sequence, len(sets))
        yield training


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
) -> list[ParameterDelta | DivergedError] | None:
    """Updates of one rule by several sets of demonstrations of the same texts, side by side.

    For right and wrong labels: one pass serves both. Equal to training them one after the other, up
    to rounding.

    Returns:
        One update a set, or why it diverged; None where the sets' sequences differ in shape (label
        words of different length), so that they cannot be rows of one batch.
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
    with frozen(host.model), torch.enable_grad(), host.laid_out():
        for _ in range(epochs):
            for sequence in together:
                counts = sequence.counts
                with host.hooked(training.hooks(), forced=False):
                    rule(host, training.delta, sequence, partial(training.learn, counts))
    facts = described(host, shown[0], name, rate, epochs, 1, loss_on, names)
    return [_one_of(training, row, facts) for row in range(len(shown))]


def _one_of(training: Training, row: int, facts: dict[str, Any]) -> ParameterDelta | DivergedError:
    with torch.inference_mode(False):
        tensors = {name: value.detach()[row].clone() for name, value in training.delta.items()}
    try:
        return checked(ParameterDelta(tensors, facts))
    except DivergedError as error:
        return error


def _step(
    rule: UpdateRule, host: Host, training: Training, sequence: TrainingSequence, sets: int
) -> None:
    several = dataclasses.replace(sequence, copies=training.rows // sets)
    with host.hooked(training.hooks(), forced=False):
        rule(host, training.delta, several, partial(training.learn, several.counts))


def _read(site: LinearSite, seen: list[Tensor], activation: Tensor, hook: Any) -> None:
    seen[:] = [site.read(activation)]


def _add(
    site: LinearSite,
    weight: Tensor | None,
    bias: Tensor | None,
    seen: list[Tensor],
    activation: Tensor,
    hook: Any,
) -> Tensor:
    total: Tensor | None = None
    if weight is not None:
        x = seen.pop().to(weight.dtype).flatten(2)
        total = x.reshape(len(weight), -1, x.shape[-1]) @ _as_matrix(site, weight)
    if bias is not None:
        flat = bias.flatten(1)[:, None]
        total = flat if total is None else total + flat
    if total is None:
        raise HookError(f"{site.weight}: neither a weight nor a bias to apply.")
    # Several sequences of a row lie side by side in the batch.
    tokens = activation.shape[0] * activation.shape[1] // len(total)
    change = total.expand(-1, tokens, -1).reshape(activation.shape)
    return activation + change.to(activation.dtype)


def _as_matrix(site: LinearSite, weight: Tensor) -> Tensor:
    """Each row's weight as "row d_in d_out", as one token's activations meet it."""
    if weight.ndim == 3:
        return weight
    if site.kind == "W_O":
        return rearrange(weight, "row head d_in d_out -> row (head d_in) d_out")
    return rearrange(weight, "row head d_in d_head -> row d_in (head d_head)")
