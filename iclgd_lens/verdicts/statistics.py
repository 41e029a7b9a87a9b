"""What a few draws, or a few networks, allow to be said: tests, intervals, corrections.

A *unit* is what a claim would be tried on again: a draw of demonstrations, or a network. Queries of
one draw are no units. Three questions are asked of numbers by unit:

- `paired_t`: is a difference, draw by draw, other than zero? Interval and p-value are of the same
  statistic, so that they never disagree.
- `prediction_t`: could one value (a trained model's) be one more draw of a population (untrained
  networks)? The interval is that of the difference from the next draw.
- `equivalence`: is a difference surely smaller than a margin? Only that shows that there is none.

Values that are not finite are undefined: they are left out and counted, and the callers that give
verdicts refuse a "yes" that rests on what is left. Units that all say the same but for rounding
tell nothing about chance: their p-value is NaN, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.errors import LensError

Floats = NDArray[np.float64]

RANK_FROM = 19
"""Networks from which the rank test can give .05."""
_ROUNDING = 1e-6  # of the largest value: the spread of fp32 scores that are the same


@dataclass(frozen=True)
class Difference:
    """A difference with its interval and two-sided p-value, one of each for every column.

    NaN p-value and bounds: fewer than two units are defined, or their spread is rounding.
    """

    value: Floats
    low: Floats
    high: Floats
    p: Floats
    n: NDArray[np.int64]
    """Units that it rests on."""
    undefined: NDArray[np.int64]
    """Units left out, because they are not finite."""
    spread: Floats
    """Standard deviation over units."""


def paired_t(differences: ArrayLike, *, confidence: float = 0.95) -> Difference:
    """Mean of paired differences, Student's t interval and two-sided p-value, n - 1 df.

    Args:
        differences: "unit *rest", in the score's units.
        confidence: The interval's coverage.

    Raises:
        LensError: A scalar was given, or the confidence is not between 0 and 1.
    """
    array, rest = _by_unit(differences, confidence)
    mean, spread, n = _moments(array)
    with np.errstate(invalid="ignore", divide="ignore"):
        error = spread / np.sqrt(n)
    return _difference(mean, spread, error, n, array, confidence, rest)


def prediction_t(
    value: ArrayLike | float,
    population: ArrayLike,
    *,
    confidence: float = 0.95,
    error: float = 0.0,
    draws: int = 1,
) -> Difference:
    """One value against a population: t = (x - mean) / sqrt(s² (1 + 1/J) + e²), J - 1 df.

    Args:
        value: "*rest": the value that may be one more draw of the population.
        population: "unit *rest": its J draws.
        confidence: Coverage of the prediction interval, which is of x minus the next draw.
        error: e, the standard error of x itself where it is a mean; degrees of freedom are then
            Welch's, where these are fewer.
        draws: What that mean is over.

    Raises:
        LensError: The shapes do not fit, or the confidence is not between 0 and 1.
    """
    array, rest = _by_unit(population, confidence)
    if np.shape(value) != rest:
        raise LensError(f"Values of shape {np.shape(value)} have a population of others, {rest}")
    x = np.asarray(value, np.float64).reshape(-1)
    mean, spread, n = _moments(array)
    with np.errstate(invalid="ignore", divide="ignore"):
        own = spread * np.sqrt(1 + 1 / n)
    total, df = _together(own, n, error, draws)
    return _difference(x - mean, spread, total, n, x - array, confidence, rest, df)


def t_interval(values: ArrayLike, *, confidence: float = 0.95) -> tuple[Floats, Floats, Floats]:
    """Mean over units of "unit *rest", with Student's t interval: (mean, low, high).

    Units that are not finite in a column are left out of it. NaN bounds: fewer than two are left.
    """
    from scipy.stats import t

    array, rest = _by_unit(values, confidence)
    mean, spread, n = _moments(array)
    with np.errstate(invalid="ignore", divide="ignore"):
        half = t.ppf((1 + confidence) / 2, np.maximum(n - 1, 1)) * spread / np.sqrt(n)
    return mean.reshape(rest), (mean - half).reshape(rest), (mean + half).reshape(rest)


def rank_p(value: float, population: ArrayLike) -> float:
    """One-sided p-value of a value above a population, by rank: (1 + those not below) / (1 + J).

    Exact whatever the distribution; from J = 19 it can reach .05. What is not finite counts as
    above.
    """
    others = np.ravel(np.asarray(population, np.float64))
    if not np.isfinite(value):
        return float("nan")
    return float((1 + np.count_nonzero(~(others < value))) / (1 + others.size))


def _together(own: Floats, n: NDArray[np.int64], error: float, draws: int) -> tuple[Floats, Floats]:
    """The standard error of a difference of two, and its degrees of freedom.

    Welch's (1947), but no more than the population's own, so that an error makes no test easier.
    """
    df = np.maximum(n - 1.0, 1.0)
    if not error > 0:
        return own, df
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = own**4 / df + error**4 / max(draws - 1, 1)
        return np.sqrt(own**2 + error**2), np.minimum((own**2 + error**2) ** 2 / squares, df)


def equivalence(
    differences: ArrayLike, margin: float, *, error: float = 0.0, draws: int = 1
) -> Floats:
    """P-value that a mean difference lies within the margin: two one-sided t tests (TOST).

    Args:
        differences: "unit *rest". For one value and a population: the value minus each of its draws
            (is it the population's mean?).
        margin: Differences smaller than this are as good as none, in the score's units.
        error: Of one value and a population: the value's own standard error, as in `prediction_t`.
        draws: As there.

    Returns:
        "*rest": small where the mean is shown to lie between -margin and margin (Schuirmann 1987);
        NaN where fewer than two units are defined.

    Raises:
        LensError: The margin is negative.
    """
    from scipy.stats import t

    if not margin >= 0:
        raise LensError(f"A margin of equivalence must not be negative, but is {margin}")
    array, rest = _by_unit(differences, 0.95)
    mean, spread, n = _moments(array)
    with np.errstate(invalid="ignore", divide="ignore"):
        total, df = _together(spread / np.sqrt(n), n, error, draws)
        inside = (margin - np.abs(mean)) / total
    inside = np.where(total == 0, np.where(np.abs(mean) < margin, np.inf, -np.inf), inside)
    p = t.sf(inside, df)
    return np.where(n < 2, np.nan, p).reshape(rest)


# -- many tests ----------------------------------------------------------------------------------


def holm(p_values: ArrayLike, *, count_undefined: bool = False) -> Floats:
    """P-values corrected for their number (Holm 1979): the chance of even one false finding.

    Args:
        p_values: One a test; NaN stays NaN.
        count_undefined: Whether a NaN was a question all the same. A test that failed must not
            make the others easier.
    """
    # By hand: statsmodels' own collects garbage at each call, which takes longer than a verdict.
    return _stepwise(p_values, count_undefined, _holm_sorted)


def benjamini_hochberg(p_values: ArrayLike, *, count_undefined: bool = False) -> Floats:
    """P-values whose threshold is the share of false findings (Benjamini and Hochberg 1995).

    Args:
        p_values: "*tests", such as "layer head"; NaN stays NaN.
        count_undefined: As in `holm`.
    """
    return _stepwise(p_values, count_undefined, _benjamini_hochberg_sorted)


def _holm_sorted(p: Floats) -> Floats:
    return np.maximum.accumulate(p * np.arange(len(p), 0, -1))


def _benjamini_hochberg_sorted(p: Floats) -> Floats:
    scaled = p * len(p) / np.arange(1, len(p) + 1)
    return np.minimum.accumulate(scaled[::-1])[::-1]


def _stepwise(
    p_values: ArrayLike, count_undefined: bool, correct: Callable[[Floats], Floats]
) -> Floats:
    """Correct rising p-values and put them back in place."""
    p = np.asarray(p_values, np.float64)
    known = np.isfinite(p)
    asked = np.ones_like(known) if count_undefined else known
    filled = np.where(known, p, 1.0)[asked]
    order = np.argsort(filled, kind="stable")
    rising = np.empty_like(filled)
    rising[order] = np.minimum(correct(filled[order]), 1.0)
    found = np.full_like(p, np.nan)
    found[asked] = rising
    return np.where(known, found, np.nan)


# -- means -----------------------------------------------------------------------------------------


@overload
def nanmean(values: ArrayLike, axis: None = None) -> float: ...
@overload
def nanmean(values: ArrayLike, axis: int) -> Floats: ...
def nanmean(values: ArrayLike, axis: int | None = None) -> float | Floats:
    """Mean of the finite values, of all or along an axis; NaN where there is none.

    Unlike NumPy's it leaves out infinities, too, and does not warn.
    """
    array = np.asarray(values, np.float64)
    finite = np.isfinite(array)
    with np.errstate(invalid="ignore"):
        found = np.where(finite, array, 0.0).sum(axis) / finite.sum(axis)
    return float(found) if axis is None else np.asarray(found)


# -- parts of the tests --------------------------------------------------------------------------


def _by_unit(values: ArrayLike, confidence: float) -> tuple[Floats, tuple[int, ...]]:
    """Values as "unit column", and the shape that the columns had."""
    array = np.asarray(values, np.float64)
    if array.ndim < 1:
        raise LensError("Need one value per unit, but got a single number")
    if not 0 < confidence < 1:
        raise LensError(f"confidence must lie between 0 and 1 (such as 0.95), but is {confidence}")
    rest = array.shape[1:]
    return array.reshape(len(array), math.prod(rest)), rest


def _moments(array: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Mean, standard deviation and number of the defined units of each column."""
    defined = np.isfinite(array)
    n = np.asarray(defined.sum(0), np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(defined, array, 0.0).sum(0) / n
        squares = (np.where(defined, array - mean, 0.0) ** 2).sum(0)
        spread = np.sqrt(squares / np.maximum(n - 1, 0))
    return mean, np.where(n < 2, np.nan, spread), n


def _difference(
    value: Floats,
    spread: Floats,
    error: Floats,
    n: NDArray[np.int64],
    units: Floats,
    confidence: float,
    rest: tuple[int, ...],
    df: Floats | None = None,
) -> Difference:
    """A difference and its t-test, from its standard error; `units`: the difference by unit."""
    from scipy.stats import t

    df = np.maximum(n - 1.0, 1.0) if df is None else df
    largest = np.where(np.isfinite(units), np.abs(units), 0.0).max(0, initial=0.0)
    same = spread <= _ROUNDING * largest  # all units equal, but for rounding
    none = same & (largest == 0)  # and equal to zero: there is no difference
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * t.sf(np.abs(value) / error, df)
        half = t.ppf((1 + confidence) / 2, df) * error
    unknown = (n < 2) | (same & ~none) | ~np.isfinite(value)
    p = np.where(unknown, np.nan, np.where(none, 1.0, p))
    low, high = (np.where(unknown, np.nan, value + sign * half) for sign in (-1, 1))
    value, low, high, p, spread = (
        np.asarray(each, np.float64).reshape(rest) for each in (value, low, high, p, spread)
    )
    undefined = np.asarray(len(units) - n, np.int64).reshape(rest)
    return Difference(value, low, high, p, n.reshape(rest), undefined, spread)
