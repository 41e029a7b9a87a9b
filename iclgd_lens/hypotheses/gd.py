"""GD: stochastic gradient descent on the demonstrations (Dai et al. 2023; Deutch et al. 2024).

In-context learning would be what fine-tuning on the demonstrations is: one at a time, each weight W
of the trained kinds (keys and values, as a rule) follows the gradient of the language-model loss

    ΔW <- ΔW - lr ∇_W Σ_t -log p(x_t | x_<t) / T,   T: predicted tokens of the step

back-propagated through all layers, so that an early layer learns from what later ones make of it.

Limits: as lr goes to 0 the change is lr times the sum of the gradients at the unchanged model, in
whatever order. In a GD-world (`lens.worlds`), where in-context learning is one such step, SimAOU is
1; in an LCGD-world of angle θ it is cos θ.

Source: Dai et al. 2023; Deutch et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.training.sgd import Learn, backward, train


def gd_step(
    host: Host, delta: Mapping[str, Tensor], sequence: TrainingSequence, learn: Learn
) -> Tensor:
    """Run one sequence and hand on every weight's gradient of the model's own loss."""
    rows, targets = sequence.places
    at: Tensor | None = None
    if rows == list(range(len(rows))):  # one target a row: only the token before it is read
        at = host.tensor(targets)[0] - 1
    residual = host.run(sequence.rows(host), at=at).residual
    loss = sequence_loss(host, residual, sequence)
    backward(loss, delta, learn)
    return loss.detach()


@hypothesis(
    "gd",
    description="SGD on the demonstrations, backward through all layers",
    rows=gd_step,
    source="Dai et al. 2023; Deutch et al. 2024",
)
def gd(
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
    """Return the weight changes that gradient descent on the demonstrations makes.

    Each step's loss is the mean negative log-likelihood, in nats, of the sequence's tokens given
    those before them. The model is not changed.

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
    host = as_host(model)
    # Back-propagation keeps every weight as the forward pass reads it in any case: no more memory.
    with host.laid_out():
        return train(
            gd_step,
            "gd",
            host,
            demonstrations,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            loss_on=loss_on,
            weights=weights,
            layers=layers,
        )
