"""Settings of a hypothesis that have no meaning end here, with what is allowed in their place."""

from __future__ import annotations

import math
from collections.abc import Iterable

from iclgd_lens.errors import HypothesisError, nearest


def one_of(rule: str, name: str, given: str, allowed: Iterable[str]) -> None:
    """Raise `HypothesisError` unless `given` is one of the allowed words."""
    words = list(allowed)
    if given not in words:
        raise HypothesisError(
            f"{rule}: {name} is {given!r}; allowed: {', '.join(words)}."
            + nearest(str(given), words)
        )


def between(
    rule: str,
    name: str,
    given: int | float,
    low: int | float,
    high: int | float = math.inf,
    *,
    above: bool = False,
) -> None:
    """Raise `HypothesisError` unless low <= given <= high; the nearest allowed value is named.

    Args:
        rule: The hypothesis.
        name: The setting.
        given: Its value.
        low: The least value allowed.
        high: The largest value allowed.
        above: Whether `low` itself is not allowed.
    """
    if not low <= given <= high or (above and given == low):
        if math.isinf(high):
            allowed = f"above {low:g}" if above else f"at least {low:g}"
        else:
            allowed = f"above {low:g} and at most {high:g}" if above else f"{low:g} to {high:g}"
        hint = "" if above and not given > high else f" The nearest is {_nearest(given, low, high)}"
        raise HypothesisError(f"{rule}: {name} is {given}; it must be {allowed}.{hint}".rstrip())


def _nearest(given: int | float, low: int | float, high: int | float) -> str:
    return f"{high if given > high else low:g}."


def only_with(rule: str, name: str, given: bool, needed: str, holds: bool) -> None:
    """Raise `HypothesisError` where a setting is given that means nothing beside the others."""
    if given and not holds:
        raise HypothesisError(f"{rule}: {name} needs {needed}.")
