"""Parts that several hypotheses share: labels, the order of training, gradients, ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iclgd_lens.contexts import label_words as label_words
from iclgd_lens.contexts import shown_of as shown_of
from iclgd_lens.delta import delta_hooks
from iclgd_lens.episode import Demonstrations, Episode, Tokens, TrainingSequence
from iclgd_lens.host import Hook, Host, frozen
from iclgd_lens.readout.batching import batches
from iclgd_lens.tokens import continued
from iclgd_lens.training.sgd import UpdateRule

_END_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536}
"""Tokens of a pass at most. On a CPU more of them leave its cache, and take longer."""
_END_PASS_TOKENS = {"cpu": 128, "cuda": 4096}
"""What a pass costs beside its tokens, in tokens (as in `readout`)."""


def auxiliary_of(
    demonstrations: Demonstrations | Episode, given: Sequence[Demonstrations | Episode] = ()
) -> tuple[Demonstrations, ...]:
    """Demonstrations of other tasks: those given, else those that the episode carries."""
    if given:
        return tuple(shown_of(other) for other in given)
    return demonstrations.auxiliary if isinstance(demonstrations, Episode) else ()


def training_order(shown: Demonstrations) -> list[int]:
    """Places in the prompt of the demonstrations in the order in which they are trained on."""
    if shown.protocol.order == "drawn" and shown.drawn:
        return list(shown.drawn)
    return list(range(len(shown)))


def gradients(
    rule: UpdateRule,
    host: Host,
    delta: Mapping[str, Tensor],
    sequences: Sequence[TrainingSequence],
) -> dict[str, Tensor]:
    """Sum over sequences of the gradient of each one's mean loss per token, at the change `delta`.

    What SGD of batch size 1 would step along, were the change the same at every step.
    """
    total: dict[str, Tensor] = {}
    leaves = {name: value.detach().requires_grad_(True) for name, value in delta.items()}
    with (
        frozen(host.model),
        torch.enable_grad(),
        host.hooked(delta_hooks(host, leaves), forced=False),
    ):
        for sequence in sequences:
            count = len(sequence.targets)

            def add(name: str, gradient: Tensor, count: int = count) -> None:
                if name in total:
                    total[name].add_(gradient, alpha=1 / count)
                else:
                    total[name] = gradient / count

            rule(host, leaves, sequence, add)
    return {name: total.get(name, torch.zeros_like(value)) for name, value in delta.items()}


def at_ends(
    host: Host, names: Iterable[str], rows: Sequence[Tokens], ends: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """What passes at some hook points at one token of each row; by name, "row *rest", fp32.

    Rows of unequal length share passes where the model can be padded: none of a row's own tokens
    sees the padding.

    Args:
        host: The model, which is frozen meanwhile.
        names: Hook points where tokens pass: "batch pos *rest".
        rows: Token ids.
        ends: Which token of each row; None for the last.
    """
    at = [len(row) - 1 for row in rows] if ends is None else list(ends)
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    order: list[int] = []
    with frozen(host.model), torch.no_grad():
        for places, tokens in padded(host, rows):
            wanted = host.tensor([at[place] for place in places])[0]
            hooks: list[Hook] = [
                (name, partial(_keep, kept, wanted)) for name, kept in found.items()
            ]
            with host.hooked(hooks):
                host.run(tokens, at=-1)
            order += places
        back = host.tensor(order)[0].argsort()
        return {name: torch.cat(kept)[back] for name, kept in found.items()}


def padded(
    host: Host, rows: Sequence[Tokens]
) -> Iterator[tuple[list[int], Int[Tensor, "row pos"]]]:
    """Rows in few passes: which rows, and their tokens, each continued with its own last one.

    Rows of unequal length share a pass where the model can be padded.
    """
    kind = host.device.type
    for places in batches(
        [len(row) for row in rows],
        tokens_at_once=_END_TOKENS_AT_ONCE.get(kind, _END_TOKENS_AT_ONCE["cpu"]),
        pass_tokens=_END_PASS_TOKENS.get(kind, _END_PASS_TOKENS["cpu"]) if host.can_pad else 0,
    ):
        yield list(places), host.tensor(continued([rows[place] for place in places]))


def _keep(kept: list[Tensor], wanted: Tensor, activation: Tensor, hook: Any) -> None:
    rows = torch.arange(len(wanted), device=activation.device)
    kept.append(activation[rows, wanted.to(activation.device)].float())
