"""Intervals over draws and queries together, and what verdicts say of other queries."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t

from iclgd_lens.calibration import other_queries_null
from iclgd_lens.results.other_queries import told_of_queries
from iclgd_lens.verdicts.draws_and_queries import Compared, crossed_mean
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
    return list(told_of_queries(lines, lambda each: found[each.control]))


def test_a_yes_says_whether_it_is_shown_for_other_queries() -> None:
    sure, unsure = Compared(0.2, 0.05, 0.35, 0.01, ""), Compared(0.2, -0.05, 0.45, 0.1, "")
    random, untrained, overall = told({"random": sure, "untrained": None})
    assert random.over_queries == overall.over_queries == (0.05, 0.35)
    assert random.why == "Better. It is shown for other queries, too: over both [0.05, 0.35]."
    assert untrained == replace(YES, control="untrained")
    *_, overall = told({"random": sure, "constant_shift": unsure})
    assert overall.over_queries == (-0.05, 0.45)
    assert "for these queries, and not shown for others: over both [-0.05, 0.45]" in overall.why


def test_other_answers_have_the_interval_alone() -> None:
    line, overall = told({"random": Compared(0.2, -0.05, 0.45, 0.1, "")}, verdict="undecided")
    assert line.over_queries == overall.over_queries == (-0.05, 0.45)
    assert line.why == overall.why == "Better."
    unknown = Compared(0.2, math.nan, math.nan, math.nan, "")
    assert all(each.over_queries is None for each in told({"random": unknown}))
    sure = Compared(0.2, 0.05, 0.35, 0.01, "")
    found = told({"random": sure}, verdict="not applicable")
    assert all(each.over_queries is None for each in found)


def test_one_hypothesis_says_nothing_of_the_next() -> None:
    lines = [YES, replace(YES, control=OVERALL)]
    lines += [replace(each, hypothesis="lcgd") for each in lines]
    sure = Compared(0.2, 0.05, 0.35, 0.01, "")
    found = list(told_of_queries(lines, lambda v: sure if v.hypothesis == "gd" else None))
    assert found[1].over_queries == (0.05, 0.35)
    assert found[3].over_queries is None
