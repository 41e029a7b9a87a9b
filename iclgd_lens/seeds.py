"""Seeds: what every random choice of this package takes, checked where it enters."""

from __future__ import annotations

import operator
from typing import Any

from iclgd_lens.errors import LensError, SeedError

LARGEST = 2**63 - 1
"""The largest seed: generators and the columns of result files hold 63 bits."""


def check_seed(seed: Any, what: str = "seed", error: type[LensError] = SeedError) -> int:
    """Return a seed as an integer.

    Args:
        seed: What was given; NumPy's integers are taken, too.
        what: What it is called in the message.
        error: What is raised.

    Raises:
        LensError: (the class `error`) It is no integer from 0 to `LARGEST`.
    """
    try:
        if isinstance(seed, bool):
            raise TypeError
        whole = operator.index(seed)
    except TypeError:
        raise error(f"{what} must be an integer, not {seed!r}") from None
    if whole < 0:
        raise error(f"{what} must be 0 or more, not {whole}")
    if whole > LARGEST:
        digits = whole.bit_length()
        raise error(f"{what} must be at most 2**63 - 1, not a number of {digits} bits")
    return whole
