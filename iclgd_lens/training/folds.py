"""Demonstrations to learn from and others to be asked, by either of two rules.

`balanced_folds` leaves out a share of them, balanced over labels: what a search for a budget asks,
where two or three left-out ones must tell rates apart. `folds_in_turn` leaves out every one of them
once, whatever its label: what hypotheses ask that choose by left-out demonstrations themselves.
"""

from __future__ import annotations

from typing import NamedTuple

from iclgd_lens.demonstrations import FOREIGN, Demonstrations, part
from iclgd_lens.errors import HypothesisError, LensError

FOLDS = 2
LEFT_OUT = 0.25
"""Share of the demonstrations that a balanced fold leaves out (at least one)."""


class Fold(NamedTuple):
    """Some demonstrations to learn from, others to be asked."""

    train: Demonstrations
    left_out: Demonstrations


def balanced_folds(
    shown: Demonstrations, count: int = FOLDS, share: float = LEFT_OUT
) -> list[Fold]:
    """Folds of the demonstrations, the left-out ones balanced over labels as far as they go.

    Which are left out follows the order in which they were drawn, so every permutation of a draw
    leaves out the same. Both parts stay in prompt order. Most are never left out; see
    `folds_in_turn`.

    Raises:
        LensError: Fewer than two demonstrations, or they are another task's.
    """
    size = len(shown)
    if size < 2:
        raise LensError(f"Choosing a budget needs at least 2 demonstrations, not {size}.")
    if any(example.gold == FOREIGN for example in shown.examples):
        raise LensError("Demonstrations of another task cannot choose this task's budget.")
    drawn = list(shown.drawn or range(size))
    queues: dict[int, list[int]] = {}
    for place in drawn:
        queues.setdefault(shown.examples[place].gold, []).append(place)
    dealt: list[int] = []  # by turns from each label, the last drawn first
    while any(queues.values()):
        dealt += [queue.pop() for queue in queues.values() if queue]
    out = min(size - 1, max(1, round(size * share)))
    found: list[Fold] = []
    for fold in range(min(count, size // out)):
        left = set(dealt[fold * out : (fold + 1) * out])
        found.append(Fold(part(shown, set(range(size)) - left), part(shown, left)))
    return found


def folds_in_turn(rule: str, shown: Demonstrations, count: int) -> list[Fold]:
    """Folds of the demonstrations, each of which is left out once.

    The i-th drawn is left out by fold i modulo the number of folds, which is at most that of
    demonstrations. Order and permutation of the prompt have no say, nor have labels; see
    `balanced_folds`.

    Raises:
        HypothesisError: Fewer than two demonstrations, or fewer than two folds.
    """
    if len(shown) < 2 or count < 2:
        raise HypothesisError(
            f"{rule}: leaving demonstrations out needs at least 2 of them and 2 folds, not "
            f"{len(shown)} and {count}."
        )
    drawn = shown.drawn or tuple(range(len(shown)))
    count = min(count, len(shown))
    left_out = [[place for i, place in enumerate(drawn) if i % count == f] for f in range(count)]
    return [
        Fold(part(shown, [place for place in drawn if place not in out]), part(shown, out))
        for out in left_out
    ]
