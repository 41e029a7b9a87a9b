"""Ranges of settings over which something stays as it is at one of them."""

from __future__ import annotations

from collections.abc import Sequence


def range_around(ordered: Sequence[float], holds: Sequence[bool], at: float) -> tuple[float, float]:
    """The lowest and the highest of some values that can be reached from one where it holds.

    Args:
        ordered: The values, ascending.
        holds: Whether it holds at each of them.
        at: The one to start from.

    Examples:
        >>> range_around([0.1, 0.3, 1.0, 3.0], [True, False, True, True], at=1.0)
        (1.0, 3.0)
    """
    low = high = ordered.index(at)
    while low > 0 and holds[low - 1]:
        low -= 1
    while high + 1 < len(ordered) and holds[high + 1]:
        high += 1
    return ordered[low], ordered[high]
