"""What is believed of an AUC's error over queries, however little it varies in the sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def auc_step(counts: Floats) -> float:
    """Six tenths of a query of each label, over labels of which one follows from the others.

    So three queries per label that are all right by chance (1 in 20) are not enough.
    """
    return 0.6 * float(np.sqrt(np.mean(counts**-2.0) / max(1, len(counts) - 1)))


def auc_freedom(counts: Floats) -> float:
    """Degrees of freedom of an AUC's error over queries: Satterthwaite's, by sides.

    An AUC of one label against the rest is as sure as its rarer side: its variance is taken to be
    1/n of each. Labels but the most frequent, which follows from the others.

    Args:
        counts: How many queries each label has; two labels or more.
    """
    rarer = np.sort(counts)[:-1]
    sides = np.concatenate([rarer, counts.sum() - rarer])
    return float((1 / sides).sum() ** 2 / (sides**-2.0 / np.maximum(sides - 1, 1)).sum())
