"""The language-model loss of a sequence, and its gradient without a second pass over the logits."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import TrainingSequence
from iclgd_lens.host import Host


def sequence_loss(
    host: Host, residual: Float[Tensor, "batch pos d_model"], sequence: TrainingSequence
) -> Float[Tensor, ""]:
    """Sum, in nats, of -log p(token) over the sequence's targets, read from a residual stream.

    The residual may be any block's: final norm and unembedding are shared (the logit lens).
    Computed in fp32 whatever the model's dtype. Only predicting positions are unembedded.
    """
    first, last = sequence.targets[0] - 1, sequence.targets[-1]
    normalized = host.final_norm(residual[:, first:last])[0]
    targets = torch.tensor(
        [sequence.tokens[target] for target in sequence.targets], device=normalized.device
    )
    linear = host.unembedding()
    if linear is None:
        logits = host.unembed(normalized[None])[0].float()
        return torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    return _LinearLoss.apply(normalized, linear[0], linear[1], targets)


class _LinearLoss(torch.autograd.Function):
    """Cross-entropy through a frozen linear unembedding.

    Forward already holds the softmax, so the gradient (softmax minus one-hot, times W_U^T) is taken
    there, in the logits' own memory: one row of logits a token, and nothing of that size is kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        normalized: Float[Tensor, "pos d_model"],
        weight: Float[Tensor, "d_model d_vocab"],
        bias: Float[Tensor, " d_vocab"] | None,
        targets: Int[Tensor, " pos"],
    ) -> Float[Tensor, ""]:
        logits = normalized @ weight if bias is None else torch.addmm(bias, normalized, weight)
        logits = logits.float()
        places = torch.arange(len(targets), device=targets.device)
        total = logits.logsumexp(-1, keepdim=True)
        loss = (total[:, 0] - logits[places, targets]).sum()
        if ctx.needs_input_grad[0]:
            logits.sub_(total).exp_()
            logits[places, targets] -= 1
            ctx.save_for_backward(logits.to(weight.dtype) @ weight.T)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (change,) = ctx.saved_tensors
        return change * gradient.to(change.dtype), None, None, None
