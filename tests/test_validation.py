"""Seeds: what is taken, and in what words the rest is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iclgd_lens.errors import LensError, PlanError, SeedError
from iclgd_lens.validation import LARGEST, check_seed


@pytest.mark.parametrize("seed", [0, 1, np.int64(7), np.uint8(3), LARGEST])
def test_integers_from_0_to_63_bits_are_seeds(seed: Any) -> None:
    found = check_seed(seed)
    assert type(found) is int
    assert found == seed
    np.random.default_rng(found)


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (-1, "control_seed must be 0 or more, not -1"),
        (2**63, r"control_seed must be at most 2\*\*63 - 1, not a number of 64 bits"),
        (2**70, "not a number of 71 bits"),
        (1.0, r"control_seed must be an integer, not 1\.0"),
        (True, "control_seed must be an integer, not True"),
        ("1", "control_seed must be an integer, not '1'"),
        (None, "control_seed must be an integer, not None"),
    ],
)
def test_anything_else_is_refused(seed: Any, message: str) -> None:
    with pytest.raises(SeedError, match=message):
        check_seed(seed, "control_seed")
    with pytest.raises(PlanError, match=message) as caught:
        check_seed(seed, "control_seed", PlanError)
    assert isinstance(caught.value, LensError)
