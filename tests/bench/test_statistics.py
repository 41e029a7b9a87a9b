"""Statistics against independent computations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from iclgd_lens.bench.statistics import hierarchical_mean, holm, sign_flip
from iclgd_lens.errors import LensError
from iclgd_lens.measures import recovery_scale


def naive(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw by draw, with the generator in the same order: seeds, then queries."""
    seeds, queries = values.shape
    generator = np.random.default_rng(seed)
    seed_draws = generator.integers(0, seeds, (resamples, seeds))
    query_draws = generator.integers(0, queries, (resamples, queries))
    found: list[float] = []
    for rows, columns in zip(seed_draws, query_draws, strict=True):
        means: list[float] = []
        for row in rows:
            drawn = values[row, columns]
            drawn = drawn[np.isfinite(drawn)]
            if drawn.size:
                means.append(float(drawn.mean()))
        if means:
            found.append(float(np.mean(means)))
    return np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("holes", [0.0, 0.3])
def test_intervals_equal_those_of_a_loop_over_resamples(holes: float) -> None:
    generator = np.random.default_rng(1)
    values = generator.normal(size=(4, 15, 3))
    values[generator.random(values.shape) < holes] = np.nan
    found = hierarchical_mean(values, resamples=400, seed=5)
    for column in range(3):
        each = values[:, :, column]
        assert found.value[column] == pytest.approx(np.nanmean(np.nanmean(each, axis=1)))
        low, high = naive(each, 400, 5)
        assert found.low[column] == pytest.approx(low, abs=1e-12)
        assert found.high[column] == pytest.approx(high, abs=1e-12)
        assert found.n[column] == np.isfinite(each).sum()


def test_one_seed_is_the_plain_bootstrap_of_scipy() -> None:
    values = np.random.default_rng(2).normal(size=40)
    found = hierarchical_mean(values[None, :, None], resamples=20_000, seed=0)
    other = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    assert found.low[0] == pytest.approx(other.low, abs=0.01)
    assert found.high[0] == pytest.approx(other.high, abs=0.01)


def test_both_sources_of_chance_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    seeds = generator.normal(size=(12, 1, 1))
    queries = generator.normal(size=(1, 60, 1))
    noise = 0.01 * generator.normal(size=(12, 60, 1))
    # The standard error of a crossed mean: var(seed) / seeds + var(query) / queries.
    for values, error in (
        (seeds + noise, seeds.std() / 12**0.5),
        (queries + noise, queries.std() / 60**0.5),
        (seeds + queries + noise, (seeds.var() / 12 + queries.var() / 60) ** 0.5),
    ):
        found = hierarchical_mean(values, resamples=4000)
        assert (found.high - found.low)[0] == pytest.approx(2 * 1.96 * error, rel=0.12)


def test_coverage_over_repeated_experiments() -> None:
    hits, trials = 0, 200
    for trial in range(trials):
        generator = np.random.default_rng(trial)
        values = (
            generator.normal(size=(20, 1, 1)) * 0.5
            + generator.normal(size=(1, 50, 1))
            + generator.normal(size=(20, 50, 1))
        )
        found = hierarchical_mean(values, resamples=300, seed=trial)
        hits += bool(found.low[0] <= 0 <= found.high[0])
    assert 0.89 <= hits / trials <= 0.99


def test_a_ratio_of_means_is_taken_within_each_seed() -> None:
    moments = np.random.default_rng(4).random((3, 8, 1, 3)) + 0.5
    found = hierarchical_mean(moments, statistic=recovery_scale, resamples=50)
    means = moments.mean(axis=1)[:, 0]
    assert found.value[0] == pytest.approx(np.mean(means[:, 0] / means[:, 1]))
    assert found.low[0] < found.value[0] < found.high[0]


def test_nothing_defined_is_nan_and_never_zero() -> None:
    values = np.full((2, 4, 2), np.nan)
    values[0, 1, 1] = 3.0
    found = hierarchical_mean(values, resamples=20)
    assert np.isnan([found.value[0], found.low[0], found.high[0], found.low[1]]).all()
    assert (found.value[1], found.n.tolist()) == (3.0, [0, 1])


def test_infinite_values_are_undefined() -> None:
    values = np.ones((1, 4, 1))
    values[0, 0, 0] = np.inf
    found = hierarchical_mean(values, resamples=20)
    assert (found.value[0], found.n[0]) == (1.0, 3)


@pytest.mark.parametrize("shape", [(3,), (3, 4), (0, 4, 1), (2, 0, 1)])
def test_other_axes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LensError, match="seed, query and column"):
        hierarchical_mean(np.ones(shape))


def test_exact_sign_flips_equal_scipy() -> None:
    values = np.random.default_rng(5).normal(0.4, 1, size=(9, 2))
    found = sign_flip(values)
    for column in range(2):
        other = scipy.stats.permutation_test(
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
    assert scipy.stats.kstest(p, "uniform").pvalue > 0.01


def test_undefined_queries_are_left_out_of_the_test() -> None:
    values = np.random.default_rng(8).normal(1, 1, size=(8, 1))
    with_holes = np.concatenate([values, np.full((4, 1), np.nan)])
    assert sign_flip(with_holes)[0] == pytest.approx(sign_flip(values)[0])
    assert np.isnan(sign_flip(np.full((5, 1), np.nan))[0])
    assert sign_flip(np.zeros((6, 1)))[0] == 1.0


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


def test_the_same_seed_gives_the_same_bytes_and_no_global_state_moves() -> None:
    values = np.random.default_rng(9).normal(size=(3, 10, 2))
    before = np.random.get_state()[1].tobytes()
    one, two = (hierarchical_mean(values, seed=4) for _ in range(2))
    assert one.low.tobytes() == two.low.tobytes()
    assert (
        sign_flip(values[0], exact_below=0).tobytes()
        == sign_flip(values[0], exact_below=0).tobytes()
    )
    assert np.random.get_state()[1].tobytes() == before
