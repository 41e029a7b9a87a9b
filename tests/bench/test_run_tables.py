"""Tables of a run, against numbers that were put into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iclgd_lens.bench.cell_file import CellData, Measured, decode, encode
from iclgd_lens.bench.order_sensitivity import flip_rates, predictions
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.read_only_store import measured_seconds
from iclgd_lens.bench.run_tables import Run, load_run
from iclgd_lens.errors import LensError, RunError

QUERIES, LAYERS, HEADS = 30, 2, 3


def values(level: float, seed: int, flip: bool = False) -> dict[str, Any]:
    """A hypothesis's scores around a level, and label scores that say its predictions."""
    generator = np.random.default_rng(seed)
    by_head = level + 0.1 * generator.standard_normal((QUERIES, LAYERS, HEADS))
    says = np.zeros((QUERIES, 2))
    says[:, 1] = np.where(np.arange(QUERIES) < 10, 1.0, -1.0) * (-1 if flip else 1)
    found = {
        "SimAOU": by_head.mean(-1),
        "SimAOU/head": by_head,
        "KL_ICL": (1 - level) + 0.01 * generator.standard_normal(QUERIES),
        "accuracy": (says.argmax(-1) == np.arange(QUERIES) % 2),
        "recovery_moments": np.ones((QUERIES, 3)) * [level, 1.0, 1.0],
        "label_scores": says,
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def setting(
    levels: dict[str, float], seed: int = 0, permutation: int = 0, *, task: str = "sst2",
    network: str = "trained", index: int = 0, budget: str = "", rows: list[int] | None = None,
    failures: dict[str, str] | None = None, varied: tuple[str, Any] | None = None,
) -> list[CellData]:  # fmt: skip
    """Cells of one setting, as their files hold them."""
    found: list[CellData] = []
    for number, (subject, level) in enumerate(levels.items()):
        key = f"{task}-{seed}-{permutation}-{network}-{index}-{subject}".ljust(32, "0")
        place = {
            "model": "m", "task": task, "seed": seed, "permutation": permutation,
            "network": network, "index": index, "budget": budget, "subject": subject,
        }  # fmt: skip
        facts = {
            "setting": {
                "query_rows": rows or list(range(QUERIES)), "prompt": "p", "model": "weights",
                "dtype": "float32", "shots": 4, "versions": {"torch": "2"},
            },
            "cell": {},
        }  # fmt: skip
        if varied is not None:
            factor, value = varied
            facts["setting"] |= {"task": "sst2", "varied": [factor, repr(value), None]}
        flip = permutation == 1 and subject == "shaky"
        measured = Measured(
            values(level, 1000 * seed + 10 * permutation + number, flip),
            np.arange(QUERIES) % 2,
            (failures or {}).get(subject),
        )
        found.append(decode(encode(key, place, measured, facts), key))
    return found


def run(*settings: list[CellData], controls: tuple[str, ...] = (), **fields: Any) -> Run:
    plan = parse_plan(
        {"models": [{"name": "gpt2", "label": "m"}], "tasks": ["sst2"], "hypotheses": ["gd"]}
        | {"controls": list(controls)}
        | fields
    )
    cells = tuple(cell for each in settings for cell in each)
    facts = {
        "plan": plan.as_dict() | {"resamples": 200}, "cells": [{}] * len(cells),
        "environment": {}, "timings": {},
    }  # fmt: skip
    return Run("nowhere", facts, cells, [], [])


def test_a_number_is_the_mean_over_draws_of_the_means_over_orders_and_queries() -> None:
    # The draws have different numbers of orders: each counts once.
    places = [(0, 0), (0, 1), (1, 0), (2, 0)]
    settings = [setting({"gd": 0.2}, *place) for place in places]
    frame = run(*settings).frame()
    for level, at in (("all", ...), ("layer", (..., 1)), ("head", (..., 1, 2))):
        name = "SimAOU/head" if level == "head" else "SimAOU"
        means = [float(each[0].values[name][at].mean()) for each in settings]
        line = frame[frame["score"].eq("SimAOU") & frame["level"].eq(level)]
        line = line[line["layer"].eq(1)] if level != "all" else line
        line = line[line["head"].eq(2)] if level == "head" else line
        assert len(line) == 1
        by_draw = [np.mean(means[:2]), means[2], means[3]]
        assert line["value"].iloc[0] == pytest.approx(np.mean(by_draw), abs=1e-6)
        # Student's t over three draws.
        half = 4.302653 * np.std(by_draw, ddof=1) / 3**0.5
        assert line["ci_high"].iloc[0] - line["value"].iloc[0] == pytest.approx(half, rel=1e-4)
        assert line["n"].iloc[0] == 4 * QUERIES
    scale = frame.set_index("score").loc["logit_scale", "value"]
    assert scale == pytest.approx(0.2)


def test_the_table_is_that_of_every_model_and_task() -> None:
    found = run(
        *(setting({"gd": 0.2}, seed, task=task) for task in ("sst2", "mr") for seed in (0, 1))
    )
    text = str(found.table())
    for (model, task), comparison in found.comparisons.items():
        assert f"{model}, {task}\n{comparison.table()}" in text


def test_a_factors_value_is_read_from_its_own_field_and_not_from_a_tasks_name() -> None:
    values = {"shots": [4, 16], "label_noise": [0.5]}
    settings = [
        setting({"gd": 0.1 * (number + 1)}, seed, task=f"point {number}", varied=varied)
        for number, varied in enumerate([("shots", 4), ("shots", 16), ("label_noise", 0.5)])
        for seed in (0, 1)
    ]
    found = run(*settings, vary=values)
    assert [point.value for point in found.sweep("shots").points] == [4, 16]
    assert [point.value for point in found.sweep("label_noise", task="sst2").points] == [0.5]
    with pytest.raises(RunError, match="Nothing is measured"):
        found.sweep("shots", task="point 0")
    along = found.factors().drop_duplicates(["task", "factor", "value_of_factor"])
    lines = along[["model", "task", "factor", "value_of_factor"]].to_numpy().tolist()
    assert lines == [
        ["m", "sst2", "shots", 4], ["m", "sst2", "shots", 16], ["m", "sst2", "label_noise", 0.5],
    ]  # fmt: skip


def test_a_settings_value_is_the_plans_own_and_not_what_a_label_rounds_it_to() -> None:
    rates = [0.1234567, 0.5]
    labels = {f"gd(lr={rate:g})": rate for rate in rates}
    spec = {"gd": {"hypothesis": "gd", "vary": {"lr": rates}}}
    found = run(*(setting(labels, seed) for seed in (0, 1)), hypotheses=spec).factors()
    assert set(found["value_of_factor"]) == set(rates)


def test_networks_are_labelled_and_counted_as_networks() -> None:
    own = [setting({"gd": 0.5}, seed) for seed in (0, 1)]
    twins = [
        setting({"gd": level}, 0, network="untrained", index=index, budget=budget)
        for budget, level in (("", 0.1), ("own", 0.3))
        for index in range(3)
    ]
    frame = run(*own, *twins).frame().query("score == 'SimAOU' and level == 'all'")
    frame = frame.set_index("hypothesis")
    assert list(frame.index) == ["gd", "gd@untrained", "gd(budget=own)@untrained"]
    assert frame["value"].to_numpy() == pytest.approx([0.5, 0.1, 0.3], abs=0.03)
    assert frame["model_state"].tolist() == ["trained", "untrained", "untrained"]
    assert frame["n"].tolist() == [2 * QUERIES, 3 * QUERIES, 3 * QUERIES]


def test_a_table_has_every_task_and_is_that_of_its_comparison() -> None:
    cells = [setting({"gd": 0.2, "lcgd": 0.6}, seed, task=task)
             for task in ("sst2", "mr") for seed in (0, 1)]  # fmt: skip
    found = run(*cells)
    assert list(found.comparisons) == [("m", "sst2"), ("m", "mr")]
    frame = found.frame()
    assert list(frame)[:3] == ["model", "task", "hypothesis"]
    assert set(frame["task"]) == {"sst2", "mr"}
    for (model, task), comparison in found.comparisons.items():
        part = frame[frame["model"].eq(model) & frame["task"].eq(task)]
        expected = comparison.frame()
        assert part.drop(columns=["model", "task"]).reset_index(drop=True).equals(expected)
        assert comparison.provenance["episode"]["task"] == task


def test_heads_are_those_of_each_comparison_that_has_them() -> None:
    """A run has a comparison's tables of heads, with model and task in front."""
    both = [setting({"gd": 0.4, "random[gd]": 0.1}, seed) for seed in range(3)]
    one = [setting({"lcgd": 0.2}, seed, task="mr") for seed in range(2)]
    result = run(*both, *one)
    comparison = result.comparisons["m", "sst2"]
    for table, expected in (
        (result.head_map("SimAOU", "gd"), comparison.head_map("SimAOU", "gd")),
        (result.top_heads("SimAOU", "gd", 2), comparison.top_heads("SimAOU", "gd", 2)),
    ):
        assert list(table.columns) == ["model", "task", *expected.columns]
        assert set(zip(table.model, table.task, strict=True)) == {("m", "sst2")}
        pd.testing.assert_frame_equal(table[list(expected.columns)], expected)
    assert set(result.head_map("SimAOU", "lcgd").task) == {"mr"}
    for usual in (result.head_map(hypothesis="lcgd"), result.top_heads(hypothesis="lcgd")):
        assert usual.attrs["score"] == "SimAOU"  # no wrong labels were read
    with pytest.raises(LensError, match="has no 'newton'"):
        result.head_map("SimAOU", "newton")


def test_differences_are_paired_by_draw() -> None:
    # Levels differ much from draw to draw, and their difference does not.
    cells = [setting({"gd": level, "lcgd": level + 0.4}, seed)
             for seed, level in enumerate((0.1, 0.5, 0.3))]  # fmt: skip
    line = run(*cells).differences().query("score == 'SimAOU' and kind == 'hypotheses'").iloc[0]
    assert (line["a"], line["b"], line["n"]) == ("lcgd", "gd", 3)
    assert line["difference"] == pytest.approx(0.4, abs=0.05)
    assert line["p_value"] < 0.01
    assert 0.3 < line["ci_low"] < line["ci_high"] < 0.5


def test_a_control_that_the_plan_names_and_the_run_lacks_is_not_passed_over() -> None:
    levels = {"ZS": 0.0, "ICL": 1.0, "gd": 0.5}
    cells = [setting(levels, seed) for seed in (0, 1)]
    for controls in ((), ("random",)):
        (comparison,) = run(*cells, controls=controls).comparisons.values()
        said = {verdict.control for verdict in comparison.verdicts(["SimAOU"], gate=False)}
        assert ("random" in said) == bool(controls)


def test_failures_are_told_by_draw() -> None:
    good = setting({"gd": 0.2}, 0)
    bad = setting({"gd": np.nan}, 1, failures={"gd": "gd diverged"})
    (comparison,) = run(good, bad).comparisons.values()
    assert comparison.failures == {"gd": "draw 1: gd diverged"}
    line = comparison.frame().query("score == 'SimAOU' and level == 'all'").iloc[0]
    assert (line["n"], line["undefined"]) == (QUERIES, QUERIES)
    assert line["value"] == pytest.approx(0.2, abs=0.03)


def test_queries_are_called_by_their_rows() -> None:
    shifted = [row + 7 for row in range(QUERIES)]
    found = run(setting({"gd": 0.2}, 0), setting({"gd": 0.3}, 1, rows=shifted))
    queries = found.queries("KL_ICL", "gd")
    assert queries.query("draw == 0")["query"].tolist() == list(range(QUERIES))
    assert queries.query("draw == 1")["query"].tolist() == shifted
    assert found.queries("nothing").empty


def test_order_sensitivity_is_the_share_of_disagreeing_pairs() -> None:
    names = {"ZS": 0.0, "ICL": 0.0, "gd": 0.2, "shaky": 0.2}
    cells = [setting(names, seed, order) for seed in (0, 1) for order in (0, 1, 2)]
    found = run(*cells).order_sensitivity().set_index("hypothesis")
    assert set(found.index) == {"ICL", "gd", "shaky"}
    assert found.loc["gd", "flip_rate"] == 0
    # Order 1 disagrees with 0 and with 2: two pairs of three, on every query.
    assert found.loc["shaky", "flip_rate"] == pytest.approx(2 / 3)
    assert found.loc["shaky", ["permutations", "seeds", "n"]].tolist() == [3, 2, 2 * QUERIES]
    assert found.loc["gd", "accuracy_range"] == 0


def test_published_orders_have_a_seed_each_and_say_nothing_of_sensitivity() -> None:
    cells = [setting({"ICL": 0.0}, seed, seed) for seed in (0, 1, 2)]
    assert run(*cells).order_sensitivity().empty


def test_flips_count_defined_predictions_alone() -> None:
    one = np.array([[1.0, 0.0], [0.0, 1.0], [np.nan, 0.0], [2.0, 2.0]])
    other = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [3.0, 1.0]])
    assert np.array_equal(flip_rates([one, other]), [1.0, 0.0, np.nan, 0.0], equal_nan=True)
    assert np.array_equal(predictions(one), [0.0, 1.0, np.nan, 0.0], equal_nan=True)


def test_a_real_runs_tables_keep_their_contract(plan: Plan, finished: Path) -> None:
    found = load_run(finished)
    comparison = (
        "hypothesis rule control model_state settings score level layer head value ci_low ci_high "
        "n undefined"
    )
    assert list(found.frame()) == f"model task {comparison}".split()
    assert list(found.queries("SimAM")) == (
        "model task hypothesis score layer head draw network query gold value".split()
    )
    assert list(found.differences())[:5] == ["model", "task", "score", "kind", "a"]
    assert list(found.verdicts())[:5] == ["model", "task", "hypothesis", "score", "control"]
    assert list(found.gate())[:3] == ["model", "task", "learns"]
    assert list(found.behaviour())[:3] == ["model", "task", "hypothesis"]
    assert list(found.cost())[:3] == ["model", "task", "hypothesis"]
    assert list(found.failures) == (
        "model task seed permutation network index budget subject reason".split()
    )
    assert set(found.order_sensitivity()["permutations"]) == {2}
    assert set(found.frame()["hypothesis"]) >= {"gd", "random[gd]", "gd@untrained", "ICL@untrained"}
    facts = found.provenance
    assert facts["cells"] == {"planned": 28, "finished": 28, "failed": 0, "missing": 0}
    assert facts["models"]["tiny"].startswith("sha256:")
    assert facts["tasks"]["sst2"]["prompt_hash"]
    assert facts["protocol"]["name"] == "reference"
    assert facts["hypotheses"]["gd"]["version"] == "1"
    assert found.frame().attrs["provenance"]["name"] == "tiny"
    assert set(measured_seconds(finished)) == {c.facts["key"] for c in found.cells}
    assert found.hypotheses == list(plan.hypotheses)
    assert found.queries("SimAOU", "gd")["query"].isin(range(9)).all()


def test_a_public_name() -> None:
    import iclgd_lens

    assert iclgd_lens.load_run is load_run
    with pytest.raises(RunError, match="no run"):
        iclgd_lens.load_run("no/such/place")
    assert issubclass(RunError, LensError)


def test_rates_that_were_tried_and_chosen_are_read_from_the_cells() -> None:
    cells = [*setting({"ZS": 0.0, "gd": 0.3}), *setting({"ZS": 0.0, "gd": 0.2}, seed=1)]
    tried = [
        {"lr": 0.1, "epochs": 1, "loss_on": "label", "loss": 0.7},
        {"lr": 0.1, "epochs": 2, "loss_on": "label", "loss": 0.5},
        {"lr": 1.0, "epochs": 1, "loss_on": "label", "loss": None},  # it diverged
        {"lr": 0.3, "epochs": 1, "loss_on": "label", "loss": 0.6},
        {"lr": 0.3, "epochs": 1, "loss_on": "all", "loss": 0.4},  # of other tokens
    ]
    for cell in cells:
        own = cell.facts["place"]["subject"] == "gd"
        settings = {"lr": 0.1, "epochs": 2, "loss_on": "label"}
        budget = {"settings": settings, "tried": tried} if own else None
        cell.facts["described"] = {} if budget is None else {"budget": budget}
    found = run(cells).rates()
    assert found.to_dict("records") == [
        {"model": "m", "task": "sst2", "seed": seed, "permutation": 0, "hypothesis": "gd",
         "lr": rate, "held_out_loss": loss, "chosen": rate == 0.1}
        for seed in (0, 1) for rate, loss in ((0.1, 0.5), (0.3, 0.6))
    ]  # fmt: skip
    known = run(cells).provenance["chosen_rates"]
    assert [(each["seed"], list(each["rates"])) for each in known] == [(0, ["gd"]), (1, ["gd"])]
    assert known[0]["rates"]["gd"] == {"lr": 0.1, "held_out_loss": {"0.1": 0.5, "0.3": 0.6}}
    # What could not be searched has no rates, and spoils nothing.
    cells[1].facts["described"] = {"budget": {"problem": "too few demonstrations"}}
    assert set(run(cells).rates()["seed"]) == {1}
