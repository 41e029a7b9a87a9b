"""What moved between two runs: two tiny ones of the embedded model, and copies of them."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.bench.run_differences import run_differences
from iclgd_lens.bench.run_tables import Run, load_run
from iclgd_lens.cli.app import run as command
from iclgd_lens.cli.diff import parse_tolerance, show
from iclgd_lens.errors import RunError


def plan(**changes: Any) -> Plan:
    return parse_plan(
        {"name": "tiny", "models": ["embedded"], "tasks": ["sst2"], "shots": 4, "queries": 6}
        | {"seeds": [0, 1], "hypotheses": ["gd"], "lr": 0.01, "resamples": 50} | changes
    )  # fmt: skip


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "slow"
    assert not run_plan(plan(), folder).failed
    return folder


@pytest.fixture(scope="module")
def fast(slow: Path) -> Path:
    """The same at another rate, and without the second draw."""
    folder = slow.with_name("fast")
    assert not run_plan(plan(lr=0.02, seeds=[0]), folder).failed
    return folder


def test_a_run_is_the_same_as_its_copy(
    slow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(slow, tmp_path / "copy")
    found = run_differences(slow, copy)
    assert not found
    assert (found.facts, found.only_a, found.only_b, found.answers) == ((), (), (), ())
    assert found.shared == 8
    assert len(found.means) == len(load_run(slow).frame())
    assert command(["diff", str(slow), str(copy)]) == 0
    assert "The same: 8 cells in both" in capsys.readouterr().out


def test_means_cells_and_facts_that_differ_are_named(slow: Path, fast: Path) -> None:
    found = run_differences(slow, fast)
    assert found
    facts = {each.what: (each.a, each.b) for each in found.facts}
    assert facts["plan.lr"] == (0.01, 0.02)
    assert facts["plan.seeds"] == ([0, 1], [0])
    assert {"rows.sst2"} <= set(facts), "rows of one draw more"
    assert not [name for name in facts if name.startswith(("versions", "weights", "plan.models"))]
    assert (found.shared, found.only_b) == (4, ())
    assert len(found.only_a) == 4
    assert "embedded, sst2, seed 1, order 0: gd" in found.only_a
    a, b = load_run(slow).frame(), load_run(fast).frame()
    line = found.means.query("hypothesis == 'gd' and score == 'SimAOU' and level == 'all'").iloc[0]
    for frame, name in ((a, "a"), (b, "b")):
        own = frame.query("hypothesis == 'gd' and score == 'SimAOU' and level == 'all'").iloc[0]
        assert line[name] == pytest.approx(own["value"])
    assert line["difference"] == pytest.approx(line["b"] - line["a"])
    mirrored = run_differences(fast, slow)
    assert mirrored.only_b == found.only_a
    assert np.allclose(mirrored.means["difference"], -found.means["difference"], equal_nan=True)


def test_a_tolerance_is_absolute_and_may_be_one_for_each_score(slow: Path, fast: Path) -> None:
    found = run_differences(slow, fast)
    size = found.means["difference"].abs()
    assert found.moved == (size > 0).sum() > 0
    middle = float(size[size > 0].median())
    some = run_differences(slow, fast, tolerance=middle)
    assert some.moved == (size > middle).sum() < found.moved
    own = run_differences(slow, fast, tolerance={"SimAOU": math.inf})
    assert set(own.means[own.means["moved"]]["score"]) == (
        set(found.means[found.means["moved"]]["score"]) - {"SimAOU"}
    )
    with pytest.raises(RunError, match=r"no mean of 'SimAOV' in common.*SimAOU"):
        run_differences(slow, fast, tolerance={"SimAOV": 1.0})
    with pytest.raises(RunError, match="0 or more"):
        run_differences(slow, fast, tolerance=-1.0)


def test_what_is_shown_of_a_score_is_a_mean_that_moved(
    slow: Path, fast: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A layer's mean may move further than the mean over layers."""
    means = run_differences(slow, fast).means
    whole = means[(means["level"] == "all") & (means["score"] == "SimAOU")]
    layers = means[(means["level"] == "layer") & (means["score"] == "SimAOU")]
    between = (whole["difference"].abs().max() + layers["difference"].abs().max()) / 2
    assert whole["difference"].abs().max() < between
    found = run_differences(slow, fast, tolerance={"SimAOU": between})
    (line,) = found.largest().query("score == 'SimAOU'").to_dict("records")
    assert line["level"] == "layer"
    assert isinstance(line["layer"], int)
    assert line["head"] is None or line["head"] is pd.NA
    assert command(["diff", str(slow), str(fast), "--tolerance", f"SimAOU={between}"]) == 1
    assert f"layer {line['layer']} " in capsys.readouterr().out
    assert abs(line["difference"]) > between


def test_the_largest_of_each_score_comes_first(slow: Path, fast: Path) -> None:
    found = run_differences(slow, fast)
    largest = found.largest()
    assert largest["score"].is_unique
    assert set(largest["score"]) == set(found.means["score"])
    whole = found.means[found.means["level"] == "all"]
    for line in largest.itertuples():
        of = whole[whole["score"] == line.score]["difference"].abs()
        if len(of) and of.notna().any():
            assert abs(line.difference) == pytest.approx(of.max())
    sizes = largest["difference"].abs().dropna().tolist()
    assert sizes == sorted(sizes, reverse=True)


def changed(run: Run, subject: str, score: str, value: float) -> Run:
    """The run with another number in every cell of a subject."""
    cells = tuple(
        replace(cell, values={**cell.values, score: np.full_like(cell.values[score], value)})
        if cell.facts["place"]["subject"] == subject else cell
        for cell in run.cells
    )  # fmt: skip
    return Run(run.where, run.facts, cells, run.failed, run.missing)


def test_what_is_undefined_in_one_run_alone_moved_most(slow: Path) -> None:
    whole = load_run(slow)
    found = run_differences(whole, changed(whole, "gd", "SimAOU", math.nan), tolerance=1e9)
    assert set(found.means[found.means["moved"]]["score"]) == {"SimAOU"}
    assert found.largest()["score"].iloc[0] == "SimAOU"
    both = changed(whole, "gd", "SimAOU", math.nan)
    assert not run_differences(both, both)


class Learned(Run):
    """A run whose gate is open, and which gives no verdicts."""

    def gate(self) -> pd.DataFrame:
        return super().gate().assign(learns=True)

    def verdicts(self) -> pd.DataFrame:
        return super().verdicts().iloc[:0]


def test_answers_that_changed_are_named(slow: Path) -> None:
    one = load_run(slow)
    other = Learned(one.where, one.facts, one.cells, one.failed, one.missing)
    assert one.gate()["learns"].tolist() == [False]
    told = {each.what: (each.a, each.b) for each in run_differences(one, other).answers}
    assert told["embedded, sst2: gate, learns"] == (False, True)
    verdict = "embedded, sst2, gd, SimAOU_label, overall: verdicts"
    assert told[verdict] == ("not applicable", None)
    assert len(told) == 1 + len(one.verdicts())
    found = run_differences(one, other, tolerance=1.0)
    assert found, "a changed answer is no matter of tolerance"


def test_a_run_of_another_model_is_paired_with_it(slow: Path) -> None:
    whole = load_run(slow)
    facts = json.loads(json.dumps(whole.facts))
    facts["plan"]["models"][0]["label"] = "other"
    cells = tuple(
        replace(cell, facts={**cell.facts, "place": {**cell.facts["place"], "model": "other"}})
        for cell in whole.cells
    )
    found = run_differences(whole, Run(whole.where, facts, cells, [], []))
    assert not found
    assert [each.what for each in found.facts] == ["plan.models.embedded.label"]


def test_the_command_tells_and_ends_as_diff_does(
    slow: Path, fast: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert command(["diff", str(slow), str(fast)]) == 1
    out = capsys.readouterr().out
    for line in ("plan.lr: 0.01 -> 0.02", "Cells in A alone", "seed 1, order 0: gd", "SimAOU"):
        assert line in out
    assert out.rstrip().splitlines()[-1].endswith("changed.")
    assert command(["diff", str(slow), str(fast), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    found = run_differences(slow, fast)
    assert document["same"] is False
    assert document["means_moved"] == found.moved == len(document["means"])
    assert {each["what"] for each in document["facts"]} == {each.what for each in found.facts}
    tolerant = ["--tolerance", "1", "--tolerance", "SimAOU=0"]
    assert command(["diff", str(slow), str(fast), *tolerant, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {each["score"] for each in document["means"]} >= {"SimAOU"}
    assert "SimAM" not in {each["score"] for each in document["means"]}


def test_what_cannot_be_compared_is_a_users_error(
    slow: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["diff", str(slow), str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    for text in ("much", "SimAOU=", "=x"):
        with pytest.raises(RunError, match="is no number"):
            parse_tolerance([text])
    assert parse_tolerance(["0.1", "SimAM=2"]) == {"": 0.1, "SimAM": 2.0}


def test_a_long_list_says_how_many_are_left_out(slow: Path) -> None:
    found = replace(run_differences(slow, slow), only_a=tuple(f"cell {n}" for n in range(20)))
    console = Console(width=80)
    with console.capture() as capture:
        show(found, console)
    lines = [line.strip() for line in capture.get().splitlines()]
    assert "cell 11" in lines
    assert "cell 12" not in lines
    assert "and 8 more: --json has all" in lines
