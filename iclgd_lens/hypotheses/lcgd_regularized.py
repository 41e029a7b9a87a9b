"""LCGD held back: small, low-rank, clipped, near the model, smoothed, sparse or stopped.

If in-context learning is a cautious learner, a regularised update should be nearer to it than a
plain one. Every setting is off by default, and LCGD to the bit where it is off.

    l2 λ         Δ <- (1 - η λ) Δ - η g. The first step is LCGD's; where g is constant, Δ ends at
                 -g / λ
    rank r       after each epoch, each head's ΔW becomes its best approximation of rank r (SVD);
                 r >= d_head is LCGD
    clip c       each head's mean gradient is at most c long; infinity is LCGD
    kl κ         loss + κ Σ KL(p_0 || p_Δ) over the predicted tokens, layer by layer through the
                 logit lens; its gradient is 0 at Δ = 0, so the first step is LCGD's
    smoothing ε  the target is (1 - ε) onehot(y) + ε / V
    group τ      group lasso over heads, after each step: Δ_h <- max(0, 1 - η τ / |Δ_h|) Δ_h
    early_stop   epochs, from 1 to the given number, by the label loss of left-out demonstrations

Limits: each setting at its default (λ = κ = ε = τ = 0, no rank, c = ∞) is LCGD to the bit.

Suggested grids: λ .01, .1, 1; r 1, 2, 4; κ .1, 1. Layer-causal whatever is on, except for
`early_stop`, whose choice of one number reads the model's own output.

Source: this package; Eckart and Young 1936 (rank), Yuan and Lin 2006 (group lasso).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.host import Hook, Host, as_host
from iclgd_lens.hypotheses.common import shown_of
from iclgd_lens.hypotheses.companions import above
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.learning_rates import head_norms
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.training.folds import folds_in_turn
from iclgd_lens.training.label_losses import label_losses
from iclgd_lens.training.sgd import Learn, train


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
    """What label smoothing adds per unit: sum of (wanted logit - mean logit) over predictions.

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


NAME = "lcgd_regularized"
STOPPING_FOLDS = 4


@hypothesis(
    NAME,
    description="LCGD held back: L2, rank, clipping, KL, smoothing, group lasso, early stop",
    rows=layer_step,
    source="LCGD (Deutch et al. 2024) with standard regularisers",
    only_with={
        "early_stop": {"epochs": above(1)},
    },
)
def lcgd_regularized(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    l2: float = 0.0,
    rank: int | None = None,
    clip: float = math.inf,
    kl: float = 0.0,
    smoothing: float = 0.0,
    group: float = 0.0,
    early_stop: bool = False,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of regularised layer-causal gradient descent.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        l2: Share of the change, times the rate, that each step takes away.
        rank: Rank of each head's change after an epoch; None for no limit, as is any rank of at
            least the model's d_head.
        clip: The greatest length of each head's gradient; inf for no limit.
        kl: Weight of the divergence from the unchanged model; costs a second forward pass.
        smoothing: Share of the target that is spread over the vocabulary.
        group: How far each head's change shrinks per step, in units of the rate.
        early_stop: Whether left-out demonstrations choose the number of epochs, at most `epochs`;
            needs at least two demonstrations.
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
    host, shown = as_host(model), shown_of(demonstrations)
    for name, value in (("l2", l2), ("kl", kl), ("group", group)):
        between(NAME, name, value, 0)
    between(NAME, "smoothing", smoothing, 0, 1)
    between(NAME, "clip", clip, 0, above=True)
    if rank is not None:
        between(NAME, "rank", rank, 1)
    loss = PenalisedLoss(smoothing, kl)
    rate = lr if lr is not None else shown.learning_rate or 0.0

    def trained(
        on: Demonstrations, passes: int, watched: Demonstrations | None, curve: list[float]
    ) -> ParameterDelta:
        steps = max(1, -(-len(on) // max(batch_size, 1)))

        def after_step(delta: Mapping[str, Tensor], done: int) -> None:
            if group:
                shrink_heads(delta, rate * group)
            if done % steps == 0 and rank is not None:
                cut_rank(delta, rank)
            if done % steps == 0 and watched is not None:  # the delta's hooks are attached
                curve.append(float(label_losses(host, watched, Intervention()).mean()))

        return train(
            partial(_step, loss),
            NAME,
            host,
            on,
            lr=lr,
            epochs=passes,
            batch_size=batch_size,
            loss_on=loss_on,
            weights=weights,
            layers=layers,
            transform=partial(decayed_and_clipped, l2, clip),
            after_step=after_step,
        )

    curve: list[float] = []
    if early_stop and epochs > 1:
        pairs = folds_in_turn(NAME, shown, STOPPING_FOLDS)
        curves: list[list[float]] = [[] for _ in pairs]
        for (rest, left_out), losses in zip(pairs, curves, strict=True):
            trained(rest, epochs, left_out, losses)
        curve = [sum(losses) / len(losses) for losses in zip(*curves, strict=True)]
        epochs = 1 + curve.index(min(curve))
    delta = trained(shown, epochs, None, [])
    delta.metadata |= {"l2": l2, "kl": kl, "smoothing": smoothing, "group": group}
    delta.metadata |= {"rank": rank, "clip": None if math.isinf(clip) else clip}
    delta.metadata |= {"early_stop": early_stop, "left_out_loss": curve}
    return delta


def _step(
    loss: PenalisedLoss,
    host: Host,
    delta: Mapping[str, Tensor],
    sequence: TrainingSequence,
    learn: Learn,
) -> Tensor:
    loss.before = unchanged_residuals(host, delta, sequence) if loss.kl else None
    return layer_step(host, delta, sequence, learn, loss)
