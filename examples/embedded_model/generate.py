"""Write the embedded rows: `python -m examples.embedded_model.generate`.

They are written into the package. The files are a function of the grammar alone: the same bytes on
every machine (up to the version of zlib, which may compress the same rows otherwise).
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Literal

import iclgd_lens.embedded
from examples.embedded_model.grammar import TASKS, Fields, draw_fields, n_labels
from iclgd_lens.files import write_whole

Split = Literal["train", "validation"]

SPLIT_ROWS = {"train": 360, "validation": 180}
"""Rows of each split, the same number for each class of a task."""

SEED = 2311

DATA = Path(iclgd_lens.embedded.__file__).parent / "data"
"""Where the package keeps its rows."""


def generate(task: str) -> dict[Split, list[dict[str, str | int]]]:
    """Draw both splits of a task: balanced, shuffled, and without a row that occurs twice."""
    rng = random.Random(f"{SEED} {task}")
    seen: set[tuple[str, ...]] = set()
    splits: dict[Split, list[dict[str, str | int]]] = {"train": [], "validation": []}
    for split, rows in splits.items():
        for i in range(SPLIT_ROWS[split]):
            label = i % n_labels(task)
            fields = _unseen(task, label, rng, seen)
            rows.append({**fields, "label": label})
        rng.shuffle(rows)
    return splits


def row_key(fields: Fields) -> tuple[str, ...]:
    """What makes two rows the same: their texts."""
    return tuple(fields.values())


def _unseen(task: str, label: int, rng: random.Random, seen: set[tuple[str, ...]]) -> Fields:
    while True:
        fields = draw_fields(task, label, rng)
        if row_key(fields) not in seen:
            seen.add(row_key(fields))
            return fields


def encode_rows(rows: list[dict[str, str | int]]) -> bytes:
    """JSON Lines, one row a line."""
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write_rows(folder: Path) -> list[Path]:
    """Write `<task>_<split>.jsonl.gz` for every task and split; return the paths."""
    paths: list[Path] = []
    for task in TASKS:
        for split, rows in generate(task).items():
            path = folder / f"{task}_{split}.jsonl.gz"
            write_whole(path, gzip.compress(encode_rows(rows), mtime=0))
            paths.append(path)
    return paths


if __name__ == "__main__":
    for written in write_rows(DATA):
        print(written)
