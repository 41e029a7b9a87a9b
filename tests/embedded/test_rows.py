"""The embedded rows are what the generator writes, and are fit to evaluate on."""

import gzip
from pathlib import Path

import pytest

from iclgd_lens.embedded import embedded_rows, generate
from iclgd_lens.embedded.grammar import TASKS, n_labels
from iclgd_lens.errors import RowsError
from iclgd_lens.tasks import get_task

DATA = Path(generate.__file__).parent / "data"


@pytest.mark.parametrize("task", TASKS)
def test_the_generator_writes_the_shipped_rows(task: str) -> None:
    for split, rows in generate.generate(task).items():
        shipped = gzip.decompress((DATA / f"{task}_{split}.jsonl.gz").read_bytes())
        assert generate.encode_rows(rows) == shipped


def test_files_written_twice_are_equal_to_the_byte(tmp_path: Path) -> None:
    first = generate.write_rows(tmp_path / "a")
    second = generate.write_rows(tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert {path.name for path in first} == {path.name for path in DATA.iterdir()}


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
