"""Keeps what passes at readout tokens while a `Reader` reads rows as it reads queries."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.host import Hook, Host, Prefix
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention, hooks_of
from iclgd_lens.masking import hide

Others = list[tuple[int, tuple[int, int]]]
"""Demonstrations of a context by place, and where they stand in its prefix."""


class Recorder(Intervention):
    """Keeps what passes at the readout token of each row, and changes nothing by itself.

    Args:
        rows: Rows in all; a row's place is its `Batch.queries`.
        names: Hook points whose values are kept.
        prefix: Keys and values that every row sees.
        others: Demonstrations of the prefix whose share of attention is kept; None for none.
        change: An intervention under which the rows are read.
    """

    def __init__(
        self,
        rows: int,
        names: Iterable[str],
        *,
        prefix: Prefix | None = None,
        others: Others | None = None,
        change: Intervention | None = None,
    ) -> None:
        self.values: dict[str, Tensor] = {}
        self._rows, self._names, self._prefix = rows, tuple(dict.fromkeys(names)), prefix
        self._others, self._change = others, change
        self._attention: dict[int, Tensor] = {}

    def prefix(self, host: Host) -> Prefix | None:
        """The prefix that was given."""
        return self._prefix

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """Those of the change, then the ones that keep."""
        found = [] if self._change is None else hooks_of(self._change, host, batch)
        if not batch.reads:
            return found
        found += [(name, partial(self._keep, batch, name)) for name in self._names]
        if self._others is not None:
            found += [
                (f"blocks.{layer}.attn.hook_pattern", partial(self._attend, batch, layer))
                for layer in range(host.n_layers)
            ]
        return found

    def attention(
        self, host: Host, demonstrations: int
    ) -> Float[Tensor, "row layer head demonstration"]:
        """Attention to each demonstration, by place."""
        shares = torch.zeros(self._rows, host.n_layers, host.n_heads, demonstrations)
        shares = shares.to(host.device)
        for layer, weights in self._attention.items():
            for place, (start, end) in self._others or ():
                shares[:, layer, :, place] = weights[..., start:end].sum(-1)
        return shares

    def _keep(self, batch: Batch, name: str, activation: Tensor, hook: Any) -> None:
        self._store(self.values, name, batch, batch.at_readout(activation).float())

    def _attend(self, batch: Batch, layer: int, pattern: Tensor, hook: Any) -> None:
        assert self._prefix is not None
        weights = batch.at_readout(pattern.transpose(1, 2))[..., : self._prefix.length]
        self._store(self._attention, layer, batch, weights.float())

    def _store(self, into: dict[Any, Tensor], key: Any, batch: Batch, value: Tensor) -> None:
        if key not in into:
            into[key] = torch.zeros(self._rows, *value.shape[1:], device=value.device)
        rows = torch.arange(len(value)) if batch.queries is None else batch.queries
        into[key][rows] = value


class Hidden(Intervention):
    """Hides from each row some tokens of the prefix, in every head.

    Args:
        hidden: Which of the prefix's tokens, by the row's `Batch.queries`.
    """

    def __init__(self, hidden: Bool[Tensor, "place head key"]) -> None:
        self.hidden = hidden

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """One hook a layer."""
        assert batch.queries is not None
        rows = self.hidden[batch.queries]
        return [hide(host, layer, rows) for layer in range(host.n_layers)]
