"""The language-model loss of a sequence, and its gradient without a second pass over the logits."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import TrainingSequence
from iclgd_lens.host import Host

_COLUMNS_AT_ONCE = {"cpu": 4096, "cuda": 65536}
"""How many tokens of the vocabulary have their logits in memory at a time. On a CPU those of a few
hundred rows stay in its cache, and each weight is read from main memory once for both products."""


def sequence_loss(
    host: Host, residual: Float[Tensor, "layer pos d_model"], sequence: TrainingSequence
) -> Float[Tensor, ""]:
    """Sum, in nats, of -log p(token) over layers and the sequence's targets, from residual streams.

    The residual may be any block's, or several blocks' together: final norm and unembedding are
    shared (the logit lens). Computed in fp32 whatever the model's dtype. Only predicting positions
    are unembedded. Where each row has one target, the residual may hold the token before it alone.
    """
    host.unembedded += len(residual)
    wanted = sequence.wanted  # of every row, once for each block whose residual is given
    if residual.shape[1] == 1:
        predicting = residual
    elif sequence.others:
        rows, places = sequence.places
        by_block = residual.unflatten(0, (-1, len(sequence.counts)))
        predicting = by_block[:, rows, [place - 1 for place in places]]
    else:
        predicting = residual[:, sequence.targets[0] - 1 : sequence.targets[-1]]
    normalized = host.final_norm(predicting).flatten(0, 1)
    targets = torch.tensor(wanted * (len(normalized) // len(wanted)), device=normalized.device)
    linear = host.unembedding()
    if linear is None:
        logits = host.unembed(normalized[None])[0].float()
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return _LinearLoss.apply(normalized, linear[0], linear[1], targets)


class _LinearLoss(torch.autograd.Function):
    """Cross-entropy through a frozen linear unembedding, a part of the vocabulary at a time.

    With e_v = exp(logit of v) and t the target, the loss is log(1 + sum over v != t of e_v / e_t)
    and its gradient sum over v != t of p_v (W_v - W_t). Both are summed in one pass, without the
    target: where the target is nearly certain, softmax minus one would lose every digit. The steps:
    exponentials are taken beside the largest logit so far, and what was summed is scaled down when
    a larger one comes. All logits are never in memory, and nothing is kept for the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        normalized: Float[Tensor, "pos d_model"],
        weight: Float[Tensor, "d_model d_vocab"],
        bias: Float[Tensor, " d_vocab"] | None,
        targets: Int[Tensor, " pos"],
    ) -> Float[Tensor, ""]:
        own = weight[:, targets].T.float()
        wanted = (normalized.double() * own).sum(-1, keepdim=True).float()
        if bias is not None:
            wanted += bias[targets, None].float()
        wants_gradient = ctx.needs_input_grad[0]
        largest, others = wanted, torch.zeros_like(wanted)
        change = torch.zeros_like(normalized, dtype=torch.float32)
        step = _COLUMNS_AT_ONCE.get(weight.device.type, _COLUMNS_AT_ONCE["cpu"])
        for start in range(0, weight.shape[1], step):
            columns = weight[:, start : start + step]
            logits = (normalized @ columns).float()
            if bias is not None:
                logits += bias[start : start + step]
            _hide(logits, targets - start)
            previous, largest = largest, torch.maximum(largest, logits.amax(-1, keepdim=True))
            shrink = (previous - largest).exp_()
            exponentials = logits.sub_(largest).exp_()
            others.mul_(shrink).add_(exponentials.sum(-1, keepdim=True))
            if wants_gradient:
                change.mul_(shrink)
                if columns.dtype == torch.float32:
                    change.addmm_(exponentials, columns.T)
                else:
                    change += exponentials.to(columns.dtype) @ columns.T
        total = (wanted - largest).exp() + others
        if wants_gradient:
            change.sub_(own.mul_(others)).div_(total)
            ctx.save_for_backward(change.to(normalized.dtype))
        certain = torch.log1p(others)  # where the target has the largest logit
        return torch.where(wanted == largest, certain, largest - wanted + total.log()).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (change,) = ctx.saved_tensors
        return change * gradient.to(change.dtype), None, None, None


def _hide(logits: Float[Tensor, "pos part"], places: Int[Tensor, " pos"]) -> None:
    """Put minus infinity at each row's place, where that lies in this part."""
    width = logits.shape[1]
    inside = ((places >= 0) & (places < width))[:, None]
    at = places.clamp(0, width - 1)[:, None]
    logits.scatter_(1, at, logits.gather(1, at).masked_fill(inside, -torch.inf))
