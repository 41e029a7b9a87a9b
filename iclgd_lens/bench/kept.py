"""Readouts of a setting's own network, kept beside the cells: ZS and ICL are never read again."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from iclgd_lens.readings import Frozen
from iclgd_lens.readout import Readout

_FORMAT = "iclgd_lens.readings/1"
_SETTINGS = ("zs", "icl", "icl_shuffled")
_PARTS = (
    "attention_output", "z", "scores", "label_scores", "demonstration_scores", "queries",
)  # fmt: skip


def encode_readings(frozen: Frozen) -> bytes:
    """The bytes of a network's own readouts; the same readouts give the same bytes."""
    tensors: dict[str, Tensor] = {}
    for setting in _SETTINGS:
        readout: Readout | None = getattr(frozen, setting)
        if readout is None:
            continue
        for part in _PARTS:
            value: Tensor | None = getattr(readout, part)
            if value is not None:
                tensors[f"{setting}|{part}"] = value.detach().cpu().contiguous()
    return save(tensors, {_FORMAT: json.dumps({"sha256": _digest(tensors)})})


def decode_readings(data: bytes, device: torch.device) -> dict[str, Readout] | None:
    """Readouts by setting; None where the bytes are damaged or foreign."""
    try:
        tensors = load(data)
        size = int.from_bytes(data[:8], "little")
        header: Any = json.loads(data[8 : 8 + size])["__metadata__"]
        if json.loads(header[_FORMAT])["sha256"] != _digest(tensors):
            return None
        found: dict[str, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            setting, part = name.split("|")
            found.setdefault(setting, {})[part] = value.to(device)
        return {name: Readout(**cast("Any", parts)) for name, parts in found.items()}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name}\0{tuple(tensors[name].shape)}\0".encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
