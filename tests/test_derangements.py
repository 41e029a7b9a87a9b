"""Right labels made wrong: every permutation without a fixed label, each about as often."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from iclgd_lens.derangements import deranged


@pytest.mark.parametrize("values", [[0, 0, 1, 1, 2, 3], [2, 5, 2, 1, 1, 5, 1], [0, 1, 2, 1, 2, 0]])
def test_every_permutation_without_a_fixed_label_is_drawn_about_as_often(values: list[int]) -> None:
    allowed = {
        each for each in itertools.permutations(values)
        if all(new != old for new, old in zip(each, values, strict=True))
    }  # fmt: skip
    drawn = Counter(
        tuple(deranged(values, np.random.default_rng(seed)) or ())
        for seed in range(40 * len(allowed))
    )
    assert set(drawn) == allowed
    # 40 expected of each: six standard deviations are 38.
    assert min(drawn.values()) > 2
    assert max(drawn.values()) < 78


@pytest.mark.parametrize(
    "values", [[], [0, 1], [0, 1, 2], [1, 1, 0, 0], [0, 0, 1, 2], list(range(9)) * 3]
)
def test_a_permutation_without_fixed_labels_is_found_where_there_is_one(values: list[int]) -> None:
    for seed in range(20):
        found = deranged(values, np.random.default_rng(seed))
        assert found is not None
        assert sorted(found) == sorted(values)
        assert all(new != old for new, old in zip(found, values, strict=True))


def test_with_three_labels_each_takes_both_others_in_more_ways_than_one() -> None:
    right = np.repeat([0, 1, 2], [5, 5, 6]).tolist()
    taken = Counter(
        Counter(zip(right, deranged(right, np.random.default_rng(seed)) or (), strict=True))[0, 1]
        for seed in range(300)
    )
    # Ways with x of the first label's five places showing the second, of 0 to 4:
    # C(5, x) C(5, 1 + x) C(6, 5 - x).
    ways = np.array([5 * 6, 5 * 10 * 15, 10 * 10 * 20, 10 * 5 * 15, 5 * 6])
    expected = 300 * ways / ways.sum()
    assert all(abs(taken[x] - expected[x]) < 5 * expected[x] ** 0.5 + 1 for x in range(5))
    assert set(taken) <= set(range(5))
    assert len(taken) >= 3
