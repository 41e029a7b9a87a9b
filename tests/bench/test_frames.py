"""Tables of a run, against numbers that were put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from iclgd_lens.bench.cellfile import CellData, decode, encode
from iclgd_lens.bench.cells import Cell
from iclgd_lens.bench.contrasts import advantage, contrasts
from iclgd_lens.bench.frames import Run, load_run, measured_seconds
from iclgd_lens.bench.order import flip_rates, predictions
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.comparison import Comparison
from iclgd_lens.errors import LensError, RunError

QUERIES, LAYERS, HEADS = 30, 2, 3


def tensors(level: float, generator: torch.Generator, flip: bool = False) -> dict[str, Any]:
    """A hypothesis's scores around a level, and label scores that say its predictions."""
    by_head = level + 0.1 * torch.randn(QUERIES, LAYERS, HEADS, generator=generator)
    says = torch.zeros(QUERIES, 2)
    says[:, 1] = torch.where(torch.arange(QUERIES) < 10, 1.0, -1.0) * (-1 if flip else 1)
    return {
        "SimAOU": by_head.mean(-1),
        "SimAOU/head": by_head,
        "KL_ICL": (1 - level) + 0.01 * torch.randn(QUERIES, generator=generator),
        "accuracy": (says.argmax(-1) == torch.arange(QUERIES) % 2).float(),
        "recovery_moments": torch.ones(QUERIES, 3) * torch.tensor([level, 1.0, 1.0]),
        "label_scores": says,
    }


def cell(
    levels: dict[str, float],
    task: str = "sst2",
    seed: int = 0,
    permutation: int = 0,
    rows: list[int] | None = None,
    failures: dict[str, str] | None = None,
) -> CellData:
    generator = torch.Generator().manual_seed(1000 * seed + permutation)
    values = {
        name: tensors(level, generator, flip=permutation == 1 and name == "shaky")
        for name, level in levels.items()
    }
    comparison = Comparison(
        values,
        torch.arange(QUERIES) % 2,
        failures or {},
        {
            "model": {"name": "m"},
            "episode": {"prompt_hash": "p"},
            "hypotheses": {},
            "versions": {"torch": "2"},
        },
        resamples=50,
    )
    model = parse_plan({"models": ["gpt2"], "tasks": ["sst2"], "hypotheses": ["gd"]}).models[0]
    place = rows or list(range(QUERIES))
    key = f"{task}-{seed}-{permutation}".ljust(32, "0")
    one = Cell(
        key, model, task, task, seed, permutation, "hub", QUERIES,
        {"query_rows": place, "model": "weights"},
    )  # fmt: skip
    return decode(encode(one, comparison), key)


def run(*cells: CellData, hypotheses: tuple[str, ...] = ("gd", "lcgd")) -> Run:
    plan = parse_plan({"models": ["gpt2"], "tasks": ["sst2"], "hypotheses": list(hypotheses)})
    facts = {
        "plan": plan.as_dict() | {"resamples": 200},
        "cells": [{}] * len(cells),
        "environment": {},
        "timings": {},
    }
    return Run("nowhere", facts, cells, [], [])


def test_the_summary_is_the_mean_over_seeds_of_the_means_over_orders_and_queries() -> None:
    cells = [cell({"gd": 0.2}, seed=s, permutation=p) for s in (0, 1, 2) for p in (0, 1)]
    summary = run(*cells).summary()
    places = [(pd.NA, pd.NA), (1, pd.NA), (1, 2)]
    for layer, head in places:
        line = summary[summary["score"].eq("SimAOU")]
        line = line[line["layer"].isna() if layer is pd.NA else line["layer"].eq(layer)]
        line = line[line["head"].isna() if head is pd.NA else line["head"].eq(head)]
        assert len(line) == 1
        raw = [each.table.to_pandas().query("score == 'SimAOU'") for each in cells]
        means = []
        for frame in raw:
            at = frame["layer"].isna() if layer is pd.NA else frame["layer"].eq(layer)
            at &= frame["head"].isna() if head is pd.NA else frame["head"].eq(head)
            means.append(np.mean(frame[at]["values"].iloc[0]))
        assert line["value"].iloc[0] == pytest.approx(np.mean(means), abs=1e-6)
        assert line["ci_low"].iloc[0] < line["value"].iloc[0] < line["ci_high"].iloc[0]
        assert (line["n"].iloc[0], line["seeds"].iloc[0]) == (3 * QUERIES, 3)
    recovery = summary.set_index("score").loc["logit_scale", "value"]
    assert recovery == pytest.approx(0.2)


def test_the_summary_of_the_false_to_true_subset_uses_its_queries_alone() -> None:
    found = cell({"ZS": 0.0, "ICL": 0.0, "gd": 0.5})
    comparison = found.table.to_pandas()
    assert "SimAOU_f2t" in set(comparison["score"])
    line = run(found).summary().query("score == 'SimAOU_f2t' and layer.isna()").iloc[0]
    # ZS, ICL and gd predict alike here, so no query turns from false to true.
    assert line["n"] == 0
    assert np.isnan(line["value"])


def test_differences_are_paired_and_say_what_is_shown() -> None:
    levels = {
        "gd": 0.2, "lcgd": 0.6, "random[gd]": 0.2, "random[lcgd]": 0.1,
        "gd@untrained": 0.5, "lcgd@untrained": 0.1, "oracle": 1.0,
    }  # fmt: skip
    found = run(*(cell(levels, seed=s) for s in range(3))).differences()
    table = found.set_index(["score", "a", "b"])
    line = table.loc[("SimAOU", "lcgd", "gd")]
    assert line["difference"] == pytest.approx(0.4, abs=0.03)
    assert line["ci_low"] < 0.4 < line["ci_high"]
    assert line["p_value"] <= 1e-4
    assert line["p_corrected"] >= line["p_value"]
    assert line["verdict"] == "lcgd beats gd"
    said = table["verdict"]
    assert said["SimAOU", "gd", "random[gd]"] == "gd does not beat its control random[gd]"
    assert said["SimAOU", "lcgd", "random[lcgd]"] == "lcgd beats its control random[lcgd]"
    assert said["SimAOU", "gd", "gd@untrained"].startswith("gd does worse than itself")
    # KL_ICL is a distance: what is lower is better.
    line = table.loc[("KL_ICL", "lcgd", "gd")]
    assert line["difference"] < 0
    assert line["verdict"] == "lcgd beats gd"
    assert "oracle" not in set(found["a"]) | set(found["b"])


def test_verdicts_in_plain_words() -> None:
    levels = {"gd": 0.2, "random[gd]": 0.2, "lcgd": 0.6, "random[lcgd]": 0.1}
    better = {"gd": 0.9, "random[gd]": 0.2, "lcgd": 0.6, "random[lcgd]": 0.1}
    cells = [cell(levels, seed=s) for s in range(2)]
    cells += [cell(better, task="mr", seed=s) for s in range(2)]
    said = run(*cells).verdicts().set_index(["hypothesis", "score"])["verdict"]
    assert said["lcgd", "SimAOU"] == "On SimAOU, lcgd beats all its controls on 2 of 2 tasks."
    assert said["gd", "SimAOU"] == (
        "On SimAOU, gd beats all its controls on 1 of 2 tasks only (not shown to beat random[gd] "
        "on 1 of 2 tasks)."
    )
    alone = run(cells[0], hypotheses=("gd",)).verdicts()["verdict"]
    assert alone[0] == ("On SimAOU, gd does not beat its controls (not shown to beat random[gd]).")


def test_a_difference_needs_both_the_test_and_the_interval() -> None:
    line = {"p_corrected": 0.01, "ci_low": 0.1, "ci_high": 0.3, "difference": 0.2, "score": "SimAM"}
    assert advantage(line) == 1
    assert advantage(line | {"p_corrected": 0.06}) == 0
    assert advantage(line | {"ci_low": -0.1}) == 0
    assert advantage(line | {"p_corrected": np.nan}) == 0
    assert advantage(line | {"score": "KL_ICL"}) == -1
    below = {"ci_low": -0.3, "ci_high": -0.1, "difference": -0.2}
    assert advantage(line | below) == -1


def test_seeds_that_draw_apart_by_chance_show_nothing() -> None:
    # Each seed's difference is large and certain over queries, but their signs disagree.
    cells = [cell({"gd": 0.4, "lcgd": 0.4 + sign * 0.3}, seed=s) for s, sign in
             enumerate((1, -0.9, 1, -0.9, 1))]  # fmt: skip
    line = run(*cells).differences().query("score == 'SimAOU'").iloc[0]
    assert line["p_value"] < 0.01
    assert line["ci_low"] < 0 < line["ci_high"]
    assert line["verdict"] == "no difference between lcgd and gd is shown"


def test_queries_are_matched_by_their_rows() -> None:
    shifted = [row + 1 for row in range(QUERIES)]
    cells = [
        cell({"gd": 0.2, "lcgd": 0.3}, seed=0),
        cell({"gd": 0.2, "lcgd": 0.3}, seed=1, rows=shifted),
    ]
    block = run(*cells).blocks[0]
    _, values = block.values("gd", "SimAOU")
    assert values.shape == (2, QUERIES + 1, 1)
    assert np.isnan(values[0, -1, 0])
    assert np.isnan(values[1, 0, 0])
    assert run(*cells).summary().query("score == 'KL_ICL'")["n"].tolist() == [2 * QUERIES] * 2


def test_a_seed_that_lacks_a_hypothesis_is_left_out_of_its_pairs() -> None:
    cells = [cell({"gd": 0.2, "lcgd": 0.6}, seed=0), cell({"gd": 0.2}, seed=1)]
    line = run(*cells).differences().query("score == 'SimAOU'").iloc[0]
    assert (line["seeds"], line["n"]) == (1, QUERIES)
    apart = [cell({"lcgd": 0.6}, seed=0), cell({"gd": 0.2}, seed=1)]
    line = run(*apart).differences().query("score == 'SimAOU'").iloc[0]
    assert np.isnan(line["p_value"])


def test_what_is_compared() -> None:
    measured = ["gd", "lcgd", "random[gd]", "gd@shuffled", "gaussian", "gd@untrained_norms"]
    found = {(c.kind, c.a, c.b) for c in contrasts(["gd", "lcgd", "absent"], measured)}
    assert found == {
        ("hypotheses", "lcgd", "gd"),
        ("control", "gd", "random[gd]"),
        ("control", "gd", "gd@shuffled"),
        ("control", "gd", "gaussian"),
        ("control", "lcgd", "gaussian"),
        ("untrained", "gd", "gd@untrained_norms"),
    }


def test_order_sensitivity_is_the_share_of_disagreeing_pairs() -> None:
    names = {"ZS": 0.0, "ICL": 0.0, "gd": 0.2, "shaky": 0.2}
    cells = [cell(names, seed=s, permutation=p) for s in (0, 1) for p in (0, 1, 2)]
    found = run(*cells, hypotheses=("gd",)).order_sensitivity().set_index("hypothesis")
    assert set(found.index) == {"ICL", "gd", "shaky"}
    assert found.loc["gd", "flip_rate"] == 0
    # Order 1 disagrees with 0 and with 2: two pairs of three, on every query.
    assert found.loc["shaky", "flip_rate"] == pytest.approx(2 / 3)
    assert found.loc["shaky", ["permutations", "seeds", "n"]].tolist() == [3, 2, 2 * QUERIES]
    assert found.loc["gd", "accuracy_range"] == 0


def test_published_orders_have_a_seed_each_and_say_nothing_of_sensitivity() -> None:
    cells = [cell({"ICL": 0.0}, seed=s, permutation=s) for s in (0, 1, 2)]
    assert run(*cells).order_sensitivity().empty


def test_flips_count_defined_predictions_alone() -> None:
    one = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, 0.0], [2.0, 2.0]])
    other = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 1.0]])
    assert np.array_equal(flip_rates([one, other]), [1.0, 0.0, np.nan, 0.0], equal_nan=True)
    assert np.array_equal(predictions(one), [0.0, 1.0, np.nan, 0.0], equal_nan=True)


def test_a_real_runs_tables_keep_their_contract(plan: Plan, finished: Path) -> None:
    found = load_run(finished)
    comparison = "hypothesis score layer head value ci_low ci_high n undefined"
    place = "model task seed permutation"
    assert list(found.frame()) == f"{comparison} {place}".split()
    summary = "model task hypothesis score layer head value ci_low ci_high n seeds"
    assert list(found.summary()) == summary.split()
    assert list(found.differences())[:5] == ["model", "task", "score", "kind", "a"]
    assert list(found.failures()) == [*place.split(), "hypothesis", "reason"]
    assert list(found.queries("SimAM")) == [
        "hypothesis", "score", "layer", "head", "query", "gold", "value", *place.split(),
    ]  # fmt: skip
    oracle = found.summary().query("hypothesis == 'oracle' and score == 'SimAOU'")
    assert oracle["value"].to_numpy() == pytest.approx(1, abs=1e-4)
    order = found.order_sensitivity()
    assert set(order["permutations"]) == {2}
    facts = found.provenance
    assert facts["cells"] == {"planned": 4, "finished": 4, "failed": 0, "missing": 0}
    assert facts["models"]["tiny"]["revision"].startswith("sha256:")
    assert facts["tasks"]["sst2"]["prompt_hash"]
    assert facts["protocol"]["name"] == "reference"
    assert facts["hypotheses"]["lcgd"]["version"] == "1"
    assert set(measured_seconds(finished)) == {c.facts["key"] for c in found.cells}
    assert found.hypotheses == list(plan.hypotheses)


def test_queries_of_every_score_hold_label_scores_too(finished: Path) -> None:
    frame = load_run(finished).queries()
    assert {"SimAOU", "label_scores/0", "label_scores/1", "recovery_moments/2"} <= set(
        frame["score"]
    )
    assert load_run(finished).queries("nothing").empty


def test_a_public_name() -> None:
    import iclgd_lens

    assert iclgd_lens.load_run is load_run
    with pytest.raises(RunError, match="no run"):
        iclgd_lens.load_run("no/such/place")
    assert issubclass(RunError, LensError)
