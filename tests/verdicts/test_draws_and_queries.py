"""Intervals over draws and queries together, and what verdicts say of other queries."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from iclgd_lens.calibration import other_queries_null
from iclgd_lens.results.other_queries import told_of_queries
from iclgd_lens.verdicts.draws_and_queries import Compared, crossed, crossed_mean
from iclgd_lens.verdicts.statistics import paired_t
from iclgd_lens.verdicts.verdict import OVERALL, Verdict


def test_the_interval_is_the_one_written_out_by_hand() -> None:
    values = np.random.default_rng(3).normal(0.1, 0.2, (4, 9))
    found = crossed_mean(values, confidence=0.9)
    over_draws = values.mean(1).var(ddof=1) / 4
    over_queries = values.mean(0).var(ddof=1) / 9
    half = t.ppf(0.95, 3) * math.sqrt(over_draws + over_queries)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((values.mean() - half, values.mean() + half))


@pytest.mark.parametrize("draws", [2, 3, 10])
def test_it_is_never_narrower_than_over_draws_alone(draws: int) -> None:
    generator = np.random.default_rng(draws)
    for _ in range(50):
        values = generator.normal(0, 1, (draws, 1)) + generator.normal(0, 0.3, (draws, 6))
        both, alone = crossed_mean(values, confidence=0.95), paired_t(values.mean(1))
        assert both.low < alone.low
        assert both.high > alone.high


def _resampled(error: float) -> np.ndarray:
    """Resampled means with this standard deviation."""
    return np.array([[-error, 0.0, error]])


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_what_the_gate_rests_on_is_never_narrower_than_over_draws_alone(draws: int) -> None:
    """Two draws may lie close together by chance; Satterthwaite then credits the queries' 63 df."""
    generator = np.random.default_rng(draws)
    wider = 0
    for _ in range(200):
        by_draw = generator.normal(0.3, 1, draws)
        alone = paired_t(by_draw)
        both = crossed(by_draw, _resampled(0.3), step=0.0, confidence=0.95, freedom=63.0)
        assert both.low <= alone.low + 1e-12
        assert both.high >= alone.high - 1e-12
        assert both.p >= float(alone.p) - 1e-12
        assert (both.p < 0.05) == (both.above or both.below)
        wider += both.high > alone.high + 1e-9
    assert wider  # the error over queries counts beside


@pytest.mark.parametrize("draws", [2, 3])
def test_noise_of_few_draws_is_found_above_zero_no_more_often_than_is_said(draws: int) -> None:
    """One side of .05. Satterthwaite's df alone give .06 with two draws and .04 with three."""
    generator = np.random.default_rng(0)
    trials, over_draws, queries = 4000, 4.0, 64  # standard errors over draws and over queries: 4, 1
    above = 0
    for _ in range(trials):
        by_draw = generator.normal() + over_draws * draws**0.5 * generator.normal(size=draws)
        error = (generator.chisquare(queries - 1) / (queries - 1)) ** 0.5
        found = crossed(
            by_draw, _resampled(error), step=0.0, confidence=0.95, freedom=queries - 1.0
        )
        above += found.above
    assert above / trials < 0.033


def test_what_fits_the_queries_by_chance_is_not_said_of_others() -> None:
    """The null of the whole thing: verdicts are for these queries, the sentence is for others."""
    for draws in (5, 10):
        called, shown = other_queries_null(draws=draws, trials=200, seed=1)
        assert called.share > 0.1  # so that the rate below is not small for want of a yes
        assert shown.share <= 0.05


def test_a_true_difference_is_shown_for_other_queries() -> None:
    generator = np.random.default_rng(0)
    shown = [
        crossed_mean(
            0.2 + 0.1 * generator.normal(size=(1, 32)) + 0.05 * generator.normal(size=(5, 32)),
            confidence=0.95,
        ).above
        for _ in range(100)
    ]
    assert sum(shown) > 95


def test_what_is_not_finite_is_left_out_of_means() -> None:
    values = np.random.default_rng(5).normal(0.1, 0.2, (3, 8))
    holed = values.copy()
    holed[:, 2] = np.nan
    whole = crossed_mean(np.delete(values, 2, axis=1), confidence=0.95)
    found = crossed_mean(holed, confidence=0.95)
    assert (found.value, found.low, found.high) == pytest.approx(
        (whole.value, whole.low, whole.high)
    )
    assert math.isnan(crossed_mean(np.full((3, 8), np.nan), confidence=0.95).low)
    assert math.isnan(crossed_mean(values[:, :1], confidence=0.95).low)


# -- verdicts ------------------------------------------------------------------------------------

YES = Verdict("gd", "SimAOU_label", "random", "yes", 0.01, 0.01, (0.1, 0.3), "Better.")


def told(found: dict[str, Compared | None], **changes: object) -> list[Verdict]:
    lines = [replace(YES, control=name, **changes) for name in (*found, OVERALL)]  # type: ignore[arg-type]
    return told_of_queries(
        lines, lambda each: found[each.control], alpha=0.05, asked=[True] * len(lines)
    )


SURE, UNSURE = Compared(0.2, 0.05, 0.35, 0.01, ""), Compared(0.2, -0.05, 0.45, 0.1, "")


def test_a_yes_says_whether_it_is_shown_for_other_queries() -> None:
    random, untrained, overall = told({"random": SURE, "untrained": None})
    shown = (
        "Better. Against random it is shown for other queries, too: over draws and queries "
        "[0.05, 0.35] (p = 0.010)."
    )
    assert random.over_queries == overall.over_queries == (0.05, 0.35)
    assert random.why == shown
    assert untrained == replace(YES, control="untrained")
    assert overall.why == f"{shown} Beside untrained that is not known."
    *_, overall = told({"random": SURE, "zero": UNSURE})
    assert overall.over_queries == (-0.05, 0.45)
    assert "Against zero it is for these queries, and not shown for others" in overall.why
    assert "[-0.05, 0.45] (p = 0.100)" in overall.why


def test_a_yes_beside_networks_alone_claims_nothing_of_other_queries() -> None:
    assert all(each.why == "Better." for each in told({"untrained": None}))


def test_what_is_said_of_others_is_corrected_for_all_lines_of_a_control() -> None:
    """One of eight is shown by chance alone far more often than one alone; what fails counts."""
    names = [f"h{number}" for number in range(8)]
    lines = [
        replace(YES, hypothesis=name, control=control)
        for name in names
        for control in ("random", OVERALL)
    ]
    first = {"h0": SURE}

    def said(count: int, asked: int) -> list[Verdict]:
        which = [at < asked for at in range(count)]
        return told_of_queries(
            lines[:count], lambda v: first.get(v.hypothesis), alpha=0.05, asked=which
        )

    single, among = said(2, 2), said(16, 16)
    assert "is shown for other queries" in single[0].why
    assert "not shown for others" in among[0].why
    assert "(p = 0.080 corrected for 8 questions)" in among[0].why
    assert among[0].over_queries == (0.05, 0.35)
    few = said(16, 4)  # the others are no explanations
    assert "is shown for other queries" in few[0].why
    assert "(p = 0.020 corrected for 2 questions)" in few[0].why


def test_other_answers_have_the_interval_alone() -> None:
    line, overall = told({"random": UNSURE}, verdict="undecided")
    assert line.over_queries == overall.over_queries == (-0.05, 0.45)
    assert line.why == overall.why == "Better."
    unknown = Compared(0.2, math.nan, math.nan, math.nan, "")
    assert all(each.over_queries is None for each in told({"random": unknown}))
    found = told({"random": SURE}, verdict="not applicable")
    assert all(each.over_queries is None for each in found)


def test_one_hypothesis_says_nothing_of_the_next() -> None:
    lines = [YES, replace(YES, control=OVERALL)]
    lines += [replace(each, hypothesis="lcgd") for each in lines]
    found = told_of_queries(
        lines, lambda v: SURE if v.hypothesis == "gd" else None, alpha=0.05, asked=[True] * 4
    )
    assert found[1].over_queries == (0.05, 0.35)
    assert found[3].over_queries is None
