"""What a build costs is counted: closed forms for GD and LCGD, nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest

from iclgd_lens.cost import counted
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.oracle import oracle
from tests import checks

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


@BY_KIND
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_gd_and_lcgd_cost_what_their_definitions_say(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode(shots=4)
    passes = host.n_layers * 4
    with counted(host) as ledger:
        gd(host, episode, lr=0.01)
    assert ledger.as_dict() == {
        "block_forwards": passes, "block_backwards": passes, "unembeddings": 4, "demonstrations": 4,
    }  # fmt: skip
    with counted(host) as ledger:
        lcgd(host, episode, lr=0.01, epochs=2)
    assert ledger.as_dict() == {
        "block_forwards": 2 * passes, "block_backwards": 2 * passes, "unembeddings": 2 * passes,
        "demonstrations": 8,
    }  # fmt: skip
    with counted(host) as ledger:
        oracle(host, episode)
    assert (ledger.block_forwards, ledger.block_backwards) == (host.n_layers, 0)


@BY_KIND
def test_nothing_stays_attached_after_an_error(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    points: Any = host.model.hook_dict
    before = {name: len(point.fwd_hooks) for name, point in points.items()}
    with pytest.raises(RuntimeError, match="stop"), counted(host):
        raise RuntimeError("stop")
    assert {name: len(point.fwd_hooks) for name, point in points.items()} == before
