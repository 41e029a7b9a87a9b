"""A ratio of two means over units, with Fieller's interval.

Not a mean of ratios: a unit whose denominator is small would have a say as large as it likes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def ratio_t(
    tops: ArrayLike, bottoms: ArrayLike, *, confidence: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Mean of `tops` over mean of `bottoms`, "unit *rest" each: (ratio, low, high).

    The interval holds each r for which the mean of tops - r bottoms is not told apart from 0 by
    Student's t. Units where either is not finite are left out. NaN bounds: fewer than two units,
    or a denominator not told apart from 0, so that no bounded interval exists.

    The coverage is over all cases, with bounds or without. Of bounded intervals alone it is that
    only where nearly all denominators are told apart from 0: those by chance are too large.

    Source: Fieller 1954, Some problems in interval estimation.
    """
    from scipy.stats import t

    top, bottom = np.asarray(tops, np.float64), np.asarray(bottoms, np.float64)
    both = np.isfinite(top) & np.isfinite(bottom)
    n = both.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b = (np.where(both, each, 0.0).sum(0) / n for each in (top, bottom))
        x, y = (np.where(both, each, 0.0) for each in (top - a, bottom - b))
        # Squared t times the variances and the covariance of the two means.
        scale = t.ppf((1 + confidence) / 2, np.maximum(n - 1, 1)) ** 2 / (n * (n - 1.0))
        aa, ab, bb = (scale * (one * other).sum(0) for one, other in ((x, x), (x, y), (y, y)))
        # (a - r b)^2 <= t^2 var(a - r b), a quadratic in r.
        square, middle, free = b**2 - bb, a * b - ab, a**2 - aa
        root = np.sqrt(np.maximum(middle**2 - square * free, 0.0))
        low, high = (middle - root) / square, (middle + root) / square
        known = (n > 1) & (square > 0)
        ratio = np.asarray(a / b)
    return ratio, np.where(known, low, np.nan), np.where(known, high, np.nan)
