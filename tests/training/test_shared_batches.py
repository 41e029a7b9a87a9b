"""Trainings run together: each does what it does alone, whoever is beside it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest

import iclgd_lens as lens
from iclgd_lens import nulls
from iclgd_lens.budget.budget import Budget, choosing
from iclgd_lens.budget.training_rows import lane_of
from iclgd_lens.building import Builder, Pair
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.rules import Rule
from iclgd_lens.training import shared_batches
from iclgd_lens.training.batched import Networks
from iclgd_lens.training.shared_batches import Chain, Lane, Lap, alone, together
from tests import checks

SHOWN = checks.episode(shots=3).demonstrations
GD = get_hypothesis("gd").rows
assert GD is not None


@pytest.fixture(scope="module")
def host() -> Host:
    return checks.host(checks.kinds()[0], "gpt2")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many lanes each batch has."""
    found: list[int] = []
    real = shared_batches.run

    def spy(some: Sequence[Lane], *arguments: Any) -> None:
        found.append(len(some))
        real(some, *arguments)

    monkeypatch.setattr(shared_batches, "run", spy)
    return found


def same_search(one: Budget, other: Budget) -> None:
    assert one.settings == other.settings
    assert [each.settings for each in one.tried] == [each.settings for each in other.tried]
    # High rates magnify rounding.
    low = [[each for each in budget.tried if each.settings["lr"] <= 0.1] for budget in (one, other)]
    losses = [[each.loss for each in tried] for tried in low]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4, rel=1e-4)
    assert one.trainings == other.trainings


@pytest.mark.parametrize(("name", "of"), [("gd", "draws"), ("gd", "twins"), ("lcgd", "twins")])
def test_searches_together_choose_what_they_choose_alone(
    name: str, of: str, batches: list[int]
) -> None:
    model = as_host(lens.load_model("embedded"))
    draws: Sequence[Episode] = lens.load_episodes("sst2", model, shots=8, queries=1, draws=2)
    hosts = [model, model]
    if of == "twins":
        hosts = [as_host(nulls.untrained_twin(model, seed)) for seed in range(2)]
    search: dict[str, Any] = {"grid": (0.01, 0.1, 1.0), "epochs": (1, 2)}

    def chains() -> list[Chain[Budget]]:
        pairs = zip(hosts, draws, strict=True)
        return [choosing(each, draw, get_hypothesis(name), **search) for each, draw in pairs]

    sequences = [each for draw in draws for each in draw.demonstrations.sequences()]
    found = together(chains(), Networks(hosts, sequences))
    assert max(batches) == 2
    for outcome, chain in zip(found, chains(), strict=True):
        same_search(outcome.result(), alone(chain))


def test_trainings_of_unlike_length_share_batches_and_costs_are_each_ones_own(
    host: Host, batches: list[int]
) -> None:
    """Other rates, passes, loss tokens and numbers of demonstrations."""
    orders = [(3, 0.05, 4, "label"), (2, 0.01, 1, "all"), (3, 0.1, 2, "label")]

    def chain(order: Any) -> tuple[Builder, Chain[Pair]]:
        shots, lr, epochs, loss_on = order
        episode = checks.episode(shots=shots)
        builder = Builder(host, episode, nulls.shuffled_labels(episode))
        given = {"lr": lr, "epochs": epochs, "loss_on": loss_on}
        return builder, builder.pairing(Rule("gd", get_hypothesis("gd"), given))

    joined = [chain(order) for order in orders]
    outcomes = together([made for _, made in joined])
    assert batches == [3, 2, 1]
    for order, outcome, (builder, _) in zip(orders, outcomes, joined, strict=True):
        single, made = chain(order)
        for one, other in zip(outcome.result(), alone(made), strict=True):
            assert isinstance(one, ParameterDelta)
            assert isinstance(other, ParameterDelta)
            for weight, value in other.items():
                checks.close(one[weight], value, 1e-4, float(other.norm()))
        assert builder.described["gd"]["cost"] == single.described["gd"]["cost"]


def lap(host: Host, rates: Sequence[float], passes: int = 1, rule: Any = GD) -> Chain[Lane]:
    lane = lane_of(rule, host, SHOWN, rates)
    yield Lap(lane, passes)
    return lane


def test_who_diverges_or_raises_spoils_no_other(host: Host) -> None:
    def raises() -> Chain[Lane]:
        yield from lap(host, [0.05])
        raise RuntimeError("between two laps")

    found = together([lap(host, [1e38]), raises(), lap(host, [0.05], 2)])
    assert not all(bool(v.isfinite().all()) for v in found[0].result().training.delta.values())
    with pytest.raises(RuntimeError, match="between two laps"):
        found[1].result()
    expected = alone(lap(host, [0.05], 2)).training.delta
    largest = max(float(each.detach().abs().max()) for each in expected.values())
    for weight, value in found[2].result().training.delta.items():
        checks.close(value.detach(), expected[weight].detach(), 1e-4, largest)


def test_a_batch_that_fails_leaves_the_model_and_fails_for_its_own(host: Host) -> None:
    def broken(own: Host, *arguments: Any) -> Any:
        own.run(own.tensor([1, 2]))
        raise RuntimeError("in a step")

    before = checks.photograph(host.model)
    chains = [lap(host, [0.05], rule=broken), lap(host, [0.1], rule=broken), lap(host, [0.05])]
    found = together(chains)
    for outcome in found[:2]:
        with pytest.raises(RuntimeError, match="in a step"):
            outcome.result()
    assert found[2].result().training.rows == 1
    before.assert_same(host.model)


def test_no_batch_holds_more_tokens_than_it_may(
    host: Host, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = max(len(each.tokens) for each in SHOWN.sequences())
    monkeypatch.setattr(shared_batches, "TRAINED_TOKENS_AT_ONCE", 3 * longest)
    together([lap(host, [0.1] * count) for count in (2, 2, 1, 9)])
    assert batches == [2, 1, 1], "the first with the third, the rest one by one"


def test_a_model_that_cannot_be_padded_trains_one_by_one(
    host: Host, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(host), "can_pad", False)
    together([lap(host, [0.1]), lap(host, [0.1])])
    assert batches == [1, 1]


def test_networks_share_no_batch_under_a_plugins_step() -> None:
    # It might read the weights of the network that the batch runs on, which are another's.
    def step(*given: Any) -> Any:
        raise AssertionError

    hosts = [as_host(nulls.untrained(checks.host("bridge", "llama").model, seed=s)) for s in (0, 1)]
    shown = checks.episode(queries=2, shots=2).demonstrations
    networks = Networks(hosts, shown.sequences())
    rules: list[tuple[Any, bool]] = [
        (layer_step, True), (partial(layer_step, rows=0), True), (step, False),
    ]  # fmt: skip
    for rule, joined in rules:
        one, other = (lane_of(rule, host, shown, [0.1]) for host in hosts)
        assert one.joins(other, networks) is joined
        assert one.joins(lane_of(rule, hosts[0], shown, [0.2]), networks)
        assert not one.joins(other, None)
