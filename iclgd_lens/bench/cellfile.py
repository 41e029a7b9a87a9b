"""A cell's parquet file: its tidy table, with the per-query values, checksummed.

One line a hypothesis, score, layer and head. `values` lists one number a query (NaN: undefined),
so that pandas, Polars and DuckDB can explode it; `value`, `ci_low` and `ci_high` summarise it.
Lines of kind "raw" hold per-query facts that are no scores: gold labels, label scores, recovery
moments. Nothing in a file depends on when or where it was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from iclgd_lens.bench.cells import FORMAT, Cell
from iclgd_lens.comparison import LABEL_SCORES, MOMENTS, Comparison
from iclgd_lens.errors import RunError

GOLD = "gold"
PLACE = ("model", "task", "seed", "permutation")
_METADATA, _DIGEST = b"iclgd_lens", b"sha256"
# A file cannot hold its own hash, so the hash is that of the file with this in its place.
_UNSEALED = b"sha256 of this file, with this text where the sum now stands".ljust(64, b".")
_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("model", pa.string()),
        ("task", pa.string()),
        ("seed", pa.int64()),
        ("permutation", pa.int64()),
        ("hypothesis", pa.string()),
        ("score", pa.string()),
        ("layer", pa.int32()),
        ("head", pa.int32()),
        ("value", pa.float64()),
        ("ci_low", pa.float64()),
        ("ci_high", pa.float64()),
        ("n", pa.int64()),
        ("undefined", pa.int64()),
        ("values", pa.list_(pa.float32())),
    ]
)

Place = tuple[str, str, "int | None", "int | None"]
"""Hypothesis, score, layer, head."""


@dataclass(frozen=True)
class CellData:
    """What a cell file holds.

    Attributes:
        table: A pyarrow table with the columns of the module's docstring.
        facts: "key", "place", "failures", "provenance".
    """

    table: Any
    facts: Mapping[str, Any]


def encode(cell: Cell, comparison: Comparison) -> bytes:
    """Return the cell file's bytes; the same numbers give the same bytes."""
    series = dict(_series(comparison))
    raw = dict(_raw(comparison))
    lines: list[dict[str, Any]] = []
    for row in comparison.rows():
        place = (row.hypothesis, row.score, row.layer, row.head)
        lines.append({"kind": "score", **vars(row), "values": series.get(place)})
    for (hypothesis, score, _, _), values in raw.items():
        lines.append({"kind": "raw", "hypothesis": hypothesis, "score": score, "values": values})
    facts = {
        "format": FORMAT,
        "key": cell.key,
        "place": cell.place,
        "failures": dict(comparison.failures),
        "provenance": dict(comparison.provenance) | {"cell": dict(cell.facts)},
        "confidence": comparison.confidence,
    }
    table = _table(lines, cell.place)
    metadata = {_METADATA: json.dumps(facts, sort_keys=True).encode(), _DIGEST: _UNSEALED}
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata(metadata), sink, compression="zstd")
    return _seal(cast("bytes", sink.getvalue().to_pybytes()))


def decode(data: bytes, key: str) -> CellData:
    """Read and check a cell file.

    Raises:
        RunError: It is truncated, changed, foreign, or another cell's.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        metadata = cast("dict[bytes, bytes]", file.metadata.metadata or {})
        if _METADATA not in metadata:
            raise RunError("it is a parquet file of something else")
        if not _is_sealed(data, metadata.get(_DIGEST, b"")):
            raise RunError("its checksum does not match its content")
        table = file.read()
        facts: Any = json.loads(metadata[_METADATA])
        if facts.get("format") != FORMAT:
            raise RunError(f"its format is {facts.get('format')!r}, not {FORMAT!r}")
        if facts.get("key") != key:
            raise RunError("it belongs to another cell")
    except RunError:
        raise
    except Exception as error:  # a damaged file makes pyarrow fail in many ways
        reason = " ".join(str(error).split())[:120]
        raise RunError(f"it is truncated or damaged ({type(error).__name__}: {reason})") from error
    return CellData(table, facts)


def _table(lines: list[dict[str, Any]], place: Mapping[str, Any]) -> Any:
    columns: list[Any] = []
    for field in _SCHEMA:
        if field.name in place:
            columns.append(pa.array([place[field.name]] * len(lines), field.type))
        elif field.name == "values":
            columns.append(_lists([line["values"] for line in lines]))
        else:
            columns.append(pa.array([line.get(field.name) for line in lines], field.type))
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _lists(values: list[NDArray[np.float32] | None]) -> Any:
    empty = np.empty(0, np.float32)
    parts = [empty if value is None else value for value in values]
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in parts])])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(np.concatenate([empty, *parts]), pa.float32(), from_pandas=False),
        mask=pa.array([value is None for value in values]),
    )


def _seal(data: bytes) -> bytes:
    """Put the file's own SHA-256 in the place held free for it."""
    return data.replace(_UNSEALED, hashlib.sha256(data).hexdigest().encode())


def _is_sealed(data: bytes, digest: bytes) -> bool:
    """Whether the file is, to the last byte, as it was sealed."""
    if len(digest) != len(_UNSEALED) or data.count(digest) != 1:
        return False
    return hashlib.sha256(data.replace(digest, _UNSEALED)).hexdigest().encode() == digest


def _series(comparison: Comparison) -> Iterator[tuple[Place, NDArray[np.float32]]]:
    """Per-query values of every score: over all layers, of each layer, of each head."""
    for hypothesis, found in comparison.values.items():
        for name, tensor in found.items():
            score, _, level = name.partition("/")
            if score in (MOMENTS, LABEL_SCORES):
                continue
            values = np.ascontiguousarray(tensor.numpy(), np.float32)
            if level == "head":
                for layer in range(values.shape[1]):
                    for head in range(values.shape[2]):
                        yield (hypothesis, score, layer, head), values[:, layer, head]
            elif values.ndim == 1:
                yield (hypothesis, score, None, None), values
            else:
                overall = comparison.tensor(score, hypothesis, by="query")
                yield (hypothesis, score, None, None), overall.numpy().astype(np.float32)
                for layer in range(values.shape[1]):
                    yield (hypothesis, score, layer, None), values[:, layer]


def _raw(comparison: Comparison) -> Iterator[tuple[Place, NDArray[np.float32]]]:
    gold = comparison.gold.numpy().astype(np.float32)
    yield (GOLD, GOLD, None, None), gold
    for hypothesis, found in comparison.values.items():
        for name in (LABEL_SCORES, MOMENTS):
            if name in found:
                values = found[name].numpy().astype(np.float32)
                for column in range(values.shape[1]):
                    yield (hypothesis, f"{name}/{column}", None, None), values[:, column]
