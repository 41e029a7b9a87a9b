"""Draws: the order of `datasets`, balance, permutations, exclusion and wrong labels."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclgd_lens.errors import RowsError
from iclgd_lens.tasks import (
    Row,
    Rows,
    draw_demonstrations,
    draw_queries,
)


def make(labels: list[int], n_labels: int | None = None) -> Rows:
    examples = tuple(Row(f"prompt {i}", label, i) for i, label in enumerate(labels))
    return Rows("toy", "train", "here", None, examples, n_labels)


ROWS = make([i % 3 for i in range(60)], 3)


def indices(rows: tuple[Row, ...]) -> list[int]:
    return [row.index for row in rows]


@pytest.mark.parametrize("seed", [0, 1, 4, 12345])
def test_order_is_that_of_datasets(seed: int) -> None:
    datasets = pytest.importorskip("datasets")
    shuffled = datasets.Dataset.from_dict({"index": list(range(60))}).shuffle(seed=seed)["index"]
    assert indices(draw_demonstrations(ROWS, 60, seed=seed)) == list(shuffled)
    assert indices(draw_queries(ROWS, 60, seed=seed)) == list(shuffled)


def test_order_without_datasets() -> None:
    # `Dataset.shuffle(seed=2)` of ten rows, noted down: holds where datasets is not installed.
    rows = make([0, 1] * 5)
    assert indices(draw_demonstrations(rows, 10, seed=2)) == [2, 0, 7, 6, 9, 5, 3, 4, 8, 1]


def test_demonstrations_are_the_first_rows_of_the_shuffle() -> None:
    drawn = draw_demonstrations(ROWS, 8, seed=3)
    assert drawn == draw_demonstrations(ROWS, 60, seed=3)[:8]
    assert drawn == draw_demonstrations(ROWS, 8, seed=3)
    assert drawn != draw_demonstrations(ROWS, 8, seed=4)
    assert draw_demonstrations(ROWS, 0, seed=3) == ()
    assert draw_demonstrations(ROWS, 0, seed=3, permutation=1, balanced=True) == ()


def test_permutations_reorder_the_same_rows() -> None:
    orders = [indices(draw_demonstrations(ROWS, 8, seed=3, permutation=p)) for p in range(4)]
    assert all(sorted(order) == sorted(orders[0]) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert orders[1] == indices(draw_demonstrations(ROWS, 8, seed=3, permutation=1))


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    seed=st.integers(0, 2**32),
    data=st.data(),
)
def test_balance(labels: list[int], seed: int, data: Any) -> None:
    classes = sorted(set(labels))
    rows = make(labels)
    at_most = min(Counter(labels).values()) * len(classes)
    shots = data.draw(st.integers(0, at_most))
    drawn = draw_demonstrations(rows, shots, seed=seed, balanced=True)
    shuffled = draw_demonstrations(rows, len(labels), seed=seed)
    assert len(drawn) == shots
    counts = Counter(row.label for row in drawn)
    assert all(counts[label] - shots // len(classes) in (0, 1) for label in classes)
    # In shuffled order, and of each class its first rows.
    assert [row for row in shuffled if row in drawn] == list(drawn)
    for label in classes:
        of_class = [row for row in shuffled if row.label == label]
        assert of_class[: counts[label]] == [row for row in drawn if row.label == label]
    # The remainder goes to the classes that the shuffle shows first.
    first_seen = list(dict.fromkeys(row.label for row in shuffled))
    extra = [label for label in first_seen if counts[label] > shots // len(classes)]
    assert extra == first_seen[: shots % len(classes)]


def test_balanced_and_permuted_are_the_same_rows() -> None:
    plain = draw_demonstrations(ROWS, 7, seed=1, balanced=True)
    permuted = draw_demonstrations(ROWS, 7, seed=1, balanced=True, permutation=2)
    assert sorted(indices(plain)) == sorted(indices(permuted))
    assert plain != permuted


def test_too_few_rows() -> None:
    with pytest.raises(RowsError, match=r"61 demonstrations .* 'toy' \(here\) has 60 rows"):
        draw_demonstrations(ROWS, 61, seed=0)
    scarce = make([0] * 10 + [1], 2)
    with pytest.raises(RowsError, match=r"4 balanced demonstrations need 2 of label 1.* has 1"):
        draw_demonstrations(scarce, 4, seed=0, balanced=True)
    absent = make([0] * 10 + [1] * 10, 3)
    with pytest.raises(RowsError, match=r"6 balanced demonstrations need 2 of label 2.* has 0"):
        draw_demonstrations(absent, 6, seed=0, balanced=True)
    assert len(draw_demonstrations(absent, 2, seed=0, balanced=True)) == 2


@pytest.mark.parametrize("wrong", ["shots", "seed", "permutation"])
def test_negative_numbers(wrong: str) -> None:
    arguments: dict[str, int] = {"shots": 4, "seed": 0, "permutation": 0} | {wrong: -1}
    with pytest.raises(RowsError, match=f"{wrong} must be 0 or more, not -1"):
        draw_demonstrations(ROWS, **arguments)


def test_queries() -> None:
    everything = draw_queries(ROWS, None)
    assert sorted(indices(everything)) == list(range(60))
    assert draw_queries(ROWS, 5) == everything[:5]
    assert len(draw_queries(make([0, 1] * 1500), None)) == 2000
    with pytest.raises(RowsError, match=r"61 queries were asked for, but .* has 60 rows$"):
        draw_queries(ROWS, 61)
    with pytest.raises(RowsError, match="at least 1, not 0"):
        draw_queries(ROWS, 0)


def test_queries_that_repeat_a_demonstration_are_passed_over() -> None:
    plain = draw_queries(ROWS, 60)
    # The label differs: the same text is the same text.
    demonstrations = (Row(plain[1].prompt, 2 - plain[1].label, 7), Row("not a query", 0, 8))
    kept = draw_queries(ROWS, 5, exclude=demonstrations)
    assert kept == (plain[0], *plain[2:6])
    assert len(draw_queries(ROWS, None, exclude=iter(demonstrations))) == 59
    with pytest.raises(RowsError, match=r"60 queries .* has 59 rows \(1 more repeat a demonstr"):
        draw_queries(ROWS, 60, exclude=demonstrations)
    with pytest.raises(RowsError, match=r"has 0 rows \(60 more"):
        draw_queries(ROWS, None, exclude=ROWS.examples)


def test_global_generators_are_left_alone() -> None:
    before = np.random.get_state()[1]
    draw_demonstrations(ROWS, 8, seed=3, permutation=2, balanced=True)
    draw_queries(ROWS, 8)
    assert np.array_equal(before, np.random.get_state()[1])
