"""Chance by drawing anew and by flipping signs: bootstrap intervals and permutation tests.

*Bootstrap over queries* (`bootstrap_mean`, `bootstrap_ratio`). One draw of queries serves every
layer, head and score of an array, so intervals of one call are comparable with one another. The
draws are those of `scipy.stats.bootstrap(method="percentile", random_state=seed)`, and on defined
values so are the bounds. SciPy itself is not called: it has no answer for undefined values, and it
gathers every resampled array, where counting how often each query was drawn turns all resampled
means into one matrix product.

*Bootstrap over draws and queries* (`hierarchical_mean`). Every resample draws demonstrations with
replacement, and one sample of queries for all of them: a query that is hard is hard for every draw.

*Sign flips* (`sign_flip`, `max_t`). Under the null a paired difference is as likely to be negative
as positive, whatever its distribution.

Values that are not finite are undefined: left out of the mean and of resampled means, and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.errors import LensError
from iclgd_lens.verdicts.statistics import nanmean

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], NDArray[Any]]

_DRAWS_AT_ONCE = 2**22  # indices in memory at a time: 32 MB
_FLIPS_AT_ONCE = 2**22  # signed sums in memory at a time: 32 MB


@dataclass(frozen=True)
class Intervals:
    """A statistic over queries with its interval, one of each for every column ("*rest").

    NaN value: no query is defined, or the statistic is 0/0. NaN bounds: fewer than two queries
    are defined, so nothing is known about the spread.
    """

    value: Floats
    low: Floats
    high: Floats
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
    statistic: Statistic,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Intervals:
    """A function of mean moments over queries, with a two-sided percentile interval.

    For ratios of means, such as `iclgd_lens.ratios.recovery_scale` of `recovery_moments`.

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


def _only(means: Floats) -> Floats:
    return means[..., 0]


def _as_float(values: ArrayLike, *, axes: int, shape: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < axes:
        raise LensError(f"need an array of shape ({shape}), but got shape {array.shape}")
    return array


def _check(confidence: float, resamples: int) -> None:
    if not 0 < confidence < 1:
        raise LensError(f"confidence must lie between 0 and 1 (such as 0.95), but is {confidence}")
    if resamples < 1:
        raise LensError(f"resamples must be at least 1, but is {resamples}")


def _bootstrap(
    moments: Floats,
    statistic: Statistic,
    confidence: float,
    resamples: int,
    seed: int,
) -> Intervals:
    _check(confidence, resamples)
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
    columns: Floats, defined: NDArray[np.bool_], resamples: int, seed: int
) -> Floats:
    """Means over the defined queries of each resample: "resample column moment"."""
    queries = columns.shape[0]
    means = np.full((resamples, *columns.shape[1:]), np.nan)
    if not queries:
        return means
    flat = columns.reshape(queries, math.prod(columns.shape[1:]))
    partial = np.flatnonzero(~defined.all(axis=0))  # columns whose number of queries varies
    for start, weights in _weights(np.random.default_rng(seed), queries, resamples):
        rows = len(weights)
        sizes = np.full((rows, columns.shape[1]), float(queries))
        sizes[:, partial] = weights @ defined[:, partial]
        sums = (weights @ flat).reshape(rows, *columns.shape[1:])
        means[start : start + rows] = sums / sizes[..., None]
    return means


def _weights(
    generator: np.random.Generator, size: int, resamples: int
) -> Iterator[tuple[int, Floats]]:
    """How often each of `size` things is drawn: ("resample size", a few resamples at a time)."""
    step = max(1, _DRAWS_AT_ONCE // max(size, 1))
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        draws = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        counts = np.bincount(draws.ravel(), minlength=rows * size)
        yield start, counts.reshape(rows, size).astype(np.float64)


def resample_counts(size: int, resamples: int, generator: np.random.Generator) -> Floats:
    """How often each of `size` things is drawn with replacement: "resample size"."""
    return np.concatenate([rows for _, rows in _weights(generator, size, resamples)])


def _percentiles(distribution: Floats, confidence: float) -> tuple[Floats, Floats]:
    """Bounds over the first axis, from the defined resamples of each column."""
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    bounds = np.quantile(distribution, levels, axis=0)
    for column in np.flatnonzero(~np.isfinite(distribution).all(axis=0)):
        resampled = distribution[:, column]
        resampled = resampled[np.isfinite(resampled)]
        bounds[:, column] = np.quantile(resampled, levels) if resampled.size else np.nan
    return bounds[0], bounds[1]


# -- draws and queries ---------------------------------------------------------------------------


def hierarchical_mean(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    statistic: Statistic | None = None,
) -> Intervals:
    """Mean over draws of each draw's mean over queries, with a percentile interval over both.

    Of few draws the interval is too narrow: a claim about draws takes Student's t over draws
    (`iclgd_lens.verdicts.statistics.paired_t`).

    Args:
        values: "draw query column" (or "draw query column moment" with `statistic`); not finite
            where undefined.
        confidence: The interval's coverage.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap; global random state is neither read nor changed.
        statistic: Maps a draw's mean moments "... moment" to "..." (a ratio of means); None for
            the mean itself.

    Raises:
        LensError: The axes are others, or a setting is out of range.
    """
    array = np.asarray(values, np.float64)
    if statistic is None:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape[:2]:
        raise LensError(f"need values by draw, query and column, but got shape {array.shape}")
    _check(confidence, resamples)
    draws, queries = array.shape[:2]
    take = statistic or _only
    generator = np.random.default_rng(seed)
    drawn = resample_counts(draws, resamples, generator)
    asked = resample_counts(queries, resamples, generator)
    with np.errstate(invalid="ignore", divide="ignore"):
        by_draw = np.stack([take(_mean(each, np.ones((1, queries))))[0] for each in array])
        value = nanmean(by_draw, 0)
        resampled = np.stack([take(_mean(each, asked)) for each in array])
        defined = np.isfinite(resampled)
        total = np.einsum("rd,drc->rc", drawn, np.where(defined, resampled, 0.0))
        distribution = total / np.einsum("rd,drc->rc", drawn, defined.astype(np.float64))
    low, high = _percentiles(distribution, confidence)
    complete: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(array), axis=-1)
    n = np.asarray(complete.sum((0, 1)), np.int64)
    unknown = (n < 2) | np.isnan(value)
    low, high = np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)
    return Intervals(value, low, high, n, draws * queries - n)


def _mean(array: Floats, weights: Floats) -> Floats:
    """Weighted means over the defined queries: "resample column moment"."""
    queries, columns, moments = array.shape
    defined: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(array), axis=-1)
    flat = np.where(defined[..., None], array, 0.0).reshape(queries, columns * moments)
    sums = (weights @ flat).reshape(len(weights), columns, moments)
    return sums / (weights @ defined.astype(np.float64))[..., None]


# -- sign flips ----------------------------------------------------------------------------------


def sign_flip(
    differences: ArrayLike, *, flips: int = 50_000, seed: int = 0, exact_below: int = 13
) -> Floats:
    """Two-sided p-values of mean differences, by flipping the signs of units.

    Args:
        differences: "unit column" (units: draws, or queries); those that are not finite in a
            column are left out of it.
        flips: Random sign patterns; the smallest p-value is 1 / (flips + 1).
        seed: Of the patterns, which all columns share.
        exact_below: With fewer units than this every pattern is tried instead.

    Returns:
        One p-value a column; NaN where fewer than two units are defined.
    """
    array = np.asarray(differences, np.float64)
    units, columns = array.shape
    defined = np.isfinite(array)
    array = np.where(defined, array, 0.0)
    # A sum that differs from the observed one by rounding alone is as extreme.
    bound = np.abs(array.sum(0)) * (1 - 1e-9) - 1e-300
    exact = units < exact_below
    extreme, count = np.zeros(columns, np.int64), 0
    for signs in _signs(units, columns, 0 if exact else flips, seed):
        extreme += (np.abs(signs @ array) >= bound).sum(0)
        count += len(signs)
    p = extreme / count if exact else (extreme + 1) / (count + 1)
    return np.where(defined.sum(0) < 2, np.nan, p)


def max_t(
    differences: ArrayLike, *, flips: int = 10_000, seed: int = 0, exact_below: int = 13
) -> Floats:
    """Two-sided p-values corrected for the number of heads, by the largest |t| under sign flips.

    Westfall and Young (1993), single step: a head's p-value is the share of sign patterns, the same
    for all heads, under which any head's |t| reaches its own. So the chance of even one false head
    is that of the p-value, however heads depend on one another. Fewer than six units cannot give
    less than .05.

    Args:
        differences: "unit *head" (units: draws, or queries of a half that did not select heads);
            not finite where undefined.
        flips: Random sign patterns; the smallest p-value is 1 / (flips + 1).
        seed: Of the patterns.
        exact_below: With fewer units than this every pattern is tried instead.

    Returns:
        "*head"; NaN where fewer than two units are defined. Undefined heads take part in nothing.
    """
    array = np.asarray(differences, np.float64)
    units, heads = len(array), array.shape[1:]
    array = array.reshape(units, math.prod(heads))
    defined = np.isfinite(array)
    n = defined.sum(0)
    array = np.where(defined, array, 0.0)
    squares = (array**2).sum(0)
    usable = (n >= 2) & (squares > 0)
    observed = _t_of_sums(np.abs(array.sum(0)), squares, n)
    exact = units < exact_below
    extreme, count = np.zeros(array.shape[1], np.int64), 0
    for signs in _signs(units, array.shape[1], 0 if exact else flips, seed):
        found = _t_of_sums(np.abs(signs @ array[:, usable]), squares[usable], n[usable])
        largest = found.max(1, initial=0.0)
        extreme += (largest[:, None] >= observed * (1 - 1e-6)).sum(0)
        count += len(signs)
    p = extreme / count if exact else (extreme + 1) / (count + 1)
    return np.where(n < 2, np.nan, np.where(usable, p, 1.0)).reshape(heads)


def _t_of_sums(sums: Floats, squares: Floats, n: NDArray[Any]) -> Floats:
    """Student's t from |sum| and the sum of squares (which no flip changes), never infinite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        explained = np.minimum(sums**2 / n / squares, 1 - 1e-9)  # equal units differ by rounding
        return np.sqrt(explained * (n - 1) / (1 - explained))


def _signs(units: int, columns: int, flips: int, seed: int) -> Iterator[Floats]:
    """Patterns of +1 and -1, "pattern unit", a few at a time: all of them if `flips` is 0."""
    count = flips or 2**units
    generator = np.random.default_rng(seed)
    step = max(1, _FLIPS_AT_ONCE // max(units, columns, 1))
    for start in range(0, count, step):
        size = min(step, count - start)
        if flips:
            packed = generator.integers(0, 256, (size, -(-units // 8)), dtype=np.uint8)
            bits = np.unpackbits(packed, axis=1, count=units)
        else:
            bits = (np.arange(start, start + size)[:, None] >> np.arange(units)) & 1
        yield bits.astype(np.float64) * 2 - 1
