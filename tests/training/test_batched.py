"""Rows of several networks on one of them: what each network computes and learns by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens import nulls
from iclgd_lens.budget.training_rows import lane_of
from iclgd_lens.host import Host, as_host, copied
from iclgd_lens.host.untrained import named_parameters
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.training.batched import Networks
from iclgd_lens.training.shared_batches import Lap, run, together
from tests import checks

SHOWN = checks.episode(shots=3).demonstrations
SEQUENCES = SHOWN.sequences()
BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


def twins(host: Host, count: int = 2, make: Any = nulls.untrained_twin) -> list[Host]:
    return [as_host(make(host, seed)) for seed in range(count)]


@BY_KIND
@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["gd", "lcgd"])
@pytest.mark.parametrize("rates", [((0.05,), (0.05,)), ((0.01, 0.05), (0.05,))])
def test_rows_learn_what_their_network_learns_alone(
    kind: str, family: str, name: str, rates: Any
) -> None:
    """As many rows a network, or not."""
    hosts = twins(checks.host(kind, family))
    networks = Networks(hosts, SEQUENCES)
    assert networks.serve(*hosts)
    rule = get_hypothesis(name).rows
    assert rule is not None
    before = [checks.photograph(host.model) for host in hosts]
    lanes = [lane_of(rule, *given) for given in zip(hosts, [SHOWN] * 2, rates, strict=True)]
    run(lanes, 2 * len(SEQUENCES), networks)
    for photograph, host in zip(before, hosts, strict=True):
        photograph.assert_same(host.model)
    for lane, host, own in zip(lanes, hosts, rates, strict=True):
        alone = lane_of(rule, host, SHOWN, own)
        run([alone], 2 * len(SEQUENCES))
        # Beside the largest change: that of a bias of the keys is nothing but rounding.
        largest = max(float(each.detach().abs().max()) for each in alone.training.delta.values())
        for weight, value in alone.training.delta.items():
            checks.close(lane.training.delta[weight].detach(), value.detach(), 1e-4, largest)


def with_another_norm(host: Host, seed: int) -> Any:
    twin = nulls.untrained_twin(host, seed)
    norm = next(each for each in named_parameters(twin) if each.part == "norm")
    with torch.no_grad():
        norm.value.mul_(1.0 + 0.01 * seed)
    return twin


@BY_KIND
@pytest.mark.parametrize(
    ("make", "served"),
    [
        (nulls.untrained_twin, True),
        (nulls.permuted, True),
        (nulls.untrained_norms, False),
        (with_another_norm, False),
    ],
)
def test_networks_that_differ_elsewhere_have_no_rows(kind: str, make: Any, served: bool) -> None:
    hosts = twins(checks.host(kind, "gpt2"), make=make)
    assert Networks(hosts, SEQUENCES).serve(*hosts) is served


def test_half_precision_networks_run_by_themselves() -> None:
    models: list[Any] = [copied(checks.model("bridge", "gpt2")).bfloat16() for _ in range(2)]
    hosts = [as_host(model) for model in models]
    assert not Networks(hosts, SEQUENCES).serve(*hosts)


def test_networks_apart_train_one_after_the_other() -> None:
    rule = get_hypothesis("gd").rows
    assert rule is not None
    hosts = twins(checks.host(checks.kinds()[0], "gpt2"), make=nulls.untrained_norms)
    lanes = [lane_of(rule, host, SHOWN, [0.05]) for host in hosts]
    networks = Networks(hosts, SEQUENCES)

    def chain(lane: Any) -> Any:
        yield Lap(lane, 1)

    for outcome in together([chain(lane) for lane in lanes], networks):
        outcome.result()
    for lane, host in zip(lanes, hosts, strict=True):
        alone = lane_of(rule, host, SHOWN, [0.05])
        run([alone], len(SEQUENCES))
        for weight, value in alone.training.delta.items():
            assert torch.equal(lane.training.delta[weight], value)
