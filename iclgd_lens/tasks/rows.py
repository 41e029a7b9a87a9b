"""A task's rows as prompts and label ids, checked one by one, with hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

from iclgd_lens.errors import RowsError, nearest
from iclgd_lens.tasks.columns import missing_column
from iclgd_lens.tasks.sources import (
    Data,
    RawRows,
    Split,
    from_embedded,
    from_folder,
    from_hub,
    from_memory,
    split_in_memory,
)
from iclgd_lens.tasks.task import Task, get_task


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
    data: Data = "hub",
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
            `<task>/validation.jsonl`, or `.parquet` in place of `.jsonl`; or rows in memory: a
            list of mappings, a pandas DataFrame or a `datasets.Dataset`, or a mapping of splits to
            these.
        revision: Branch, tag or commit of the Hub dataset, to pin it.
        strip: Strip whitespace at the two ends of every text, see `Task.prompt_for`.

    Raises:
        RowsError: The rows cannot be had, there are none, or one is wrong: a column is missing,
            empty or there twice, or a label is unknown. The message names source and row (lines
            of a JSON Lines file count from 1, other rows from 0).
        TaskError: There is no such task.
    """
    task = get_task(task)
    if split not in get_args(Split):
        near = nearest(split, get_args(Split))
        raise RowsError(f"Unknown split {split!r} (allowed: train, validation).{near}")
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


@dataclass(frozen=True)
class Splits:
    """Both splits of a task, read once.

    Attributes:
        train: Rows for demonstrations.
        validation: Rows for queries.
        data: "hub", "embedded" or a folder; None for rows in memory.
        same: Whether both are the same rows, so that no query may be a demonstration.
        strip: Whether white space at the ends of texts was stripped.
    """

    train: Rows
    validation: Rows
    data: str | None
    same: bool = False
    strip: bool = True


def load_splits(
    task: str | Path | Task, data: Data = "hub", revision: str | None = None, *, strip: bool = True
) -> Splits:
    """Read and check both splits of a task; see `load_rows` for arguments and errors.

    Args:
        task: What `get_task` takes.
        data: What `load_rows` takes; or `Splits` that were read before, of the same task.
        revision: Of the Hub's data set.
        strip: Strip white space at the two ends of every text.
    """
    task = get_task(task)
    if isinstance(data, Splits):
        if data.train.task != task.name or data.strip != strip:
            raise RowsError(
                f"These rows were read for task {data.train.task!r} with strip={data.strip}, not "
                f"for {task.name!r} with strip={strip}"
            )
        return data
    train = load_rows(task, "train", data, revision, strip=strip)
    if data is None or isinstance(data, str | Path):
        validation = load_rows(task, "validation", data, revision, strip=strip)
        return Splits(train, validation, "hub" if data is None else str(data), strip=strip)
    tables = [split_in_memory(task, split, data)[0] for split in get_args(Split)]
    if tables[0] is tables[1]:
        return Splits(train, replace(train, split="validation"), None, True, strip)
    return Splits(train, load_rows(task, "validation", data, strip=strip), None, strip=strip)


def _raw_rows(task: Task, split: Split, data: Data, revision: str | None) -> RawRows:
    in_memory = not isinstance(data, str | Path)
    if not in_memory and data == "hub":
        return from_hub(task, split, revision)
    if revision is not None:
        raise RowsError(f"revision {revision!r} was given, but only the Hub's rows have revisions")
    if in_memory:
        return from_memory(task, split, data)
    if data == "embedded":
        return from_embedded(task, split)
    return from_folder(task, split, Path(data))


def _digest(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        # JSON marks where each prompt ends, so no two lists of rows share their bytes.
        digest.update(json.dumps([row.prompt, row.label], ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
