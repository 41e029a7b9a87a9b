"""The six tasks on real rows, where they are at hand (they are no part of the project)."""

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.tasks import Rows, draw_demonstrations, get_task, load_rows

DATA = Path(__file__).parents[2].parent / "shared" / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the project")

# Rows per class: train, validation.
COUNTS = {
    "sst2": ((3506, 4494), (428, 444)),
    "sst5": ((1022, 2080, 1522, 2164, 1212), (139, 289, 229, 279, 165)),
    "mr": ((4007, 3993), (533, 533)),
    "subj": ((4000, 4000), (1000, 1000)),
    "agnews": ((1259, 1257, 1280, 1203), (489, 491, 496, 524)),
    "cb": ((115, 119, 16), (23, 28, 5)),
}


@cache
def load(name: str, split: Any) -> Rows:
    return load_rows(name, split, DATA)


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_row_counts(name: str) -> None:
    task = get_task(name)
    for split, expected in zip(("train", "validation"), COUNTS[name], strict=True):
        rows = load(name, split)
        counts = Counter(row.label for row in rows.examples)
        assert tuple(counts[label] for label in range(len(task.labels))) == expected
        assert len(rows) == sum(expected)
        assert all("  Label:" not in row.prompt for row in rows.examples)


def test_a_validation_row_of_sst5_repeats_a_train_row() -> None:
    train, validation = (load("sst5", split) for split in ("train", "validation"))
    shown = {row.prompt for row in train.examples}
    assert sum(row.prompt in shown for row in validation.examples) == 2
    drawn = draw_demonstrations(train, 32, seed=5)
    assert len({row.index for row in drawn}) == 32
    assert all(row.prompt.startswith("Sentence: ") for row in drawn)
    assert all(row.prompt.endswith(" Label:") for row in drawn)
