"""Running: resumed, interrupted, shared, sharded and failing runs end in the same numbers."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from iclgd_lens.bench import measure
from iclgd_lens.bench.cells import list_cells
from iclgd_lens.bench.frames import load_run
from iclgd_lens.bench.measure import Session
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.progress import Lines, Live, duration
from iclgd_lens.bench.run import Outcome, run_plan
from iclgd_lens.bench.store import Store
from iclgd_lens.bench.work import Workbench
from iclgd_lens.comparing import compare
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.errors import DivergedError, PlanError, RunError
from iclgd_lens.host.loading import load_model
from iclgd_lens.hypotheses.registry import _REGISTERED, hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import REFERENCE
from iclgd_lens.tasks import draw_demonstrations, get_task, load_rows
from iclgd_lens.writing import load_episode
from tests.bench.conftest import cells_of

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from iclgd_lens.bench.plan import load_plan
from iclgd_lens.bench.run import run_plan
outcome = run_plan(load_plan(sys.argv[2]), sys.argv[3])
print(outcome.found, outcome.done)
"""


@pytest.fixture
def plugins() -> Iterator[None]:
    """Whatever a test registers is forgotten afterwards."""
    before = dict(_REGISTERED)
    yield
    _REGISTERED.clear()
    _REGISTERED.update(before)


def start(plan: Plan, folder: Path) -> subprocess.Popen[str]:
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(plan.as_dict()), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(ROOT), str(path), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_killed_run_goes_on_to_the_same_bytes(plan: Plan, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(plan, folder)
    deadline = time.monotonic() + 120
    while not cells_of(folder) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    held = len(cells_of(folder))
    assert 1 <= held < 4

    outcome = run_plan(plan, folder)
    assert (outcome.found, outcome.done, outcome.quarantined) == (held, 4 - held, ())
    assert cells_of(folder) == cells_of(finished)
    assert load_run(folder).summary().equals(load_run(finished).summary())


def test_two_processes_on_one_directory(plan: Plan, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(plan, folder)
    while not (folder / "run.json").exists() and process.poll() is None:
        time.sleep(0.02)
    outcome = run_plan(plan, folder)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert outcome.found + outcome.done == sum(map(int, output.split())) == 4
    assert cells_of(folder) == cells_of(finished)
    assert not (folder / "quarantine").exists()
    assert load_run(folder).facts["timings"]["commands"] == 2


def test_shards_together_are_the_whole_run(small: Plan, tmp_path: Path) -> None:
    plan = small.model_copy(update={"seeds": (0, 1, 2)})
    folder = tmp_path / "run"
    parts = [run_plan(plan, folder, shard_of=(index, 2)) for index in (1, 2)]
    assert [(part.cells, part.done) for part in parts] == [(2, 2), (1, 1)]
    assert run_plan(plan, folder).found == 3
    run_plan(plan, tmp_path / "whole")
    assert cells_of(folder) == cells_of(tmp_path / "whole")


def test_a_half_finished_run_can_be_looked_at(small: Plan, tmp_path: Path) -> None:
    run_plan(small, tmp_path / "run", shard_of=(1, 2))
    run = load_run(tmp_path / "run")
    assert run.provenance["cells"] == {"planned": 2, "finished": 1, "failed": 0, "missing": 1}
    assert len(run.missing) == 1
    assert set(run.frame()["seed"]) == {run.cells[0].facts["place"]["seed"]}


def test_fresh_measures_again(small: Plan, tmp_path: Path) -> None:
    run_plan(small, tmp_path / "run")
    before = cells_of(tmp_path / "run")
    outcome = run_plan(small, tmp_path / "run", fresh=True)
    assert (outcome.done, outcome.found) == (2, 0)
    assert cells_of(tmp_path / "run") == before


def test_a_larger_plan_keeps_what_is_finished(small: Plan, tmp_path: Path) -> None:
    run_plan(small, tmp_path / "run")
    larger = small.model_copy(update={"seeds": (0, 1, 2)})
    outcome = run_plan(larger, tmp_path / "run")
    assert (outcome.found, outcome.done) == (2, 1)
    assert len(load_run(tmp_path / "run").cells) == 3
    lines = StringIO()
    run_plan(small, tmp_path / "run", progress=Lines(lines))
    assert "1 more files in cells/ are of another plan" in lines.getvalue()
    run = load_run(tmp_path / "run")
    assert len(run.cells) == 2
    assert repr(run).endswith("run: 2 of 2 cells of 'tiny'>")


def test_a_cell_holds_what_compare_gives(
    plan: Plan, finished: Path, model_folder: Path, data_folder: Path
) -> None:
    model = load_model(model_folder)
    episode = load_episode(
        "sst2", model, shots=4, queries=6, seed=1, permutation=1, data=data_folder,
        protocol="reference",
    )  # fmt: skip
    result = compare(
        model,
        episode,
        ["gd", "lcgd"],
        controls=["random", "untrained", "oracle"],
        lr=0.05,
        tok2attn_queries=2,
        resamples=100,
    )
    run = load_run(finished)
    frame = run.frame()
    ours = frame[(frame.seed == 1) & (frame.permutation == 1)]
    key = ["hypothesis", "score", "layer", "head"]
    both = ours.merge(result.frame(), on=key, suffixes=("", "_other"))
    assert len(both) == len(ours) == len(result.frame())
    for name in ("value", "ci_low", "ci_high", "n", "undefined"):
        left = both[name].astype(float).to_numpy()
        assert np.array_equal(left, both[f"{name}_other"].astype(float).to_numpy(), equal_nan=True)
    queries = run.queries("SimAOU", "lcgd")
    mine = queries[
        (queries.seed == 1) & (queries.permutation == 1)
        & (queries.layer == 2) & queries["head"].isna()
    ]  # fmt: skip
    expected = result.tensor("SimAOU", "lcgd")[:, 2].numpy()
    assert np.array_equal(mine["value"].to_numpy(np.float32), expected)
    assert mine["gold"].tolist() == list(episode.gold)


def test_nothing_is_computed_twice(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    read: list[int] = []
    real_untrained, real_zs = measure.untrained, measure.Reader.zs

    def untrained(host: Any, keep: Any, seed: Any) -> Any:
        built.append(keep)
        return real_untrained(host, keep, seed)

    def zs(reader: Any) -> Any:
        read.append(1)
        return real_zs(reader)

    monkeypatch.setattr(measure, "untrained", untrained)
    monkeypatch.setattr(measure.Reader, "zs", zs)
    session = Session(plan, plan.models[0])
    for cell in list_cells(plan)[:2]:
        session.measure(cell)
    assert built == ["embeddings"]
    assert len(read) == 2, "once on the model, once on its untrained copy"


def test_zs_is_read_once_for_each_set_of_evaluation_rows(
    small: Plan, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Seed 1 shows a prompt that is also a query, which its cells pass over: seeds 0 and 2 share
    # their evaluation rows, seed 1 has others.
    rows = shutil.copytree(data_folder, tmp_path / "rows") / "sst2"
    changes = {"seeds": (0, 1, 2), "data": str(rows.parent), "queries": 8}
    skipping = {"protocol": REFERENCE.replace(skip_repeated=True)}
    plan = small.model_copy(update=changes | skipping)
    shown = draw_demonstrations(load_rows(get_task("sst2"), "train", rows.parent), 4, seed=1)
    lines = (rows / "validation.jsonl").read_text().splitlines()
    text = (rows / "train.jsonl").read_text().splitlines()[shown[0].index]
    (rows / "validation.jsonl").write_text("\n".join([text, *lines]) + "\n")
    cells = list_cells(plan)
    assert cells[0].reading == cells[2].reading != cells[1].reading
    read: list[int] = []
    real = measure.Reader.zs

    def zs(reader: Any) -> Any:
        read.append(1)
        return real(reader)

    monkeypatch.setattr(measure.Reader, "zs", zs)
    assert run_plan(plan, tmp_path / "run").done == 3
    assert len(read) == 2


# -- failures ------------------------------------------------------------------------------------


def test_a_hypothesis_that_raises_costs_its_own_scores_alone(
    fields: dict[str, Any], plugins: None, tmp_path: Path
) -> None:
    broken = [True]

    @hypothesis("shaky")
    def shaky(model: Any, episode: Any, *, lr: float = 0.1) -> Intervention:
        if broken[0]:
            raise IndexError("my bug")
        return Intervention()

    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "hypotheses": ["gd", "shaky"], "seeds": [0]}
    )
    outcome = run_plan(plan, tmp_path / "run")
    assert (outcome.exit_code, len(outcome.failed)) == (101, 1)
    assert list(outcome.failed.values()) == [
        "shaky, shaky@untrained: shaky raised IndexError: my bug"
    ]
    assert list(outcome.places.values()) == ["tiny · sst2 · seed 0.0"]
    run = load_run(tmp_path / "run")
    frame = run.frame().query("score == 'SimAOU' and layer.isna()").set_index("hypothesis")
    assert np.isfinite(frame.loc["gd", "value"])
    assert np.isnan(frame.loc["shaky", "value"])
    assert frame.loc["shaky", "undefined"] == 6
    assert set(run.failures()["hypothesis"]) == {"shaky", "shaky@untrained"}
    assert np.isnan(run.differences().set_index(["a", "b", "score"]).loc[
        ("shaky", "gd", "SimAOU"), "p_value"
    ])  # fmt: skip
    assert "cannot be compared" in " ".join(run.differences()["verdict"])

    assert run_plan(plan, tmp_path / "run").done == 0, "a failure is not tried again unasked"
    broken[0] = False
    outcome = run_plan(plan, tmp_path / "run", retry_failed=True)
    assert (outcome.done, outcome.failed) == (1, {})
    assert load_run(tmp_path / "run").failures().query("hypothesis == 'shaky'").empty


@pytest.mark.parametrize("given", [None, 3])
def test_a_hypothesis_that_returns_nothing_usable(
    fields: dict[str, Any], plugins: None, tmp_path: Path, given: Any
) -> None:
    @hypothesis("useless")
    def useless(model: Any, episode: Any) -> Any:
        return given

    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "seeds": [0], "hypotheses": ["useless"]}
        | {"controls": []}
    )
    outcome = run_plan(plan, tmp_path / "run")
    assert "not an Intervention" in next(iter(outcome.failed.values()))


def test_divergence_is_a_failure_that_costs_nothing_else(
    fields: dict[str, Any], plugins: None, tmp_path: Path
) -> None:
    @hypothesis("wild")
    def wild(model: Any, episode: Any) -> Intervention:
        raise DivergedError("wild diverged: the loss of step 2 is not finite")

    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "hypotheses": ["wild"]}
        | {"controls": ["random", "oracle"]}
    )
    lines = StringIO()
    outcome = run_plan(plan, tmp_path / "run", progress=Lines(lines))
    assert (outcome.done, outcome.exit_code) == (0, 102)
    assert "failed: tiny · sst2 · seed 0.0: wild: wild diverged: the loss" in lines.getvalue()
    run = load_run(tmp_path / "run")
    failures = run.failures()
    assert failures["hypothesis"].tolist() == ["wild", "wild"]
    assert failures["reason"].str.contains("step 2 is not finite").all()
    summary = run.summary().query("score == 'SimAOU' and layer.isna()").set_index("hypothesis")
    assert np.isnan(summary.loc["wild", "value"])
    assert summary.loc["wild", "n"] == 0
    assert summary.loc["oracle", "value"] == pytest.approx(1)


def test_non_finite_weights_are_named_not_averaged(
    fields: dict[str, Any], plugins: None, tmp_path: Path
) -> None:
    @hypothesis("nan")
    def nan(model: Any, episode: Any) -> Intervention:
        site = model.site("blocks.1.attn.W_V")
        return ParameterDelta({site.weight: torch.full(site.shape, torch.nan)})

    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "seeds": [0], "hypotheses": ["nan"]}
        | {"controls": []}
    )
    run_plan(plan, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert "not finite" in run.failures()["reason"][0]
    value = run.frame().query("score == 'SimAOU' and layer == 2 and head.isna()")
    assert value["n"].tolist() == [0]
    assert value["undefined"].tolist() == [6]
    assert run.frame().query("score == 'accuracy' and hypothesis == 'nan'")["n"].tolist() == [0]


def test_a_cell_that_cannot_be_measured_is_recorded_and_the_rest_goes_on(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    # subj's label words are not in the tokenizer; cb has no rows.
    plan = parse_plan(
        fields
        | {"tasks": ["cb", "subj", "sst2"], "permutations": [0], "hypotheses": ["gd"]}
        | {"controls": [], "seeds": [0]}
    )
    outcome = run_plan(plan, tmp_path / "run")
    assert (outcome.done, outcome.exit_code) == (1, 102)
    failures = load_run(tmp_path / "run").failures().set_index("task")
    assert failures["hypothesis"].isna().all()
    assert "no rows of task 'cb'" in failures.loc["cb", "reason"]
    assert "same tokens" in failures.loc["subj", "reason"]
    again = run_plan(plan, tmp_path / "run")
    assert (again.done, again.found, again.exit_code) == (0, 1, 102)
    retried = run_plan(plan, tmp_path / "run", retry_failed=True)
    assert (retried.done, retried.found, retried.exit_code) == (0, 1, 102)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_that_change_during_a_run_are_not_measured_under_the_key_of_the_former(
    small: Plan, data_folder: Path, tmp_path: Path, split: str
) -> None:
    rows = shutil.copytree(data_folder, tmp_path / "rows")
    plan = small.model_copy(update={"data": str(rows)})
    (cell, *_) = list_cells(plan)
    path = rows / "sst2" / f"{split}.jsonl"
    path.write_text(path.read_text().replace('"w', '"w1 w'), encoding="utf-8")
    outcome = Workbench(plan, Store(tmp_path / "run")).do(cell)
    assert (outcome.state, "the rows changed" in outcome.reason) == ("failed", True)


def test_out_of_memory_fails_the_cell_and_can_be_retried(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 80 GB")

    with monkeypatch.context() as patch:
        patch.setattr(measure, "compare", full)
        outcome = run_plan(small, tmp_path / "run")
    assert set(outcome.failed.values()) == {"out of memory: tried to allocate 80 GB"}
    assert run_plan(small, tmp_path / "run", retry_failed=True).done == 2


def test_a_keyboard_interrupt_stops_the_run_and_loses_nothing(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = measure.compare, [0]

    def interrupted(*args: Any, **settings: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2:
            raise KeyboardInterrupt
        return real(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(measure, "compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_plan(small, tmp_path / "run")
    outcome = run_plan(small, tmp_path / "run")
    assert (outcome.found, outcome.done) == (1, 1)


def test_a_plan_that_cannot_run_leaves_nothing_behind(small: Plan, tmp_path: Path) -> None:
    wrong = small.model_copy(update={"tasks": ("sst3",)})
    with pytest.raises(PlanError, match="sst3"):
        run_plan(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunError, match=r"engine 'rai' is none of local, ray\. Did you mean 'ray'"):
        run_plan(small, tmp_path / "run", engine="rai")
    with pytest.raises(PlanError, match="the module 'no_such_module' cannot be imported"):
        run_plan(small, tmp_path / "run", imports=["no_such_module"])


def test_exit_codes_stay_clear_of_the_shells(small: Plan) -> None:
    def code(failed: int) -> int:
        reasons = {str(index): "why" for index in range(failed)}
        return Outcome("run", 99, 0, 0, reasons, {}, (), 1.0).exit_code

    assert [code(0), code(1), code(25), code(300)] == [0, 101, 125, 125]


# -- progress ------------------------------------------------------------------------------------


def test_progress_in_plain_lines(small: Plan, tmp_path: Path) -> None:
    lines = StringIO()
    run_plan(small, tmp_path / "run", progress=Lines(lines))
    text = lines.getvalue()
    assert "2/2 cells" in text
    assert "left" in text
    assert "\x1b" not in text


def test_progress_on_a_terminal(small: Plan, tmp_path: Path) -> None:
    with Live() as live:
        outcome = run_plan(small, tmp_path / "run", progress=live)
        live.advance(
            list_cells(small)[0],
            replace(_failed(), reason="[bold]no markup"),
        )
    assert (live.done, live.failed) == (2, 1)
    assert outcome.done == 2


def _failed() -> Any:
    from iclgd_lens.bench.work import CellOutcome

    return CellOutcome("0" * 32, "failed", 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (67.0, "1 min 7 s"), (7500.0, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
