"""Means over queries with percentile bootstrap intervals.

Queries are the unit of resampling: one draw of queries serves every layer, head and score of an
array, so intervals of one call are comparable with one another. Values that are not finite are
undefined: they are left out of the mean, counted, and left out of the resampled means as well.

The draws are those of `scipy.stats.bootstrap(method="percentile", random_state=seed)`, and on
defined values so are the bounds. SciPy itself is not called: it has no answer for undefined
values, and it gathers every resampled array, where counting how often each query was drawn turns
all resampled means into one matrix product.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.errors import LensError

__all__ = ["Intervals", "bootstrap_mean", "bootstrap_ratio"]

_DRAWS_AT_ONCE = 2**22  # indices in memory at a time: 32 MB


@dataclass(frozen=True)
class Intervals:
    """A statistic over queries with its interval, one of each for every column ("*rest").

    NaN value: no query is defined, or the statistic is 0/0. NaN bounds: fewer than two queries
    are defined, so nothing is known about the spread.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n: NDArray[np.int64]
    """Queries the value rests on."""
    undefined: NDArray[np.int64]
    """Queries left out, because a value of theirs is not finite."""


def bootstrap_mean(
    values: ArrayLike, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Intervals:
    """Mean over queries of `values` ("query *rest"), with a two-sided percentile interval.

    Args:
        values: one number a query and column; not finite where undefined.
        confidence: the interval's coverage, between 0 and 1.
        resamples: how many times queries are drawn with replacement.
        seed: the same seed gives the same bytes. Global random state is neither read nor changed.

    Raises:
        LensError: `values` is a scalar, or a setting is out of range.
    """
    array = _as_float(values, axes=1, shape="query *rest")
    return _bootstrap(array[..., None], _only, confidence, resamples, seed)


def bootstrap_ratio(
    moments: ArrayLike,
    statistic: Callable[[NDArray[np.float64]], NDArray[Any]],
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Intervals:
    """A function of mean moments over queries, with a two-sided percentile interval.

    For ratios of means, such as `iclgd_lens.measures.recovery_scale` of `recovery_moments`.

    Args:
        moments: "query *rest moment". A query is undefined in a column where any of its moments
            is not finite.
        statistic: maps mean moments "*batch moment" to "*batch". Resamples for which it is not
            finite are left out of the interval.
        confidence: the interval's coverage, between 0 and 1.
        resamples: how many times queries are drawn with replacement.
        seed: the same seed gives the same bytes. Global random state is neither read nor changed.

    Raises:
        LensError: `moments` has fewer than two axes, or a setting is out of range.
    """
    array = _as_float(moments, axes=2, shape="query *rest moment")
    return _bootstrap(array, statistic, confidence, resamples, seed)


def _only(means: NDArray[np.float64]) -> NDArray[np.float64]:
    return means[..., 0]


def _as_float(values: ArrayLike, *, axes: int, shape: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < axes:
        raise LensError(f"need an array of shape ({shape}), but got shape {array.shape}")
    return array


def _bootstrap(
    moments: NDArray[np.float64],
    statistic: Callable[[NDArray[np.float64]], NDArray[Any]],
    confidence: float,
    resamples: int,
    seed: int,
) -> Intervals:
    if not 0 < confidence < 1:
        raise LensError(f"confidence must lie between 0 and 1 (such as 0.95), but is {confidence}")
    if resamples < 1:
        raise LensError(f"resamples must be at least 1, but is {resamples}")
    queries, rest, width = moments.shape[0], moments.shape[1:-1], moments.shape[-1]
    columns = moments.reshape(queries, math.prod(rest), width)
    defined: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(columns), axis=-1)
    n = np.count_nonzero(defined, axis=0).astype(np.int64)
    columns = np.where(defined[..., None], columns, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = columns.sum(axis=0) / n[:, None]
        value = np.asarray(statistic(mean), dtype=np.float64)
        # Resampling deviations keeps the digits of columns that hardly vary.
        deviations = np.where(defined[..., None], columns - mean, 0.0)
        drawn = _resampled_means(deviations, defined, resamples, seed) + mean
        distribution = np.asarray(statistic(drawn), dtype=np.float64)
    low, high = _percentiles(distribution, confidence)
    unknown = (n < 2) | np.isnan(value)
    low, high = np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)
    value, low, high = (each.reshape(rest) for each in (value, low, high))
    return Intervals(value, low, high, n.reshape(rest), (queries - n).reshape(rest))


def _resampled_means(
    columns: NDArray[np.float64], defined: NDArray[np.bool_], resamples: int, seed: int
) -> NDArray[np.float64]:
    """Means over the defined queries of each resample: "resample column moment"."""
    queries = columns.shape[0]
    means = np.full((resamples, *columns.shape[1:]), np.nan)
    if not queries:
        return means
    flat = columns.reshape(queries, math.prod(columns.shape[1:]))
    partial = np.flatnonzero(~defined.all(axis=0))  # columns whose number of queries varies
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWS_AT_ONCE // queries)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = generator.integers(0, queries, (rows, queries))
        draws += queries * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * queries).reshape(rows, queries)
        weights = counts.astype(np.float64)
        sizes = np.full((rows, columns.shape[1]), float(queries))
        sizes[:, partial] = weights @ defined[:, partial]
        sums = (weights @ flat).reshape(rows, *columns.shape[1:])
        means[start : start + rows] = sums / sizes[..., None]
    return means


def _percentiles(
    distribution: NDArray[np.float64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bounds over the first axis, from the defined resamples of each column."""
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    bounds = np.quantile(distribution, levels, axis=0)
    for column in np.flatnonzero(~np.isfinite(distribution).all(axis=0)):
        resampled = distribution[:, column]
        resampled = resampled[np.isfinite(resampled)]
        bounds[:, column] = np.quantile(resampled, levels) if resampled.size else np.nan
    return bounds[0], bounds[1]


def t_interval(
    values: ArrayLike, *, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean over units of "unit *rest", with Student's t interval.

    Units that are not finite in a column are left out of it. NaN bounds: fewer than two are left.
    """
    from scipy.stats import t

    array = np.asarray(values, np.float64)
    defined = np.isfinite(array)
    count = defined.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(defined, array, 0.0).sum(0) / count
        squares = np.where(defined, (array - mean) ** 2, 0.0).sum(0)
        spread = np.sqrt(squares / (count - 1) / count)
        half = t.ppf((1 + confidence) / 2, np.maximum(count - 1, 1)) * spread
    half = np.where(count < 2, np.nan, half)
    return mean, mean - half, mean + half
