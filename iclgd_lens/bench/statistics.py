"""Intervals over two sources of chance, the draw of demonstrations and the queries, and tests.

Values are "seed query column": one number for each draw of demonstrations (a seed, its permutations
averaged) and query. An estimate is the mean over seeds of each seed's mean over its defined
queries.

Intervals come from a bootstrap of both axes: every resample draws seeds with replacement, and one
sample of queries for all of them. (A query that is hard is hard for every seed; drawing queries
anew for each seed would understate how much depends on which were asked.)

Tests flip the signs of paired differences, query by query. They ask whether a difference could be
chance for the demonstrations that were drawn; the interval asks it for other demonstrations too,
and a verdict needs both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.errors import LensError

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], NDArray[Any]]
_AT_ONCE = 2**24  # numbers in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and queries with its interval; one of each for every column.

    NaN value: nothing is defined. NaN bounds: fewer than two (seed, query) values are.
    """

    value: Floats
    low: Floats
    high: Floats
    n: NDArray[np.int64]
    """Defined (seed, query) values."""


def hierarchical_mean(
    values: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    statistic: Statistic | None = None,
) -> Estimate:
    """Mean over seeds and queries, with a percentile interval; see the module.

    Args:
        values: "seed query column" (or "seed query column moment" with `statistic`); not finite
            where undefined.
        confidence: The interval's coverage.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap; global random state is neither read nor changed.
        statistic: Maps a seed's mean moments "... moment" to "..." (a ratio of means); None for
            the mean itself.

    Raises:
        LensError: The axes are others, or a setting is out of range.
    """
    array = np.asarray(values, np.float64)
    if statistic is None:
        array = array[..., None]
    if array.ndim != 4 or 0 in array.shape[:2]:
        raise LensError(f"need values by seed, query and column, but got shape {array.shape}")
    if not 0 < confidence < 1 or resamples < 1:
        raise LensError(f"confidence {confidence} or resamples {resamples} is out of range")
    seeds, queries = array.shape[:2]
    take = statistic or _first
    generator = np.random.default_rng(seed)
    draws = _weights(generator, seeds, resamples)
    weights = _weights(generator, queries, resamples)
    plain = np.ones((1, queries))
    with np.errstate(invalid="ignore", divide="ignore"):
        value = _nanmean(np.stack([take(_mean(each, plain))[0] for each in array]))
        resampled = np.stack([take(_mean(each, weights)) for each in array])
        defined = np.isfinite(resampled)
        total = np.einsum("rs,src->rc", draws, np.where(defined, resampled, 0.0))
        distribution = total / np.einsum("rs,src->rc", draws, defined.astype(np.float64))
    low, high = _percentiles(distribution, confidence)
    complete = np.logical_and.reduce(np.isfinite(array), axis=-1)
    n = np.asarray(complete.sum((0, 1)), np.int64)
    unknown = (n < 2) | np.isnan(value)
    return Estimate(value, np.where(unknown, np.nan, low), np.where(unknown, np.nan, high), n)


def sign_flip(
    differences: ArrayLike, *, flips: int = 50_000, seed: int = 0, exact_below: int = 13
) -> Floats:
    """Two-sided p-values of mean differences, by flipping signs query by query.

    Args:
        differences: "query column"; queries that are not finite in a column are left out of it.
        flips: Random sign patterns; the smallest p-value is 1 / (flips + 1).
        seed: Of the patterns, which all columns share.
        exact_below: With fewer queries than this every pattern is tried instead.

    Returns:
        One p-value a column; NaN where fewer than two queries are defined.
    """
    array = np.asarray(differences, np.float64)
    queries, columns = array.shape
    defined = np.isfinite(array)
    array = np.where(defined, array, 0.0)
    observed = np.abs(array.sum(0))
    # A sum that differs from the observed one by rounding alone is as extreme.
    bound = observed * (1 - 1e-9) - 1e-300
    exact = queries < exact_below
    count = 2**queries if exact else flips
    extreme = np.zeros(columns, np.int64)
    generator = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // max(queries, columns, 1))
    for start in range(0, count, step):
        size = min(step, count - start)
        if exact:
            bits = (np.arange(start, start + size)[:, None] >> np.arange(queries)) & 1
        else:
            packed = generator.integers(0, 256, (size, -(-queries // 8)), dtype=np.uint8)
            bits = np.unpackbits(packed, axis=1, count=queries)
        sums = np.abs((bits * 2.0 - 1.0) @ array)
        extreme += (sums >= bound).sum(0)
    p = extreme / count if exact else (extreme + 1) / (count + 1)
    return np.where(defined.sum(0) < 2, np.nan, p)


def holm(p_values: ArrayLike) -> Floats:
    """P-values corrected for their number (Holm 1979); NaN stays NaN and is not counted."""
    p = np.asarray(p_values, np.float64)
    corrected = np.full_like(p, np.nan)
    known = np.flatnonzero(np.isfinite(p))
    # By hand: the library that has it takes as long to import as all the rest of a report.
    order = known[np.argsort(p[known], kind="stable")]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def _first(means: Floats) -> Floats:
    return means[..., 0]


def _weights(generator: np.random.Generator, size: int, resamples: int) -> Floats:
    """How often each of `size` things is drawn in each resample: "resample size"."""
    weights = np.empty((resamples, size))
    step = max(1, _AT_ONCE // size)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(0, size, (rows, size)) + size * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * size)
        weights[start : start + rows] = counts.reshape(rows, size)
    return weights


def _mean(array: Floats, weights: Floats) -> Floats:
    """Weighted means over the defined queries: "resample column moment"."""
    queries, columns, moments = array.shape
    defined: NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(array), axis=-1)
    flat = np.where(defined[..., None], array, 0.0).reshape(queries, columns * moments)
    sums = (weights @ flat).reshape(len(weights), columns, moments)
    if defined.all():
        sizes = weights.sum(1)[:, None]
    else:
        sizes = weights @ defined.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums / sizes[..., None]


def _nanmean(by_seed: Floats) -> Floats:
    defined = np.isfinite(by_seed)
    with np.errstate(invalid="ignore"):
        return np.where(defined, by_seed, 0.0).sum(0) / defined.sum(0)


def _percentiles(distribution: Floats, confidence: float) -> tuple[Floats, Floats]:
    levels = [(1 - confidence) / 2, (1 + confidence) / 2]
    bounds = np.quantile(distribution, levels, axis=0)
    for column in np.flatnonzero(np.isnan(distribution).any(axis=0)):
        known = distribution[:, column]
        known = known[np.isfinite(known)]
        bounds[:, column] = np.quantile(known, levels) if known.size else np.nan
    return bounds[0], bounds[1]
