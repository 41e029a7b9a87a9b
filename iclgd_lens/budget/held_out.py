"""Demonstrations left out of training, and how well an update labels them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.budget.training_rows import Training
from iclgd_lens.demonstrations import part
from iclgd_lens.episode import FOREIGN, Demonstrations, TrainingSequence
from iclgd_lens.errors import LensError
from iclgd_lens.host import Host, as_host, frozen
from iclgd_lens.intervention import Intervention, hooks_of
from iclgd_lens.readout.reader import demonstration_batch
from iclgd_lens.tokens import continued

FOLDS = 2
LEFT_OUT = 0.25
"""Share of the demonstrations that a fold leaves out (at least one)."""
TOKENS_AT_ONCE = 2048
"""Tokens of left-out demonstrations that are read together at most; one sequence always is."""


@dataclass(frozen=True)
class Fold:
    """Some demonstrations to learn from, the others to be asked."""

    train: Demonstrations
    left_out: Demonstrations


def make_folds(shown: Demonstrations, count: int = FOLDS, share: float = LEFT_OUT) -> list[Fold]:
    """Folds of the demonstrations, the left-out ones balanced over labels as far as possible.

    Which are left out follows the order in which they were drawn, so every permutation of a draw
    leaves out the same. Both parts stay in prompt order.

    Raises:
        LensError: Fewer than two demonstrations, or they are another task's.
    """
    size = len(shown)
    if size < 2:
        raise LensError(f"Choosing a budget needs at least 2 demonstrations, not {size}.")
    if any(example.gold == FOREIGN for example in shown.examples):
        raise LensError("Demonstrations of another task cannot choose this task's budget.")
    drawn = list(shown.drawn or range(size))
    queues: dict[int, list[int]] = {}
    for place in drawn:
        queues.setdefault(shown.examples[place].gold, []).append(place)
    dealt: list[int] = []  # by turns from each label, the last drawn first
    while any(queues.values()):
        dealt += [queue.pop() for queue in queues.values() if queue]
    out = min(size - 1, max(1, round(size * share)))
    found: list[Fold] = []
    for fold in range(min(count, size // out)):
        left = set(dealt[fold * out : (fold + 1) * out])
        found.append(Fold(part(shown, set(range(size)) - left), part(shown, left)))
    return found


def held_out_losses(
    model: Any, intervention: Intervention, left_out: Demonstrations
) -> list[float]:
    """Label negative log-likelihood, in nats per label word, of each demonstration read alone."""
    host = as_host(model)
    prefix = intervention.prefix(host)
    found: list[float] = []
    with frozen(host.model), torch.no_grad():
        for sequence in left_out.sequences("label"):
            whole = host.tensor(sequence.tokens)
            head = int(prefix is not None and left_out.bos is not None)
            tokens = whole[:, head:]
            batch = demonstration_batch(host, [sequence.label_start - head], tokens)
            with host.hooked(hooks_of(intervention, host, batch), forced=False):
                residual = host.run(tokens, prefix).residual
            start = sequence.label_start - head
            found.append(float(_label_nll(host, residual, tokens, start)[0]))
    return found


def row_losses(
    host: Host, training: Training, left_out: Sequence[Demonstrations]
) -> Float[Tensor, "left_out row"]:
    """The same for all rows of a training: each set is asked its own left-out demonstrations.

    Sequences are read together, the shorter ones continued at their end, where a model allows it.

    Args:
        host: The model.
        training: Its rows, set by set.
        left_out: Left-out demonstrations of each set of rows, equally many.

    Returns:
        Losses of the first set's left-out demonstrations by row, then of the next one's.
    """
    sets = [each.sequences("label") for each in left_out]
    longest = max(len(sequence.tokens) for own in sets for sequence in own)
    step = max(1, TOKENS_AT_ONCE // (longest * training.rows)) if host.can_pad else 1
    found: list[Tensor] = []
    with frozen(host.model), torch.no_grad(), host.hooked(training.hooks(), forced=False):
        for start in range(0, len(sets[0]), step):
            some = [own[start : start + step] for own in sets]
            found.append(_losses_together(host, training.rows // len(sets), some))
    losses = torch.cat(found, dim=1).flatten(0, 1)
    return torch.where(losses.isfinite(), losses, math.inf).cpu()


def _losses_together(
    host: Host, rows: int, sets: Sequence[Sequence[TrainingSequence]]
) -> Float[Tensor, "set sequence row"]:
    """Label losses of several sequences in one pass, those of a set read by each of its rows."""
    every = [each.tokens for own in sets for each in [*own] * rows]
    residual = host.run(host.tensor(continued(every))).residual
    residual = residual.unflatten(0, (len(sets), rows, -1))
    found: list[Tensor] = []
    for place, own in enumerate(sets):
        for index, each in enumerate(own):
            tokens = host.tensor(each.tokens).expand(rows, -1)
            read = residual[place, :, index, : tokens.shape[1]]
            found.append(_label_nll(host, read, tokens, each.label_start))
    return torch.stack(found).unflatten(0, (len(sets), -1))


def _label_nll(
    host: Host, residual: Float[Tensor, "row pos d_model"], tokens: Tensor, start: int
) -> Float[Tensor, " row"]:
    logits = host.logits(residual[:, start - 1 : -1]).float()
    wanted = tokens[:, start:, None]
    return -logits.log_softmax(-1).gather(-1, wanted)[..., 0].sum(-1)
