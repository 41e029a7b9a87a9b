"""What passes at the end of some rows of tokens, each read by itself, in few passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from iclgd_lens.batching import batches
from iclgd_lens.episode import Tokens
from iclgd_lens.host import Hook, Host, frozen
from iclgd_lens.tokens import continued

_TOKENS_AT_ONCE = {"cpu": 2048, "cuda": 65536}
"""Tokens of a pass at most. On a CPU more of them leave its cache, and take longer."""
_PASS_TOKENS = {"cpu": 128, "cuda": 4096}
"""What a pass costs beside its tokens, in tokens (as in `readout`)."""


def at_ends(
    host: Host, names: Iterable[str], rows: Sequence[Tokens], ends: Sequence[int] | None = None
) -> dict[str, Tensor]:
    """What passes at some hook points at one token of each row; by name, "row *rest", fp32.

    Rows of unequal length share passes where the model can be padded: what continues a row is seen
    by none of its own tokens.

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
                host.run(tokens)
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
        tokens_at_once=_TOKENS_AT_ONCE.get(kind, _TOKENS_AT_ONCE["cpu"]),
        pass_tokens=_PASS_TOKENS.get(kind, _PASS_TOKENS["cpu"]) if host.can_pad else 0,
    ):
        yield list(places), host.tensor(continued([rows[place] for place in places]))


def _keep(kept: list[Tensor], wanted: Tensor, activation: Tensor, hook: Any) -> None:
    rows = torch.arange(len(wanted), device=activation.device)
    kept.append(activation[rows, wanted.to(activation.device)].float())
