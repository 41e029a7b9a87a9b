"""Draws and networks are measured in groups that depend on the model alone."""

from __future__ import annotations

import pytest

from iclgd_lens import comparison_groups
from iclgd_lens.comparison_groups import groups_of
from tests import checks


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(0, []), (1, [1]), (2, [1, 1]), (3, [1, 2]), (5, [2, 3]), (8, [4, 4]), (9, [3, 3, 3])],
)
def test_groups_are_of_nearly_one_size(count: int, sizes: list[int]) -> None:
    groups = groups_of(range(count), checks.host(checks.kinds()[0], "gpt2"))
    assert [len(group) for group in groups] == sizes
    assert [each for group in groups for each in group] == list(range(count))


def test_draws_and_networks_of_a_large_model_are_measured_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(comparison_groups, "ROOM", 0)
    assert groups_of(range(4), checks.host(checks.kinds()[0], "gpt2")) == [[0], [1], [2], [3]]
