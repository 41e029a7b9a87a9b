"""How many units would do, against statsmodels and against drawing them."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from iclgd_lens.verdicts.power import MOST_UNITS, units_needed, units_to_equivalence
from iclgd_lens.verdicts.statistics import equivalence, prediction_t


@pytest.mark.parametrize("effect", [0.3, 0.8, 1.5, 3.0])
@pytest.mark.parametrize("alpha", [0.05, 0.005])
def test_draws_needed_equal_statsmodels_within_one(effect: float, alpha: float) -> None:
    theirs = TTestPower().solve_power(effect, alpha=alpha, power=0.8)
    ours = units_needed(-2 * effect, 2.0, alpha=alpha)
    assert ours is not None
    assert abs(ours - np.ceil(float(np.squeeze(theirs)))) <= 1


def test_networks_needed_do_when_drawn() -> None:
    effect, spread = 3.0, 1.0
    needed = units_needed(effect, spread, prediction=True)
    assert needed is not None
    for networks, enough in ((needed + 1, True), (needed - 3, False)):
        population = np.random.default_rng(1).normal(0, spread, (networks, 20_000))
        shown = (prediction_t(np.full(20_000, effect), population).p < 0.05).mean()
        assert (shown > 0.78) == enough


def test_a_value_within_the_spread_of_its_population_needs_more_than_there_are() -> None:
    assert units_needed(1.5, 1.0, prediction=True) is None
    assert units_needed(1.5, 1.0) is not None
    assert units_needed(0.0, 1.0) is None
    assert units_needed(1e-6, 1.0) is None


@pytest.mark.parametrize("effect", [0.0, 0.02])
def test_units_to_equivalence_do_when_drawn(effect: float) -> None:
    needed = units_to_equivalence(effect, 0.06, 0.05)
    assert needed is not None
    for units, enough in ((needed + 1, True), (needed - 3, False)):
        drawn = np.random.default_rng(2).normal(effect, 0.06, (units, 20_000))
        shown = (equivalence(drawn, 0.05) < 0.05).mean()
        assert (shown > 0.78) == enough


def test_what_is_outside_the_margin_is_never_equivalent() -> None:
    assert units_to_equivalence(0.06, 0.01, 0.05) is None
    assert units_to_equivalence(0.0, 10.0, 0.05) is None
    assert 2 <= (units_to_equivalence(0.0, 1e-4, 0.05) or 0) <= MOST_UNITS


@pytest.mark.parametrize("spread", [0.0, float("nan")])
def test_without_a_known_spread_nothing_warns(spread: float) -> None:
    with np.errstate(all="raise"):
        units_needed(0.1, spread)
        units_to_equivalence(0.1, spread, 0.05)
    assert units_needed(float("nan"), 1.0) is None
