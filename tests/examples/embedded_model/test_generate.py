"""The generator writes the shipped rows, to the byte."""

import gzip
from pathlib import Path

import pytest

from examples.embedded_model import generate
from examples.embedded_model.grammar import TASKS


@pytest.mark.parametrize("task", TASKS)
def test_the_generator_writes_the_shipped_rows(task: str) -> None:
    for split, rows in generate.generate(task).items():
        shipped = gzip.decompress((generate.DATA / f"{task}_{split}.jsonl.gz").read_bytes())
        assert generate.encode_rows(rows) == shipped


def test_files_written_twice_are_equal_to_the_byte(tmp_path: Path) -> None:
    first = generate.write_rows(tmp_path / "a")
    second = generate.write_rows(tmp_path / "b")
    assert [path.name for path in first] == [path.name for path in second]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True))
    assert {path.name for path in first} == {path.name for path in generate.DATA.iterdir()}
