"""The language-model loss of a sequence, and its gradient without a second pass over the logits."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import TrainingSequence
from iclgd_lens.host import Host

_ROWS_AT_ONCE = 8
"""Rows of logits whose softmax is taken together on a CPU: they stay in its cache (1.6 MB with
GPT-2's vocabulary), so that main memory is passed once."""


def sequence_loss(
    host: Host, residual: Float[Tensor, "layer pos d_model"], sequence: TrainingSequence
) -> Float[Tensor, ""]:
    """Sum, in nats, of -log p(token) over layers and the sequence's targets, from residual streams.

    The residual may be any block's, or several blocks' together: final norm and unembedding are
    shared (the logit lens). Computed in fp32 whatever the model's dtype. Only predicting positions
    are unembedded.
    """
    first, last = sequence.targets[0] - 1, sequence.targets[-1]
    normalized = host.final_norm(residual[:, first:last]).flatten(0, 1)
    wanted = [sequence.tokens[target] for target in sequence.targets]
    targets = torch.tensor(wanted * len(residual), device=normalized.device)
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
        loss = torch.zeros((), dtype=torch.float32, device=logits.device)
        at_once = _ROWS_AT_ONCE if logits.device.type == "cpu" else len(logits)
        for rows, wanted in zip(
            logits.split(at_once), targets[:, None].split(at_once), strict=True
        ):
            log_p = rows.float().log_softmax(-1)
            loss -= log_p.gather(-1, wanted).sum()
            if ctx.needs_input_grad[0]:
                p = log_p.exp_()
                p.scatter_add_(-1, wanted, -torch.ones_like(wanted, dtype=p.dtype))
                rows.copy_(p)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(logits @ weight.T)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (change,) = ctx.saved_tensors
        return change * gradient.to(change.dtype), None, None, None
