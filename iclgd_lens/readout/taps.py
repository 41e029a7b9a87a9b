"""Hooks that keep what passes at readout tokens, and change nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.errors import HookError
from iclgd_lens.host import Hook, Host, Prefix
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention, hide, hooks_of


class Taps:
    """Tensors of one setting, filled batch by batch while `reading`.

    Args:
        host: The model.
        episode: What is read.
        first: For how many queries attention to demonstrations and query vectors are kept.
        demonstration_positions: Positions of the demonstrations' tokens in the shared prefix.

    Attributes:
        out_of_sight: For each layer, how many tokens before a query's own a sliding window hides
            from its readout token, of the query that it hides most from.
    """

    def __init__(
        self, host: Host, episode: Episode, first: int, demonstration_positions: Sequence[int]
    ) -> None:
        n, layers, heads = len(episode.queries), host.n_layers, host.n_heads
        # Whatever the caller's default dtype and the model's dtype are.
        fp32: dict[str, Any] = {"dtype": torch.float32, "device": host.device}
        self.host = host
        self.attention_output = torch.empty(n, layers, host.d_model, **fp32)
        self.z = torch.empty(n, layers, heads, host.d_head, **fp32)
        self.scores = torch.zeros(n, layers, heads, max(episode.lengths()), **fp32)
        self.label_scores = torch.empty(n, episode.n_labels, **fp32)
        self.demonstration_scores: Tensor | None = None
        self.queries: Tensor | None = None
        self._first = first
        self._positions = _index(demonstration_positions, host.device)
        if first and len(self._positions):
            self.demonstration_scores = torch.empty(
                first, layers, heads, len(self._positions), **fp32
            )
        self.out_of_sight = [0] * layers
        self._batch: Tensor | None = None
        self._last = self._inside = torch.empty(0)
        self._kept: tuple[Tensor, Tensor] | None = None

    @contextlib.contextmanager
    def attached(self, *, want_queries: bool) -> Generator[None, None, None]:
        """Attach the hooks for the context; they copy only inside `reading`."""
        hooks: list[Hook] = []
        for layer in range(self.host.n_layers):
            output, z = self.host.attention_output_hook(layer), self.host.z_hook(layer)
            hooks.append((output, partial(self._keep_last, layer, self.attention_output)))
            hooks.append((z, partial(self._keep_last, layer, self.z)))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.host.hooked(hooks))
            stack.enter_context(self.host.score_hooks(self._keep_scores))
            if want_queries:
                # Where attention does not expose its queries, Tok2Attn is undefined.
                with contextlib.suppress(HookError):
                    stack.enter_context(self.host.query_key_hooks(self._keep_queries, None))
            yield

    @contextlib.contextmanager
    def reading(
        self, indices: Sequence[int], head: int, own_lengths: Sequence[int]
    ) -> Generator[None, None, None]:
        """Copy what passes during the context into the rows `indices`.

        Args:
            indices: Query indices of the batch's rows.
            head: Tokens of the pass before each query's own.
            own_lengths: Each query's own tokens; the last of them is the readout token. What
                stands after them is not read.
        """
        device = self.attention_output.device
        self._batch = _index(indices, device)
        lengths = _index(own_lengths, device)
        self._last = head + lengths - 1
        self._inside = torch.arange(max(own_lengths), device=device) < lengths[:, None]
        inside = [(place, index) for place, index in enumerate(indices) if index < self._first]
        places, rows = [place for place, _ in inside], [index for _, index in inside]
        self._kept = (_index(places, device), _index(rows, device))
        try:
            yield
        finally:
            self._batch = self._kept = None

    def _keep_last(self, layer: int, into: Tensor, activation: Tensor, hook: Any) -> None:
        if self._batch is not None:
            last = activation[self._each, self._last].to(into.dtype)
            into[self._batch, layer] = last.reshape(len(self._batch), *into.shape[2:])

    @property
    def _each(self) -> Tensor:
        return torch.arange(len(self._last), device=self._last.device)

    def _keep_scores(self, layer: int, scores: Tensor) -> None:
        if self._batch is None or self._kept is None:
            return
        row = scores[self._each, :, self._last]
        hidden = _hidden(row)
        row = row.float()
        longest = self._inside.shape[1]
        seen = self._inside & ~hidden[:, -longest:]
        own = row[:, :, -longest:].masked_fill(~seen[:, None], 0.0)
        self.scores[self._batch, layer, :, :longest] = own
        before = int(hidden[:, :-longest].sum(-1).max())
        self.out_of_sight[layer] = max(self.out_of_sight[layer], before)
        if self.demonstration_scores is not None and len(self._kept[0]):
            places, rows = self._kept
            shown = row.masked_fill(hidden[:, None], torch.nan)[places][:, :, self._positions]
            self.demonstration_scores[rows, layer] = shown

    def _keep_queries(self, layer: int, queries: Tensor) -> None:
        if self._kept is None:
            return
        if self.queries is None:
            shape = (self._first, self.host.n_layers, *queries.shape[2:])
            self.queries = torch.empty(shape, dtype=torch.float32, device=queries.device)
        places, rows = self._kept
        self.queries[rows, layer] = queries[places, self._last[places]].float()


def _hidden(row: Tensor) -> Tensor:
    """Keys that a sliding window hides from a row's token: [batch head key] to [batch key].

    A mask fills in the lowest number or -inf, for every head alike, from the first key to the
    window's beginning. A score that overflows does so in one head or in the midst of others, and
    stays what it is.
    """
    lowest = (row <= torch.finfo(row.dtype).min / 2).all(dim=1)
    return lowest.long().cumprod(-1).bool()


def _index(values: Sequence[int], device: torch.device) -> Tensor:
    return torch.tensor(list(values), dtype=torch.long, device=device)


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
        """One hook per layer."""
        assert batch.queries is not None
        rows = self.hidden[batch.queries]
        return [hide(host, layer, rows) for layer in range(host.n_layers)]
