"""The rule's rates where truth is known: a small part here, the whole by `calibrate`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats

from iclgd_lens.calibration import (
    SHAPES,
    Spreads,
    calibrate,
    coverage,
    false_yes,
    power,
    random_direction_null,
    shuffled_null,
    simulate,
)
from iclgd_lens.errors import LensError
from iclgd_lens.verdicts.shares import Rate
from iclgd_lens.verdicts.statistics import paired_t


@pytest.mark.parametrize("draws", [5, 10])
def test_intervals_hold_the_truth_as_often_as_they_say(draws: int) -> None:
    for rate in coverage(Spreads(), draws=draws, trials=6000):
        assert 0.93 <= rate.share <= 0.97, rate
        assert rate.holds


@pytest.mark.parametrize("draws", [5, 10])
def test_noise_is_called_yes_at_most_as_often_as_it_may(draws: int) -> None:
    for rate in false_yes(Spreads(), draws=draws, trials=400):
        assert rate.share <= 0.05, rate


@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_level_bears_other_distributions(shape) -> None:
    for rate in false_yes(Spreads(shape=shape), draws=5, trials=250):
        assert rate.holds, rate


def test_what_the_level_does_not_bear_is_what_the_page_says() -> None:
    """Tails on one side: of scores that are at most 1, of networks that differ more than draws."""
    generator = np.random.default_rng(0)
    for draws in (3, 5, 10):
        tail_below = np.exp(0.5) - np.exp(generator.standard_normal((draws, 20_000)))
        found = paired_t(tail_below)
        assert 0.15 < (found.low > 0).mean() < 0.19, draws
        assert (found.high < 0).mean() < 0.005
    skewed, normal = (
        false_yes(Spreads(shape=shape, network=0.2), draws=5, trials=500, seed=1)[1].share
        for shape in ("skewed", "normal")
    )
    assert normal < 0.04 < skewed < 0.11


def test_twins_that_share_the_draws_out_are_held_to_no_less() -> None:
    spreads = Spreads(shared=0.2, draw=0.1)
    together = false_yes(spreads, draws=5, trials=250)[1]
    shared_out = false_yes(spreads, draws=5, trials=250, shared_out=True)[1]
    assert shared_out.share <= together.share <= 0.05


def test_null_hypotheses_are_not_called_yes() -> None:
    assert random_direction_null(trials=200).share <= 0.05
    assert shuffled_null(trials=200).share <= 0.05


def test_the_nulls_are_of_the_scores_that_they_say() -> None:
    # Draws of a random direction differ by 1/sqrt(width), whatever the number of queries.
    generator = np.random.default_rng(0)
    common = generator.standard_normal((4000, 32))
    direction = generator.standard_normal((4000, 32))
    cosines = (common * direction).sum(1) / np.linalg.norm(common, axis=1)
    cosines /= np.linalg.norm(direction, axis=1)
    assert cosines.std() == pytest.approx(1 / 32**0.5, rel=0.05)


def test_a_true_difference_is_found_the_surer_the_larger_it_is() -> None:
    found = power(Spreads(), [0.0, 0.15, 0.6], draws=5, trials=80)
    for kind in (0, 1):
        shares = [rates[kind].share for rates in found.values()]
        assert shares == sorted(shares)
        assert shares[0] < 0.1
        assert shares[-1] > 0.95
        assert found[0.6][kind].holds is None


def test_simulated_scores_have_the_spreads_that_were_asked_for() -> None:
    spreads = Spreads(shared=0.3, draw=0.1, network=0.2, query=0.4, queries=16)
    drawn = simulate(spreads, draws=4, networks=3, trials=20_000, effect=0.5)
    own = 0.1**2 + 0.4**2 / 16
    assert drawn.values.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.values.var() == pytest.approx(0.3**2 + own, rel=0.03)
    assert (drawn.values - drawn.control).var() == pytest.approx(2 * own, rel=0.03)
    among = drawn.twins.var(0, ddof=1).mean()
    assert among == pytest.approx(0.2**2 + own / 4, rel=0.03)
    assert drawn.model.var() == pytest.approx(0.2**2 + (0.3**2 + own) / 4, rel=0.03)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_shapes_have_mean_zero_and_deviation_one(shape: str) -> None:
    drawn = SHAPES[shape](np.random.default_rng(0), (400_000,))
    assert drawn.mean() == pytest.approx(0, abs=0.01)
    assert drawn.std() == pytest.approx(1, rel=0.05)


def test_a_rate_knows_what_so_few_trials_allow() -> None:
    assert Rate("yes", 4, 40, (0.0, 0.05)).holds  # .1, but of 40
    assert Rate("yes", 40, 400, (0.0, 0.05)).holds is False
    rate = Rate("yes", 11, 32)
    low, high = rate.interval
    assert scipy.stats.binom.sf(10, 32, low) == pytest.approx(0.025, rel=1e-6)
    assert scipy.stats.binom.cdf(11, 32, high) == pytest.approx(0.025, rel=1e-6)
    assert json.loads(json.dumps(rate.as_dict()))["share"] == 11 / 32
    assert str(rate) == "yes: 0.344 [0.186, 0.532] of 32"


@pytest.mark.parametrize(
    ("count", "trials", "said"),
    [
        (2, 20, "outside, yet not excluded: 20 trials cannot tell"),  # .1, as .05 may well give
        (0, 20, "within: 20 trials cannot tell"),  # up to .17 is as likely
        (10, 1000, "holds"),
        (40, 400, "does NOT hold"),
    ],
)
def test_a_rate_is_put_into_no_stronger_words_than_its_trials_allow(
    count: int, trials: int, said: str
) -> None:
    assert Rate("yes", count, trials, (0.0, 0.05)).said == said
    assert Rate("yes", count, trials).said == ""


def test_the_same_seed_gives_the_same_rates() -> None:
    one, two = (false_yes(Spreads(), draws=5, trials=20, seed=3) for _ in range(2))
    assert one == two
    assert coverage(Spreads(), draws=5, trials=50, seed=1) != coverage(
        Spreads(), draws=5, trials=50, seed=2
    )


def test_all_of_it_is_measured_for_five_and_ten_draws() -> None:
    found = calibrate(trials=2)
    assert len(found) == 2 * (2 + 2 * len(SHAPES) + 2 + 2)
    assert len({rate.what for rate in found}) == len(found) - 1  # networks alone know no draws


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(LensError, match="Nothing can be simulated"):
        simulate(Spreads(), draws=0, networks=8, trials=10)
