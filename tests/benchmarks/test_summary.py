"""Runs in Markdown and CSV: what is said of a task is what the run's own frames hold."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks import summary
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.phrases import number
from iclgd_lens.verdicts.verdict import OVERALL


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> summary.Runs:
    folders = []
    for name, shots in (("eight", 8), ("none", 0)):
        plan = parse_plan(
            {
                "name": name, "models": ["embedded"], "tasks": ["sst2"], "shots": shots,
                "queries": 16, "seeds": [0, 1, 2], "lr": 0.3, "tok2attn_queries": 0,
                "controls": ["random", "shuffled"],
                "hypotheses": {"gd": {"hypothesis": "gd", "settings": {"epochs": 1}}},
            }
        )  # fmt: skip
        folders.append(tmp_path_factory.mktemp(name) / "run")
        run_plan(plan, folders[-1])
    return summary.opened(folders)


def test_every_mean_is_the_frames(runs: summary.Runs) -> None:
    found = summary.means(runs).set_index(["run", "task", "hypothesis", "score"])["value"]
    for name, run in runs.items():
        frame = run.frame()
        whole = frame[frame["level"] == "all"].set_index(["hypothesis", "score"])["value"]
        for hypothesis, score in (("gd", "SimAOU"), ("ICL", "AUC"), ("random[gd]", "SimAM")):
            if (hypothesis, score) in whole.index:
                one, other = found[name, "sst2", hypothesis, score], whole[hypothesis, score]
                assert one == other or (pd.isna(one) and pd.isna(other))
            else:
                assert name == "none"  # without demonstrations an update has nothing to learn from


def test_the_gate_is_said_of_every_run(runs: summary.Runs) -> None:
    lines = [line for line in summary.gates(runs) if "| sst2 |" in line]
    assert [line.split(" | ")[0] for line in lines] == ["| eight", "| none"]
    assert "learns" in lines[0]
    assert "none shown" in lines[1]
    (comparison,) = runs["eight"].comparisons.values()
    gate = comparison.gate()
    assert gate is not None
    areas = [number(gate.settings[name]["AUC"].value) for name in ("ZS", "ICL", "ICL_shuffled")]
    gains = [str(gate.differences["ICL", name]["AUC"]) for name in ("ZS", "ICL_shuffled")]
    assert len({*areas}) == 3
    assert lines[0].endswith(f"| {' | '.join([*areas, *gains])} |")


def test_verdicts_are_given_where_there_is_something_to_explain(runs: summary.Runs) -> None:
    (learns,), (nothing,) = (runs[name].comparisons.values() for name in ("eight", "none"))
    given = list(summary.verdicts(learns))[2:]
    verdicts = [each for each in learns.verdicts() if each.control == OVERALL]
    assert len(given) == len(verdicts) > 0
    for line, verdict in zip(given, verdicts, strict=True):
        assert f"| {verdict.score} | {verdict.verdict} |" in line
    assert next(iter(summary.verdicts(nothing))).startswith("No verdict applies. No in-context")


def test_the_page_holds_a_table_a_task_and_the_file_every_mean(
    runs: summary.Runs, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    summary.main([Path(run.where) for run in runs.values()], tmp_path / "means.csv")
    shown = capsys.readouterr().out
    assert [line for line in shown.splitlines() if line.startswith("###")] == [
        "### eight: sst2", "### none: sst2",
    ]  # fmt: skip
    assert all(f"| `{name}` |" in shown for name in ("ZS", "gd", "random[gd]"))
    written = pd.read_csv(tmp_path / "means.csv")
    assert len(written) == len(summary.means(runs))
    assert set(written["run"]) == set(runs)
