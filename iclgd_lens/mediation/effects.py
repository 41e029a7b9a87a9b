"""What is measured on one draw of demonstrations, query by query and head by head.

A head whose output the demonstrations leave as it is at a query's readout token, up to rounding
(`similarity.unchanged`), has no effect there to be measured: all its effects are undefined (NaN) on
that query, and counted as such.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.errors import HookError
from iclgd_lens.host import Host, Prefix, frozen, writes_add_up
from iclgd_lens.measures.readings import Frozen
from iclgd_lens.measures.similarity import label_margin
from iclgd_lens.mediation.gradients import (
    Gradients,
    direct_effects,
    gradients,
)
from iclgd_lens.mediation.head_maps import (
    BLIND,
    DIRECT,
    ESTIMATED,
    ICL,
    KEPT,
    NECESSITY,
    SUFFICIENCY,
    VISIBILITY,
    ZS,
    Array,
    DrawEffects,
    ranking_of,
    set_sizes,
)
from iclgd_lens.mediation.margins import Margin, shared_prefix
from iclgd_lens.mediation.patching import first_heads, patched_margins, visible_margins
from iclgd_lens.readout.patched_heads import (
    PATCHED_TOKENS_AT_ONCE,
    Patches,
    last_token,
    single_heads,
)
from iclgd_lens.readout.reader import Readout


@dataclass(frozen=True)
class Wanted:
    """What to measure on a draw.

    Attributes:
        visibility: Whether one head alone is shown the demonstrations.
        curves: Whether sets of heads are put in.
        which: Heads whose effects are measured exactly; None for all.
    """

    visibility: bool
    curves: bool
    which: Sequence[tuple[int, int]] | None


class Measuring:
    """Effects of heads on one network and one draw.

    Args:
        host: The network.
        episode: Demonstrations and queries, read at the last prompt token.
        frozen_readouts: What the network itself leaves.
        changed: What each hypothesis or control leaves, by label.
        tokens_at_once: Tokens of a pass at most; of a differentiated one a quarter.
    """

    def __init__(
        self,
        host: Host,
        episode: Episode,
        frozen_readouts: Frozen,
        changed: Mapping[str, Readout],
        tokens_at_once: int = PATCHED_TOKENS_AT_ONCE,
    ) -> None:
        self.tokens_at_once = tokens_at_once
        self.host, self.episode = host, episode
        self.own, self.changed = frozen_readouts, changed
        self.margin = Margin(host, episode)
        self.shape = (host.n_layers, host.n_heads)
        self.same = frozen_readouts.same_z
        self.failures: dict[str, str] = {}
        bos = episode.demonstrations.bos
        with frozen(host.model), torch.no_grad():
            self._alone = shared_prefix(host, () if bos is None else (bos,))
            self._shown = shared_prefix(host, episode.demonstrations.prompt())

    # -- attribution and direct effects ----------------------------------------------------------

    @cached_property
    def attributed(self) -> tuple[dict[str, dict[str, Array]], dict[str, Array]]:
        """Attribution and direct effects of all heads, and the label margins of ZS and ICL."""
        own = self.own
        change = own.icl.z - own.zs.z
        with frozen(self.host.model):
            most = self.tokens_at_once // 4
            zs = gradients(self.host, self.margin, self.episode, self._alone, most)
            icl = gradients(self.host, self.margin, self.episode, self._shown, most)
            direct = self._direct(change, icl)
        found = {
            ICL: {
                ESTIMATED[SUFFICIENCY]: self._array((change * zs.z).sum(-1)),
                ESTIMATED[NECESSITY]: self._array((change * icl.z).sum(-1)),
                DIRECT: direct,
            }
        }
        for label, ft in self.changed.items():
            kept = ((ft.z - own.zs.z) * icl.z).sum(-1)
            found[label] = {ESTIMATED[KEPT]: self._array(kept)}
        return found, {ZS: _cpu(zs.margin), ICL: _cpu(icl.margin)}

    def _direct(self, change: Tensor, icl: Gradients) -> Array:
        tokens = self.episode.queries[0].content
        bos = self.episode.demonstrations.bos
        if not writes_add_up(self.host, tokens if bos is None else (bos, *tokens)):
            self.failures[DIRECT] = (
                "Attention outputs are normalised or scaled before they join the residual stream, "
                "so that a head's own part in it is not known."
            )
            return np.full(tuple(self.same.shape), np.nan, np.float32)
        return self._array(direct_effects(self.host, change, icl.direct))

    # -- exact interventions ---------------------------------------------------------------------

    def measure(self, wanted: Wanted) -> DrawEffects:
        """Everything that is wanted of this draw."""
        heads, margins = self.attributed
        which = self._all() if wanted.which is None else list(wanted.which)
        exact = self._exact(which, wanted)
        for label, effects in exact.heads.items():
            heads[label] = {**effects, **heads.get(label, {})}
        margins |= exact.margins
        curves: dict[str, Array] = {}
        sizes, asked = (), ()
        if wanted.curves and len(self.episode.queries) > 1:
            sizes = set_sizes(self.shape[0] * self.shape[1])
            asked = self._every_other()
            ranked = heads[ICL].get(NECESSITY) if wanted.which is None else None
            ranked = heads[ICL][ESTIMATED[NECESSITY]] if ranked is None else ranked
            curves = self._curves(ranked, sizes, asked)
        return DrawEffects(heads, margins, curves, sizes, asked, self.failures)

    def _every_other(self) -> tuple[int, ...]:
        """Every other query of each gold label, so that both halves ask all labels if possible."""
        gold = self.episode.gold
        by_label = sorted(range(len(gold)), key=lambda query: (gold[query], query))
        return tuple(sorted(by_label[1::2]))

    def _all(self) -> list[tuple[int, int]]:
        return [(layer, head) for layer in range(self.shape[0]) for head in range(self.shape[1])]

    def _exact(self, which: list[tuple[int, int]], wanted: Wanted) -> _Exact:
        """Put in every head's other outputs, in ZS and in ICL, one query at a time."""
        n = len(self.episode.queries)
        found = _Exact(n, self.shape, [*self.changed])
        mask = single_heads(which, self.shape, self.host.device)
        rows, columns = (list(part) for part in zip(*which, strict=True))
        with frozen(self.host.model), torch.no_grad():
            for query in range(n):
                alone = self._margins(query, self._alone, mask, [self.own.icl])
                shown = self._margins(
                    query, self._shown, mask, [self.own.zs, *self.changed.values()]
                )
                base_zs, base_icl = float(alone[0]), float(shown[0])
                by_source = shown[1:].view(-1, len(which))
                gone = by_source[0]
                found.put(ICL, SUFFICIENCY, query, rows, columns, alone[1:] - base_zs)
                found.put(ICL, NECESSITY, query, rows, columns, base_icl - gone)
                for label, kept in zip(self.changed, by_source[1:], strict=True):
                    found.put(label, KEPT, query, rows, columns, kept - gone)
                if wanted.visibility:
                    self._see(found, query, which, rows, columns)
            for label, ft in self.changed.items():
                found.margins[label] = _cpu(self._of_readout(ft))
        for effects in found.heads.values():
            for value in effects.values():
                value[_bool(self.same)] = np.nan
        return found

    def _margins(
        self, query: int, prefix: Prefix | None, mask: Bool[Tensor, "patch layer head"],
        sources: Sequence[Readout],
    ) -> Float[Tensor, " row"]:  # fmt: skip
        """The query as it is, then with each row's heads from each source."""
        asked = self.episode.queries[query]
        at = last_token(self.host, prefix, asked.content)
        none = torch.zeros_like(mask[:1])
        values = torch.stack([source.z[query] for source in sources])
        each = torch.arange(len(sources), device=self.host.device).repeat_interleave(len(mask))
        patches = Patches(
            torch.cat([none, *[mask] * len(sources)]), torch.cat([each[:1], each]), values
        )
        return patched_margins(self.host, self.margin, at, asked.gold, patches, self.tokens_at_once)

    def _see(
        self, found: _Exact, query: int, which: list[tuple[int, int]], rows: list[int],
        columns: list[int],
    ) -> None:  # fmt: skip
        if self._shown is None or VISIBILITY in self.failures:
            return
        try:
            margins = visible_margins(
                self.host, self.margin, self.episode, self._shown, query, which,
                self.tokens_at_once,
            )  # fmt: skip
        except HookError as error:
            self.failures[VISIBILITY] = str(error)
            return
        found.put(ICL, VISIBILITY, query, rows, columns, margins[1:] - margins[0])
        found.margins.setdefault(BLIND, np.full(found.n, np.nan, np.float32))
        found.margins[BLIND][query] = float(margins[0])

    def _of_readout(self, readout: Readout) -> Tensor:
        """Label margins as a reader has them; unknown where label words have several tokens."""
        found = label_margin(readout.label_scores, self.own.gold)
        long = any(len(tokens) > 1 for tokens in self.episode.label_tokens)
        return torch.full_like(found, torch.nan) if long else found

    def _curves(
        self, ranked: Array, sizes: tuple[int, ...], asked: Sequence[int]
    ) -> dict[str, Array]:
        others = [query for query in range(len(ranked)) if query not in set(asked)]
        gold = np.array([self.episode.queries[query].gold for query in others])
        order = ranking_of(ranked[others], gold)
        mask = first_heads(order, sizes, self.shape).to(self.host.device)
        sources = {ICL: self.own.icl, **self.changed}
        found = {label: np.zeros((len(asked), len(sizes)), np.float32) for label in sources}
        with frozen(self.host.model), torch.no_grad():
            for row, query in enumerate(asked):
                margins = self._margins(query, self._alone, mask, [*sources.values()])
                by_source = margins[1:].view(len(sources), len(sizes))
                for label, value in zip(sources, by_source, strict=True):
                    found[label][row] = _cpu(value)
        return found

    def _array(self, value: Tensor) -> Array:
        return _cpu(value.masked_fill(self.same, torch.nan))


class _Exact:
    """Exact effects as they are filled in, NaN where they were not measured."""

    def __init__(self, n: int, shape: tuple[int, int], labels: Sequence[str]) -> None:
        self.n, self.shape = n, shape
        self.heads: dict[str, dict[str, Array]] = {ICL: {}, **{label: {} for label in labels}}
        self.margins: dict[str, Array] = {}

    def put(
        self, label: str, effect: str, query: int, rows: list[int], columns: list[int],
        value: Tensor,
    ) -> None:  # fmt: skip
        into = self.heads[label].setdefault(
            effect, np.full((self.n, *self.shape), np.nan, np.float32)
        )
        into[query, rows, columns] = _cpu(value)


def _cpu(value: Tensor) -> Array:
    return value.detach().float().cpu().numpy()


def _bool(value: Tensor) -> NDArray[np.bool_]:
    return value.cpu().numpy()
