"""How well many updates at once label demonstrations that were left out of their training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.budget.training_rows import Training
from iclgd_lens.demonstrations import Demonstration, Demonstrations
from iclgd_lens.host import Host, frozen
from iclgd_lens.tokens import Tokens, continued
from iclgd_lens.training.label_losses import word_losses

LEFT_OUT_TOKENS_AT_ONCE = 2048
"""Tokens of left-out demonstrations that are read together at most; one sequence always is."""


def row_losses(
    host: Host, training: Training, left_out: Sequence[Demonstrations]
) -> Float[Tensor, "left_out row"]:
    """`label_losses` a label word, of every row of a training: of each set its own demonstrations.

    Sequences are read together, the shorter ones continued at their end, where a model allows it.

    Args:
        host: The model.
        training: Its rows, set by set.
        left_out: Left-out demonstrations of each set of rows, equally many.

    Returns:
        Losses of the first set's left-out demonstrations by row, then of the next one's.
    """
    sets = [each.examples for each in left_out]
    bos = left_out[0].bos
    head = () if bos is None else (bos,)
    longest = len(head) + max(len(example.tokens) for own in sets for example in own)
    step = max(1, LEFT_OUT_TOKENS_AT_ONCE // (longest * training.rows)) if host.can_pad else 1
    found: list[Tensor] = []
    with frozen(host.model), torch.no_grad(), host.hooked(training.hooks(), forced=False):
        for start in range(0, len(sets[0]), step):
            some = [own[start : start + step] for own in sets]
            found.append(_losses_together(host, training.rows // len(sets), some, head))
    losses = torch.cat(found, dim=1).flatten(0, 1)
    return torch.where(losses.isfinite(), losses, math.inf).cpu()


def _losses_together(
    host: Host, rows: int, sets: Sequence[Sequence[Demonstration]], head: Tokens
) -> Float[Tensor, "set demonstration row"]:
    """Losses of several demonstrations in one pass, those of a set read by each of its rows."""
    every = [each for own in sets for each in [*own] * rows]
    tokens = host.tensor(continued([head + each.tokens for each in every]))
    starts = [len(head) + len(each.content) for each in every]
    losses = word_losses(host, tokens, starts, [each.label for each in every])
    return losses.unflatten(0, (len(sets), rows, -1)).transpose(1, 2)
