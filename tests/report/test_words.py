"""The summary in words follows the numbers, whichever way they fall."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from iclgd_lens.report.remarks import _COVERAGE
from iclgd_lens.report.view import view
from iclgd_lens.report.words import Finding, findings, headline
from iclgd_lens.resampling import hierarchical_mean
from tests.report.synthetic import DIFFERENCES, RunData, difference_line, frame, small, typed


def said(run: RunData, start: str) -> Finding:
    read = view(run)
    found = [each for each in findings(read, read.models[0]) if each.lead.startswith(start)]
    assert len(found) == 1, found
    return found[0]


def test_a_hypothesis_that_beats_its_controls_is_said_to() -> None:
    run = small(0.2)
    found = said(run, "SimAOU: gd")
    assert found.tone == "yes"
    assert found.lead == "SimAOU: gd beats all its controls on all 2 tasks."
    assert "difference +0.200 [0.180, 0.220]" in found.body
    assert "Every hypothesis beats all its controls" in headline(view(run))


@pytest.mark.parametrize("gap", [-0.2, 0.0, 0.01])
def test_a_hypothesis_that_does_not_is_said_so_in_plain_words(gap: float) -> None:
    run = small(gap)
    found = said(run, "SimAOU: gd")
    assert found.tone == "no"
    assert found.lead == "SimAOU: gd does not beat its controls on any of 2 tasks."
    assert "Not shown to beat gd@untrained on 2 of 2 tasks" in found.body
    assert ("the control does better than it on 2" in found.body) == (gap < -0.02)
    assert "gd does not beat its controls on any task" in headline(view(run))


def test_a_mixed_outcome_names_the_tasks_on_both_sides() -> None:
    run = small(0.2)
    lines = run.differences()
    lost = (lines["task"] == "subj") & (lines["b"] == "gd@untrained") & (lines["score"] == "SimAM")
    lines.loc[lost, ["difference", "ci_low", "ci_high", "p_corrected"]] = [0.01, -0.02, 0.04, 0.8]
    run = replace(run, differences_frame=lines)
    found = said(run, "SimAM: gd beats")
    assert found.tone == "partly"
    assert "on 1 of 2 tasks (sst2), and does not on subj" in found.lead
    assert "subj" in found.body
    assert "corrected p = 0.800" in found.body
    assert "beats all its controls in 3; in 1 it does not" in headline(view(run))
    trained = said(run, "SimAM: training")
    assert trained.tone == "partly"
    assert "on 1 of 2 tasks (sst2)" in trained.lead


def test_a_significant_p_value_is_not_enough_without_the_interval() -> None:
    run = small(0.2)
    lines = run.differences()
    lines["ci_low"] = -0.01
    assert said(replace(run, differences_frame=lines), "SimAOU: gd").tone == "no"


def test_without_controls_nothing_is_claimed() -> None:
    run = small(controls=False)
    found = said(run, "SimAOU: gd")
    assert found.tone == "note"
    assert "not compared with any control" in found.lead
    assert "No control was measured" in headline(view(run))


def test_undefined_differences_are_called_incomparable_not_beaten() -> None:
    run = small(0.2)
    lines = run.differences()
    lines.loc[lines["b"] == "random[gd]", ["difference", "ci_low", "ci_high", "p_corrected"]] = None
    found = said(replace(run, differences_frame=lines), "SimAOU: gd")
    assert found.tone == "no"
    assert "random[gd] on 2 of 2 tasks (the control cannot be compared on 2)" in found.body
    assert "nan" not in (found.lead + found.body).lower()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.2, 0.2), "SimAOU: lcgd beats gd on all 2 tasks."),
        ((-0.2, -0.2), "SimAOU: gd beats lcgd on all 2 tasks."),
        ((0.0, 0.0), "SimAOU: no difference of lcgd and gd is shown on all 2 tasks."),
        ((0.2, -0.2), "SimAOU: lcgd beats gd on sst2; gd beats lcgd on subj."),
        ((0.0, 0.2), "SimAOU: lcgd beats gd on subj; no difference of lcgd and gd is shown on "
         "sst2."),
    ],
)  # fmt: skip
def test_two_hypotheses_are_set_against_each_other(
    values: tuple[float, float], expected: str
) -> None:
    lines = [
        difference_line("tiny", task, "SimAOU", "hypotheses", "lcgd", "gd", value)
        for task, value in zip(("sst2", "subj"), values, strict=True)
    ]
    run = replace(small(), differences_frame=frame(lines, DIFFERENCES))
    read = view(run)
    assert expected in [each.lead for each in findings(read, "tiny")]


def test_the_instrument_is_trusted_only_if_the_oracle_reads_one() -> None:
    run = small(0.2)
    summary = run.summary()
    oracle = summary[summary["hypothesis"] == "random[gd]"].assign(hypothesis="oracle", value=1.0)
    import pandas as pd

    good = replace(run, summary_frame=pd.concat([summary, oracle], ignore_index=True))
    assert said(good, "The instrument").lead.startswith("The instrument reads right")
    bad = pd.concat([summary, oracle.assign(value=0.93)], ignore_index=True)
    found = said(replace(run, summary_frame=bad), "The instrument")
    assert found.tone == "caution"
    assert "SimAOU 0.930 on sst2" in found.body


def test_in_context_learning_that_does_nothing_is_said_to() -> None:
    run = small()
    assert "clearly more accurate" in said(run, "In-context learning is clearly").lead
    summary = run.summary()
    summary.loc[summary["hypothesis"] == "ICL", ["value", "ci_low", "ci_high"]] = [0.5, 0.48, 0.52]
    found = said(replace(run, summary_frame=summary), "In-context learning is not")
    assert "sst2 0.500 → 0.500" in found.body


def test_unfinished_runs_and_failures_are_part_of_the_summary() -> None:
    run = small()
    reason = {"model": "tiny", "task": "sst2", "seed": 1, "permutation": 0}
    import pandas as pd

    lost = pd.DataFrame([reason | {"hypothesis": None, "reason": "out of memory"}] * 2)
    run = replace(
        run, failures_frame=lost, provenance={"name": "n", "cells": {"missing": 3, "failed": 2}}
    )
    assert said(run, "Without scores").lead == "Without scores: 2 whole cells."
    assert "3 cells of it not measured yet" in headline(view(run))


@pytest.mark.parametrize(("seeds", "tone"), [(1, "caution"), (3, "caution"), (10, None)])
def test_few_draws_are_said_to_be_few(seeds: int, tone: str | None) -> None:
    run = small(0.2)
    summary = run.summary().assign(seeds=seeds)
    read = view(replace(run, summary_frame=typed(summary)))
    found = [each for each in findings(read, "tiny") if "draw" in each.lead]
    assert [each.tone for each in found] == ([tone] if tone else [])
    if seeds == 3:
        assert "about 72 times in 100" in found[0].body


@pytest.mark.parametrize("draws", [2, 3, 5, 9])
def test_the_coverage_that_the_page_names_is_that_of_the_intervals(draws: int) -> None:
    values = np.random.default_rng(draws).normal(size=(draws, 2, 1500))
    values[:, 1] = values[:, 0]  # the draw is all that varies
    found = hierarchical_mean(values, resamples=500)
    covered = ((found.low <= 0) & (found.high >= 0)).mean()
    assert 100 * covered == pytest.approx(_COVERAGE[draws], abs=3)
