"""Order sensitivity: how much predictions change when the same demonstrations are permuted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.bench.blocks import Block, Floats, nanmean
from iclgd_lens.bench.statistics import hierarchical_mean

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model", "task", "hypothesis", "flip_rate", "ci_low", "ci_high", "accuracy_range",
    "permutations", "seeds", "n",
)  # fmt: skip


def order_sensitivity(blocks: Sequence[Block], *, resamples: int) -> pd.DataFrame:
    """Return how often predictions flip between orders; see `Run.order_sensitivity`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for block in blocks:
        for hypothesis in block.hypotheses:
            if hypothesis.split("@")[0] == "ZS":
                continue  # it sees no demonstrations
            orders = {
                seed: found
                for seed, found in block.label_scores(hypothesis).items()
                if len(found) > 1
            }
            if orders:
                rows.append(_row(block, hypothesis, orders, resamples))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(
    block: Block, hypothesis: str, orders: dict[int, list[Floats]], resamples: int
) -> dict[str, Any]:
    flips = np.stack([flip_rates(found) for found in orders.values()])
    found = hierarchical_mean(flips[..., None], resamples=resamples)
    return {
        "model": block.model,
        "task": block.task,
        "hypothesis": hypothesis,
        "flip_rate": float(found.value[0]),
        "ci_low": float(found.low[0]),
        "ci_high": float(found.high[0]),
        "accuracy_range": _accuracy_range(block, hypothesis, set(orders)),
        "permutations": max(len(each) for each in orders.values()),
        "seeds": len(orders),
        "n": int(found.n[0]),
    }


def predictions(label_scores: Floats) -> Floats:
    """Label ids of the highest scores, the first of equals; NaN where a score is not finite."""
    finite = np.logical_and.reduce(np.isfinite(label_scores), axis=-1)
    return np.where(finite, np.where(finite[..., None], label_scores, 0.0).argmax(-1), np.nan)


def flip_rates(orders: Sequence[Floats]) -> Floats:
    """Share of the pairs of orders that disagree about a query, for every query.

    Args:
        orders: Label scores "query label" of each order.

    Returns:
        "query", in [0, 1]; NaN where fewer than two orders have a prediction.
    """
    said = [predictions(each) for each in orders]
    pairs = [
        np.where(np.isnan(one) | np.isnan(other), np.nan, (one != other).astype(np.float64))
        for one, other in combinations(said, 2)
    ]
    return nanmean(np.stack(pairs), 0)


def _accuracy_range(block: Block, hypothesis: str, seeds: set[int]) -> float:
    """Highest minus lowest accuracy over a seed's orders, averaged over the seeds."""
    by_seed: dict[int, list[float]] = {}
    for cell in block.cells:
        right = cell.values.get((hypothesis, "accuracy", None, None))
        if right is not None and cell.place["seed"] in seeds:
            value = float(nanmean(right.astype(np.float64), 0))
            by_seed.setdefault(cell.place["seed"], []).append(value)
    ranges = [max(values) - min(values) for values in by_seed.values()]
    return float(np.mean(ranges)) if ranges else float("nan")
