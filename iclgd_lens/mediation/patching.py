"""What a query's label margin becomes where heads are replaced, or one alone sees the context.

Replaced: at the query's last token, everything before it read once; see `readout.patched_heads`.

Partial visibility: a query stands after the demonstrations, and one head alone sees them. What the
head does with them, and what later layers make of that, is left to run freely. It is held against a
query at the same place where no head sees a demonstration. Each head is a row of one batch, with
all tokens of the query: a head may work before the last token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.host import Hook, Host, Prefix
from iclgd_lens.intervention import hide
from iclgd_lens.mediation.margins import Margin, repeated_gold
from iclgd_lens.readout.patched_heads import PATCHED_TOKENS_AT_ONCE as PATCHED_TOKENS_AT_ONCE
from iclgd_lens.readout.patched_heads import LastToken, Patches, patched


def first_heads(
    ranking: Sequence[int], sizes: Sequence[int], shape: tuple[int, int]
) -> Bool[Tensor, "size layer head"]:
    """The first heads of a ranking of flat indices, one row per size."""
    found = torch.zeros(len(sizes), shape[0] * shape[1], dtype=torch.bool)
    for row, size in enumerate(sizes):
        found[row, list(ranking[:size])] = True
    return found.view(-1, *shape)


def patched_margins(
    host: Host,
    margin: Margin,
    at: LastToken,
    gold: int,
    patches: Patches,
    tokens_at_once: int = PATCHED_TOKENS_AT_ONCE,
) -> Float[Tensor, " row"]:
    """The label margin of one query with each row's heads replaced.

    Args:
        host: The model, frozen by the caller.
        margin: The label margin.
        at: The query, all but its last token read in the setting that is patched.
        gold: Its gold label.
        patches: The rows.
        tokens_at_once: Tokens of a pass at most.

    Raises:
        LensError: One row alone does not fit into memory.
    """

    def number(residual: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        return margin(residual, repeated_gold(host, gold, len(residual)))

    return patched(host, at, patches, number, tokens_at_once)


def visible_margins(
    host: Host, margin: Margin, episode: Episode, prefix: Prefix, query: int,
    heads: list[tuple[int, int]], tokens_at_once: int = PATCHED_TOKENS_AT_ONCE,
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
