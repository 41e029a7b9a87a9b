"""A cell's parquet file, checksummed, and cells put together into parts of a result.

One line per score, layer and head. `values` lists one number per query (NaN: undefined), so that
pandas, Polars and DuckDB can explode it; `value` is their mean. Lines of kind "raw" hold per-query
facts that are no scores: gold labels, label scores, moments. Intervals are not kept: they are over
cells. Nothing in a file depends on when or where it was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from iclgd_lens.errors import RunError
from iclgd_lens.results.parts import Part
from iclgd_lens.scores import FACTS

FORMAT = "iclgd_lens.cell/2"
_OLDER = "iclgd_lens.cell/"
GOLD = "gold"
PLACE = ("model", "task", "seed", "permutation", "network", "index", "budget")
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
        ("network", pa.string()),
        ("index", pa.int64()),
        ("budget", pa.string()),
        ("hypothesis", pa.string()),
        ("score", pa.string()),
        ("layer", pa.int32()),
        ("head", pa.int32()),
        ("value", pa.float64()),
        ("n", pa.int64()),
        ("undefined", pa.int64()),
        ("values", pa.list_(pa.float32())),
    ]
)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured for a cell.

    Attributes:
        values: By score: [query], [query layer], or, for "score/head", [query layer head].
        gold: Gold label ids of the queries.
        failure: Why the subject has no scores, or None.
        described: Settings, budget, cost and metadata of its rule.
    """

    values: Mapping[str, NDArray[np.float32]]
    gold: NDArray[np.int64]
    failure: str | None = None
    described: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, eq=False)
class CellData:
    """What a cell file holds.

    Attributes:
        values: By score, as in `Measured`.
        gold: Gold label ids of the queries.
        facts: "key", "place", "failure", "described", "setting", "cell".
    """

    values: Mapping[str, NDArray[np.float32]]
    gold: NDArray[np.int64]
    facts: Mapping[str, Any]


def encode(
    key: str, place: Mapping[str, Any], measured: Measured, facts: Mapping[str, Any]
) -> bytes:
    """Return the cell file's bytes; the same numbers give the same bytes.

    Args:
        key: The cell's key.
        place: Where it lies in the grid, with its label under "subject".
        measured: Its numbers.
        facts: What else is kept: the facts behind the key.
    """
    lines = list(_lines(measured))
    whole = {
        "format": FORMAT, "key": key, "place": dict(place), "failure": measured.failure,
        "described": dict(measured.described),
        "shapes": {name: list(np.shape(value)) for name, value in measured.values.items()}, **facts,
    }  # fmt: skip
    metadata = {
        _METADATA: json.dumps(whole, sort_keys=True, default=repr).encode(),
        _DIGEST: _UNSEALED,
    }
    table = _table(lines, place)
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
        facts: Any = json.loads(metadata[_METADATA])
        if facts.get("format") != FORMAT:
            raise RunError(_other_format(str(facts.get("format"))))
        if facts.get("key") != key:
            raise RunError("it belongs to another cell")
        return _arrays(file.read(columns=["score", "values"]), facts)
    except RunError:
        raise
    except Exception as error:  # a damaged file makes pyarrow fail in many ways
        reason = " ".join(str(error).split())[:120]
        raise RunError(f"it is truncated or damaged ({type(error).__name__}: {reason})") from error


def _other_format(found: str) -> str:
    if found.startswith(_OLDER):
        return f"an earlier version wrote it (format {found}; this version reads {FORMAT})"
    return f"its format is {found!r}, not {FORMAT!r}"


def _arrays(table: Any, facts: Mapping[str, Any]) -> CellData:
    """Values by score, put together from the lines of their places."""
    column: Any = table.column("values").combine_chunks()
    flat = np.asarray(column.flatten(), np.float32)
    ends = np.cumsum(np.asarray(column.value_lengths()))
    names: list[str] = table.column("score").to_pylist()
    found: dict[str, list[NDArray[np.float32]]] = {}
    for name, part in zip(names, np.split(flat, ends[:-1]), strict=True):
        found.setdefault(name, []).append(part)
    gold = found.pop(GOLD)[0].astype(np.int64)
    values = {
        name: np.stack(parts, axis=-1).reshape(facts["shapes"][name])
        for name, parts in found.items()
    }
    return CellData(values, gold, facts)


def _lines(measured: Measured) -> Iterator[dict[str, Any]]:
    gold = np.asarray(measured.gold, np.float32)
    yield {"kind": "raw", "score": GOLD, "values": gold}
    for name, value in measured.values.items():
        array = np.ascontiguousarray(value, np.float32)
        kind = "raw" if name in FACTS else "score"
        flat = array.reshape(len(array), -1)
        for index, place in enumerate(np.ndindex(array.shape[1:])):
            layer, head = (*place, None, None)[:2] if kind == "score" else (None, None)
            column = flat[:, index]
            defined = column[np.isfinite(column)]
            yield {
                "kind": kind, "score": name, "layer": layer, "head": head, "values": column,
                "value": float(defined.mean(dtype=np.float64)) if defined.size else None,
                "n": int(defined.size), "undefined": int(column.size - defined.size),
            }  # fmt: skip


def _table(lines: list[dict[str, Any]], place: Mapping[str, Any]) -> Any:
    constant = {name: place[name] for name in PLACE} | {"hypothesis": place["subject"]}
    columns: list[Any] = []
    for each in _SCHEMA:
        if each.name in constant:
            columns.append(pa.array([constant[each.name]] * len(lines), each.type))
        elif each.name == "values":
            columns.append(_lists([line["values"] for line in lines]))
        else:
            columns.append(pa.array([line.get(each.name) for line in lines], each.type))
    return pa.Table.from_arrays(columns, schema=_SCHEMA)


def _lists(values: list[NDArray[np.float32]]) -> Any:
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in values])])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()),
        pa.array(
            np.concatenate([np.empty(0, np.float32), *values]), pa.float32(), from_pandas=False
        ),
    )


def _seal(data: bytes) -> bytes:
    """Put the file's own SHA-256 in the place held free for it."""
    return data.replace(_UNSEALED, hashlib.sha256(data).hexdigest().encode())


def _is_sealed(data: bytes, digest: bytes) -> bool:
    """Whether the file is, to the last byte, as it was sealed."""
    if len(digest) != len(_UNSEALED) or data.count(digest) != 1:
        return False
    return hashlib.sha256(data.replace(digest, _UNSEALED)).hexdigest().encode() == digest


def parts_of(cells: Sequence[CellData], trainings: Sequence[Part]) -> tuple[Part, ...]:
    """Cells of one model and task, put together setting by setting, with their trainings."""
    groups: dict[tuple[Any, ...], list[CellData]] = {}
    for cell in cells:
        place = cell.facts["place"]
        groups.setdefault(tuple(place[name] for name in PLACE), []).append(cell)
    draws = {
        seed: number
        for number, seed in enumerate(dict.fromkeys(c.facts["place"]["seed"] for c in cells))
    }
    found: list[Part] = []
    for group in groups.values():
        place = group[0].facts["place"]
        rules = {c.facts["place"]["subject"]: c.facts["described"] for c in group}
        rows = group[0].facts["setting"]["query_rows"][: len(group[0].gold)]
        found.append(
            Part(
                values={cell.facts["place"]["subject"]: cell.values for cell in group},
                gold=group[0].gold,
                draw=draws[place["seed"]],
                order=place["permutation"],
                network=place["network"],
                index=place["index"],
                budget=place["budget"],
                failures={
                    cell.facts["place"]["subject"]: cell.facts["failure"]
                    for cell in group
                    if cell.facts["failure"]
                },
                facts={"rules": rules, "seed": place["seed"]},
                queries=tuple(rows),
            )
        )
    return _with_trainings(found, trainings)


def _with_trainings(parts: Sequence[Part], trainings: Sequence[Part]) -> tuple[Part, ...]:
    """Parts with the trajectories of the same network, draw and budget."""

    def at(part: Part) -> tuple[Any, ...]:
        return part.network, part.index, part.draw, part.order, part.budget

    along: dict[tuple[Any, ...], dict[str, Any]] = {}
    for each in trainings:
        along.setdefault(at(each), {}).update(each.trajectory)
    return tuple(replace(part, trajectory=along.get(at(part), {})) for part in parts)
