"""Bootstraps and sign flips against SciPy and loops, with and without undefined values."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iclgd_lens import ratios
from iclgd_lens.errors import LensError
from iclgd_lens.measures import similarity
from iclgd_lens.verdicts import resampling
from iclgd_lens.verdicts.resampling import (
    bootstrap_mean,
    bootstrap_ratio,
    max_t,
    resample_counts,
    sign_flip,
)

NAN = math.nan


def sample(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def resample(queries, resamples, seed):
    """The drawn queries, restated: "resample query"."""
    return np.random.default_rng(seed).integers(0, queries, (resamples, queries))


@pytest.mark.parametrize("confidence", [0.5, 0.95])
def test_equals_scipy_where_all_is_defined(confidence):
    values = sample(40, 3)
    ours = bootstrap_mean(values, confidence=confidence, resamples=500, seed=7)
    for column in range(3):
        theirs = stats.bootstrap(
            (values[:, column],),
            np.mean,
            method="percentile",
            confidence_level=confidence,
            n_resamples=500,
            random_state=np.random.default_rng(7),
        ).confidence_interval
        assert ours.low[column] == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high[column] == pytest.approx(theirs.high, abs=1e-12)
    np.testing.assert_allclose(ours.value, values.mean(axis=0))
    assert ours.n.tolist() == [40] * 3
    assert ours.undefined.tolist() == [0] * 3


def test_undefined_values_are_left_out_of_every_resampled_mean():
    values = sample(12, 2, 2)
    values[0, 0, 0] = values[5, 0, 0] = NAN
    values[:9, 1, 1] = NAN  # some resamples miss the three defined queries altogether
    values[3, 0, 1] = math.inf
    ours = bootstrap_mean(values, resamples=300, seed=3)
    draws = resample(12, 300, 3)
    for index in np.ndindex(2, 2):
        column = values[(slice(None), *index)]
        column = np.where(np.isfinite(column), column, NAN)
        means = [column[draw][~np.isnan(column[draw])] for draw in draws]
        means = [m.mean() for m in means if m.size]
        np.testing.assert_allclose(ours.low[index], np.quantile(means, 0.025), atol=1e-12)
        np.testing.assert_allclose(ours.high[index], np.quantile(means, 0.975), atol=1e-12)
        np.testing.assert_allclose(ours.value[index], np.nanmean(column))
    assert ours.n.tolist() == [[10, 11], [12, 3]]
    assert ours.undefined.tolist() == [[2, 1], [0, 9]]


def test_too_few_defined_queries():
    result = bootstrap_mean(np.array([[NAN, NAN, 2.0], [NAN, 5.0, 2.0]]))
    np.testing.assert_array_equal(result.value, [NAN, 5, 2])
    np.testing.assert_array_equal(result.low, [NAN, NAN, 2])
    np.testing.assert_array_equal(result.high, [NAN, NAN, 2])
    assert result.n.tolist() == [0, 1, 2]
    assert result.undefined.tolist() == [2, 1, 0]
    nothing = bootstrap_mean(np.zeros((0, 2)))
    assert np.isnan(nothing.value).all()
    assert nothing.n.tolist() == [0, 0]
    assert bootstrap_mean(np.zeros((3, 0))).value.shape == (0,)


def test_one_axis_gives_scalars_in_arrays():
    result = bootstrap_mean([0.0, 1.0, NAN])
    for each in (result.value, result.low, result.high, result.n, result.undefined):
        assert isinstance(each, np.ndarray)
        assert each.shape == ()
    assert float(result.value) == 0.5
    assert int(result.n) == 2


@given(st.integers(0, 1000), st.floats(-1e6, 1e6))
def test_a_shift_moves_value_and_bounds(seed, shift):
    values = sample(15, 2, seed=seed)
    plain, moved = (
        bootstrap_mean(values, resamples=50),
        bootstrap_mean(values + shift, resamples=50),
    )
    for name in ("value", "low", "high"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name) + shift, atol=1e-8)
    assert (plain.low <= plain.high).all()


def test_covers_the_mean_about_as_often_as_it_says():
    result = bootstrap_mean(sample(60, 1000, seed=5), confidence=0.9, resamples=400)
    share = ((result.low <= 0) & (result.high >= 0)).mean()
    assert 0.85 < share < 0.93


def test_seeded_and_free_of_global_state():
    values = sample(20, 4)
    before = np.random.get_state()[1].copy(), torch.get_rng_state().clone()
    first, second = bootstrap_mean(values, seed=1), bootstrap_mean(values, seed=1)
    assert first.low.tobytes() == second.low.tobytes()
    assert first.high.tobytes() == second.high.tobytes()
    assert (bootstrap_mean(values, seed=2).low != first.low).any()
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])


def test_draws_in_pieces_equal_draws_at_once(monkeypatch):
    values = sample(31, 3)
    values[2, 1] = NAN
    whole = bootstrap_mean(values, resamples=101)
    monkeypatch.setattr(resampling, "_DRAWS_AT_ONCE", 31 * 7)
    pieces = bootstrap_mean(values, resamples=101)
    np.testing.assert_allclose(pieces.low, whole.low, atol=1e-12)
    np.testing.assert_allclose(pieces.high, whole.high, atol=1e-12)


@pytest.mark.parametrize(
    "statistic", [ratios.recovery_scale, ratios.recovery_share, ratios.recovery_unscaled]
)
def test_ratio_of_mean_moments_equals_scipy(statistic):
    zs, icl, ft = torch.tensor(sample(3, 30, 4))
    moments = similarity.recovery_moments(zs, icl, ft).double().numpy()
    ours = bootstrap_ratio(moments, statistic, resamples=200, seed=4)
    theirs = stats.bootstrap(
        (np.arange(30),),
        lambda drawn, axis: statistic(moments[drawn].mean(axis=axis - 1)),
        method="percentile",
        n_resamples=200,
        vectorized=True,
        random_state=np.random.default_rng(4),
    ).confidence_interval
    assert float(ours.value) == pytest.approx(float(statistic(moments.mean(axis=0))))
    assert float(ours.low) == pytest.approx(float(theirs.low), abs=1e-9)
    assert float(ours.high) == pytest.approx(float(theirs.high), abs=1e-9)


def test_ratio_counts_a_query_undefined_by_any_moment_and_keeps_columns_apart():
    moments = np.abs(sample(10, 2, 3))
    moments[4, 0, 1] = NAN
    both = bootstrap_ratio(moments, ratios.recovery_scale)
    assert both.n.tolist() == [9, 10]
    assert both.undefined.tolist() == [1, 0]
    kept = np.delete(moments[:, 0], 4, axis=0)
    assert both.value[0] == pytest.approx(kept[:, 0].sum() / kept[:, 1].sum())
    assert both.low[1] < both.value[1] < both.high[1]


def test_ratio_of_nothing_is_undefined():
    result = bootstrap_ratio(np.zeros((5, 3)), ratios.recovery_share)
    assert np.isnan([result.value, result.low, result.high]).all()
    assert int(result.n) == 5


def test_settings_out_of_range_are_refused():
    with pytest.raises(LensError, match="confidence"):
        bootstrap_mean([1.0, 2.0], confidence=95.0)
    with pytest.raises(LensError, match="resamples"):
        bootstrap_mean([1.0, 2.0], resamples=0)
    with pytest.raises(LensError, match="query"):
        bootstrap_mean(np.array(3.0))
    with pytest.raises(LensError, match="query"):
        bootstrap_ratio([1.0, 2.0], ratios.recovery_scale)


def test_resampled_counts_are_the_draws_counted() -> None:
    found = resample_counts(7, 50, np.random.default_rng(3))
    drawn = np.random.default_rng(3).integers(0, 7, (50, 7))
    np.testing.assert_array_equal(found, [np.bincount(each, minlength=7) for each in drawn])


# -- sign flips ----------------------------------------------------------------------------------


def test_exact_sign_flips_equal_scipy() -> None:
    values = np.random.default_rng(5).normal(0.4, 1, size=(9, 2))
    found = sign_flip(values)
    for column in range(2):
        other = stats.permutation_test(
            (values[:, column],),
            np.mean,
            permutation_type="samples",
            alternative="two-sided",
            n_resamples=np.inf,
        )
        assert found[column] == pytest.approx(other.pvalue, abs=1e-12)


def test_random_sign_flips_approach_the_exact_answer() -> None:
    values = np.random.default_rng(6).normal(0.5, 1, size=(12, 1))
    exact = sign_flip(values)[0]
    sampled = sign_flip(values, exact_below=0, flips=40_000)[0]
    assert sampled == pytest.approx(exact, abs=0.006)
    assert sign_flip(np.ones((40, 1)), flips=999)[0] == pytest.approx(1 / 1000)


def test_p_values_are_uniform_where_nothing_differs() -> None:
    values = np.random.default_rng(7).normal(size=(30, 400))
    p = sign_flip(values, flips=999)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_undefined_queries_are_left_out_of_the_test() -> None:
    values = np.random.default_rng(8).normal(1, 1, size=(8, 1))
    with_holes = np.concatenate([values, np.full((4, 1), np.nan)])
    assert sign_flip(with_holes)[0] == pytest.approx(sign_flip(values)[0])
    assert np.isnan(sign_flip(np.full((5, 1), np.nan))[0])
    assert sign_flip(np.zeros((6, 1)))[0] == 1.0


def test_the_same_seed_gives_the_same_bytes_and_no_global_state_moves() -> None:
    values = np.random.default_rng(9).normal(size=(10, 2))
    before = np.random.get_state()[1].tobytes()
    one, two = (bootstrap_mean(values, seed=4) for _ in range(2))
    assert one.low.tobytes() == two.low.tobytes()
    assert sign_flip(values, exact_below=0).tobytes() == sign_flip(values, exact_below=0).tobytes()
    assert np.random.get_state()[1].tobytes() == before


def t_of(values: np.ndarray) -> np.ndarray:
    """|t| of each column's defined values, by SciPy."""
    return np.abs(stats.ttest_1samp(values, 0, nan_policy="omit").statistic)


@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_max_t_by_its_definition(holes: float) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(0.6, 1, size=(9, 5))
    values[generator.random(values.shape) < holes] = np.nan
    observed = t_of(values)
    largest = []
    for bits in range(2**9):
        signs = 1.0 - 2 * ((bits >> np.arange(9)) & 1)
        largest.append(np.nanmax(t_of(signs[:, None] * values)))
    expected = [(np.array(largest) >= each * (1 - 1e-9)).mean() for each in observed]
    assert max_t(values) == pytest.approx(expected, abs=1e-12)


def test_max_t_holds_the_rate_of_even_one_false_head() -> None:
    # Heads that depend on one another, of very different spread: 60 maps without any effect.
    false = 0
    for trial in range(60):
        generator = np.random.default_rng(trial)
        common = generator.normal(size=(12, 1, 1))
        values = (common + generator.normal(size=(12, 4, 6))) * generator.exponential(size=(4, 6))
        false += bool((max_t(values, flips=400, exact_below=0) < 0.05).any())
        assert max_t(values, flips=50, exact_below=0).shape == (4, 6)
    assert stats.binomtest(false, 60, 0.05, alternative="greater").pvalue > 0.01


def test_max_t_finds_the_head_that_differs() -> None:
    values = np.random.default_rng(4).normal(size=(40, 30))
    values[:, 7] += 1.5
    found = max_t(values, flips=999)
    assert found[7] == pytest.approx(1 / 1000)
    assert (np.delete(found, 7) > 0.05).all()


def test_an_undefined_head_takes_part_in_nothing() -> None:
    values = np.random.default_rng(5).normal(0.5, 1, size=(10, 3))
    with_lost = np.column_stack([values, np.full(10, np.nan), np.zeros(10)])
    found = max_t(with_lost)
    assert found[:3] == pytest.approx(max_t(values))
    assert np.isnan(found[3])
    assert found[4] == 1.0


def test_a_head_with_two_defined_units_cannot_be_found() -> None:
    values = np.random.default_rng(6).normal(size=(12, 4))
    values[:, 3] = np.nan
    values[:2, 3] = [0.5, 0.5001]
    assert max_t(values)[3] >= 0.5


def test_heads_whose_units_are_equal_are_not_told_apart_by_rounding() -> None:
    values = np.full((8, 2), 0.1)
    values[:, 1] *= 1 + 1e-13 * np.arange(8)
    assert max_t(values) == pytest.approx([2 / 2**8] * 2)
