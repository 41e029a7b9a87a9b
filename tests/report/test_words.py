"""The summary in words follows the numbers, whichever way they fall."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest

from iclgd_lens.report.run_records import read_run
from iclgd_lens.report.words import Finding, findings, gate_findings, headline
from tests.report.synthetic import (
    DIFFERENCES,
    RunData,
    difference_line,
    frame,
    full,
    small,
)


def said(run: RunData, start: str) -> Finding:
    read = read_run(run)
    found = [each for each in findings(read, read.models[0]) if each.lead.startswith(start)]
    assert len(found) == 1, found
    return found[0]


def test_a_hypothesis_that_beats_its_controls_is_said_to() -> None:
    run = small(0.2)
    found = said(run, "SimAOU: GD")
    assert found.tone == "yes"
    assert found.lead == "SimAOU: GD beats all its controls on all 2 tasks."
    assert found.body.startswith("It reads from 0.300 (sst2) to 0.350 (subj)")
    assert "Every hypothesis beats all its controls" in headline(read_run(run))


@pytest.mark.parametrize("gap", [-0.2, 0.0, 0.01])
def test_a_hypothesis_that_does_not_is_said_so_in_plain_words(gap: float) -> None:
    run = small(gap)
    found = said(run, "SimAOU: GD")
    below = gap < -0.02  # the interval is 0.02 wide to each side
    assert found.tone == ("no" if below else "undecided")
    verb = "does not beat" if below else "is not shown to beat"
    assert found.lead == f"SimAOU: GD {verb} its controls on any of 2 tasks."
    assert "Not shown to beat untrained twins on 2 of 2 tasks" in found.body
    assert ("(no on 2)" in found.body) == below
    assert "No hypothesis is shown to beat its controls on any task" in headline(read_run(run))


def test_a_mixed_outcome_names_the_tasks_on_both_sides() -> None:
    run = small(0.2)
    lines = run.differences()
    lost = (lines["task"] == "subj") & (lines["b"] == "gd@untrained") & (lines["score"] == "SimAM")
    lines.loc[lost, "verdict"] = "undecided"
    run = replace(run, differences_frame=lines)
    found = said(run, "SimAM: GD beats")
    assert found.tone == "partly"
    assert "on 1 of 2 tasks (sst2); undecided on subj." in found.lead
    assert "Not shown to beat untrained twins on 1 of 2 tasks." in found.body
    told = headline(read_run(run))
    assert "Of 4 questions" in told
    assert "3 are answered yes, against every control; 1 undecided" in told


def test_the_rules_own_verdicts_and_reasons_are_followed() -> None:
    run = full()
    read = read_run(run)
    found = {each.lead: each for each in findings(read, read.models[0])}
    (lead,) = [each for each in found if each.startswith("SimAOU: GD ")]
    assert lead == (
        "SimAOU: GD beats all its controls on 1 of 4 tasks (sst2); no on sst5; undecided on mr; "
        "not applicable on subj."
    )
    assert "Why: reason no: five more draws would tell" in found[lead].body
    assert found[lead].body.endswith("Holds over: rates 0.01 to 0.3.")
    assert "4 are answered yes, against every control" in headline(read)
    nothing = run.more["verdicts"].assign(verdict="not applicable")
    read = read_run(replace(run, more={**run.more, "verdicts": nothing}))
    leads = [each.lead for each in findings(read, read.models[0])]
    assert "SimAOU: no verdict on GD applies on any of 4 tasks." in leads
    assert "No verdict is given" in headline(read)


def test_the_gate_is_told_task_by_task_and_replaces_accuracy_alone() -> None:
    run = full()
    read = read_run(run)
    told = gate_findings(read, read.models[0])
    assert [each.tone for each in told] == ["yes", "yes", "yes", "no"]
    assert told[0].lead == "sst2: sentence of the gate on sst2"
    plain = run.more["gate"].drop(columns="sentence").assign(learns="undecided")
    bare = read_run(replace(run, more={**run.more, "gate": plain}))
    (first, *_) = gate_findings(bare, bare.models[0])
    assert (first.tone, first.lead[:30]) == ("undecided", "sst2: whether the model learns")
    for ruled_out, tone in ((True, "no"), (False, "undecided")):
        said = run.more["gate"].assign(ruled_out=ruled_out)
        known = read_run(replace(run, more={**run.more, "gate": said}))
        tones = [each.tone for each in gate_findings(known, known.models[0])]
        assert tones == ["yes", "yes", "yes", tone]
    leads = " ".join(each.lead for each in findings(read, read.models[0]))
    assert "accurate" not in leads
    assert not gate_findings(read_run(small()), "tiny")


def test_without_controls_nothing_is_claimed() -> None:
    run = small(controls=False)
    found = said(run, "SimAOU: GD")
    assert found.tone == "note"
    assert "not compared with any control" in found.lead
    assert "No control was measured" in headline(read_run(run))


def test_undefined_differences_are_called_incomparable_not_beaten() -> None:
    run = small(0.2)
    lines = run.differences()
    unknown = lines["b"] == "random[gd]"
    lines.loc[unknown, ["difference", "ci_low", "ci_high", "p_corrected"]] = None
    lines.loc[unknown, "verdict"] = "undecided"
    found = said(replace(run, differences_frame=lines), "SimAOU: GD")
    assert found.tone == "undecided"
    assert "Not shown to beat random directions on 2 of 2 tasks." in found.body
    assert "nan" not in (found.lead + found.body).lower()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.2, 0.2), "SimAOU: LCGD beats GD on all 2 tasks."),
        ((-0.2, -0.2), "SimAOU: GD beats LCGD on all 2 tasks."),
        ((0.0, 0.0), "SimAOU: no difference of LCGD and GD is shown on all 2 tasks."),
        ((0.2, -0.2), "SimAOU: LCGD beats GD on sst2; GD beats LCGD on subj."),
        ((0.0, 0.2), "SimAOU: LCGD beats GD on subj; no difference of LCGD and GD is shown on "
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
    read = read_run(run)
    assert expected in [each.lead for each in findings(read, "tiny")]


def test_the_instrument_is_trusted_only_if_the_oracle_reads_one() -> None:
    run = small(0.2)
    summary = run.frame()
    oracle = summary[summary["hypothesis"] == "random[gd]"].assign(hypothesis="oracle", value=1.0)
    good = replace(run, summary_frame=pd.concat([summary, oracle], ignore_index=True))
    assert said(good, "The instrument").lead.startswith("The instrument reads right")
    bad = pd.concat([summary, oracle.assign(value=0.93)], ignore_index=True)
    found = said(replace(run, summary_frame=bad), "The instrument")
    assert found.tone == "caution"
    assert "SimAOU 0.930 on sst2" in found.body


def test_in_context_learning_that_does_nothing_is_said_to() -> None:
    run = small()
    assert "clearly more accurate" in said(run, "In-context learning is clearly").lead
    summary = run.frame()
    summary.loc[summary["hypothesis"] == "ICL", ["value", "ci_low", "ci_high"]] = [0.5, 0.48, 0.52]
    found = said(replace(run, summary_frame=summary), "In-context learning is not")
    assert "sst2 0.500 → 0.500" in found.body


def test_unfinished_runs_and_failures_are_part_of_the_summary() -> None:
    run = small()
    place = {"model": "tiny", "task": "sst2", "seed": 1, "permutation": 0, "network": "trained"}
    lost = pd.DataFrame([place | {"subject": "gd", "reason": "out of memory"}] * 2)
    run = replace(
        run, failures_frame=lost, provenance={"name": "n", "cells": {"missing": 3, "failed": 2}}
    )
    assert said(run, "Without scores").lead == "Without scores: 2 cells."
    assert "3 cells of it not measured yet" in headline(read_run(run))


def test_layers_that_no_mean_holds_are_told_by_task() -> None:
    run = full()
    model = read_run(run).models[0]
    leads = [each.lead for each in findings(read_run(run), model)]
    assert not [lead for lead in leads if "layers" in lead]
    lines = pd.DataFrame(
        [(model, "sst2", "gd", "SimAOU", 0, "gd@untrained"),
         (model, "mr", "lcgd", "SimAM", 1, "lcgd"), ("another", "sst2", "gd", "SimAOU", 2, "gd")],
        columns=["model", "task", "hypothesis", "score", "layer", "lacking"],
    )  # fmt: skip
    found = said(replace(run, more={**run.more, "partial_layers": lines}), "Some means are not")
    assert "sst2: Means of SimAOU of gd (and of its controls) leave out layer 0" in found.body
    assert "where gd@untrained has none" in found.body
    assert (
        "mr: Means of SimAM of lcgd (and of its controls) leave out layer 1, where lcgd has none"
        in found.body
    )
    assert "layer 2" not in found.body


@pytest.mark.parametrize(("seeds", "tone"), [([4], "caution"), ([0, 1, 2], None)])
def test_one_draw_is_said_to_be_one(seeds: list[int], tone: str | None) -> None:
    read = read_run(replace(small(0.2), provenance={"plan": {"seeds": seeds}}))
    found = [each for each in findings(read, "tiny") if "draw" in each.lead]
    assert [each.tone for each in found] == ([tone] if tone else [])


def test_the_rules_answer_to_all_controls_together_is_followed() -> None:
    run = full()
    lines = run.more["verdicts"]
    every = lines.drop_duplicates(["model", "task", "hypothesis", "score"])
    every = every.assign(control="all controls", verdict="undecided", why="a control is missing")
    both = pd.concat([lines, every], ignore_index=True)
    read = read_run(replace(run, more={**run.more, "verdicts": both}))
    found = [each for each in findings(read, read.models[0]) if each.lead.startswith("SimAOU: GD")]
    assert found[0].lead == "SimAOU: GD is not shown to beat its controls on any of 4 tasks."
    assert "all controls" not in found[0].body


def test_controls_may_be_named_as_in_the_table() -> None:
    run = full()
    short = {"random[gd]": "random", "random[lcgd]": "random", "gd@untrained": "untrained",
             "lcgd@untrained": "untrained"}  # fmt: skip
    lines = run.more["verdicts"].assign(control=lambda f: f["control"].map(short))
    read = read_run(replace(run, more={**run.more, "verdicts": lines}))
    assert read.verdicts == read_run(run).verdicts
