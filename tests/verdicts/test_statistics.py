"""Tests, intervals and corrections against SciPy and statsmodels, and by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

from iclgd_lens.errors import LensError
from iclgd_lens.verdicts.shares import binomial_interval, clustered_interval
from iclgd_lens.verdicts.statistics import (
    benjamini_hochberg,
    equivalence,
    holm,
    nanmean,
    paired_t,
    prediction_t,
    rank_p,
    t_interval,
)


def sample(*shape: int, seed: int = 0, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, size=shape)


# -- means -----------------------------------------------------------------------------------------


def test_a_mean_is_of_what_is_finite() -> None:
    values = sample(4, 3)
    values[0, 1], values[1, 1], values[:, 2] = np.nan, np.inf, np.nan
    np.testing.assert_allclose(
        nanmean(values, 0), [values[:, 0].mean(), values[2:, 1].mean(), np.nan], rtol=1e-12
    )
    assert nanmean(values) == pytest.approx(values[np.isfinite(values)].mean(), rel=1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(nanmean([]))
    assert nanmean([1, 2]) == 1.5


# -- one test ------------------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [2, 5, 10])
def test_paired_t_equals_scipy(draws: int) -> None:
    a, b = sample(draws, 3, seed=1, mean=0.5), sample(draws, 3, seed=2)
    found = paired_t(a - b, confidence=0.9)
    theirs = scipy.stats.ttest_rel(a, b)
    low, high = theirs.confidence_interval(0.9)
    for ours, other in ((found.p, theirs.pvalue), (found.low, low), (found.high, high)):
        np.testing.assert_allclose(ours, other, rtol=1e-12)
    np.testing.assert_allclose(found.value, (a - b).mean(0))
    np.testing.assert_allclose(found.spread, (a - b).std(0, ddof=1))
    assert found.n.tolist() == [draws] * 3


def test_p_and_interval_never_disagree() -> None:
    found = paired_t(sample(5, 2000, seed=3, mean=0.6))
    assert ((found.p < 0.05) == ((found.low > 0) | (found.high < 0))).all()
    assert 0.05 < (found.p < 0.05).mean() < 0.5
    against = prediction_t(sample(2000, seed=4, mean=1.5), sample(8, 2000, seed=5))
    assert ((against.p < 0.05) == ((against.low > 0) | (against.high < 0))).all()


def test_prediction_t_is_the_test_of_two_samples_of_which_one_has_one_member() -> None:
    x, population = 1.7, sample(8, seed=6)
    found = prediction_t(x, population)
    theirs = scipy.stats.ttest_ind_from_stats(
        x, 0.0, 1, population.mean(), population.std(ddof=1), 8, equal_var=True
    )
    assert float(found.p) == pytest.approx(theirs.pvalue, rel=1e-12)
    # By hand, from the rule.
    s = population.std(ddof=1)
    half = scipy.stats.t.ppf(0.975, 7) * s * (1 + 1 / 8) ** 0.5
    assert float(found.low) == pytest.approx(x - population.mean() - half)
    assert float(found.high) == pytest.approx(x - population.mean() + half)


def test_prediction_t_has_its_level() -> None:
    values = sample(9, 20_000, seed=7)
    p = prediction_t(values[0], values[1:]).p
    assert scipy.stats.binomtest(int((p < 0.05).sum()), p.size, 0.05).pvalue > 0.01
    # The interval is of the difference from the next of the population.
    found = prediction_t(np.zeros(20_000), values[1:])
    inside = (found.low <= -values[0]) & (-values[0] <= found.high)
    assert inside.mean() == pytest.approx(0.95, abs=0.006)


def test_t_interval_equals_scipy_and_leaves_out_what_is_undefined() -> None:
    values = sample(6, 2, seed=8)
    values[2, 1] = np.inf
    mean, low, high = t_interval(values)
    for column in range(2):
        kept = values[np.isfinite(values[:, column]), column]
        theirs = scipy.stats.ttest_1samp(kept, 0).confidence_interval()
        assert (low[column], high[column]) == pytest.approx(tuple(theirs))
        assert mean[column] == pytest.approx(kept.mean())
    assert np.isnan(t_interval([3.0])[1])


def test_too_few_units_give_no_p() -> None:
    values = np.array([[np.nan, 1.0, 1.0], [np.nan, np.nan, 2.0]])
    found = paired_t(values)
    assert np.isnan(found.p[:2]).all()
    assert np.isnan(found.low[:2]).all()
    assert np.isfinite(found.p[2])
    assert found.n.tolist() == [0, 1, 2]
    assert found.undefined.tolist() == [2, 1, 0]
    assert np.isnan(paired_t(np.zeros((0, 2))).p).all()


@pytest.mark.parametrize("jitter", [0.0, 1e-8])
def test_units_that_all_say_the_same_tell_nothing_about_chance(jitter: float) -> None:
    # The same draw five times over, or twins that are one network: t would be infinite.
    same = 0.4 + jitter * np.arange(5.0)
    assert np.isnan(paired_t(same).p)
    assert np.isnan(paired_t(same).low)
    assert np.isnan(prediction_t(0.9, same).p)
    assert paired_t(np.zeros(5)).p == 1.0
    assert prediction_t(0.4, np.full(5, 0.4)).p == 1.0


def test_ranks_by_hand() -> None:
    population = np.arange(19.0)
    assert rank_p(19.0, population) == pytest.approx(1 / 20)
    assert rank_p(18.0, population) == pytest.approx(2 / 20)  # a tie is not below
    assert rank_p(-1.0, population) == 1.0
    assert rank_p(100.0, [*population[:18], np.nan]) == pytest.approx(2 / 20)
    assert np.isnan(rank_p(np.nan, population))


@pytest.mark.parametrize("margin", [0.2, 1.0, 3.0])
def test_equivalence_equals_statsmodels(margin: float) -> None:
    values = sample(7, seed=9, mean=0.3)
    theirs = DescrStatsW(values).ttost_mean(-margin, margin)[0]
    assert float(equivalence(values, margin)) == pytest.approx(theirs, rel=1e-10)


def test_equivalence_agrees_with_its_interval() -> None:
    values = sample(6, 3000, seed=10) * 0.05
    _, low, high = t_interval(values, confidence=0.9)
    inside = (low > -0.05) & (high < 0.05)
    assert (equivalence(values, 0.05) < 0.05).tolist() == inside.tolist()


def test_equivalence_has_its_level_on_the_margin() -> None:
    values = sample(5, 20_000, seed=11, mean=1.0)
    share = (equivalence(values, 1.0) < 0.05).mean()
    assert share <= 0.055


def test_equivalence_of_too_little_or_of_no_spread() -> None:
    assert np.isnan(equivalence([0.0, np.nan], 0.1))
    assert equivalence([0.0, 0.0, 0.0], 0.1) == 0.0
    assert equivalence([0.2, 0.2, 0.2], 0.1) == 1.0
    assert equivalence([0.0, 0.0, 0.0], 0.0) == 1.0


# -- many tests ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5, 12])
def test_holm_by_its_definition(count: int) -> None:
    p = np.random.default_rng(count).random(count) ** 3
    order = np.argsort(p, kind="stable")
    expected, running = np.empty(count), 0.0
    for rank, index in enumerate(order):
        running = max(running, min(1.0, (count - rank) * p[index]))
        expected[index] = running
    assert holm(p) == pytest.approx(expected, abs=1e-12)


def test_holm_does_not_count_what_could_not_be_tested() -> None:
    found = holm([0.01, np.nan, 0.04])
    assert found[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(found[1])
    assert np.isnan(holm([np.nan])).all()


@pytest.mark.parametrize("size", [1, 2, 7, 40])
@pytest.mark.parametrize(("ours", "method"), [(holm, "holm"), (benjamini_hochberg, "fdr_bh")])
def test_corrections_equal_statsmodels(ours, method: str, size: int) -> None:
    p = np.random.default_rng(size).random(size) ** 4
    p[: size // 3] = p[size // 2]  # ties
    assert ours(p) == pytest.approx(multipletests(p, method=method)[1], abs=1e-12)


@pytest.mark.parametrize("correct", [holm, benjamini_hochberg])
def test_a_test_that_failed_can_count_as_asked(correct) -> None:
    p = [0.01, np.nan, 0.04, np.nan]
    counted = correct(p, count_undefined=True)
    assert counted[[0, 2]] == pytest.approx(correct([0.01, 1.0, 0.04, 1.0])[[0, 2]])
    assert np.isnan(counted[[1, 3]]).all()
    assert (counted[[0, 2]] > correct(p)[[0, 2]]).all()


def test_maps_of_heads_keep_their_shape() -> None:
    p = np.random.default_rng(3).random((4, 6)) ** 3
    found = benjamini_hochberg(p)
    assert found.shape == (4, 6)
    assert found.ravel() == pytest.approx(multipletests(p.ravel(), method="fdr_bh")[1])
    assert holm([]).shape == (0,)


@pytest.mark.parametrize(("count", "trials"), [(0, 40), (2, 32), (11, 32), (40, 40)])
def test_shares_have_exact_intervals(count: int, trials: int) -> None:
    theirs = proportion_confint(count, trials, method="beta")
    assert binomial_interval(count, trials) == pytest.approx(theirs, abs=1e-9)


def test_clusters_of_one_trial_are_trials() -> None:
    counts = np.array([1] * 3 + [0] * 37)
    assert clustered_interval(counts, np.ones(40)) == pytest.approx(
        binomial_interval(3, 40), abs=1e-9
    )


def test_clusters_that_agree_within_are_worth_one_trial_each() -> None:
    whole = clustered_interval([8] * 5 + [0] * 36, [8] * 41)
    assert whole == pytest.approx(binomial_interval(5, 41), abs=0.01)
    assert clustered_interval([0] * 41, [8] * 41) == pytest.approx(binomial_interval(0, 41))
    assert clustered_interval([8] * 41, [8] * 41) == pytest.approx(binomial_interval(41, 41))


def test_few_clusters_tell_less_than_their_design_effect() -> None:
    """Korn and Graubard's interval, written out: 3 of 20 in five clusters of four."""
    counts, share = np.array([2, 0, 0, 1, 0]), 3 / 20
    between = 5 / 4 * ((counts - 4 * share) ** 2).sum() / 20**2
    worth = 20 / (between / (share * (1 - share) / 19))
    worth *= (scipy.stats.t.ppf(0.975, 19) / scipy.stats.t.ppf(0.975, 4)) ** 2
    assert worth < 11  # of 20 trials
    yes, no = share * worth, (1 - share) * worth
    expected = scipy.stats.beta.ppf(0.025, yes, no + 1), scipy.stats.beta.ppf(0.975, yes + 1, no)
    assert clustered_interval(counts, [4] * 5) == pytest.approx(expected)


def test_intervals_of_clusters_hold_a_rare_share() -> None:
    """Networks of which most never say yes and a few often do."""
    generator = np.random.default_rng(7)
    hold = naive = 0
    for _ in range(400):
        own = generator.beta(0.04 * 2, 0.96 * 2, 42)  # a third of the variance between networks
        counts = generator.binomial(8, own)
        low, high = clustered_interval(counts, np.full(42, 8))
        hold += low <= 0.04 <= high
        low, high = binomial_interval(int(counts.sum()), 42 * 8)
        naive += low <= 0.04 <= high
    assert hold >= 0.9 * 400
    assert naive < 0.85 * 400


def test_settings_out_of_range_are_refused() -> None:
    for counts, trials in (([3], [2]), ([], []), ([1, 1], [2]), ([0], [0])):
        with pytest.raises(LensError, match="no shares"):
            clustered_interval(counts, trials)
    with pytest.raises(LensError, match="confidence"):
        paired_t([1.0, 2.0], confidence=95.0)
    with pytest.raises(LensError, match="single number"):
        paired_t(np.array(3.0))
    with pytest.raises(LensError, match="population"):
        prediction_t([1.0, 2.0], [1.0, 2.0])
    with pytest.raises(LensError, match="margin"):
        equivalence([1.0, 2.0], -0.1)
    with pytest.raises(LensError, match="no share"):
        binomial_interval(3, 2)
