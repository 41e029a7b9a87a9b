r"""LCGD held back: small, low-rank, clipped, near the model, smoothed, sparse or stopped.

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

Suggested grids: λ .01, .1, 1; r 1, 2, 4; κ .1, 1. Layer-causal whatever is on, but for
`early_stop`, whose choice of one number reads the model's own output.

Source: this package; Eckart and Young 1936 (rank), Yuan and Lin 2006 (group lasso).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.parts import folds, label_losses, shown_of
from iclgd_lens.hypotheses.penalties import (
    PenalisedLoss,
    cut_rank,
    decayed_and_clipped,
    shrink_heads,
    unchanged_residuals,
)
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.hypotheses.settings import between
from iclgd_lens.hypotheses.sgd import Learn, train
from iclgd_lens.intervention import Intervention

NAME = "lcgd_regularized"
FOLDS = 4


@hypothesis(
    NAME,
    description="LCGD held back: L2, rank, clipping, KL, smoothing, group lasso, early stop",
    rows=layer_step,
    source="LCGD (Deutch et al. 2024) with standard regularisers",
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
        rank: Rank of each head's change after an epoch; None for no limit.
        clip: Length of each head's gradient at most; inf for no limit.
        kl: Weight of the divergence from the unchanged model; costs a second forward pass.
        smoothing: Share of the target that is spread over the vocabulary.
        group: How far each head's change shrinks a step, in units of the rate.
        early_stop: Whether left-out demonstrations choose the number of epochs, at most `epochs`;
            needs at least two demonstrations.
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
        pairs = folds(NAME, shown, FOLDS)
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
