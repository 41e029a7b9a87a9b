"""Means of a block's scores over seeds and queries, with intervals over both."""

from __future__ import annotations

from typing import Any

from iclgd_lens import measures
from iclgd_lens.bench.blocks import Block
from iclgd_lens.bench.statistics import Estimate, hierarchical_mean

_RECOVERY = {
    "logit_recovery": measures.recovery_share,
    "logit_scale": measures.recovery_scale,
    "logit_recovery_unscaled": measures.recovery_unscaled,
}


def summary_rows(block: Block, resamples: int) -> list[dict[str, Any]]:
    """Return one mapping a hypothesis, score, layer and head: the lines of `Run.summary`."""
    rows: list[dict[str, Any]] = []
    for (hypothesis, score), places in block.scores.items():
        if score in _RECOVERY:
            seeds, array = block.moments(hypothesis)
            found = hierarchical_mean(array, resamples=resamples, statistic=_RECOVERY[score])
        else:
            seeds, array = block.values(hypothesis, score, places)
            found = hierarchical_mean(array, resamples=resamples)
        where = {"model": block.model, "task": block.task, "hypothesis": hypothesis}
        rows += [
            where | {"score": score, "layer": layer, "head": head} | line
            for (layer, head), line in zip(places, _lines(found, len(seeds)), strict=True)
        ]
    return rows


def _lines(found: Estimate, seeds: int) -> list[dict[str, Any]]:
    names = ("value", "ci_low", "ci_high", "n")
    columns = (part.tolist() for part in (found.value, found.low, found.high, found.n))
    lines = (dict(zip(names, line, strict=True)) for line in zip(*columns, strict=True))
    return [line | {"seeds": seeds} for line in lines]
