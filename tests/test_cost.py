"""What a build costs is counted: closed forms for GD and LCGD, nothing left behind."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from iclgd_lens.contexts import Contexts
from iclgd_lens.cost import Ledger, counted, sharing
from iclgd_lens.hypotheses import lcgd_multitask
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.lcgd_multitask import lcgd_shared
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.nulls import shuffled_labels
from iclgd_lens.protocol import DEFAULT
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


@pytest.mark.parametrize("kind", checks.kinds())
def test_shared_work_is_run_once_counted_each_time_and_the_same(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=4)
    passes = [0]
    run = type(host).run

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes[0] += 1
        return run(self, *args, **kwargs)

    def read() -> tuple[Any, Ledger, int]:
        passes[0] = 0
        with counted(host) as ledger:
            seen = Contexts(host, episode, "test").after_others([host.z_hook(1)])
        return seen.values[host.z_hook(1)], ledger, passes[0]

    monkeypatch.setattr(type(host), "run", counting)
    alone, cost, count = read()
    with sharing(host):
        first, again = read(), read()
    assert host.memory is None
    for values, ledger, _ in (first, again):
        assert torch.equal(values, alone)
        assert ledger == cost
    assert first[2] == count
    assert again[2] == count - 4  # the prompt, and what stands after three of four demonstrations


def test_other_labels_are_other_work() -> None:
    host, episode = checks.host(checks.kinds()[0], "llama"), checks.episode(shots=4)
    wrong = shuffled_labels(episode)
    name = host.z_hook(1)
    alone = Contexts(host, wrong, "test").after_others([name]).values[name]
    with sharing(host):
        Contexts(host, episode, "test").after_others([name])
        found = Contexts(host, wrong, "test").after_others([name]).values[name]
    assert torch.equal(found, alone)


@pytest.mark.parametrize("kept", [True, False])
def test_what_another_task_teaches_is_shared_by_protocol_and_only_where_it_is_small(
    kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, other = checks.host(checks.kinds()[0], "llama"), checks.episode(shots=3, seed=1)
    plain = checks.episode(shots=4)

    def learned(protocol: Any) -> Any:
        shown = dataclasses.replace(other.demonstrations, protocol=protocol)
        return lcgd_shared(host, plain, lr=0.1, part="shared", auxiliary=[shown])

    protocols = [DEFAULT, DEFAULT.replace(trained=("W_V",))]
    alone = [learned(protocol) for protocol in protocols]
    assert set(alone[0]) != set(alone[1])
    if not kept:
        monkeypatch.setattr(lcgd_multitask, "SHARED_BYTES", 0)
    with sharing(host):
        for protocol, expected in zip(protocols, alone, strict=True):
            found = learned(protocol)
            assert set(found) == set(expected)
            assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert len(host.memory or {}) == (2 if kept else 0)
