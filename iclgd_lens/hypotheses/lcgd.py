"""LCGD: layer-causal gradient descent (Deutch et al. 2024, section 5).

Every layer learns from its own output: the residual stream is detached where it enters each block,
each block's output is read through the shared final norm and unembedding, and its loss reaches that
block alone. What layer l learns therefore depends on layers <= l only, as in in-context learning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.host import Hook, Host
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.hypotheses.sgd import StepGradient, train
from iclgd_lens.intervention import ParameterDelta


@hypothesis("lcgd", description="layer-causal SGD: each layer learns from its own output")
def lcgd(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes that layer-causal gradient descent makes.

    The loss is the sum over layers (not the mean) of each layer's language-model loss, divided by
    the predicted tokens. A layer's loss is back-propagated as soon as its block has run, so
    activations of one layer are held at a time. The model is not changed.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from (`episode.demonstrations`, or the episode).
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences a step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    return train(
        _gradient,
        "lcgd",
        model,
        demonstrations,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        loss_on=loss_on,
        weights=weights,
        layers=layers,
    )


def _gradient(host: Host, delta: Mapping[str, Tensor], sequence: TrainingSequence) -> StepGradient:
    gradients: dict[str, Tensor] = {}
    losses: list[Tensor] = []
    by_layer: dict[int, list[str]] = {}
    for name in delta:
        by_layer.setdefault(int(name.split(".")[1]), []).append(name)

    def learn(layer: int, residual: Tensor) -> None:
        names = by_layer[layer]
        loss = sequence_loss(host, residual, sequence)
        found = torch.autograd.grad(loss, [delta[name] for name in names], materialize_grads=True)
        gradients.update(zip(names, found, strict=True))
        losses.append(loss.detach())

    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        hooks.append((host.block_input_hook(layer), _detach))
        learner = learn if layer in by_layer else None
        hooks.append((host.block_output_hook(layer), partial(_learn_and_detach, learner, layer)))
    with host.hooked(hooks):
        host.run(host.tensor(sequence.tokens))
    return StepGradient(torch.stack(losses).sum(), gradients)


def _detach(activation: Tensor, hook: Any) -> Tensor:
    """Freeze the backward flow into earlier layers."""
    return activation.detach()


def _learn_and_detach(
    learn: Callable[[int, Tensor], None] | None, layer: int, activation: Tensor, hook: Any
) -> Tensor:
    if learn is not None:
        learn(layer, activation)
    return activation.detach()
