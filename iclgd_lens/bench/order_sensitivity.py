"""Order sensitivity: how much predictions change when the same demonstrations are permuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Floats, Part
from iclgd_lens.scores import LABEL_SCORES
from iclgd_lens.verdicts.statistics import nanmean, t_interval

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "model", "task", "hypothesis", "flip_rate", "ci_low", "ci_high", "accuracy_range",
    "permutations", "seeds", "n",
)  # fmt: skip


def order_sensitivity(comparisons: Mapping[tuple[str, str], Comparison]) -> pd.DataFrame:
    """Return how often predictions flip between orders; see `Run.order_sensitivity`."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for (model, task), comparison in comparisons.items():
        for label, subject in comparison.data.subjects.items():
            if subject.rule == "ZS":
                continue  # it sees no demonstrations
            orders = [
                found
                for unit in comparison.data.units(label)
                if len(found := [(p, m) for p, m in unit if LABEL_SCORES in m]) > 1
                and len({part.order for part, _ in found}) > 1
            ]
            if orders:
                rows.append({"model": model, "task": task, "hypothesis": label, **_row(orders)})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(orders: Sequence[Sequence[tuple[Part, Mapping[str, Any]]]]) -> dict[str, Any]:
    rates = [flip_rates([m[LABEL_SCORES].astype(np.float64) for _, m in each]) for each in orders]
    by_draw = np.array([nanmean(each) for each in rates])
    value, low, high = t_interval(by_draw[:, None])
    right = [[nanmean(m["accuracy"].astype(np.float64)) for _, m in each] for each in orders]
    return {
        "flip_rate": float(value[0]),
        "ci_low": float(low[0]),
        "ci_high": float(high[0]),
        "accuracy_range": float(np.mean([max(each) - min(each) for each in right])),
        "permutations": max(len(each) for each in orders),
        "seeds": len(orders),
        "n": int(sum(np.isfinite(each).sum() for each in rates)),
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
