"""Seeds and types of arguments: what is taken, and in what words the rest is refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.errors import ComparisonError, LensError, PlanError, SeedError
from iclgd_lens.validation import LARGEST, check_arguments, check_seed, checks_types
from tests import checks


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


def settings(
    whole: int = 1, number: float | None = None, word: str = "a", flag: bool = False,
    some: int | Iterable[int] | None = None, words: str | Sequence[str] = (),
    odd: int = None, anything: complex | None = None, table: dict[str, int] | None = None,  # type: ignore[assignment]  # noqa: RUF013
) -> None:  # fmt: skip
    """Only its signature is looked at."""


@pytest.mark.parametrize(
    "given",
    [
        {"whole": np.int64(3)},
        {"number": 2},
        {"number": np.float32(0.1)},
        {"number": torch.tensor(0.1)},
        {"number": None},
        {"some": 3},
        {"some": [0, 1]},
        {"some": range(3)},
        {"some": np.arange(2)},
        {"words": "W_K"},
        {"words": ("W_K", "b_K")},
        {"odd": None},  # its default, whatever its annotation says
        {"anything": "what nobody looks at"},
        {"table": {"a": 1}},
        {"table": MappingProxyType({})},
        {"unknown": 1},
    ],
)
def test_values_of_the_named_type_are_taken(given: dict[str, Any]) -> None:
    check_arguments(settings, given, PlanError)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"whole": "many"}, "x: whole must be an integer, not 'many'"),
        ({"whole": 2.0}, r"x: whole must be an integer, not 2\.0"),
        ({"whole": True}, "x: whole must be an integer, not True"),
        ({"whole": None}, "x: whole must be an integer, not None"),
        ({"number": "abc"}, "x: number must be a number or None, not 'abc'"),
        ({"word": 3}, "x: word must be a text, not 3"),
        ({"flag": "yes"}, "x: flag must be True or False, not 'yes'"),
        ({"some": "all"}, "x: some must be an integer or a list of integers or None, not 'all'"),
        ({"some": [0, "a"]}, r"list of integers or None, not \[0, 'a'\]"),
        ({"words": 3}, "x: words must be a text or a list of texts, not 3"),
        ({"table": 5}, "x: table must be a mapping or None, not 5"),
        ({"table": [("a", 1)]}, "x: table must be a mapping or None"),
    ],
)
def test_values_of_plainly_another_type_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message) as caught:
        check_arguments(settings, given, PlanError, "x: ")
    assert "\n" not in str(caught.value)


def test_a_decorated_function_is_itself_but_for_the_check() -> None:
    with checks.untyped():

        @checks_types(ComparisonError)
        def twice(number: int, *, by: float = 2) -> float:
            """Double."""
            return number * by

        assert twice(3) == 6
        assert twice.__doc__ == "Double."
        with pytest.raises(ComparisonError, match="by must be a number, not 'two'"):
            twice(3, by="two")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="unexpected keyword argument 'buy'"):
            twice(3, buy=2)  # type: ignore[call-arg]
