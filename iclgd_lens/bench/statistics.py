"""Intervals over two sources of chance, the draw of demonstrations and the queries, and tests.

Values are "seed query column": one number for each draw of demonstrations (a seed, its permutations
averaged) and query. An estimate is the mean over seeds of each seed's mean over its defined
queries.

Intervals come from a bootstrap of both axes: every resample draws seeds with replacement and, where
all seeds were measured on the same queries, one sample of queries for all of them (a query that is
hard is hard for every seed, so drawing anew for each seed would understate its weight). Where the
queries differ between seeds they are drawn within each seed.

Tests flip the signs of paired differences, query by query. They ask whether a difference could be
chance for the demonstrations that were drawn; the interval asks it for other demonstrations too,
and a verdict needs both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    values: Sequence[ArrayLike],
    *,
    same_queries: bool,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    statistic: Statistic | None = None,
) -> Estimate:
    """Mean over seeds and queries, with a percentile interval; see the module.

    Args:
        values: One array a seed, "query column" (or "query column moment" with `statistic`); not
            finite where undefined.
        same_queries: Whether row i of every array is the same query.
        confidence: The interval's coverage.
        resamples: Bootstrap resamples.
        seed: Of the bootstrap; global random state is neither read nor changed.
        statistic: Maps a seed's mean moments "... moment" to "..." (a ratio of means); None for
            the mean itself.

    Raises:
        LensError: No array, or arrays of different columns.
    """
    arrays = [_columns(each, statistic is None) for each in values]
    if not arrays or len({each.shape[1:] for each in arrays}) > 1:
        raise LensError("hierarchical_mean needs one array a seed, all with the same columns")
    if same_queries and len({len(each) for each in arrays}) > 1:
        raise LensError("seeds with the same queries need arrays of one length")
    take = statistic or _first
    generator = np.random.default_rng(seed)
    by_seed = np.stack([take(_mean(each, np.ones((1, len(each))))[0]) for each in arrays])
    draws = np.stack(
        [
            np.bincount(drawn, minlength=len(arrays))
            for drawn in generator.integers(0, len(arrays), (resamples, len(arrays)))
        ]
    ).astype(np.float64)
    resampled = np.empty((len(arrays), resamples, arrays[0].shape[1]))
    weights = _query_weights(generator, len(arrays[0]), resamples) if same_queries else None
    for index, each in enumerate(arrays):
        own = _query_weights(generator, len(each), resamples) if weights is None else weights
        resampled[index] = take(_mean(each, own))
    defined = np.isfinite(resampled)
    with np.errstate(invalid="ignore"):
        total = np.einsum("rs,src->rc", draws, np.where(defined, resampled, 0.0))
        distribution = total / np.einsum("rs,src->rc", draws, defined.astype(np.float64))
        value = _nanmean(by_seed)
    low, high = _percentiles(distribution, confidence)
    n = np.sum([np.isfinite(each).all(-1).sum(0) for each in arrays], axis=0).astype(np.int64)
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
    array = _columns(differences, True)[..., 0]
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
    from statsmodels.stats.multitest import multipletests

    p = np.asarray(p_values, np.float64)
    corrected = np.full_like(p, np.nan)
    known = np.isfinite(p)
    if known.any():
        corrected[known] = np.asarray(multipletests(p[known], method="holm")[1], np.float64)
    return corrected


def _columns(values: ArrayLike, plain: bool) -> Floats:
    """As "query column moment"."""
    array = np.asarray(values, np.float64)
    if plain:
        array = array.reshape(len(array), -1)[..., None]
    return array


def _first(means: Floats) -> Floats:
    return means[..., 0]


def _query_weights(generator: np.random.Generator, queries: int, resamples: int) -> Floats:
    """How often each query is drawn in each resample."""
    weights = np.empty((resamples, queries))
    for index in range(resamples):
        drawn = generator.integers(0, queries, queries)
        weights[index] = np.bincount(drawn, minlength=queries)
    return weights


def _mean(array: Floats, weights: Floats) -> Floats:
    """Weighted means over the defined queries: "resample column moment"."""
    queries, columns, moments = array.shape
    defined = np.isfinite(array).all(-1)
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
