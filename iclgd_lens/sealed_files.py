"""Sealed safetensors files: arrays, JSON facts, and a checksum over both.

write_whole(path, sealed("iclgd_lens.Thing/1", arrays, facts))
arrays, facts = unsealed(path, "iclgd_lens.Thing/1", ThingError)
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.errors import LensError

Arrays = Mapping[str, NDArray[Any]]


def sealed(form: str, arrays: Arrays, facts: Mapping[str, Any], *, ordered: bool = False) -> bytes:
    """Return the bytes of a sealed file; the same content gives the same bytes.

    Args:
        form: What the file is, with its version, such as "iclgd_lens.ParameterDelta/2".
        arrays: By name.
        facts: Anything that JSON holds.
        ordered: Keep the order of their keys; otherwise the same facts in another order give the
            same bytes.

    Raises:
        TypeError, ValueError: The facts are not JSON.
    """
    from safetensors.numpy import save

    text = json.dumps(facts, sort_keys=not ordered)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = json.dumps({"facts": text, "sha256": _digest(form, whole, text)}, sort_keys=True)
    # One entry: safetensors writes several in no fixed order.
    return save(whole, {form: header})


def unsealed(
    path: Path, form: str, error: type[LensError]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays and facts of a sealed file.

    Args:
        path: The file.
        form: What it must be.
        error: What is raised.

    Raises:
        LensError: (the class `error`) It is missing, truncated, changed, of an earlier version, or
            another kind of file.
    """
    kind = form.rpartition(".")[2].partition("/")[0]
    if not path.is_file():
        there = "is not a file" if path.exists() else "is not there"
        raise error(f"{path} {there}; a {kind} was expected.")
    try:
        data = path.read_bytes()
    except OSError as cause:
        raise error(f"{path.name} cannot be read: {' '.join(str(cause).split())}.") from cause
    return opened(data, path.name, form, error)


def opened(
    data: bytes, name: str, form: str, error: type[LensError]
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The same from a file's bytes; its name is for messages."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
        size = int.from_bytes(data[:8], "little")
        headers = cast("dict[str, str]", json.loads(data[8 : 8 + size]).get("__metadata__") or {})
        if form not in headers:
            raise error(_another(name, form, headers))
        header = cast("dict[str, str]", json.loads(headers[form]))
        text = header["facts"]
        if header["sha256"] != _digest(form, arrays, text):
            raise error(f"{name} was changed: its checksum does not match its content.")
        facts: Any = json.loads(text)
        if not isinstance(facts, dict):
            raise error(f"{name} holds no facts by name.")
        return arrays, cast("dict[str, Any]", facts)
    except error:
        raise
    # What libraries raise when they read a damaged file.
    except (
        SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError,
        MemoryError, OverflowError,
    ) as cause:  # fmt: skip
        reason = " ".join(str(cause).split())[:200]
        raise error(f"{name} is truncated or damaged: {reason}.") from cause


def _another(name: str, form: str, headers: Mapping[str, str]) -> str:
    stem = form.partition("/")[0]
    older = next((key for key in headers if key.partition("/")[0] == stem), None)
    if older is None:
        return f"{name} is a safetensors file of another kind (its header has no {form!r})."
    return f"{name} was written by another version (format {older}; this version reads {form})."


def _digest(form: str, arrays: Arrays, text: str) -> str:
    digest = hashlib.sha256(f"{form}\0{text}\0".encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}\0{array.dtype}\0{array.shape}\0".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
