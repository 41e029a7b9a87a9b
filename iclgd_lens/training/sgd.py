"""One SGD loop for every update rule: plain, seeded by nothing, on weights that never move.

The loop trains the delta itself. Hooks add x ΔW + Δb to the outputs of the trained maps, so the
gradient with respect to ΔW equals the gradient with respect to the weight, and the model is
untouched. A rule only runs one sequence and back-propagates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.delta import ParameterDelta, delta_hooks
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.errors import DivergedError, EpisodeError, HypothesisError, nearest
from iclgd_lens.host import Host, as_host, frozen, layer_of
from iclgd_lens.protocol import TRAINABLE

Learn = Callable[[str, Tensor], None]
"""Takes the gradient of one weight, by name."""

UpdateRule = Callable[[Host, Mapping[str, Tensor], TrainingSequence, Learn], Tensor]
"""Runs one sequence, hands every weight's gradient of the summed loss on, and returns that loss."""

Transform = Callable[[str, Tensor, Tensor, int], Tensor]
"""Takes a weight's name, the gradient of a batch's summed loss, the change so far, and the batch's
predicted tokens; returns what the step follows in the gradient's place."""

AfterStep = Callable[[Mapping[str, Tensor], int], None]
"""Takes the change after a step, which it may write into, and how many steps were taken."""


def backward(loss: Tensor, delta: Mapping[str, Tensor], learn: Learn) -> None:
    """Back-propagate `loss` and hand each gradient to `learn` as soon as it is there.

    A gradient is freed before the next layer's is made: all of them together would be as large as
    the delta itself.
    """
    handles = [
        value.register_post_accumulate_grad_hook(partial(_hand_on, learn, name))
        for name, value in delta.items()
    ]
    try:
        loss.backward(inputs=list(delta.values()))
    finally:
        for handle in handles:
            handle.remove()


def _hand_on(learn: Learn, name: str, value: Tensor) -> None:
    gradient, value.grad = value.grad, None
    if gradient is not None:
        learn(name, gradient)


def train(
    rule: UpdateRule,
    rule_name: str,
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    lr: float | None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
    start: Mapping[str, Tensor] | None = None,
    transform: Transform | None = None,
    after_step: AfterStep | None = None,
) -> ParameterDelta:
    """Take SGD steps on the demonstrations and return what they add to the weights.

    No momentum, decay, clipping, warm-up or dropout; a batch's loss is summed over its sequences
    and divided by their predicted tokens. See `gd` and `lcgd` for the arguments. Arguments beyond
    theirs: `start` is the change that training begins with, `transform` turns each batch's gradient
    into what the step follows, and `after_step` is called after each step.

    Raises:
        HypothesisError: A setting is not allowed, or the model lacks a named weight.
        DivergedError: A loss or the delta is not finite.
    """
    shown = demonstrations.demonstrations if isinstance(demonstrations, Episode) else demonstrations
    host = as_host(model)
    lr = learning_rate(lr, shown)
    for name, count in (("epochs", epochs), ("batch_size", batch_size)):
        if count < 1:
            raise HypothesisError(f"{rule_name}: {name} is {count}; it must be at least 1.")
    names = trained_names(host, shown.protocol.trained if weights is None else weights, layers)
    sequences = shown.sequences(loss_on)
    longest = max((len(sequence.tokens) for sequence in sequences), default=0)
    if longest > host.n_ctx:
        raise EpisodeError(
            f"A demonstration has {longest} tokens, but {host.name} reads {host.n_ctx}; nothing is "
            "truncated."
        )
    shown.check_vocabulary(host)
    delta: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    counts: list[int] = []
    with frozen(host.model), torch.enable_grad():
        for name in names:
            # Made here: a tensor made under the caller's inference mode could not be trained.
            delta[name] = zeros(host, name)
            if start is not None and name in start:
                delta[name].copy_(start[name])
            delta[name].requires_grad_(True)
        with host.hooked(delta_hooks(host, delta), forced=False):
            for _ in range(epochs):
                for batch in _batches(sequences, batch_size):
                    loss, count = _step(rule, host, delta, batch, lr, transform)
                    losses.append(loss)
                    counts.append(count)
                    if after_step is not None:
                        with torch.no_grad():
                            after_step(delta, len(counts))
        # Made here, too: in the caller's inference mode the result could never be trained again.
        # One at a time: a second delta is never in memory.
        for name in names:
            delta[name] = delta[name].detach().contiguous()
    facts = training_facts(host, shown, rule_name, lr, epochs, batch_size, loss_on, names)
    return _finished(delta, facts, losses, counts)


def training_facts(
    host: Host, shown: Demonstrations, rule: str, lr: float, epochs: int, batch_size: int,
    loss_on: str | None, names: Iterable[str],
) -> dict[str, Any]:  # fmt: skip
    """What travels with an update: how it was trained, and what."""
    every = list(names)
    return {
        "rule": rule,
        "lr": lr,
        "epochs": epochs,
        "batch_size": batch_size,
        "loss_on": loss_on or shown.protocol.loss_on,
        "trained": sorted({name.rsplit(".", 1)[1] for name in every}),
        "layers": sorted({layer_of(name) for name in every}),
        "model": host.name,
    }


def checked(delta: ParameterDelta, bad_step: int | None = None) -> ParameterDelta:
    """The update itself, if it and the losses on its way are finite.

    Raises:
        DivergedError: They are not.
    """
    if bad_step is not None or not delta.is_finite:
        where = f"the loss of step {bad_step}" if bad_step is not None else "the delta"
        raise DivergedError(
            f"{delta.metadata['rule']} with lr={delta.metadata['lr']:g} diverged: {where} is not "
            "finite. Use a smaller learning rate."
        )
    return delta


def _finished(
    delta: dict[str, Tensor], settings: dict[str, Any], losses: list[Tensor], counts: list[int]
) -> ParameterDelta:
    sums = [float(loss) for loss in torch.stack(losses).tolist()] if losses else []
    result = ParameterDelta(delta, settings | {"loss_sum": sums, "tokens": counts})
    bad = next((step for step, loss in enumerate(sums) if not _is_finite(loss)), None)
    return checked(result, bad)


def _is_finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _step(
    rule: UpdateRule,
    host: Host,
    delta: Mapping[str, Tensor],
    batch: Sequence[TrainingSequence],
    lr: float,
    transform: Transform | None = None,
) -> tuple[Tensor, int]:
    count = sum(len(sequence.targets) for sequence in batch)
    update = partial(_update, delta, count, lr, transform)
    if len(batch) == 1:
        # Back-propagation has passed a weight before its gradient is there: it may move at once.
        return rule(host, delta, batch[0], update), count
    sums: dict[str, Tensor] = {}

    def add(name: str, gradient: Tensor) -> None:
        sums[name] = gradient + sums[name] if name in sums else gradient

    losses = [rule(host, delta, sequence, add) for sequence in batch]
    for name, gradient in sums.items():
        update(name, gradient)
    return torch.stack(losses).sum(), count


def _update(
    delta: Mapping[str, Tensor], count: int, lr: float, transform: Transform | None,
    name: str, gradient: Tensor,
) -> None:  # fmt: skip
    with torch.no_grad():
        if transform is not None:
            gradient = transform(name, gradient, delta[name], count)
        delta[name].sub_(gradient, alpha=lr / count)


def _batches(
    sequences: Sequence[TrainingSequence], size: int
) -> Iterable[Sequence[TrainingSequence]]:
    return (sequences[start : start + size] for start in range(0, len(sequences), size))


def learning_rate(lr: float | None, shown: Demonstrations) -> float:
    """The rate, or the task's published one.

    Raises:
        HypothesisError: There is none, or it is not a positive number.
    """
    lr = shown.learning_rate if lr is None else lr
    if lr is None:
        raise HypothesisError("This task has no published learning rate: give lr=.")
    if not lr > 0 or not _is_finite(lr):
        raise HypothesisError(f"The learning rate is {lr}; it must be a positive number.")
    return float(lr)


def trained_names(
    host: Host, weights: str | Iterable[str], layers: int | Iterable[int] | None = None
) -> list[str]:
    """Full names of the weights to train, layer by layer; biases that the model lacks are skipped.

    Raises:
        HypothesisError: A weight or layer does not exist in the model.
    """
    kinds = [weights] if isinstance(weights, str) else list(weights)
    wanted = [layers] if isinstance(layers, int) else None if layers is None else sorted(layers)
    if wanted is not None and not wanted:
        raise HypothesisError("layers is empty: name at least one layer, or None for all.")
    for layer in wanted or []:
        if not 0 <= layer < host.n_layers:
            raise HypothesisError(f"{host.name} has layers 0 to {host.n_layers - 1}, not {layer}.")
    sites = [site for site in host.sites.values() if wanted is None or site.layer in wanted]
    offered = {site.kind for site in sites}
    for kind in kinds:
        if kind not in TRAINABLE or (kind.startswith("W") and kind not in offered):
            raise HypothesisError(
                f"{host.name} has no trainable weight {kind!r}; it has {', '.join(sorted(offered))}"
                f" and their biases.{nearest(kind, offered)}"
            )
    names: list[str] = []
    for site in sites:
        if site.kind in kinds:
            names.append(site.weight)
        if site.bias is not None and site.bias.rsplit(".", 1)[1] in kinds:
            names.append(site.bias)
    if not names:
        raise HypothesisError(f"{host.name} has none of the weights {', '.join(kinds) or '()'}.")
    return names


def zeros(host: Host, name: str) -> Tensor:
    """A change of zero, laid out as `LinearSite.apply` reads it.

    Heads lie side by side in memory, so that no step copies a weight, and autograd keeps no copies.
    """
    site = host.site(name)
    shape = site.shape if name == site.weight else site.bias_shape
    by_head = len(shape) == 3 and site.kind != "W_O"
    shape = (shape[1], shape[0], shape[2]) if by_head else shape
    zeros = torch.zeros(shape, dtype=torch.float32, device=host.device)
    return zeros.permute(1, 0, 2) if by_head else zeros
