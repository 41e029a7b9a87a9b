"""Which parts of a search for budgets can be set; needs no torch, as plans are read without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from iclgd_lens.errors import LensError, nearest
from iclgd_lens.protocol import LossOn, Protocol
from iclgd_lens.validation import check_arguments

BudgetMode = Literal["matched", "published"]
"""Whether budgets are chosen on left-out demonstrations, or those of the publications."""


def usual_budget(protocol: Protocol) -> BudgetMode:
    """How budgets are found where nobody says: published under the reference protocol alone."""
    return "published" if protocol.name == "reference" else "matched"


SEARCHED = ("grid", "epochs", "losses", "folds", "left_out")
"""The parts of a search that can differ from the default; see `choose_budget`."""


def check_search(
    asked: Mapping[str, Any], error: type[LensError] = LensError, where: str = "budget"
) -> None:
    """Refuse a search with unknown parts or with values that are not allowed.

    Args:
        asked: Parts of `SEARCHED` by name.
        error: What is raised.
        where: What the search is called at the front of the message; "" for nothing.

    Raises:
        LensError: (the class `error`) There is no such part, or its value is of another type or out
            of range.
    """
    prefix = f"{where}: " if where else ""
    for name in asked:
        if name not in SEARCHED:
            known = f"it has {', '.join(SEARCHED)}.{nearest(name, SEARCHED)}"
            raise error(f"{where or 'search'} has no {name!r}; {known}")
    check_arguments(_types, asked, error, prefix)
    for name, (fits, wanted) in _RANGES.items():
        if name in asked and not fits(asked[name]):
            raise error(f"{prefix}{name} must be {wanted}, not {asked[name]!r}")


def _types(
    grid: Sequence[float],
    epochs: Sequence[int],
    losses: Sequence[str],
    folds: int,
    left_out: float,
) -> None:
    """Types of the parts, as `check_arguments` reads them."""


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda values: len(values) > 0 and all(fits(value) for value in values)


_RANGES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "grid": (_each(lambda rate: 0 < rate < math.inf), "one positive number or more"),
    "epochs": (_each(lambda count: count >= 1), "one number of 1 or more, or several"),
    "losses": (
        _each(lambda tokens: tokens in get_args(LossOn)),
        f"of {', '.join(get_args(LossOn))}, one or more",
    ),
    "folds": (lambda count: count >= 1, "1 or more"),
    "left_out": (lambda share: 0 < share < 1, "between 0 and 1"),
}
