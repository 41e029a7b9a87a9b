"""Exact interventions on heads: each is a row of one batch that runs a query's last token.

A head's output at the last token changes nothing before it, so everything before is read once and
shared by all rows; a row differs from the others in the heads whose outputs are replaced. A map of
L layers and H heads takes L x H last-token passes per query and no more.

Memory: a pass holds at most `TOKENS_AT_ONCE` tokens, keys and values that its rows share counted
for each row (attention copies one layer's of them at a time). Where even that does not fit, halves
are tried.

Partial visibility: a query stands after the demonstrations, and one head alone sees them. What the
head does with them, and what later layers make of that, is left to run freely. It is held against a
query at the same place where no head sees a demonstration. Each head is a row of one batch, with
all tokens of the query: a head may work before the last token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.errors import LensError
from iclgd_lens.host import Hook, Host, Prefix, head_values
from iclgd_lens.intervention import hide
from iclgd_lens.mediation.margins import LastToken, Margin, repeated_gold
from iclgd_lens.readout.batching import memory_limited

TOKENS_AT_ONCE = 8192
"""Tokens of a pass at most, those that its rows share counted for each of them."""


@dataclass(frozen=True)
class Patches:
    """What each row replaces.

    Attributes:
        heads: Which heads' outputs at the last token are replaced.
        source: Which of `values` they are replaced by.
        values: Head outputs z of one query, in several settings.
    """

    heads: Bool[Tensor, "row layer head"]
    source: Int[Tensor, " row"]
    values: Float[Tensor, "source layer head d_head"]

    def __len__(self) -> int:
        return len(self.heads)

    def rows(self, start: int, stop: int) -> Patches:
        """Some of the rows."""
        return Patches(self.heads[start:stop], self.source[start:stop], self.values)

    def hooks(self, host: Host) -> list[Hook]:
        """One hook for each layer in which some row replaces a head."""
        found: list[Hook] = []
        for layer in self.heads.any(-1).any(0).nonzero()[:, 0].tolist():
            row, head = self.heads[:, layer].nonzero(as_tuple=True)
            values = self.values[self.source[row], layer, head]
            found.append((host.z_hook(layer), partial(_put, host.n_heads, row, head, values)))
        return found


def _put(
    n_heads: int, row: Tensor, head: Tensor, values: Tensor, activation: Tensor, hook: Any
) -> Tensor:
    changed = activation.clone(memory_format=torch.contiguous_format)
    # A view of the copy, which is contiguous: the copy itself is written to.
    head_values(changed, n_heads)[row, -1, head] = values.to(activation.dtype)
    return changed


def first_heads(
    ranking: Sequence[int], sizes: Sequence[int], shape: tuple[int, int]
) -> Bool[Tensor, "size layer head"]:
    """The first heads of a ranking of flat indices, one row per size."""
    found = torch.zeros(len(sizes), shape[0] * shape[1], dtype=torch.bool)
    for row, size in enumerate(sizes):
        found[row, list(ranking[:size])] = True
    return found.view(-1, *shape)


def single_heads(
    which: Sequence[tuple[int, int]], shape: tuple[int, int], device: torch.device
) -> Bool[Tensor, "row layer head"]:
    """One row per head."""
    found = torch.zeros(len(which), *shape, dtype=torch.bool, device=device)
    for row, (layer, head) in enumerate(which):
        found[row, layer, head] = True
    return found


def patched_margins(
    host: Host,
    margin: Margin,
    at: LastToken,
    patches: Patches,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> Float[Tensor, " row"]:
    """The label margin of one query with each row's heads replaced.

    Args:
        host: The model, frozen by the caller.
        margin: The label margin.
        at: The query, all but its last token read in the setting that is patched.
        patches: The rows.
        tokens_at_once: Tokens of a pass at most.

    Raises:
        LensError: One row alone does not fit into memory.
    """
    found: list[Tensor] = []
    step, start = max(1, tokens_at_once // at.length), 0
    while start < len(patches):
        rows = patches.rows(start, start + step)
        with memory_limited() as outcome:
            found.append(_margins(host, margin, at, rows))
            start += step
        if outcome.failed:
            if step == 1:
                raise LensError("One row alone does not fit into memory; use fewer shots.")
            step //= 2
    return torch.cat(found)


def _margins(host: Host, margin: Margin, at: LastToken, rows: Patches) -> Tensor:
    tokens = host.tensor([[at.token]] * len(rows))
    shared = None if at.prefix is None else at.prefix.expand(len(rows))
    with host.hooked(rows.hooks(host)):
        residual = host.run(tokens, shared).residual[:, -1]
    return margin(residual, repeated_gold(host, at.gold, len(rows)))


def visible_margins(
    host: Host, margin: Margin, episode: Episode, prefix: Prefix, query: int,
    heads: list[tuple[int, int]], tokens_at_once: int = TOKENS_AT_ONCE,
) -> Float[Tensor, " row"]:  # fmt: skip
    """The label margin where no head sees the demonstrations, then where each head alone does.

    Args:
        host: The model, frozen by the caller.
        margin: The label margin.
        episode: The queries.
        prefix: Keys and values of BOS and demonstrations.
        query: Which query.
        heads: Which heads.
        tokens_at_once: Tokens of a pass at most, the prefix counted for each row.

    Raises:
        HookError: The model's scores cannot be changed.
    """
    asked = episode.queries[query]
    # BOS stays in sight: it is not a demonstration.
    later = torch.arange(prefix.length, device=host.device) >= int(
        episode.demonstrations.bos is not None
    )
    rows: list[tuple[int, int] | None] = [None, *heads]
    step = max(1, tokens_at_once // (prefix.length + len(asked.content)))
    found: list[Tensor] = []
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        seeing = torch.zeros(
            len(part), host.n_layers, host.n_heads, dtype=torch.bool, device=host.device
        )
        for row, place in enumerate(part):
            if place is not None:
                seeing[row, place[0], place[1]] = True
        hooks: list[Hook] = [
            hide(host, layer, ~seeing[:, layer, :, None] & later) for layer in range(host.n_layers)
        ]
        tokens = host.tensor([asked.content] * len(part))
        with host.hooked(hooks):
            residual = host.run(tokens, prefix.expand(len(part)), at=-1).residual[:, 0]
        found.append(margin(residual, repeated_gold(host, asked.gold, len(part))))
    return torch.cat(found)
