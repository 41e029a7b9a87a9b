"""Which rows become demonstrations and queries: seeded draws that touch no global generator.

The order is that of `datasets.Dataset.shuffle(seed)`, so that the published seeds draw the rows
that the paper's runs drew from the same split.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

import numpy as np

from iclgd_lens.errors import RowsError
from iclgd_lens.tasks.rows import Row, Rows
from iclgd_lens.validation import check_seed

PUBLISHED_QUERIES = 2000
"""The published runs evaluate at most this many rows."""


def draw_demonstrations(
    rows: Rows,
    shots: int,
    *,
    seed: int,
    permutation: int = 0,
    balanced: bool = False,
    exclude: Collection[int] = (),
) -> tuple[Row, ...]:
    """Draw demonstrations without replacement, in prompt order.

    Args:
        rows: The training rows.
        shots: How many (0 is allowed).
        seed: Seed of the shuffle; the first `shots` rows of the shuffled split are drawn.
        permutation: 0 keeps that order; p > 0 reorders the same rows, seeded by (seed, p).
        balanced: Draw `shots // n_labels` rows of each class instead, still the first ones;
            what remains goes, one each, to the classes that the shuffle shows first.
        exclude: Rows that are passed over, by `Row.index`.

    Raises:
        RowsError: Fewer rows than shots (with `balanced`, in any class), or a negative number.
    """
    check_seed(seed, error=RowsError)
    check_seed(permutation, "permutation", RowsError)
    if shots < 0:
        raise RowsError(f"shots must be 0 or more, not {shots}")
    shuffled = [row for row in _shuffled(rows, seed) if row.index not in exclude]
    if shots > len(shuffled):
        raise RowsError(
            f"{shots} demonstrations were asked for, but {_name(rows)} has {len(shuffled)} rows"
        )
    drawn: list[Row] = _balanced(rows, shuffled, shots) if balanced else shuffled[:shots]
    if permutation:
        order = np.random.default_rng([seed, permutation]).permutation(len(drawn)).tolist()
        drawn = [drawn[i] for i in order]
    return tuple(drawn)


def draw_queries(
    rows: Rows, queries: int | None, *, seed: int = 1, exclude: Iterable[Row] = ()
) -> tuple[Row, ...]:
    """Draw queries without replacement: the first rows of the shuffled split.

    Args:
        rows: The evaluation rows.
        queries: How many; None for all of them, at most 2,000 (as published).
        seed: Seed of the shuffle (1 in the published runs).
        exclude: Demonstrations; a row with the prompt of one of them is passed over, whatever
            its label, and the next one taken.

    Raises:
        RowsError: Fewer rows than queries, no query asked for, or none left.
    """
    check_seed(seed, "the seed of the queries", RowsError)
    if queries is not None and queries < 1:
        raise RowsError(f"queries must be at least 1, not {queries}")
    excluded = {row.prompt for row in exclude}
    kept = [row for row in _shuffled(rows, seed) if row.prompt not in excluded]
    n_asked = min(PUBLISHED_QUERIES, len(kept)) if queries is None else queries
    if n_asked > len(kept) or not kept:
        dropped = len(rows) - len(kept)
        why = f" ({dropped} more repeat a demonstration)" if dropped else ""
        asked = "queries were" if queries is None else f"{queries} queries were"
        raise RowsError(f"{asked} asked for, but {_name(rows)} has {len(kept)} rows{why}")
    return tuple(kept[:n_asked])


def _shuffled(rows: Rows, seed: int) -> list[Row]:
    order = np.random.default_rng(seed).permutation(len(rows)).tolist()
    return [rows.examples[i] for i in order]


def _balanced(rows: Rows, shuffled: list[Row], shots: int) -> list[Row]:
    first_seen = list(dict.fromkeys(row.label for row in shuffled))
    # Classes without a single row come last, and are refused below if any is due.
    absent = [label for label in range(rows.n_labels or 0) if label not in first_seen]
    classes = first_seen + absent
    each, rest = divmod(shots, max(len(classes), 1))
    quota = {label: each + (place < rest) for place, label in enumerate(classes)}
    available = Counter(row.label for row in shuffled)
    for label, due in quota.items():
        if due > available[label]:
            raise RowsError(
                f"{shots} balanced demonstrations need {due} of label {label}, "
                f"but {_name(rows)} has {available[label]}"
            )
    drawn: list[Row] = []
    for row in shuffled:
        if quota[row.label] > 0:
            quota[row.label] -= 1
            drawn.append(row)
    return drawn


def _name(rows: Rows) -> str:
    return f"the {rows.split} split of {rows.task!r} ({rows.source})"
