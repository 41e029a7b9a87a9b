"""Deltas on disk: what is given back, and that no damage goes unnoticed."""

from __future__ import annotations

import json
import os
import stat
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from iclgd_lens.delta import FORMAT, ParameterDelta
from iclgd_lens.errors import DeltaError
from iclgd_lens.sealed_files import sealed
from tests import checks


def a_delta() -> ParameterDelta:
    return ParameterDelta({"blocks.0.attn.W_K": torch.ones(2, 3, 4)}, {"rule": "gd"})


def test_a_loaded_delta_may_be_changed_in_place(tmp_path: Path) -> None:
    a_delta().save(tmp_path / "a.safetensors")
    loaded = ParameterDelta.load(tmp_path / "a.safetensors")
    loaded["blocks.0.attn.W_K"].mul_(2)
    assert float(loaded["blocks.0.attn.W_K"].sum()) == 48


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeltaError, match=r"none\.safetensors is not there; a ParameterDelta"):
        ParameterDelta.load(tmp_path / "none.safetensors")
    with pytest.raises(DeltaError, match="is not a file"):
        ParameterDelta.load(tmp_path)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.safetensors", tmp_path / "cut.safetensors"
    a_delta().save(whole)
    data = whole.read_bytes()
    for length in (0, 1, 7, 8, 9, 60, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(DeltaError, match=r"cut\.safetensors is truncated or damaged: "):
            ParameterDelta.load(cut)


def test_no_flipped_bit_is_read(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.safetensors", tmp_path / "a.safetensors"
    a_delta().save(whole)
    data = whole.read_bytes()
    for place in range(len(data)):
        for bit in (0, 6):
            flipped = bytearray(data)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                delta = ParameterDelta.load(path)
            except DeltaError:
                continue
            # Whatever is still read, in letters that mean the same, is what was saved.
            assert torch.equal(delta["blocks.0.attn.W_K"], torch.ones(2, 3, 4))
            assert delta.metadata == {"rule": "gd"}


def with_header(header: Any, path: Path) -> Path:
    """A safetensors file of one tensor, with this text or value under the format's name."""
    text = header if isinstance(header, str) else json.dumps(header)
    save_file({"blocks.0.attn.W_K": torch.zeros(2)}, path, {FORMAT: text})
    return path


@pytest.mark.parametrize(
    "header",
    [
        "{no json", "[" * 100_000, {}, [], 3, {"facts": "{}"}, {"facts": 3, "sha256": "0" * 64},
        {"facts": "[" * 100_000, "sha256": "0"}, {"facts": None, "sha256": None},
    ],
)  # fmt: skip
def test_a_damaged_header_is_refused(header: Any, tmp_path: Path) -> None:
    path = with_header(header, tmp_path / "a.safetensors")
    with pytest.raises(DeltaError, match=r"a\.safetensors (is truncated or damaged|was changed)"):
        ParameterDelta.load(path)


def test_a_header_longer_than_any_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(DeltaError, match="truncated or damaged"):
        ParameterDelta.load(path)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(DeltaError, match="is a safetensors file of another kind"):
        ParameterDelta.load(path)
    save_file({"a": torch.zeros(2)}, path, {"iclgd_lens.ParameterDelta/1": "{}"})
    with pytest.raises(DeltaError, match=r"written by another version .*Delta/1; this version"):
        ParameterDelta.load(path)
    for name in ("weight", "blocks.x.attn.W_K", "layers.0.attn.W_K", "blocks.0.W_K"):
        path.write_bytes(sealed(FORMAT, {name: np.zeros(2, np.float32)}, {}))
        with pytest.raises(
            DeltaError, match=rf"holds '{name}', which is not a TransformerLens weight"
        ):
            ParameterDelta.load(path)
    with checks.untyped():
        path.write_bytes(sealed(FORMAT, {}, [1]))  # type: ignore[arg-type]
    with pytest.raises(DeltaError, match="holds no facts by name"):
        ParameterDelta.load(path)
    path.write_text("not a tensor in sight, but long enough to be read as a header")
    with pytest.raises(DeltaError, match="truncated or damaged"):
        ParameterDelta.load(path)


def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.safetensors"
    a_delta().save(path)
    old = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        (2 * a_delta()).save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_metadata_that_is_no_json_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    delta = ParameterDelta({"blocks.0.attn.b_O": torch.ones(3)}, {"model": object()})
    with pytest.raises(DeltaError, match="metadata of this delta is not JSON"):
        delta.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
