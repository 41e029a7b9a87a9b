"""Random permutations that leave no value where it was: right labels made wrong, as often each."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb

import numpy as np
from jaxtyping import Int


def deranged(values: Sequence[int], generator: np.random.Generator) -> list[int] | None:
    """Return a random permutation that leaves no value where it was; None if there is none.

    Of all such permutations each is as likely as any other: exactly with up to three kinds of
    value, nearly with more (a random walk whose steps are as likely back as forth).

    1. Places are sorted by value, values and the places of each in random order.
    2. Each place takes the value that stands further on, by as many places as the commonest value
       has: that is never its own.
    3. Random pairs of places exchange their values, many times, where both stay wrong. With three
       kinds no exchange changes how many of one kind stand where another was, so that number is
       drawn in place of steps 2 and 3.
    """
    own = np.asarray(values, dtype=np.int64)
    kinds, counts = np.unique(own, return_counts=True)
    most, n = int(counts.max(initial=0)), len(own)
    if 2 * most > n:
        return None
    groups = [
        generator.permutation(np.flatnonzero(own == kind)) for kind in generator.permutation(kinds)
    ]
    if len(groups) == 3:
        return _three_kinds_deranged(own, groups, generator).tolist()
    places = np.concatenate([*groups, np.zeros(0, np.int64)])
    found = own.copy()
    found[places] = own[np.roll(places, -most)]
    for i, j in generator.integers(0, max(n, 1), (10 * n, 2)):
        if found[i] != own[j] and found[j] != own[i]:
            found[i], found[j] = found[j], found[i]
    return found.tolist()


def _three_kinds_deranged(
    own: Int[np.ndarray, " place"],
    groups: Sequence[Int[np.ndarray, " _"]],
    generator: np.random.Generator,
) -> Int[np.ndarray, " place"]:
    """`deranged` for three kinds, of which none has more than half of the places.

    If x places of the first kind take the second, what each kind takes of each other follows. So x
    is drawn in proportion to how many permutations have it; the places of each kind are in random
    order, so its first ones take one of the two others and the rest the other.
    """
    first, second, third = (len(group) for group in groups)
    choices = range(
        max(0, first - third, second - third), min(first, second, first + second - third) + 1
    )
    ways = [
        comb(first, x) * comb(second, third - first + x) * comb(third, second - x) for x in choices
    ]
    total = sum(ways)
    x = choices[generator.choice(len(ways), p=[each / total for each in ways])]
    one, two, three = (own[group[0]] for group in groups)
    found = own.copy()
    for group, taken, value, other in (
        (groups[0], x, two, three),
        (groups[1], third - first + x, three, one),
        (groups[2], second - x, two, one),
    ):
        found[group[:taken]], found[group[taken:]] = value, other
    return found
