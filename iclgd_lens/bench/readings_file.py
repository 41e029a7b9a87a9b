"""What a setting's own network leaves, as the bytes of one sealed file."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from iclgd_lens.errors import RunError
from iclgd_lens.measures.readings import Frozen
from iclgd_lens.readout.reader import Readout
from iclgd_lens.sealed_files import opened, sealed

_FORM = "iclgd_lens.readings/3"
_SETTINGS = ("zs", "icl", "icl_shuffled")
_PARTS = (
    "attention_output", "z", "scores", "label_scores", "demonstration_scores", "queries",
)  # fmt: skip


def encode_readings(frozen: Frozen, key: str) -> bytes:
    """The bytes of a network's own readouts in the setting `key`; the same give the same bytes."""
    readouts: dict[str, Readout | None] = {name: getattr(frozen, name) for name in _SETTINGS}
    parts: dict[str, Tensor | None] = {
        f"{name}|{part}": getattr(readout, part)
        for name, readout in readouts.items()
        if readout is not None
        for part in _PARTS
    }
    arrays = {name: value.detach().cpu().numpy() for name, value in parts.items()
              if value is not None}  # fmt: skip
    return sealed(_FORM, arrays, {"setting": key})


def decode_readings(data: bytes, key: str, device: torch.device) -> dict[str, Readout]:
    """Readouts by name: ZS, ICL, and ICL after wrong labels.

    Raises:
        RunError: The bytes are damaged, of another version or foreign, or a readout is missing.
    """
    arrays, facts = opened(data, "readings", _FORM, RunError)
    if facts.get("setting") != key:
        raise RunError("readings are those of another setting.")
    found: dict[str, dict[str, Tensor]] = {name: {} for name in _SETTINGS}
    try:
        for name, array in arrays.items():
            setting, part = name.split("|")
            found[setting][part] = torch.from_numpy(array).to(device)
        return {name: Readout(**cast("Any", parts)) for name, parts in found.items()}
    except (ValueError, KeyError, TypeError) as error:  # sealed, but by another hand
        raise RunError(f"readings are not whole: {error}.") from error
