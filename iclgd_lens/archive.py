"""A comparison on disk: one safetensors file, every value in it, with a JSON header of facts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.errors import ComparisonError
from iclgd_lens.files import write_whole
from iclgd_lens.parts import Part

FORMAT = "iclgd_lens.Comparison/2"
_OLDER = "iclgd_lens.Comparison/"
_FIELDS = ("draw", "order", "network", "index", "budget", "failures", "facts", "queries")


def write_archive(path: Path, parts: Sequence[Part], facts: Mapping[str, Any]) -> None:
    """Write parts and facts; the same comparison gives the same bytes.

    Raises:
        ComparisonError: The facts are no JSON.
    """
    from safetensors.numpy import save

    tensors: dict[str, NDArray[Any]] = {}
    described: list[dict[str, Any]] = []
    for number, part in enumerate(parts):
        tensors[f"{number}|gold"] = part.gold
        order: list[list[str]] = []
        for label, score, passes, value in _values(part):
            tensors[_key(number, label, score, passes)] = np.ascontiguousarray(value)
            order.append([label, score, passes])
        described.append({name: getattr(part, name) for name in _FIELDS} | {"values": order})
    header: dict[str, Any] = {"parts": described, **facts, "sha256": _digest(tensors)}
    try:
        # One entry: safetensors writes several in no fixed order.
        data = save(tensors, {FORMAT: json.dumps(header)})
    except (TypeError, ValueError) as error:
        raise ComparisonError(f"The facts of this comparison are no JSON: {error}.") from error
    write_whole(path, data)


def read_archive(path: Path) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """Read a file that `write_archive` wrote.

    Raises:
        ComparisonError: The file is missing, truncated, changed, or not a comparison.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ComparisonError(f"There is no comparison file {str(path)!r}.")
    try:
        with safe_open(path, framework="np") as file:
            header = cast("dict[str, str]", file.metadata() or {})
            if FORMAT not in header:
                raise ComparisonError(_not_ours(path.name, header))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        facts: Any = json.loads(header[FORMAT])
        if facts.pop("sha256") != _digest(tensors):
            raise ComparisonError(f"{path.name} was changed: its checksum does not match.")
        parts = tuple(_part(i, each, tensors) for i, each in enumerate(facts.pop("parts")))
    except ComparisonError:
        raise
    except (
        SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:200]
        raise ComparisonError(f"{path.name} is truncated or unreadable: {reason}") from error
    return parts, facts


def _not_ours(name: str, header: Mapping[str, str]) -> str:
    older = next((key for key in header if key.startswith(_OLDER)), None)
    if older is None:
        return f"{name} is not a comparison (format {FORMAT})."
    return (
        f"{name} was written by an earlier version (format {older}, this version reads {FORMAT}); "
        "measure it again."
    )


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


def _digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name}\0{value.dtype}\0{value.shape}\0".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def write_parquet(path: Path, frame: Any, facts: Mapping[str, Any]) -> None:
    """Write a table as parquet with facts in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    frame.attrs = {}
    table = pa.Table.from_pandas(frame, preserve_index=False)
    metadata = cast("dict[bytes, bytes]", dict(table.schema.metadata or {}))
    table = table.replace_schema_metadata(metadata | {b"iclgd_lens": json.dumps(facts).encode()})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    write_whole(path, cast("bytes", sink.getvalue().to_pybytes()))
