"""Networks that learned nothing, each held against the others: noise is seldom called yes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iclgd_lens.calibration_on_networks import disjoint, never_trained, steadiness
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Part

QUERIES, LAYERS = 6, 2


def values(generator: np.random.Generator, mean: float, spread: float) -> dict[str, np.ndarray]:
    level = mean + spread * generator.standard_normal()
    noise = 0.01 * generator.standard_normal((QUERIES, LAYERS))
    found = (level + noise).astype(np.float32)
    return {"SimAOU_label": found, "SimAOU_label_centred": found.copy()}


def comparison(
    networks: int, *, seed: int = 0, model: float = 0.5, odd: float | None = None
) -> Comparison:
    """A model, and networks around zero; the first of them at `odd` if that is given."""
    generator = np.random.default_rng(seed)
    gold = np.zeros(QUERIES, np.int64)
    parts = [Part({"gd": values(generator, model, 0.02)}, gold, draw) for draw in range(3)]
    for index in range(networks):
        mean = odd if odd is not None and index == 0 else 0.0
        own = {"gd": values(generator, mean, 0.05)}
        parts.append(Part(own, gold, index % 3, network="untrained", index=index))
    return Comparison(tuple(parts), {"controls": ["untrained"]})


def test_networks_are_seldom_called_yes_against_their_like() -> None:
    rate = never_trained([comparison(10, seed=seed) for seed in range(10)], scores=["SimAOU_label"])
    assert rate.trials == 100
    assert rate.holds
    assert rate.share <= 0.1


def test_questions_of_one_network_are_a_cluster() -> None:
    one = comparison(8, odd=5.0)
    named = replace(one, provenance={**one.provenance, "model": {"name": "m"}})
    apart, together = never_trained([one, one]), never_trained([named, named])
    assert (apart.count, apart.trials) == (together.count, together.trials) == (4, 32)
    assert sorted(apart.clusters, reverse=True)[:3] == [(2, 2), (2, 2), (0, 2)]
    assert sorted(together.clusters, reverse=True)[:2] == [(4, 4), (0, 4)]
    assert together.interval[1] > apart.interval[1]  # fewer networks tell less


def test_a_network_that_stands_out_is_called_yes() -> None:
    """The rate can fail: it is not zero by construction."""
    one = comparison(8, odd=5.0)
    rate = never_trained([one], scores=["SimAOU_label"])
    assert rate.count >= 1


def test_networks_with_budgets_of_their_own_are_compared_at_those() -> None:
    """At one network's budget all are alike; at its own one stands out, and is found."""
    generator = np.random.default_rng(3)
    base = comparison(8)
    parts = []
    for part in base.parts:
        parts.append(part)
        if part.network == "untrained":
            mean = 5.0 if part.index == 0 else 0.0
            own = {"gd": values(generator, mean, 0.05)}
            parts.append(
                Part(own, part.gold, part.draw, network="untrained", index=part.index, budget="own")
            )
    chosen = Comparison(tuple(parts), {"controls": ["untrained"]})
    assert "gd(budget=own)@untrained" in chosen.data.series
    assert never_trained([base], scores=["SimAOU_label"]).count == 0
    assert never_trained([chosen], scores=["SimAOU_label"]).count >= 1


def test_too_few_networks_are_no_trial() -> None:
    assert never_trained([comparison(3)]).trials == 0


@pytest.mark.parametrize("networks", [5, 8])
def test_a_clear_verdict_does_not_hang_on_the_networks_drawn(networks: int) -> None:
    rate = steadiness(comparison(16), networks=networks, trials=10)
    assert rate.trials == 20
    assert rate.share == 1.0


def test_an_unclear_verdict_does() -> None:
    rate = steadiness(comparison(16, model=0.12, seed=3), networks=4, trials=40)
    assert 0 < rate.share < 1


def test_disjoint_sets_share_no_network_and_keep_the_model() -> None:
    whole = comparison(10)
    sets = disjoint(whole, 4)
    assert len(sets) == 2  # two networks are too few for a third
    held = [{p.index for p in each.parts if p.network == "untrained"} for each in sets]
    assert held == [{0, 1, 2, 3}, {4, 5, 6, 7}]
    for each in sets:
        assert [p for p in each.parts if p.network == "trained"] == list(whole.parts[:3])
    # The answer is of these networks alone: one that stands out is in the first set only.
    odd = disjoint(comparison(8, odd=5.0), 4)
    first, second = (each.verdicts(gate=False) for each in odd)
    assert [v.verdict for v in first] != [v.verdict for v in second]
