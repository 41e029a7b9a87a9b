"""The commands, as a shell sees them."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from iclgd_lens.bench.cells import count_cells, list_cells
from iclgd_lens.bench.estimate import estimate, megabytes, model_size, texts_of
from iclgd_lens.bench.plan import Plan, load_plan, parse_plan
from iclgd_lens.bench.remaining import Remaining
from iclgd_lens.cli.bench import add_commands, parse_shard
from iclgd_lens.controls import CONTROLS
from iclgd_lens.errors import LensError, PlanError
from iclgd_lens.hypotheses.registry import HYPOTHESES
from tests.bench.conftest import cells_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    found = typer.Typer()
    add_commands(found)
    return found


@pytest.fixture
def plan_file(small: Plan, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(small.as_dict()), encoding="utf-8")
    return path


def call(app: typer.Typer, *arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_bench_runs_resumes_and_says_so(app: typer.Typer, plan_file: Path, tmp_path: Path) -> None:
    done = call(app, "bench", plan_file, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    assert "8 cells in" in done.output
    assert "8 measured, 0 found finished" in done.output
    assert len(cells_of(tmp_path / "run")) == 8
    assert done.stderr.rstrip().endswith(f"Results: {tmp_path / 'run'}")
    again = call(app, "bench", plan_file, "--out", tmp_path / "run", "--shard", "2/2")
    assert "4 cells in" in again.output
    assert "0 measured, 4 found finished" in again.output


def test_a_dry_run_prints_the_cost_and_touches_nothing(
    app: typer.Typer, plan_file: Path, tmp_path: Path
) -> None:
    found = call(app, "bench", plan_file, "--out", tmp_path / "run", "--dry-run")
    assert found.exit_code == 0, found.output
    assert "8 cells, about" in found.output
    assert "on disk" in found.output
    shared = call(app, "bench", plan_file, "--shard", "2/2", "--dry-run")
    assert "4 cells, about" in shared.output
    assert "Share 2 of 2: 4 of 8 cells" in shared.output
    assert not (tmp_path / "run").exists()


def test_a_dry_run_tells_what_is_finished_failed_and_left(
    app: typer.Typer, fields: dict[str, Any], tmp_path: Path
) -> None:
    path, run = tmp_path / "plan.yaml", tmp_path / "run"
    # cb has no rows: its four cells fail, at once.
    changed = {"tasks": ["cb", "sst2"], "controls": [], "hypotheses": ["gd"], "permutations": [0]}
    path.write_text(yaml.safe_dump(fields | changed | {"seeds": [0]}), encoding="utf-8")

    def said(*more: str) -> str:
        found = call(app, "bench", path, "--out", run, "--dry-run", *more)
        assert found.exit_code == 0, found.exception
        return found.output

    assert "8 cells, about" in said()
    assert "note: cb: cannot be measured: No rows of task 'cb'" in said()
    assert call(app, "bench", path, "--out", run).exit_code == 104
    before = sorted(place for place in run.rglob("*"))
    assert "8 cells: 4 finished, 4 failed before, none to measure" in said()
    assert "--retry-failed measures again what failed." in said()
    assert "8 cells: 4 finished, 4 to measure, about" in said("--retry-failed")
    assert "8 cells, about" in said("--fresh")
    assert "(from 4 measured cells of this run)" in said("--fresh")
    assert "4 of 8 cells" in said("--shard", "1/2")
    path.write_text(yaml.safe_dump(fields | changed | {"seeds": [0, 1]}), encoding="utf-8")
    assert "16 cells: 4 finished, 4 failed before, 8 to measure" in said()
    assert sorted(place for place in run.rglob("*")) == before


def test_cells_take_as_long_as_others_of_their_kind(plan: Plan) -> None:
    cells = list_cells(plan)
    done = [cell for cell in cells if cell.setting.seed == 0]
    states: dict[str, Any] = {cell.key: "missing" for cell in cells}
    dear = {cell.key: 10.0 if "random" in str(cell) else 1.0 for cell in done}
    states |= dict.fromkeys(dear, "done")
    todo = tuple(cell for cell in cells if cell.key not in dear)
    left = Remaining(tuple(cells), states, todo, frozenset())
    expected = sum(10.0 if "random" in str(cell) else 1.0 for cell in todo)
    assert left.seconds(dear) == pytest.approx(expected)
    assert left.seconds({}) is None
    assert left.seconds({"of another plan": 3.0}) == 3.0 * len(todo)
    assert (left.finished, left.failed) == (len(done), 0)


def test_rows_of_one_label_are_told_before_a_model_is_loaded(
    app: typer.Typer, small: Plan, data_folder: Path, tmp_path: Path
) -> None:
    rows = shutil.copytree(data_folder, tmp_path / "rows")
    for split in ("train", "validation"):
        path = rows / "sst2" / f"{split}.jsonl"
        lines = [line for line in path.read_text().splitlines() if '"label": 0' in line]
        path.write_text("\n".join(lines) + "\n")
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(small.as_dict() | {"data": str(rows)}), encoding="utf-8")
    notes = [
        "note: sst2: All 4 demonstrations have the label 'Negative': nothing in the prompt tells "
        "the classes apart.",
        "note: sst2: All 4 queries have the label 'Negative': whether the model tells the classes "
        "apart is not asked.",
    ]
    dry = call(app, "bench", path, "--out", tmp_path / "run", "--dry-run")
    assert [line for line in dry.output.splitlines() if line.startswith("note: ")] == notes
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        done = call(app, "bench", path, "--out", tmp_path / "run")
    assert done.stderr.splitlines()[:2] == notes
    assert not [each for each in warned if "have the label" in str(each.message)], "said once"


def test_the_exit_code_counts_failed_cells(
    app: typer.Typer, fields: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    changed = {"tasks": ["cb"], "controls": [], "hypotheses": ["gd"], "permutations": [0]}
    path.write_text(yaml.safe_dump(fields | changed), encoding="utf-8")
    found = call(app, "bench", path, "--out", tmp_path / "run")
    assert found.exit_code == 108
    assert "8 failed" in found.output
    assert "--retry-failed" in found.output


def test_a_model_of_the_command_line(
    app: typer.Typer, model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    # The published grid on a model of one's own, as far as its rows go.
    paper = ROOT / "benchmarks" / "paper.yaml"
    missing = call(app, "bench", paper, "--dry-run")
    assert isinstance(missing.exception, PlanError)
    assert "--model" in str(missing.exception)
    found = call(app, "bench", paper, "--model", model_folder, "--data", data_folder, "--dry-run")
    assert found.exit_code == 0, found.output
    plan = load_plan(paper).with_models([str(model_folder)])
    assert f"{count_cells(plan)} cells" in found.output


def test_a_report_tells_of_what_it_is_without(
    app: typer.Typer, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    whole = call(app, "report", folder)
    assert (whole.exit_code, whole.stderr) == (0, "")
    page = folder / "report" / "index.html"
    assert "None: every cell has its numbers." in page.read_text(encoding="utf-8")
    first, second, third = sorted((folder / "cells").glob("*.parquet"))[:3]
    first.unlink()
    second.unlink()
    lacking = call(app, "report", folder)
    assert lacking.exit_code == 0
    assert lacking.stderr.splitlines() == [
        "note: 2 cells not measured yet: the `iclgd bench` command that made the run measures them."
    ]
    text = page.read_text(encoding="utf-8")
    assert "No cell failed; not measured yet: 2 cells." in text
    assert "every cell has its numbers" not in text
    third.write_bytes(third.read_bytes()[:-9])
    damaged = call(app, "report", folder)
    told = damaged.stderr.splitlines()
    assert len(told) == 2
    assert told[0].startswith("note: 1 cell damaged, so without numbers: ")
    text = page.read_text(encoding="utf-8")
    assert "damaged file: " in text
    assert "Besides these, not measured yet: 2 cells." in text


@pytest.mark.usefixtures("plugins")
def test_a_report_imports_what_the_run_was_measured_with(
    app: typer.Typer, fields: dict[str, Any], tmp_path: Path
) -> None:
    file, path = tmp_path / "own.py", tmp_path / "plan.yaml"
    file.write_text(
        "import iclgd_lens as lens\n\n\n@lens.hypothesis('own_gd')\n"
        "def own_gd(host, episode, *, lr=None):\n    return lens.gd(host, episode, lr=lr)\n\n\n"
        "@lens.control('own_order', acts_on='demonstrations', meaning='does their order matter?')\n"
        "def own_order(host, episode, seed):\n"
        "    return episode.with_demonstrations(episode.demonstrations.examples[::-1])\n"
    )
    changed = {"hypotheses": ["own_gd"], "controls": ["own_order"], "permutations": [0]}
    path.write_text(yaml.safe_dump(fields | changed), encoding="utf-8")
    try:
        done = call(app, "bench", path, "--out", tmp_path / "run", "--import", file)
        assert done.exit_code == 0, done.output
        for known in (CONTROLS, HYPOTHESES):  # as in a process of its own
            known._entries.pop("own_order" if known is CONTROLS else "own_gd")
        for name in [name for name in sys.modules if name.startswith("iclgd_imported_own_")]:
            del sys.modules[name]
        found = call(app, "report", tmp_path / "run", "--import", file)
        assert found.exit_code == 0, found.output
        page = (tmp_path / "run" / "report" / "index.html").read_text(encoding="utf-8")
        assert "does their order matter?" in page
    finally:
        CONTROLS._entries.pop("own_order", None)


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_shards_that_make_no_sense(text: str) -> None:
    with pytest.raises(PlanError, match="is not I/N"):
        parse_shard(text)
    assert parse_shard("2/8") == (2, 8)


def test_errors_are_one_class(app: typer.Typer, tmp_path: Path) -> None:
    found = call(app, "bench", tmp_path / "nothing.yaml")
    assert isinstance(found.exception, LensError)


def test_estimates_grow_with_the_work(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = iter([(1e10, 1e-6)] * 5)  # what is measured on a busy machine differs by the second
    monkeypatch.setattr("iclgd_lens.bench.estimate.machine_speed", lambda: next(speeds))
    least = estimate(parse_plan(fields))
    assert least.cells == 84
    for change in ({"queries": 2000}, {"lr": "matched"}, {"shots": 64}, {"twins": 20}):
        more = estimate(parse_plan(fields | change))
        assert more.seconds is not None
        assert least.seconds is not None
        assert more.seconds > least.seconds
    measured = estimate(parse_plan(fields), {"a": 2.0, "b": 4.0})
    assert (measured.seconds, "2 measured cells" in str(measured)) == (252.0, True)


def test_texts_are_as_long_as_the_rows_say(
    fields: dict[str, Any], data_folder: Path, tmp_path: Path
) -> None:
    plan = parse_plan(fields)
    own = texts_of(plan, plan.models[0])
    # "Sentence: {text} Label:" around three or four words of one token each.
    assert own.measured
    assert 5 < own.tokens < 8
    assert own.passes == 1
    path = shutil.copytree(data_folder, tmp_path / "rows") / "sst2" / "validation.jsonl"
    path.write_text(path.read_text().replace('"w', '"w1 w2 w3 w4 w5 w'), encoding="utf-8")
    longer = plan.model_copy(update={"data": str(tmp_path / "rows"), "tasks": ("sst2",)})
    known = plan.model_copy(update={"tasks": ("sst2",)})
    more = texts_of(longer, plan.models[0]).tokens - texts_of(known, plan.models[0]).tokens
    assert more == pytest.approx(5)
    assert f"texts of {own.tokens:.0f} tokens" in str(estimate(plan))
    assert not texts_of(plan.model_copy(update={"data": "hub"}), plan.models[0]).measured
    nothing = plan.model_copy(update={"data": str(tmp_path)})
    assert "assuming texts of 45 tokens" in str(estimate(nothing))


def test_the_estimate_of_disk_is_near_the_truth(plan: Plan, finished: Path) -> None:
    folders = [finished / "cells", finished / "readings"]
    written = sum(path.stat().st_size for folder in folders for path in folder.iterdir())
    disk = estimate(plan).disk
    assert disk is not None
    assert 0.7 < disk / written < 1.4


def test_a_model_of_unknown_size_has_no_estimate() -> None:
    plan = parse_plan({"models": ["nobody/nothing"], "tasks": ["sst2"], "hypotheses": ["gd"]})
    assert model_size(plan.models[0]) is None
    text = str(estimate(plan))
    assert "20 cells, unknown in one process" in text
    assert "the size of nobody/nothing is not known here" in text


def test_sizes_in_words() -> None:
    assert [megabytes(2.1e9), megabytes(4e5)] == ["2.1 GB", "0.4 MB"]


@pytest.mark.slow
def test_the_quick_plan_runs_on_the_embedded_model(app: typer.Typer, tmp_path: Path) -> None:
    if not (ROOT / "iclgd_lens" / "embedded" / "model" / "model.safetensors").is_file():
        pytest.skip("the embedded model is not here")
    plan = load_plan(ROOT / "benchmarks" / "quick.yaml").model_copy(
        update={
            "tasks": ("sst2",),
            "seeds": (0,),
            "queries": 4,
            "controls": ("random",),
            "lr": 0.01,
        }
    )
    path = tmp_path / "quick.yaml"
    path.write_text(yaml.safe_dump(plan.as_dict()), encoding="utf-8")
    found = call(app, "bench", path, "--out", tmp_path / "run")
    assert found.exit_code == 0, found.output
