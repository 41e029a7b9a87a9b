"""Where raw rows come from: a file, the Hub, the package itself, or the caller's memory.

Every source gives `RawRows`: mappings from column to value, not yet checked against a task. The
heavy libraries (datasets, pyarrow) are imported when a source needs them, not before.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from iclgd_lens.errors import LensError, RowsError, nearest
from iclgd_lens.tasks.columns import missing_column
from iclgd_lens.tasks.task import Task

Split = Literal["train", "validation"]
Data: TypeAlias = Any
"""What rows are taken from: "hub", "embedded", a folder, or rows in memory (see `from_memory`)."""

_ALTERNATIVES = "rows can also come from a folder (--data DIR) or be embedded (--data embedded)"


@dataclass(frozen=True)
class RawRows:
    """Unchecked rows.

    Attributes:
        source: What the rows were read from, in words.
        revision: The Hub commit, if it is known.
        records: Pairs of a row's place (for errors) and its columns.
    """

    source: str
    revision: str | None
    records: Iterable[tuple[str, Mapping[str, object]]]


def from_folder(task: Task, split: Split, folder: Path) -> RawRows:
    """Read `folder/<task>/<split>.jsonl` or `.parquet`.

    Raises:
        RowsError: No folder, neither file, both files, or a file that cannot be read.
    """
    if not folder.is_dir():
        near = nearest(str(folder), ("hub", "embedded"))
        raise RowsError(f"data {str(folder)!r} is not 'hub', 'embedded' or a folder.{near}")
    base = folder / task.name
    candidates = (base / f"{split}.jsonl", base / f"{split}.parquet")
    present = [path for path in candidates if path.is_file()]
    if not present:
        there = sorted(p.name for p in (base if base.is_dir() else folder).iterdir())
        raise RowsError(
            f"No rows of task {task.name!r}: neither {candidates[0]} nor {candidates[1].name} "
            f"exists ({base if base.is_dir() else folder} holds: {', '.join(there) or 'nothing'})"
        )
    if len(present) == 2:
        raise RowsError(f"Both {present[0]} and {present[1].name} exist: keep one of them")
    path = present[0]
    records = _jsonl(path) if path.suffix == ".jsonl" else _parquet(path, task)
    return RawRows(source=path.as_posix(), revision=None, records=records)


def from_embedded(task: Task, split: Split) -> RawRows:
    """Take the package's own rows.

    Raises:
        RowsError: The package holds none for this task.
    """
    from iclgd_lens.embedded import embedded_rows

    try:
        rows: Sequence[Mapping[str, object]] = embedded_rows(task.name, split)
    except (LensError, KeyError) as error:
        raise RowsError(f"Task {task.name!r} has no embedded {split} rows ({error})") from error
    if not rows:
        raise RowsError(f"Task {task.name!r} has no embedded {split} rows; give --data DIR")
    return RawRows("embedded", None, ((f"row {i}", row) for i, row in enumerate(rows)))


def from_hub(task: Task, split: Split, revision: str | None) -> RawRows:
    """Load the split from the Hugging Face Hub with `datasets`; its own code is never trusted.

    Raises:
        RowsError: The task names no dataset, `datasets` is not installed, or loading failed
            (offline, no such dataset, configuration, split or revision).
    """
    if task.hub_id is None:
        raise RowsError(f"Task {task.name!r} names no Hub dataset (hub_id); {_ALTERNATIVES}")
    name = task.train_split if split == "train" else task.evaluation_split
    what = f"{task.hub_id}{f' ({task.hub_config})' if task.hub_config else ''}, split {name}"
    try:
        datasets: Any = import_module("datasets")
    except ImportError as error:
        raise RowsError(
            f"{what}: the package 'datasets' is missing (pip install datasets); {_ALTERNATIVES}"
        ) from error
    try:
        dataset = datasets.load_dataset(task.hub_id, task.hub_config, split=name, revision=revision)
    except Exception as error:  # of many libraries: requests, httpx, huggingface_hub, datasets
        reason = " ".join(str(error).split())[:200]
        raise RowsError(
            f"{what}: the Hub gave no rows ({type(error).__name__}: {reason}); {_ALTERNATIVES}"
        ) from error
    source = f"hub: {what}"
    columns = _known_columns(cast("Sequence[str]", dataset.column_names), task, source)
    values: Mapping[str, Sequence[object]] = dataset.select_columns(columns)[:]
    commit = _commit(cast("Sequence[Mapping[str, object]]", dataset.cache_files))
    return RawRows(source, commit or revision, _rows_of(columns, values, source))


def split_in_memory(task: Task, split: Split, data: Data) -> tuple[Any, str]:
    """Return the table of a split, and what it is called in messages.

    Args:
        task: Its `train_split` and `evaluation_split` are names of splits, too.
        split: The split.
        data: A table for both splits, or a mapping of splits to tables.

    Raises:
        RowsError: The mapping has no such split.
    """
    if not isinstance(data, Mapping):
        return data, "data"
    tables = cast("Mapping[object, Any]", data)
    for name in (split, task.train_split if split == "train" else task.evaluation_split):
        if name in tables:
            return tables[name], f"data[{name!r}]"
    keys = [str(key) for key in tables]
    columns = (
        " A mapping holds splits; give columns as a DataFrame."
        if {*task.columns, task.label_column} <= set(keys)
        else ""
    )
    raise RowsError(
        f"data has no split {split!r} (its keys: {', '.join(keys) or 'none'})."
        f"{columns or nearest(split, keys)}"
    )


def from_memory(task: Task, split: Split, data: Data) -> RawRows:
    """Take rows that the caller holds.

    Args:
        task: Says which columns are needed.
        split: The split.
        data: A list of mappings, a pandas DataFrame or a `datasets.Dataset`, for both splits; or a
            mapping of splits to these.

    Raises:
        RowsError: It is none of these, has no such split, or lacks a column.
    """
    table, where = split_in_memory(task, split, data)
    kind = type(table).__name__
    if hasattr(table, "select_columns") and hasattr(table, "__len__"):
        columns = _known_columns(list(table.column_names), task, where)
        # Without the caller's format, which may hand out tensors.
        values: Mapping[str, Any] = table.with_format(None).select_columns(columns)[:]
        records = _rows_of(columns, values, where)
    elif hasattr(table, "columns") and hasattr(table, "to_dict"):
        columns = _known_columns([str(name) for name in table.columns], task, where)
        # Missing values become None whatever their type's mark is.
        frame = table.loc[:, columns].astype(object)
        frame = frame.where(frame.notna(), None)
        records = _rows_of(columns, {name: frame[name].tolist() for name in columns}, where)
    elif isinstance(table, Sequence) and not isinstance(table, str | bytes):
        records = _mappings(cast("Sequence[object]", table), task, where)
    else:
        raise RowsError(
            f"{where} is a {kind}; rows come from 'hub', 'embedded', a folder, a list of mappings, "
            "a pandas DataFrame, a datasets.Dataset, or a mapping of splits to these"
        )
    return RawRows(f"{where}, a {kind} of {len(table)} rows in memory", None, _plain(records))


def _mappings(
    rows: Sequence[object], task: Task, where: str
) -> Iterator[tuple[str, Mapping[str, object]]]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            kind = type(row).__name__
            raise RowsError(f"{where} row {number}: a row maps columns to values, not a {kind}")
        pairs = cast("Mapping[object, object]", row).items()
        yield f"{where} row {number}", {str(name): value for name, value in pairs}


def _plain(
    records: Iterable[tuple[str, Mapping[str, object]]],
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Rows with NumPy's and torch's scalars as Python's: a label is one wherever it is from."""
    for place, row in records:
        yield place, {name: _scalar(value) for name, value in row.items()}


def _scalar(value: Any) -> object:
    scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if scalar else value


def _commit(cache_files: Sequence[Mapping[str, object]]) -> str | None:
    """Return the commit that `datasets` keeps as the folder name of its cache, if it does."""
    names = {Path(str(file["filename"])).parent.name for file in cache_files}
    name = names.pop() if len(names) == 1 else ""
    return name if re.fullmatch("[0-9a-f]{40}", name) else None


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        row = dict(pairs)
        if len(row) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise RowsError(f"column {twice!r} occurs twice")
        return row

    number = 0
    try:
        # utf-8-sig: some editors put a byte-order mark at the start.
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                row: object = json.loads(line, object_pairs_hook=unique)
                if not isinstance(row, dict):
                    raise RowsError(f"a row is a JSON object, not {type(row).__name__}")
                yield f"{path} line {number}", cast("dict[str, object]", row)
    except UnicodeDecodeError as error:
        raise RowsError(f"{path}: not UTF-8 text after line {number} ({error.reason})") from error
    except OSError as error:
        raise RowsError(f"{path}: cannot be read ({error.strerror})") from error
    except RowsError as error:
        raise RowsError(f"{path} line {number}: {error}") from None
    except json.JSONDecodeError as error:
        reason = f"{error.msg} at column {error.colno}"
        raise RowsError(f"{path} line {number}: not valid JSON ({reason})") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, deep nesting
        raise RowsError(f"{path} line {number}: JSON that cannot be read ({error})") from error


def _parquet(path: Path, task: Task) -> Iterator[tuple[str, Mapping[str, object]]]:
    try:
        arrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError as error:
        raise RowsError(f"{path}: reading parquet needs pyarrow (pip install pyarrow)") from error
    try:
        with parquet.ParquetFile(path) as file:
            columns = _known_columns(cast("Sequence[str]", file.schema_arrow.names), task, path)
            values: Mapping[str, Sequence[object]] = file.read(columns=columns).to_pydict()
    except (OSError, arrow.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise RowsError(f"{path}: not a readable parquet file ({reason})") from error
    return _rows_of(columns, values, path)


def _known_columns(names: Sequence[str], task: Task, source: object) -> list[str]:
    """Return the columns that the task needs; each must be there exactly once."""
    needed = [*task.columns, task.label_column]
    for column in needed:
        if names.count(column) > 1:
            raise RowsError(f"{source}: column {column!r} occurs twice")
        if column not in names:
            raise RowsError(f"{source}: {missing_column(column, names)}")
    return needed


def _rows_of(
    columns: Sequence[str], values: Mapping[str, Sequence[object]], source: object
) -> Iterator[tuple[str, Mapping[str, object]]]:
    for i, cells in enumerate(zip(*(values[column] for column in columns), strict=True)):
        yield f"{source} row {i}", dict(zip(columns, cells, strict=True))
