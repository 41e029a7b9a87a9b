"""Parameter deltas on disk: safetensors with a JSON header of facts, written atomically."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from iclgd_lens.errors import DeltaError

FORMAT = "iclgd_lens.ParameterDelta/1"


def write_delta(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and `metadata` to `path`; the file is whole or not there at all."""
    from safetensors.torch import save

    try:
        # One entry: safetensors writes several in no fixed order, and the same delta gives the
        # same bytes.
        facts = {FORMAT: json.dumps(metadata, sort_keys=True)}
    except (TypeError, ValueError) as error:
        raise DeltaError(f"The metadata of this delta is no JSON: {error}.") from error
    data = save({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and metadata of a file that `write_delta` wrote.

    Raises:
        DeltaError: The file is missing, truncated, malformed, or another kind of safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DeltaError(f"There is no delta file {str(path)!r}.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if FORMAT not in facts:
                raise DeltaError(
                    f"{path.name} is a safetensors file but not a parameter delta (its header has "
                    f"no {FORMAT!r})."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise DeltaError(f"{path.name} is truncated or not a safetensors file: {error}") from error
    for name in tensors:
        parts = name.split(".")
        if len(parts) != 4 or parts[0] != "blocks" or not parts[1].isdigit():
            raise DeltaError(f"{path.name} holds {name!r}, which is no TransformerLens weight.")
    try:
        return tensors, dict(json.loads(facts[FORMAT]))
    except (TypeError, ValueError) as error:
        raise DeltaError(f"The metadata of {path.name} cannot be read: {error}") from error
