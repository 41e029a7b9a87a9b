r"""Context vector: what each demonstration leaves by itself, averaged, added to every layer.

    c_lm = mean over demonstrations of what module m of layer l puts out at the last token of the
           demonstration with its label word, read alone;    m: attention, MLP
    out_lm <- keep out_lm + strength c_lm    at every token

No demonstration sees another, so nothing of in-context learning's own pass is used. As published,
the two factors of every layer and module are then calibrated on the demonstrations: `epochs` passes
of AdamW (weight decay 1e-3, two demonstrations per step) on the loss of their label words; 0 leaves
them at their start. Published: start (0.1, 1), step size 1e-2, 100 epochs, and noise on the stream
while calibrating, which is left out here.

Limits: `strength=0, keep=1, epochs=0` changes nothing, to the bit.

An explanation: no pass in context is read. Models without an MLP have the attention part alone.

Source: Li et al. 2025 (I2CL).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import Contexts
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HookError
from iclgd_lens.host import Hook, Host, frozen
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention

NAME = "context_vector"
_BATCH, _DECAY = 2, 1e-3


@hypothesis(
    NAME,
    description="mean outputs of demonstrations read alone, added to every layer at every token",
    source="Li et al. 2025 (I2CL)",
    only_with={
        "step_size": {"epochs": other_than(0)},
        "seed": {"epochs": other_than(0)},
    },
)
def context_vector(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    strength: float = 0.1,
    keep: float = 1.0,
    epochs: int = 0,
    step_size: float = 1e-2,
    seed: int = 0,
) -> Intervention:
    """Return the intervention that adds the context vectors at every token.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        strength: Factor on the vectors, where calibration starts.
        keep: Factor on the outputs themselves, where calibration starts.
        epochs: Passes of calibration.
        step_size: Of calibration.
        seed: Of the order of demonstrations in calibration.

    Raises:
        HypothesisError: A setting is not allowed, or there is no demonstration.
    """
    between(NAME, "epochs", epochs, 0)
    between(NAME, "step_size", step_size, 0, above=True)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    points = output_hooks(host)
    seen = contexts.whole(points).values
    with torch.inference_mode(False):
        factors = torch.tensor([[strength, keep]] * len(points), device=host.device)
        vectors = {point: seen[point].mean(0).clone() for point in points}
    if epochs:
        factors = _calibrated(contexts, vectors, factors, epochs, step_size, seed)
    return ContextVectors(vectors, factors)


def output_hooks(host: Host) -> list[str]:
    """Where attention's and MLP's outputs join the residual stream, layer by layer."""
    found: list[str] = []
    for layer in range(host.n_layers):
        found.append(host.attention_output_hook(layer))
        if not getattr(host.cfg, "attn_only", False):
            try:
                host.hook_point(host.mlp_output_hook(layer))
            except HookError:
                continue
            found.append(host.mlp_output_hook(layer))
    return found


class ContextVectors(Intervention):
    """out <- keep out + strength c at some hook points, at every token.

    Args:
        vectors: c by hook point.
        factors: (strength, keep) of each, in the same order.
    """

    def __init__(
        self, vectors: dict[str, Float[Tensor, " d_model"]], factors: Float[Tensor, "point 2"]
    ) -> None:
        self.vectors, self.factors = vectors, factors

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """One hook per vector."""
        return [
            (point, partial(_mixed, vector, factor))
            for (point, vector), factor in zip(self.vectors.items(), self.factors, strict=True)
        ]


def _mixed(vector: Tensor, factor: Tensor, activation: Tensor, hook: Any) -> Tensor:
    return (factor[1] * activation.float() + factor[0] * vector).to(activation.dtype)


def _calibrated(
    contexts: Contexts,
    vectors: dict[str, Tensor],
    start: Tensor,
    epochs: int,
    step_size: float,
    seed: int,
) -> Float[Tensor, "point 2"]:
    """Factors after some passes of AdamW over the label words of demonstrations read alone."""
    host, sequences = contexts.host, contexts.shown.sequences("label")
    generator = np.random.default_rng(seed)
    with torch.inference_mode(False), frozen(host.model), torch.enable_grad():
        factors = start.clone().requires_grad_(True)
        optimiser = torch.optim.AdamW([factors], lr=step_size, weight_decay=_DECAY)
        for _ in range(epochs):
            order = generator.permutation(len(sequences)).tolist()
            for first in range(0, len(order), _BATCH):
                some = [sequences[i] for i in order[first : first + _BATCH]]
                losses: list[Tensor] = []
                for sequence in some:
                    with host.hooked(ContextVectors(vectors, factors).hooks(host)):
                        residual = host.run(host.tensor(sequence.tokens)).residual
                    losses.append(sequence_loss(host, residual, sequence) / len(sequence.targets))
                gradient = torch.autograd.grad(torch.stack(losses).mean(), factors)[0]
                factors.grad = gradient
                optimiser.step()
        return factors.detach()
