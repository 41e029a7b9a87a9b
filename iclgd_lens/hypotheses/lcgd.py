"""LCGD: layer-causal gradient descent (Deutch et al. 2024, section 5).

Every layer learns from its own output: the residual stream is detached where it enters each block,
each block's output is read through the shared final norm and unembedding, and its loss reaches that
block alone. What layer l learns therefore depends on layers <= l only, as in in-context learning.

    ΔW_l <- ΔW_l - lr ∇_(W_l) Σ_t -log softmax(norm(x_l) W_U)_(x_t) / T,   x_l: what leaves block l

Limits: on a model of one layer it is GD. In an LCGD-world (`lens.worlds`), where in-context
learning is one such step, SimAOU is 1; in a GD-world of angle θ it is cos θ.

Source: Deutch et al. 2024, section 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.host import Hook, Host, layer_of
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.training.sgd import Learn, backward, train

ROWS = 128
"""Rows that wait to be unembedded together, unless one layer's sequence is longer."""

LayerLoss = Callable[
    [Host, Sequence[int], Float[Tensor, "layer pos d_model"], TrainingSequence],
    Float[Tensor, ""],
]
"""Takes some layers and what leaves their blocks; returns the sum of these layers' losses."""


def lens_loss(
    host: Host,
    layers: Sequence[int],
    residual: Float[Tensor, "layer pos d_model"],
    sequence: TrainingSequence,
) -> Float[Tensor, ""]:
    """LCGD's loss: each layer's output read through the final norm and the unembedding."""
    return sequence_loss(host, residual, sequence)


class _Learner:
    """Collects block outputs until they fill `ROWS` rows, then learns from them.

    Short sequences of several layers share one pass over the unembedding, whose weights are the
    largest of the model; long ones learn layer by layer. Rows do not mix, so each layer's gradient
    is that of its own loss.
    """

    def __init__(
        self,
        host: Host,
        delta: Mapping[str, Tensor],
        sequence: TrainingSequence,
        learn: Learn,
        loss: LayerLoss,
        rows: int,
    ) -> None:
        self.host, self.sequence, self.learn, self.loss = host, sequence, learn, loss
        self.names: dict[int, dict[str, Tensor]] = {}
        for name, value in delta.items():
            self.names.setdefault(layer_of(name), {})[name] = value
        self.at_once = max(1, rows // len(sequence.targets))
        self.read: set[int] = set()
        self.waiting: dict[int, Tensor] = {}
        self.losses: list[Tensor] = []

    def __call__(self, layer: int, residual: Tensor) -> None:
        if layer not in self.names or layer in self.read:  # a block that runs again learns once
            return
        self.read.add(layer)
        self.waiting[layer] = residual
        if len(self.waiting) == self.at_once or layer == max(self.names):
            residual = torch.cat(list(self.waiting.values()))
            loss = self.loss(self.host, list(self.waiting), residual, self.sequence)
            delta = {k: v for each in self.waiting for k, v in self.names[each].items()}
            self.waiting.clear()
            backward(loss, delta, self.learn)
            self.losses.append(loss.detach())


def layer_step(
    host: Host,
    delta: Mapping[str, Tensor],
    sequence: TrainingSequence,
    learn: Learn,
    loss: LayerLoss = lens_loss,
    rows: int = ROWS,
) -> Tensor:
    """Run one sequence, every block by itself, and hand on each layer's gradient of its own loss.

    Args:
        host: The model, with hooks that apply `delta`.
        delta: The trained change, whose layers learn.
        sequence: What is read.
        learn: Takes the gradients.
        loss: The loss of some layers.
        rows: Rows of several layers' sequences that may wait for one call of `loss`; 0 to learn
            from each layer before the next one runs.

    Returns:
        The sum of the losses.
    """
    learner = _Learner(host, delta, sequence, learn, loss, rows)
    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        hooks.append((host.block_input_hook(layer), _detach))
        hooks.append((host.block_output_hook(layer), partial(_learn_and_detach, learner, layer)))
    with host.hooked(hooks):
        host.run(sequence.rows(host))
    return torch.stack(learner.losses).sum()


def _detach(activation: Tensor, hook: Any) -> Tensor:
    """Freeze the backward flow into earlier layers."""
    return activation.detach()


def _learn_and_detach(learner: _Learner, layer: int, activation: Tensor, hook: Any) -> Tensor:
    learner(layer, activation)
    return activation.detach()


@hypothesis(
    "lcgd",
    description="layer-causal SGD: each layer learns from its own output",
    rows=layer_step,
    source="Deutch et al. 2024, section 5",
)
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
    the predicted tokens. A layer's loss is back-propagated as soon as its block has run (for short
    sequences, those of a few layers together), so memory does not grow with the number of layers.
    The model is not changed.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from (`episode.demonstrations`, or the episode).
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences per step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    return train(
        layer_step,
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
