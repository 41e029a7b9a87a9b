"""Do representations collapse along the label axis? A ratio of variances of the residual stream.

Fine-tuning is said to draw a layer's representations together by label, where in-context learning
keeps what differs between the inputs (Confavreux et al., ICLR 2026). The residual stream after
each block, at the readout token of every query, is grouped by gold label:

    collapse = between-class variance / within-class variance

    between  = sum_c n_c |m_c - m|^2 / n        m_c: mean of class c, m: mean of all queries
    within   = sum_q |r_q - m_c(q)|^2 / n       r_q: residual stream of query q

Both are traces of covariances, so that neither scale nor rotation changes the ratio; the directions
in which the residual stream varies most count most. Where labels make no difference it is not 0:
class means of n queries differ by chance, and C classes then give about (C - 1) / (n - C).

No other score looks at the residual stream, so it is kept only where this one is asked for, by
`compare(..., collapse=True)`; nothing else costs more, or reads other numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.errors import LensError
from iclgd_lens.host import Hook, Host, Prefix
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention, can_be_padded, hooks_of
from iclgd_lens.job import Job
from iclgd_lens.measures.readings import Frozen
from iclgd_lens.readout.reader import Reader, Readout
from iclgd_lens.scores import LABEL_COLLAPSE


def collapse_ratio(
    residual: Float[Tensor, "query layer d_model"],
    gold: Int[Tensor, " query"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, " layer"]:
    """Between-class over within-class variance of each layer's residual stream, 0 or more.

    NaN where it does not exist: fewer than two labels occur, a label has one query alone (which
    has no variance, and would count as a class without any), or queries of one class do not differ
    by more than the rounding of a forward pass, 8 machine epsilons (2e-5 at least) of their length.

    Args:
        residual: The residual stream after each block, at the readout token.
        gold: Label ids.
        dtype: Of the model's activations.

    Raises:
        LensError: The numbers of queries differ.

    Examples:
        >>> residual = torch.tensor([[[0.0, 1.0]], [[0.0, -1.0]], [[4.0, 1.0]], [[4.0, -1.0]]])
        >>> collapse_ratio(residual, torch.tensor([0, 0, 1, 1]))  # 2^2 between, 1^2 within
        tensor([4.])
        >>> collapse_ratio(residual, torch.tensor([0, 0, 0, 1]))  # one query of a class
        tensor([nan])

    Source: the claim is Confavreux et al. 2026; the ratio of traces is this package's reading.
    """
    if residual.ndim != 3 or gold.shape != residual.shape[:1]:
        raise LensError(
            f"residual has shape {tuple(residual.shape)} (query layer d_model); gold has shape "
            f"{tuple(gold.shape)}, where one label per query is needed"
        )
    labels, places, counts = gold.unique(return_inverse=True, return_counts=True)
    if len(labels) < 2 or int(counts.min()) < 2:
        return residual.new_full(residual.shape[1:2], torch.nan, dtype=torch.float32)
    # In fp64: a common part that all queries share is far longer than what differs.
    rows = residual.detach().double()
    sums = rows.new_zeros(len(labels), *rows.shape[1:]).index_add_(0, places, rows)
    own_mean = (sums / counts[:, None, None])[places]
    within = (rows - own_mean).square().sum(-1).mean(0)
    between = (own_mean - rows.mean(0)).square().sum(-1).mean(0)
    floor = max(8 * torch.finfo(dtype).eps, 2e-5) ** 2 * rows.square().sum(-1).mean(0)
    return torch.where(within > floor, between / within, torch.nan).float()


@dataclass(frozen=True)
class ResidualReadout(Readout):
    """A readout with the residual stream.

    Attributes:
        residual: The residual stream after each block; fp32.
    """

    residual: Float[Tensor, "query layer d_model"] | None = None


class _Residuals(Intervention):
    """A change, and after it a copy of the residual stream at the readout tokens."""

    def __init__(self, change: Intervention, host: Host, queries: int) -> None:
        self.change = change
        shape = (queries, host.n_layers, host.d_model)
        self.kept = torch.full(shape, torch.nan, dtype=torch.float32, device=host.device)

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """Those of the change, then the copies."""
        found = list(hooks_of(self.change, host, batch))
        if batch.reads and batch.queries is not None:
            found += [
                (host.block_output_hook(layer), partial(self._keep, batch, layer))
                for layer in range(host.n_layers)
            ]
        return found

    def _keep(self, batch: Batch, layer: int, activation: Tensor, hook: Any) -> None:
        # What is read again with a label word after it may stand elsewhere: the first reading
        # counts.
        before = self.kept[batch.queries, layer]
        now = batch.at_readout(activation).to(before.dtype)
        self.kept[batch.queries, layer] = torch.where(before.isnan(), now, before)


class ResidualReader(Reader):
    """A reader that keeps the residual stream, too; what else it reads is the same."""

    def _read(self, intervention: Intervention, prefix: Prefix | None) -> ResidualReadout:
        kept = _Residuals(intervention, self.host, len(self.episode.queries))
        pad = self._pad
        # The copies can be padded whatever they are made of; the change decides, as it always does.
        self._pad = pad and can_be_padded(intervention)
        try:
            found = super()._read(kept, prefix)
        finally:
            self._pad = pad
        parts = {field.name: getattr(found, field.name) for field in fields(found)}
        return ResidualReadout(**parts, residual=kept.kept)


class CollapseJob(Job):
    """A job that measures `label_collapse` beside every other score, of settings and subjects."""

    reads_with = ResidualReader

    @cached_property
    def frozen(self) -> Frozen:
        """What the network itself leaves, with the residual stream."""
        known: Any = self._zs
        if not isinstance(known, ResidualReadout):
            self._zs = None  # read without it: once more
        return super().frozen

    def measure_settings(self) -> None:
        """Measure what the network itself answers, and how far its residual stream collapses."""
        super().measure_settings()
        frozen = self.frozen
        settings = {"ZS": frozen.zs, "ICL": frozen.icl, "ICL_shuffled": frozen.icl_shuffled}
        for name, readout in settings.items():
            if readout is not None:
                self.values[name][LABEL_COLLAPSE] = self._collapse(readout)

    def measure(
        self, label: str, right: Intervention | None, wrong: Intervention | None = None, *,
        readout: Readout | None = None,
    ) -> Readout | None:  # fmt: skip
        """Run the changed model on the queries and score it; see `Job.measure`."""
        if right is not None and readout is None:
            readout = self.reader.ftzs(right)
        changed = super().measure(label, right, wrong, readout=readout)
        if right is not None and readout is not None:
            self.values[label][LABEL_COLLAPSE] = self._collapse(readout)
        return changed

    def undefined(self) -> dict[str, Tensor]:
        """The scores of what could not be built."""
        shape = (len(self.episode.queries), self.host.n_layers)
        return super().undefined() | {LABEL_COLLAPSE: torch.full(shape, torch.nan)}

    def _collapse(self, readout: Readout) -> Float[Tensor, "query layer"]:
        """The ratio of a readout, the same for each query."""
        residual = getattr(readout, "residual", None)
        assert residual is not None  # every reader of this job keeps it
        ratio = collapse_ratio(residual, self.frozen.gold, self.frozen.dtype)
        return ratio.cpu().expand(len(residual), -1).clone()
