"""A task's rows as prompts and label ids, checked one by one, with hashes."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import get_args

from iclgd_lens.errors import RowsError, nearest
from iclgd_lens.tasks._sources import RawRows, Split, from_embedded, from_folder, from_hub
from iclgd_lens.tasks._validate import missing_column
from iclgd_lens.tasks.registry import get_task
from iclgd_lens.tasks.task import Task


@dataclass(frozen=True)
class Row:
    """One labelled example.

    Attributes:
        prompt: The filled prompt, without its label word.
        label: Label id.
        index: Position in the source, from 0.
    """

    prompt: str
    label: int
    index: int

    @property
    def hash(self) -> str:
        """16 hex digits of the SHA-256 of prompt and label (the index does not count)."""
        return _digest([self])[:16]


@dataclass(frozen=True)
class Rows:
    """All rows of one split of a task.

    Attributes:
        task: The task's name.
        split: "train" or "validation".
        source: What the rows were read from, in words.
        revision: The Hub commit or the revision that was asked for; None off the Hub.
        examples: The rows, in the source's order.
        n_labels: How many labels the task has (None: as many as occur).
    """

    task: str
    split: Split
    source: str
    revision: str | None
    examples: tuple[Row, ...]
    n_labels: int | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.examples)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all prompts and labels, 64 hex digits."""
        return hash_rows(self.examples)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """Each row's `Row.hash`."""
        return tuple(row.hash for row in self.examples)


def hash_rows(rows: Iterable[Row]) -> str:
    """Return the SHA-256 over the rows' prompts and labels, in order, as 64 hex digits."""
    return _digest(rows)


def load_rows(
    task: str | Path | Task,
    split: Split,
    data: str | Path | None = "hub",
    revision: str | None = None,
    *,
    strip: bool = True,
) -> Rows:
    """Read and check all rows of one split of a task.

    Args:
        task: What `get_task` takes.
        split: "train" for demonstrations, "validation" for queries. On the Hub these are the
            task's `train_split` and `evaluation_split` (which may be called test).
        data: "hub" (or None), "embedded", or a folder that holds `<task>/train.jsonl` and
            `<task>/validation.jsonl`, or `.parquet` in place of `.jsonl`.
        revision: Branch, tag or commit of the Hub dataset, to pin it.
        strip: Strip whitespace at the two ends of every text, see `Task.prompt_for`.

    Raises:
        RowsError: The rows cannot be had, there are none, or one is wrong: a column is missing,
            empty or there twice, or a label is unknown. The message names file and row (lines
            of a JSON Lines file count from 1, other rows from 0).
        TaskError: There is no such task.
    """
    task = get_task(task)
    if split not in get_args(Split):
        near = nearest(split, get_args(Split))
        raise RowsError(f"unknown split {split!r} (allowed: train, validation).{near}")
    raw = _raw_rows(task, split, "hub" if data is None else data, revision)
    examples: list[Row] = []
    for index, (place, record) in enumerate(raw.records):
        try:
            prompt = task.prompt_for(record, strip=strip)
            if task.label_column not in record:
                raise RowsError(missing_column(task.label_column, record))
            examples.append(Row(prompt, task.label_id(record[task.label_column]), index))
        except RowsError as error:
            raise RowsError(f"{place}: {error}") from None
    if not examples:
        raise RowsError(f"{raw.source}: no rows at all")
    return Rows(task.name, split, raw.source, raw.revision, tuple(examples), len(task.labels))


def _raw_rows(task: Task, split: Split, data: str | Path, revision: str | None) -> RawRows:
    if data == "hub":
        return from_hub(task, split, revision)
    if revision is not None:
        raise RowsError(f"revision {revision!r} was given, but only the Hub's rows have revisions")
    if data == "embedded":
        return from_embedded(task, split)
    return from_folder(task, split, Path(data))


def _digest(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        # JSON marks where each prompt ends, so no two lists of rows share their bytes.
        digest.update(json.dumps([row.prompt, row.label], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
