"""Draws and networks are measured in groups that depend on the model alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from iclgd_lens.measuring import groups_of


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (2, [1, 1]), (3, [1, 2]), (5, [2, 3]), (8, [4, 4]), (9, [3, 3, 3])],
)
def test_groups_are_of_nearly_one_size(count: int, sizes: list[int]) -> None:
    host = cast(Any, SimpleNamespace(model=torch.nn.Linear(2, 2)))
    groups = groups_of(range(count), host)
    assert [len(group) for group in groups] == sizes
    assert [each for group in groups for each in group] == list(range(count))


def test_draws_and_networks_of_a_large_model_are_measured_one_by_one() -> None:
    host = cast(Any, SimpleNamespace(model=torch.nn.Linear(4000, 4000)))
    assert groups_of(range(4), host) == [[0], [1], [2], [3]]
