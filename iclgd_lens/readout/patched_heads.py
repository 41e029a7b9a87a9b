"""Exact interventions on heads: each is a row of one batch that runs a prompt's last token.

A head's output at the last token changes nothing before it, so everything before is read once and
shared by all rows; a row differs from the others in the heads whose outputs are replaced. All of L
layers and H heads, one at a time, take L x H last-token passes a prompt and no more.

Memory: a pass holds at most `PATCHED_TOKENS_AT_ONCE` tokens, keys and values that its rows share
counted for each row (attention copies one layer's of them at a time). Where even that does not fit,
halves are tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclgd_lens.errors import LensError
from iclgd_lens.host import Hook, Host, Prefix, head_values
from iclgd_lens.readout.batching import memory_limited

PATCHED_TOKENS_AT_ONCE = 8192
"""Tokens of a pass at most, those that its rows share counted for each of them."""


@dataclass(frozen=True)
class LastToken:
    """The last token of a prompt, all before it read already.

    Attributes:
        token: The last token.
        prefix: Keys and values of everything before it, as one row; None where it is alone.
    """

    token: int
    prefix: Prefix | None

    @property
    def length(self) -> int:
        """Tokens that a row of it attends to."""
        return 1 + (0 if self.prefix is None else self.prefix.length)


def last_token(host: Host, prefix: Prefix | None, content: Sequence[int]) -> LastToken:
    """Read all of a content but its last token after `prefix`, on a model that is frozen."""
    before = prefix
    if len(content) > 1:
        before = host.prefix(host.tensor(content[:-1]), prefix)
    return LastToken(content[-1], before)


@dataclass(frozen=True)
class Patches:
    """What each row replaces.

    Attributes:
        heads: Which heads' outputs at the last token are replaced.
        source: Which of `values` they are replaced by.
        values: Head outputs z of one prompt, in several settings.
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


def single_heads(
    which: Sequence[tuple[int, int]], shape: tuple[int, int], device: torch.device
) -> Bool[Tensor, "row layer head"]:
    """One row a head."""
    found = torch.zeros(len(which), *shape, dtype=torch.bool, device=device)
    for row, (layer, head) in enumerate(which):
        found[row, layer, head] = True
    return found


def patched(
    host: Host,
    at: LastToken,
    patches: Patches,
    number: Callable[[Float[Tensor, "row d_model"]], Float[Tensor, " row"]],
    tokens_at_once: int = PATCHED_TOKENS_AT_ONCE,
) -> Float[Tensor, " row"]:
    """A number of one prompt with each row's heads replaced.

    Args:
        host: The model, frozen by the caller.
        at: The prompt, all but its last token read in the setting that is patched.
        patches: The rows.
        number: Of the residual stream after the last block, a number a row.
        tokens_at_once: Tokens of a pass at most.

    Raises:
        LensError: One row alone does not fit into memory.
    """
    found: list[Tensor] = []
    step, start = max(1, tokens_at_once // at.length), 0
    while start < len(patches):
        rows = patches.rows(start, start + step)
        with memory_limited() as outcome:
            found.append(number(_residual(host, at, rows)))
            start += step
        if outcome.failed:
            if len(rows) == 1:
                raise LensError("One row alone does not fit into memory; use fewer shots.")
            step = len(rows) // 2
    return torch.cat(found)


def _residual(host: Host, at: LastToken, rows: Patches) -> Float[Tensor, "row d_model"]:
    tokens = host.tensor([[at.token]] * len(rows))
    shared = None if at.prefix is None else at.prefix.expand(len(rows))
    with host.hooked(rows.hooks(host)):
        return host.run(tokens, shared).residual[:, -1]
