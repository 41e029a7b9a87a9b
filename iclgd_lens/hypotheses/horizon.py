"""Back-propagation over a horizon of m blocks: from LCGD (m = 0) to GD (m = layers - 1).

Layer l follows the gradient of the loss that is read after layer min(l + m, L - 1). Each block runs
on a detached input of its own; a loss is carried back block by block, through the graphs of the
last m + 1 blocks, which are all that is held in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from iclgd_lens.episode import TrainingSequence
from iclgd_lens.host import Hook, Host, layer_of
from iclgd_lens.hypotheses.lcgd import LayerLoss, lens_loss
from iclgd_lens.hypotheses.registry import between
from iclgd_lens.training.sgd import Learn


def horizon_step(
    host: Host,
    delta: Mapping[str, Tensor],
    sequence: TrainingSequence,
    learn: Learn,
    horizon: int,
    loss: LayerLoss = lens_loss,
) -> Tensor:
    """Run one sequence and hand on each layer's gradient of the loss `horizon` blocks later.

    Args:
        host: The model, with hooks that apply `delta`.
        delta: The trained change.
        sequence: What is read.
        learn: Takes the gradients; it may move a weight at once.
        horizon: Blocks through which a loss is carried back, from 0.
        loss: The loss read after a layer.

    Returns:
        The sum of the losses that were read.
    """
    between("lcgd_dynamic", "horizon", horizon, 0)
    walk = _Walk(host, delta, sequence, learn, min(horizon, host.n_layers - 1), loss)
    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        hooks.append((host.block_input_hook(layer), partial(walk.enter, layer)))
        hooks.append((host.block_output_hook(layer), partial(walk.leave, layer)))
    with host.hooked(hooks):
        host.run(sequence.rows(host))
    return torch.stack(walk.losses).sum()


class _Walk:
    """One forward pass that carries losses back as soon as they can be read."""

    def __init__(
        self,
        host: Host,
        delta: Mapping[str, Tensor],
        sequence: TrainingSequence,
        learn: Learn,
        horizon: int,
        loss: LayerLoss,
    ) -> None:
        self.host, self.sequence, self.learn = host, sequence, learn
        self.horizon, self.loss = horizon, loss
        self.named: dict[int, dict[str, Tensor]] = {}
        for name, value in delta.items():
            self.named.setdefault(layer_of(name), {})[name] = value
        self.entering: dict[int, Tensor] = {}
        self.leaving: dict[int, Tensor] = {}
        self.losses: list[Tensor] = []

    def enter(self, layer: int, activation: Tensor, hook: Any) -> Tensor:
        """Begin a block on an input of its own."""
        self.entering[layer] = activation.detach().requires_grad_(True)
        return self.entering[layer]

    def leave(self, layer: int, activation: Tensor, hook: Any) -> Tensor:
        """End a block, and read the loss after it if a layer learns from that."""
        self.leaving[layer] = activation
        last = layer == self.host.n_layers - 1
        first = layer - self.horizon
        learners = range(max(first, 0), layer + 1) if last else range(first, first + 1)
        if any(each in self.named for each in learners):
            self._carry_back(layer, learners, last)
        if first >= 0:
            del self.leaving[first], self.entering[first]
        return activation.detach()

    def _carry_back(self, layer: int, learners: range, last: bool) -> None:
        value = self.loss(self.host, [layer], self.leaving[layer], self.sequence)
        self.losses.append(value.detach())
        reached, flow = value, None
        lowest = min(each for each in learners if each in self.named)
        for at in range(layer, lowest - 1, -1):
            if at < layer:
                reached = self.leaving[at]
            learned = self.named.get(at, {}) if at in learners else {}
            below = [self.entering[at]] if at > lowest else []
            found = torch.autograd.grad(
                reached,
                [*below, *learned.values()],
                flow,
                # A block through which a later loss is carried back is needed again.
                retain_graph=not last and at > lowest,
                allow_unused=True,
            )
            gradients = cast("Sequence[Tensor | None]", found)
            if below:
                flow = gradients[0]
            for name, gradient in zip(learned, gradients[len(below) :], strict=True):
                if gradient is not None:
                    self.learn(name, gradient)
