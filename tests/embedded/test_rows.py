"""The embedded rows are fit to evaluate on, and the package holds them and the model alone."""

from pathlib import Path

import pytest

import iclgd_lens.embedded
from examples.embedded_model.grammar import TASKS, n_labels
from iclgd_lens.embedded import embedded_rows
from iclgd_lens.errors import RowsError
from iclgd_lens.tasks import get_task


def test_the_package_holds_the_model_and_its_rows_alone() -> None:
    folder = Path(iclgd_lens.embedded.__file__).parent
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        "__init__.py", "data", "model",
    }  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_no_row_is_in_both_splits(task: str) -> None:
    columns = get_task(task).columns
    texts = {
        split: {tuple(str(row[column]) for column in columns) for row in embedded_rows(task, split)}
        for split in ("train", "validation")
    }
    assert not texts["train"] & texts["validation"]
    assert len(texts["train"]) >= 300
    assert len(texts["validation"]) >= 150


@pytest.mark.parametrize("task", TASKS)
def test_rows_have_the_task_columns_and_every_label(task: str) -> None:
    for split in ("train", "validation"):
        rows = embedded_rows(task, split)
        assert all(set(row) == {*get_task(task).columns, "label"} for row in rows)
        assert {row["label"] for row in rows} == set(range(n_labels(task)))
        assert n_labels(task) == len(get_task(task).labels)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(RowsError, match="Did you mean 'sst2'"):
        embedded_rows("sst22", "train")
