"""Means over draws of what is measured on the same queries: two sources of chance at once.

All draws of demonstrations are asked the same queries. A difference that comes from which queries
were asked is then the same in every draw, and an interval over draws alone would call it sure: an
untrained model whose answers happen to fit the queries fits them in every draw. So the standard
error is sqrt(se_draws^2 + se_queries^2): over draws from the spread of the draws' values, over
queries from a bootstrap of the queries that all draws share. (What varies with draw and query
together is counted in both, which is conservative.) Student's t with Satterthwaite's degrees of
freedom gives interval and p-value; but no interval is narrower, and no p-value smaller, than over
draws alone. Two or three draws may lie close together by chance, and Satterthwaite's formula then
takes nearly all degrees of freedom from the queries: over two draws noise would be found above
zero in up to 6 % in place of 2.5 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.phrases import interval, number, plain

Floats = NDArray[np.float64]
OVER_BOTH, OVER_QUERIES = "draws and queries", "queries of one draw"


@dataclass(frozen=True)
class Compared:
    """A value or a difference over draws and queries, with interval and two-sided p-value."""

    value: float
    low: float
    high: float
    p: float
    over: str
    """What the interval is over: `OVER_BOTH` or `OVER_QUERIES`."""

    @property
    def above(self) -> bool:
        """Whether it is shown to be above zero, at the interval's level."""
        return bool(self.low > 0)

    @property
    def below(self) -> bool:
        """Whether it is shown to be below zero."""
        return bool(self.high < 0)

    def __str__(self) -> str:
        return number(self.value) + interval(self.low, self.high)

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        low, high = plain(self.low), plain(self.high)
        return {
            "value": plain(self.value),
            "interval": None if low is None or high is None else [low, high],
            "p": plain(self.p),
            "over": self.over,
        }


def crossed(
    by_draw: Floats, resampled: Floats, *, step: float, confidence: float, freedom: float
) -> Compared:
    """A mean over draws with a t interval over draws and queries; see the module.

    Args:
        by_draw: The value of each draw, [draw].
        resampled: The same on resampled queries, [draw resample]; one sample serves all draws.
        step: Smallest standard error over queries that is believed.
        confidence: The interval's coverage.
        freedom: Degrees of freedom of the error over queries; one less than these are, or fewer.
    """
    means = resampled.mean(0)
    means = means[np.isfinite(means)]
    error = max(float(means.std(ddof=1)), step) if means.size > 1 else np.nan
    return _over_both(by_draw, error, confidence, freedom)


def crossed_mean(values: Floats, *, confidence: float) -> Compared:
    """The mean of [draw query], with a t interval over draws and queries; see the module.

    The standard error over queries is that of their means over draws. Degrees of freedom are no
    more than those of the draws, so that the interval is never narrower than the one over draws
    alone. What is not finite is left out of the means.
    """
    finite = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        by_draw, by_query = (
            np.where(finite, values, 0.0).sum(axis) / finite.sum(axis) for axis in (1, 0)
        )
    by_query = by_query[np.isfinite(by_query)]
    queries = len(by_query)
    error = float(by_query.std(ddof=1)) / queries**0.5 if queries > 1 else np.nan
    return _over_both(
        by_draw, error, confidence, float(queries - 1), most=float(max(len(by_draw) - 1, 1))
    )


def _over_both(
    by_draw: Floats, over_queries: float, confidence: float, of_queries: float, most: float = np.inf
) -> Compared:
    """A mean over draws and its interval, from the standard error over queries.

    Args:
        by_draw: The value of each draw, [draw].
        over_queries: That standard error.
        confidence: The interval's coverage.
        of_queries: Its degrees of freedom.
        most: Degrees of freedom at most.
    """
    from scipy.stats import t

    draws, value = len(by_draw), float(np.mean(by_draw))
    over = OVER_BOTH if draws > 1 else OVER_QUERIES
    if not np.isfinite(value) or of_queries <= 0 or not np.isfinite(over_queries):
        return Compared(value, np.nan, np.nan, np.nan, over)
    squares = [over_queries**2]
    freedom = [of_queries]
    if draws > 1:
        squares.append(float(np.var(by_draw, ddof=1)) / draws)
        freedom.append(draws - 1)
    total = sum(squares)
    if total == 0:
        if value == 0:
            return Compared(0.0, 0.0, 0.0, 1.0, over)
        return Compared(value, np.nan, np.nan, np.nan, over)
    df = total**2 / sum(square**2 / each for square, each in zip(squares, freedom, strict=True))
    df, error = min(df, most), total**0.5
    ways = [(df, error)]
    if draws > 1:
        ways.append((draws - 1, squares[1] ** 0.5))  # over draws alone
    half = max(float(t.ppf((1 + confidence) / 2, each)) * one for each, one in ways)
    p = max(float(2 * t.sf(abs(value) / one, each)) for each, one in ways if one > 0)
    return Compared(value, value - half, value + half, p, over)
