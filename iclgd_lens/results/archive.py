"""A comparison on disk: one safetensors file, every value in it, with a JSON header of facts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.errors import ComparisonError
from iclgd_lens.files import check_suffix, write_whole
from iclgd_lens.results.parts import Part
from iclgd_lens.sealed_files import sealed, unsealed

FORMAT = "iclgd_lens.Comparison/3"
_KINDS: Mapping[str, type] = {
    "provenance": dict,
    "resamples": int,
    "confidence": float,
    "seed": int,
}
"""What a comparison's own facts must be."""
_FIELDS = ("draw", "order", "network", "index", "budget", "failures", "facts", "queries")


def write_archive(path: Path, parts: Sequence[Part], facts: Mapping[str, Any]) -> None:
    """Write parts and facts; the same comparison gives the same bytes.

    Raises:
        ComparisonError: The facts are no JSON, or the name has another suffix than .safetensors.
    """
    check_suffix(path, ".safetensors", ComparisonError)
    write_whole(path, archived(FORMAT, parts, facts))


def archived(
    form: str, parts: Sequence[Part], facts: Mapping[str, Any],
    more: Mapping[str, NDArray[Any]] | None = None,
) -> bytes:  # fmt: skip
    """The bytes of parts, facts and further arrays, which `restored` gives back.

    Raises:
        ComparisonError: The facts are no JSON.
    """
    tensors: dict[str, NDArray[Any]] = dict(more or {})
    described: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        tensors[f"{number}|gold"] = part.gold
        order: list[list[str]] = []
        for label, score, passes, value in _values(part):
            tensors[_key(number, label, score, passes)] = np.ascontiguousarray(value)
            order.append([label, score, passes])
        described.append({name: getattr(part, name) for name in _FIELDS} | {"values": order})
    try:
        # As they are ordered: hypotheses keep their order.
        return sealed(form, tensors, {"parts": described, **facts}, ordered=True)
    except (TypeError, ValueError) as error:
        raise ComparisonError(f"The facts of this comparison are no JSON: {error}.") from error


def read_archive(path: Path) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """Read a file that `write_archive` wrote.

    Raises:
        ComparisonError: The file is missing, truncated, changed, or not a comparison.
    """
    parts, facts, _ = restored(*unsealed(path, FORMAT, ComparisonError), path.name)
    return parts, facts


def restored(
    tensors: Mapping[str, NDArray[Any]], facts: dict[str, Any], name: str
) -> tuple[tuple[Part, ...], dict[str, Any], Mapping[str, NDArray[Any]]]:
    """Parts, facts and arrays of an opened file of some name; see `archived`.

    Raises:
        ComparisonError: They are of something else.
    """
    try:
        parts = tuple(_part(i, each, tensors) for i, each in enumerate(facts.pop("parts")))
        _check_kinds(facts)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ComparisonError(f"{name} holds something else: {reason}") from error
    return parts, facts, tensors


def _check_kinds(facts: Mapping[str, Any]) -> None:
    for name, kind in _KINDS.items():
        if name in facts and not isinstance(facts[name], kind):
            raise TypeError(f"{name} is {type(facts[name]).__name__}")


def _values(part: Part) -> list[tuple[str, str, str, NDArray[Any]]]:
    found = [(label, score, "", value) for label, own in part.values.items()
             for score, value in own.items()]  # fmt: skip
    for label, along in part.trajectory.items():
        for passes, own in along.items():
            found += [(label, score, str(passes), value) for score, value in own.items()]
    return found


def _part(number: int, facts: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Part:
    values: dict[str, dict[str, NDArray[np.float32]]] = {}
    trajectory: dict[str, dict[int, dict[str, NDArray[np.float32]]]] = {}
    for label, score, passes in facts["values"]:
        value = tensors[_key(number, label, score, passes)]
        if passes:
            trajectory.setdefault(label, {}).setdefault(int(passes), {})[score] = value
        else:
            values.setdefault(label, {})[score] = value
    fields: dict[str, Any] = {name: facts[name] for name in _FIELDS} | {
        "queries": tuple(facts["queries"])
    }
    gold = tensors[f"{number}|gold"]
    return Part(values=values, gold=gold, trajectory=trajectory, **fields)


def _key(number: int, label: str, score: str, passes: str) -> str:
    return "|".join((str(number), label, score, passes))


def write_parquet(path: Path, frame: Any, facts: Mapping[str, Any]) -> None:
    """Write a table as parquet with facts in its metadata.

    Raises:
        ComparisonError: The name ends in another suffix than .parquet.
    """
    check_suffix(path, ".parquet", ComparisonError)
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame.attrs = {}
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = cast("dict[bytes, bytes]", dict(table.schema.metadata or {}))
    table = table.replace_schema_metadata(metadata | {b"iclgd_lens": json.dumps(facts).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(path, cast("bytes", sink.getvalue().to_pybytes()))
