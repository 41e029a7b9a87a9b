"""A ratio of means and its interval: a number from elsewhere, its definition, its coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import ttest_1samp

from iclgd_lens.verdicts.ratio_intervals import ratio_t


def test_bounds_are_where_students_t_turns() -> None:
    """Found anew as the r at which tops - r bottoms has p = .05."""
    generator = np.random.default_rng(0)
    bottom = 1 + 0.2 * generator.normal(size=8)
    top = 0.4 * bottom + 0.1 * generator.normal(size=8)
    ratio, low, high = (float(each) for each in ratio_t(top, bottom))
    assert ratio == pytest.approx(top.mean() / bottom.mean())

    def apart(r: float) -> float:
        return float(ttest_1samp(top - r * bottom, 0.0).pvalue) - 0.05

    assert low == pytest.approx(brentq(apart, ratio - 2, ratio), abs=1e-8)
    assert high == pytest.approx(brentq(apart, ratio, ratio + 2), abs=1e-8)


def test_one_small_denominator_does_not_rule_the_ratio() -> None:
    bottom = np.array([1.2, 1.0, 0.9, 1.1, 0.12, 1.3])
    top = np.array([0.5, 0.4, 0.4, 0.5, 0.4, 0.6])
    ratio, low, high = ratio_t(top, bottom)
    assert ratio == pytest.approx(top.sum() / bottom.sum())
    assert (top / bottom).mean() > high, "the mean of ratios lies outside"
    assert low > 0.3


def test_units_that_lack_either_are_left_out_and_two_are_needed() -> None:
    top = np.array([[1.0, 1.0], [np.nan, 2.0], [0.8, 1.0]])
    bottom = np.array([[2.0, 2.0], [2.0, np.nan], [2.1, np.nan]])
    ratio, low, high = ratio_t(top, bottom)
    assert ratio.tolist() == pytest.approx([1.8 / 4.1, 0.5])
    assert np.isfinite([low[0], high[0]]).all()
    assert np.isnan([low[1], high[1]]).all()


def test_without_a_sure_denominator_there_is_no_interval() -> None:
    ratio, low, high = ratio_t([1.0, 1.2, 0.9], [0.5, -0.4, 0.2])
    assert np.isfinite(ratio)
    assert np.isnan([low, high]).all()


def test_the_interval_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    bottom = 1 + 0.4 * generator.normal(size=(6, 4000))
    top = 0.5 * bottom + 0.2 * generator.normal(size=bottom.shape)
    _, low, high = ratio_t(top, bottom)
    known = np.isfinite(low)
    assert known.mean() > 0.9
    # Unbounded sets, which hold the truth, are left out: what is left covers at most a little less.
    assert 0.935 < ((low <= 0.5) & (high >= 0.5))[known].mean() < 0.965


@pytest.mark.parametrize(
    ("mean", "passes", "covered"),
    [(3.0, (0.99, 1.0), (0.94, 0.96)), (1.0, (0.36, 0.44), (0.91, 0.95)),
     (0.2, (0.05, 0.08), (0.68, 0.79))],
)  # fmt: skip
def test_of_denominators_that_only_just_pass_it_covers_less(
    mean: float, passes: tuple[float, float], covered: tuple[float, float]
) -> None:
    """What the page on mediation says: true share 0, five draws, errors that go together (.8)."""
    generator = np.random.default_rng(0)
    below, rest = generator.standard_normal((2, 5, 20_000))
    _, low, high = ratio_t(0.8 * below + 0.6 * rest, mean + below)
    known = np.isfinite(low)
    holds = (low <= 0) & (high >= 0)
    assert passes[0] <= known.mean() <= passes[1]
    assert covered[0] <= holds[known].mean() <= covered[1]
    assert (holds | ~known).mean() >= 0.945  # of all cases
