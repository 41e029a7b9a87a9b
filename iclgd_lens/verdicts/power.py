"""How many more draws or networks would do, if difference and spread are what they seem.

What is known of both is an estimate itself, and so is the answer: it tells whether five more draws
are worth their time, or five hundred would not do.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_UNITS = 1000
"""Beyond so many units, none are said to be enough."""


def units_needed(
    effect: float,
    spread: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    prediction: bool = False,
) -> int | None:
    """How many units show a difference from zero, if effect and spread are what they seem.

    Args:
        effect: The difference, in the score's units; its sign does not matter.
        spread: Standard deviation over units, in the same units.
        alpha: Two-sided level.
        power: Chance of showing it.
        prediction: Whether one value is held against a population (`prediction_t`); then the
            population's own spread remains, and no number of its draws may do.

    Returns:
        The smallest number from 2 to `MOST_UNITS`; None if even that would not do. By the normal
        approximation of the noncentral t: about right, which is what it is for.
    """
    n, critical = _criticals(1 - alpha / 2)
    bar = critical * np.sqrt(n + 1) if prediction else critical
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = _normal((abs(effect) * np.sqrt(n) / spread - bar) / _widened(bar, n))
    return _first(n, chance, power)


def units_to_equivalence(
    effect: float, spread: float, margin: float, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """How many units show a difference to lie within the margin; see `units_needed`."""
    n, critical = _criticals(1 - alpha)
    with np.errstate(invalid="ignore", divide="ignore"):
        sides = [(margin - sign * effect) * np.sqrt(n) / spread for sign in (1, -1)]
        above, below = (_normal((side - critical) / _widened(critical, n)) for side in sides)
    return _first(n, above + below - 1, power)


@lru_cache(maxsize=64)
def _criticals(level: float) -> tuple[Floats, Floats]:
    from scipy.stats import t

    n = np.arange(2, MOST_UNITS + 1, dtype=np.float64)
    return n, np.asarray(t.ppf(level, n - 1), np.float64)


def _widened(critical: Floats, n: Floats) -> Floats:
    """What an estimated spread adds to that of t."""
    return np.sqrt(1 + critical**2 / (2 * (n - 1)))


def _normal(z: Floats) -> Floats:
    from scipy.special import ndtr

    return np.asarray(ndtr(z), np.float64)


def _first(n: Floats, chance: Floats, power: float) -> int | None:
    enough = np.flatnonzero(chance >= power)
    return int(n[enough[0]]) if enough.size else None
