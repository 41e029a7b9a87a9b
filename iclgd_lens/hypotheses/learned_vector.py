r"""Learned vector: one vector in the residual stream, trained on the demonstrations' labels.

    x_l <- x_l + strength θ    at the token where the label is predicted; θ in R^d_model
    θ minimises Σ_i -log p(y_i | x_i; θ) by AdamW, demonstrations read alone, in training order

Vectors that are read off in-context learning may work poorly because of how they are read. This one
is trained for its place. The budget is small, one step per demonstration, as that of an update of
one epoch, and each step moves a coordinate by step_size at most: the vector is not the best that
its place allows. Published are up to 1,000 steps at 1e-3 from a random start, θ ~ U(-0.1, 0.1).

Limits: `strength=0`, or `steps=0` from a start of 0, changes nothing, to the bit; the first step
from there is step_size times the sign of the gradient.

An explanation: no pass in context is read, labels are the targets.

Source: Yang et al. 2026 (learned task vectors).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import shown_of
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Hook, Host, as_host, frozen
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention

NAME = "learned_vector"
_DECAY = 0.01


@hypothesis(
    NAME,
    description="one vector in the residual stream, trained on the demonstrations' labels",
    source="Yang et al. 2026",
    only_with={
        "step_size": {"steps": other_than(0)},
        "seed": {"start": other_than(0)},
    },
)
def learned_vector(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    layer: int | None = None,
    steps: int | None = None,
    step_size: float = 1e-2,
    start: float = 0.0,
    strength: float = 1.0,
    seed: int = 0,
) -> Intervention:
    """Return the intervention that adds the learned vector where the label is predicted.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        layer: Block before which it is added; None takes the middle one.
        steps: Steps of training, one demonstration each; None takes one per demonstration.
        step_size: Of AdamW (weight decay 0.01).
        start: Half-width of the uniform distribution that θ starts from.
        strength: Factor on θ when it is used.
        seed: Of the start.

    Raises:
        HypothesisError: A setting is not allowed, or there is no demonstration.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    layer = host.n_layers // 2 if layer is None else layer
    between(NAME, "layer", layer, 0, host.n_layers - 1)
    between(NAME, "step_size", step_size, 0, above=True)
    between(NAME, "start", start, 0)
    if steps is not None:
        between(NAME, "steps", steps, 0)
    if not len(shown):
        raise HypothesisError(f"{NAME} needs at least 1 demonstration.")
    point = host.block_input_hook(layer)
    steps = len(shown) if steps is None else steps
    vector = _trained(host, shown, point, steps, step_size, start, seed)
    return PredictionShift(point, strength * vector)


class PredictionShift(Intervention):
    """Adds a vector at one hook point, at the token where the label is predicted."""

    def __init__(self, name: str, vector: Float[Tensor, " d_model"]) -> None:
        self.name, self.vector = name, vector

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """The one hook."""
        place = batch.at_prediction()

        def add(activation: Tensor, hook: Any) -> Tensor:
            return place.add(activation, self.vector.to(activation.device))

        return [(self.name, add)]


def _trained(
    host: Host,
    shown: Demonstrations,
    point: str,
    steps: int,
    step_size: float,
    start: float,
    seed: int,
) -> Float[Tensor, " d_model"]:
    sequences = shown.sequences("label")
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), frozen(host.model), torch.enable_grad():
        drawn = torch.rand(host.d_model, generator=generator, dtype=torch.float32)
        vector = (start * (2 * drawn - 1)).to(host.device).requires_grad_(True)
        optimiser = torch.optim.AdamW([vector], lr=step_size, weight_decay=_DECAY)
        for step in range(steps):
            sequence = sequences[step % len(sequences)]
            place = torch.tensor([sequence.label_start - 1], device=host.device)
            with host.hooked(PredictionShift(point, vector).hooks(host, Batch(readout=place))):
                residual = host.run(host.tensor(sequence.tokens)).residual
            loss = sequence_loss(host, residual, sequence) / len(sequence.targets)
            vector.grad = torch.autograd.grad(loss, vector)[0]
            optimiser.step()
        return vector.detach()
