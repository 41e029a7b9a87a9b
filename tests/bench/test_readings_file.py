"""Stored readouts come back to the bit, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.bench import readings_file
from iclgd_lens.bench.readings_file import decode_readings, encode_readings
from iclgd_lens.errors import RunError
from iclgd_lens.measures.readings import Frozen
from iclgd_lens.protocol import DEFAULT
from iclgd_lens.readout.reader import Readout
from iclgd_lens.sealed_files import opened, sealed

CPU = torch.device("cpu")
FORM = readings_file._FORM


def readouts() -> Frozen:
    draw = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw)

    def one(**more: Any) -> Readout:
        return Readout(some(3, 2, 8), some(3, 2, 4, 2), some(3, 2, 4, 5), some(3, 2), **more)

    shown = some(1, 2, 6, 4).mT  # not contiguous
    return Frozen(
        one(), one(demonstration_scores=shown), one(), gold=torch.zeros(3, dtype=torch.long),
        lengths=torch.full((3,), 5), protocol=DEFAULT, dtype=torch.float32,
        head_factor=some(2, 4, 2, 1),
    )  # fmt: skip


def test_they_come_back_to_the_bit() -> None:
    frozen = readouts()
    data = encode_readings(frozen, "here")
    assert data == encode_readings(frozen, "here")
    found = decode_readings(data, "here", CPU)
    for name, own in found.items():
        for part in ("attention_output", "z", "scores", "label_scores", "demonstration_scores"):
            given, back = getattr(getattr(frozen, name), part), getattr(own, part)
            assert (given is None and back is None) or torch.equal(given, back)
    assert list(found) == ["zs", "icl", "icl_shuffled"]


def sealed_with(change: Any) -> bytes:
    """A well-sealed file of other content."""
    arrays = dict(opened(encode_readings(readouts(), "here"), "x", FORM, RunError)[0])
    change(arrays)
    return sealed(FORM, arrays, {"setting": "here"})


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "damaged"),
        (encode_readings(readouts(), "here")[:-1], "damaged"),
        (encode_readings(readouts(), "here")[:-1] + b"\0", "its checksum"),
        (sealed("iclgd_lens.readings/1", {}, {}), "another version"),
        (encode_readings(readouts(), "there"), "another setting"),
        (sealed("iclgd_lens.Delta/1", {}, {}), "another kind"),
        (sealed_with(lambda a: a.pop("icl|z")), "not whole: .*'z'"),
        (sealed_with(lambda a: a.update({"icl|more": np.zeros(1)})), "not whole: .*'more'"),
        (sealed_with(lambda a: a.update({"else|z": np.zeros(1)})), "not whole: 'else'"),
        (sealed_with(lambda a: a.update({"z": np.zeros(1)})), "not whole"),
    ],
)
def test_what_is_damaged_or_foreign_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(RunError, match=told):
        decode_readings(data, "here", CPU)
