"""What keeps an update small, simple or near the model: gradient transforms, projections, losses.

Each acts on a layer's heads by themselves, so that layer-causal learning stays layer-causal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.episode import TrainingSequence
from iclgd_lens.host import Hook, Host
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.rates import head_norms


def decayed_and_clipped(
    l2: float, clip: float, name: str, gradient: Tensor, change: Tensor, count: int
) -> Tensor:
    """A `sgd.Transform`: each head's mean gradient at most `clip` long, then plus l2 times Δ."""
    if math.isfinite(clip):
        length = head_norms(name, gradient) / count
        gradient = gradient * (clip / length).clamp(max=1.0)
    return gradient + l2 * count * change if l2 else gradient


def shrink_heads(delta: Mapping[str, Tensor], by: float) -> None:
    """Group lasso's proximal step: Δ_h <- max(0, 1 - by / |Δ_h|) Δ_h, in place."""
    for name, value in delta.items():
        value.mul_((1 - by / head_norms(name, value).clamp(min=1e-30)).clamp(min=0.0))


def cut_rank(delta: Mapping[str, Tensor], rank: int) -> None:
    """Put each head's best approximation of rank `rank` in its place (Eckart and Young 1936).

    Biases have no rank and stay; so do heads whose rank cannot be above `rank`.
    """
    for name, value in delta.items():
        if ".b_" in name or min(value.shape[-2:]) <= rank:
            continue
        left, sizes, right = torch.linalg.svd(value, full_matrices=False)
        value.copy_(left[..., :rank] * sizes[..., None, :rank] @ right[..., :rank, :])


def smoothing_loss(
    host: Host, residual: Float[Tensor, "layer pos d_model"], sequence: TrainingSequence
) -> Float[Tensor, ""]:
    """What label smoothing adds a unit: sum of (wanted logit - mean logit) over predictions.

    -sum_v t_v log q_v is linear in the target t, so that (1 - e) onehot + e / V differs from the
    one-hot target's loss by e times this.
    """
    rows, wanted = _predictions(host, residual, sequence)
    linear = host.unembedding()
    if linear is None:
        logits = host.unembed(rows).float()
        return (logits.gather(-1, wanted[:, None])[:, 0] - logits.mean(-1)).sum()
    weight, bias = linear
    direction = weight[:, wanted].T.float() - weight.mean(1, dtype=torch.float32)
    total = (rows.float() * direction).sum()
    return total if bias is None else total + (bias[wanted].float() - bias.float().mean()).sum()


def drift_loss(
    host: Host,
    residual: Float[Tensor, "layer pos d_model"],
    before: Float[Tensor, "layer pos d_model"],
    sequence: TrainingSequence,
) -> Float[Tensor, ""]:
    """Sum over predictions of KL(p_before || p), each layer read through the logit lens."""
    log_p = host.unembed(_predictions(host, residual, sequence)[0]).float().log_softmax(-1)
    with torch.no_grad():
        rows = _predictions(host, before, sequence)[0]
        target = host.unembed(rows).float().log_softmax(-1)
    return torch.nn.functional.kl_div(log_p, target, reduction="sum", log_target=True)


def _predictions(
    host: Host, residual: Float[Tensor, "layer pos d_model"], sequence: TrainingSequence
) -> tuple[Float[Tensor, "row d_model"], Tensor]:
    host.unembedded += len(residual)
    first, last = sequence.targets[0] - 1, sequence.targets[-1]
    rows = host.final_norm(residual[:, first:last]).flatten(0, 1)
    tokens = [sequence.tokens[target] for target in sequence.targets]
    return rows, torch.tensor(tokens * len(residual), device=rows.device)


def unchanged_residuals(
    host: Host, delta: Mapping[str, Tensor], sequence: TrainingSequence
) -> Float[Tensor, "layer pos d_model"]:
    """What leaves each block of the model without `delta`, whose hooks are attached."""
    found: dict[int, Tensor] = {}

    def keep(layer: int, activation: Tensor, hook: Any) -> None:
        found[layer] = activation[0]

    hooks: list[Hook] = [
        (host.block_output_hook(layer), partial(keep, layer)) for layer in range(host.n_layers)
    ]
    with torch.no_grad():
        saved = {name: value.clone() for name, value in delta.items()}
        try:
            for value in delta.values():
                value.zero_()
            with host.hooked(hooks):
                host.run(host.tensor(sequence.tokens))
        finally:
            for name, value in delta.items():
                value.copy_(saved[name])
    return torch.stack([found[layer] for layer in range(host.n_layers)])


class PenalisedLoss:
    """A `lcgd.LayerLoss`: the language-model loss, smoothed, plus the drift from the model."""

    def __init__(self, smoothing: float, kl: float) -> None:
        self.smoothing, self.kl = smoothing, kl
        self.before: Tensor | None = None

    def __call__(
        self,
        host: Host,
        layers: Sequence[int],
        residual: Float[Tensor, "layer pos d_model"],
        sequence: TrainingSequence,
    ) -> Tensor:
        """See `lcgd.LayerLoss`."""
        loss = sequence_loss(host, residual, sequence)
        if self.smoothing:
            loss = loss + self.smoothing * smoothing_loss(host, residual, sequence)
        if self.before is not None:
            before = self.before[list(layers)]
            loss = loss + self.kl * drift_loss(host, residual, before, sequence)
        return loss
