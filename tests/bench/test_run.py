"""Running: resumed, interrupted, shared, sharded and failing runs end in the same numbers."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from iclgd_lens import nulls
from iclgd_lens.bench import session
from iclgd_lens.bench.cell_file import decode
from iclgd_lens.bench.cells import list_cells, settings_of
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.plan_check import check_plan
from iclgd_lens.bench.progress import Lines, Live, Silent, duration
from iclgd_lens.bench.run import Outcome, run_plan
from iclgd_lens.bench.run_tables import load_run
from iclgd_lens.bench.store import Store
from iclgd_lens.bench.workbench import Workbench
from iclgd_lens.budget import budget
from iclgd_lens.budget.budget import choosing
from iclgd_lens.comparing import compare
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode_loading import load_episode
from iclgd_lens.errors import DivergedError, LensError, PlanError, RunError
from iclgd_lens.host.loading import load_model
from iclgd_lens.hypotheses.registry import get_hypothesis, hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.job import Job
from iclgd_lens.protocol import REFERENCE
from iclgd_lens.readout.reader import Reader
from iclgd_lens.tasks import draw_demonstrations, get_task, load_rows
from iclgd_lens.workers import as_they_come, can_copy
from tests.bench.conftest import cells_of

ROOT = Path(__file__).resolve().parents[2]
CELLS = 28
"""Of the plan of four draws: five each, and four on each of two networks."""
RUN = """
import sys
sys.path.insert(0, sys.argv[1])
from iclgd_lens.bench.plan import load_plan
from iclgd_lens.bench.run import run_plan
outcome = run_plan(load_plan(sys.argv[2]), sys.argv[3])
print(outcome.found, outcome.done)
"""


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
    # Beyond the settings, so that a rule's cells are cut apart.
    while len(cells_of(folder)) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run was over before it was killed"
    held = len(cells_of(folder))
    assert 5 <= held < CELLS

    outcome = run_plan(plan, folder)
    assert (outcome.found, outcome.done, outcome.quarantined) == (held, CELLS - held, ())
    assert cells_of(folder) == cells_of(finished)
    assert load_run(folder).frame().equals(load_run(finished).frame())


def test_cells_are_equal_whatever_is_measured_beside_them(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "seeds": [0], "permutations": [0], "queries": 3}
        | {"controls": ["random", "shuffled", "gaussian", "oracle"], "hypotheses": ["gd"]}
    )
    run_plan(plan, tmp_path / "whole")
    whole = cells_of(tmp_path / "whole")
    cells, store = list_cells(plan), Store(tmp_path / "apart")
    for cell in reversed(cells):  # each alone, its rule's controls before the rule
        ((_, outcome),) = Workbench(plan, store).do([cell])
        assert outcome.state == "done"
    assert cells_of(tmp_path / "apart") == whole


def test_two_processes_on_one_directory(small: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(small, folder)
    while not (folder / "run.json").exists() and process.poll() is None:
        time.sleep(0.02)
    outcome = run_plan(small, folder)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert outcome.found + outcome.done == sum(map(int, output.split())) == 8
    run_plan(small, tmp_path / "whole")
    assert cells_of(folder) == cells_of(tmp_path / "whole")
    assert not (folder / "quarantine").exists()
    assert load_run(folder).facts["timings"]["commands"] == 2


def test_shards_together_are_the_whole_run(small: Plan, tmp_path: Path) -> None:
    plan = small.model_copy(update={"seeds": (0, 1, 2)})
    folder = tmp_path / "run"
    first = run_plan(plan, folder, shard_of=(1, 2))
    assert (first.cells, first.done) == (8, 8)
    run = load_run(folder)  # half-finished, it can be looked at
    assert run.provenance["cells"] == {"planned": 12, "finished": 8, "failed": 0, "missing": 4}
    assert len(run.missing) == 4
    assert {place["seed"] for place in run.missing}.isdisjoint(
        cell.facts["place"]["seed"] for cell in run.cells
    )
    assert set(run.frame()["hypothesis"]) == {"ZS", "ICL", "ICL_shuffled", "gd"}
    second = run_plan(plan, folder, shard_of=(2, 2))
    assert (second.cells, second.done) == (4, 4)
    assert run_plan(plan, folder).found == 12
    run_plan(plan, tmp_path / "whole")
    assert cells_of(folder) == cells_of(tmp_path / "whole")


@pytest.mark.skipif(not can_copy(), reason="processes are not copied here")
def test_processes_beside_one_another_write_the_same_bytes(small: Plan, tmp_path: Path) -> None:
    plan = small.model_copy(update={"seeds": (0, 1, 2)})
    progress = Silent()
    outcome = run_plan(plan, tmp_path / "beside", workers=2, progress=progress)
    assert (outcome.cells, outcome.done, outcome.failed) == (12, 12, {})
    assert progress.done == 12
    run_plan(plan, tmp_path / "alone")
    assert cells_of(tmp_path / "beside") == cells_of(tmp_path / "alone")
    assert run_plan(plan, tmp_path / "beside", workers=2).found == 12


@pytest.mark.skipif(not can_copy(), reason="processes are not copied here")
def test_cells_that_come_again_after_a_kill_are_counted_once(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*given: Any) -> Iterator[Any]:
        for each in as_they_come(*given):
            yield each
            yield each

    monkeypatch.setattr("iclgd_lens.bench.run.as_they_come", twice)
    progress = Silent()
    assert run_plan(small, tmp_path / "run", workers=2, progress=progress).done == progress.done > 0


def test_factors_of_the_demonstrations_are_tasks_of_their_own(small: Plan, tmp_path: Path) -> None:
    factors = {"shots": [2, 3], "label_noise": [0.0, 1.0]}
    plan = small.model_copy(update={"vary": factors})
    assert run_plan(plan, tmp_path / "varied").done == 4 * 8
    run = load_run(tmp_path / "varied")
    assert [task for _, task in run.comparisons] == [
        "sst2 (shots 2)", "sst2 (shots 3)", "sst2 (label_noise 0.0)", "sst2 (label_noise 1.0)"
    ]  # fmt: skip
    model = next(iter(run.comparisons))[0]

    # A value gives what a plan with that setting gives, and no change is no change.
    for changes, varied in (({"shots": 2}, "sst2 (shots 2)"), ({}, "sst2 (label_noise 0.0)")):
        folder = tmp_path / varied
        run_plan(small.model_copy(update=changes), folder)
        plain = load_run(folder).comparisons[model, "sst2"]
        for score in ("SimAOU", "AUC", "SimAOU_label"):
            tables = run.comparisons[model, varied].frame(), plain.frame()
            mine, theirs = (table[table["score"] == score]["value"] for table in tables)
            assert len(mine)
            np.testing.assert_array_equal(mine, theirs)
    # Where all labels are wrong in the prompt, wrong ones are right (of two).
    right = run.comparisons[model, "sst2 (label_noise 0.0)"].tensor("accuracy", "ICL_shuffled")
    wrong = run.comparisons[model, "sst2 (label_noise 1.0)"].tensor("accuracy", "ICL")
    assert torch.equal(right, wrong)

    curve = run.sweep("shots").curve("AUC")
    assert sorted(set(curve["value_of_factor"])) == [2, 3]
    assert run.sweep("label_noise", task="sst2").figure() is not None
    with pytest.raises(RunError, match=r"does not vary 'shot'.*shots"):
        run.sweep("shot")
    with pytest.raises(RunError, match="Nothing is measured"):
        run.sweep("shots", task="mr")

    more = plan.model_copy(update={"vary": {**factors, "label_noise": [0.0, 0.5, 1.0]}})
    outcome = run_plan(more, tmp_path / "varied")
    assert (outcome.found, outcome.done) == (32, 8)


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"shot": [1]}, "No factor is called 'shot'.*shots"),
        ({"lr": [0.1]}, "lr changes the rule"),
        ({"model": ["gpt2"]}, "model changes the model"),
        ({"shots": []}, "needs values"),
        ({"shots": [2, 2]}, "none of them twice"),
        ({"shots": ["many"]}, "shots takes a whole number, not 'many'"),
        ({"shots": [0]}, "shots must be 1 or more"),
        ({"label_noise": [7]}, "a share, from 0 to 1"),
        ({"neutral_text": [-1]}, "must be 0 or more"),
    ],
)
def test_factors_that_a_plan_cannot_vary_are_refused(
    vary: dict[str, Any], message: str, small: Plan
) -> None:
    with pytest.raises(PlanError, match=message):
        check_plan(small.model_copy(update={"vary": vary}))


def test_no_process_at_all_is_refused(small: Plan, tmp_path: Path) -> None:
    with pytest.raises(LensError, match="workers is 0"):
        run_plan(small, tmp_path / "run", workers=0)
    assert not (tmp_path / "run").exists()


def test_fresh_measures_again(done: Path, small: Plan, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    outcome = run_plan(small, folder, fresh=True)
    assert (outcome.done, outcome.found) == (8, 0)
    assert cells_of(folder) == cells_of(done)


# -- what is added -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(small: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "run"
    assert run_plan(small, folder).done == 8
    return folder


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What readers were asked for, in order."""
    asked: list[str] = []
    for name in ("zs", "icl", "ftzs"):
        real = getattr(Reader, name)

        def spy(reader: Any, *args: Any, name: str = name, real: Any = real) -> Any:
            asked.append(name)
            return real(reader, *args)

        monkeypatch.setattr(Reader, name, spy)
    return asked


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"hypotheses": ["gd", "lcgd"]}, {"lcgd"}),
        ({"controls": ["random"]}, {"random[gd]"}),
        ({"controls": ["shuffled"]}, {"gd@shuffled"}),
        ({"controls": ["gaussian", "oracle"]}, {"gaussian", "oracle"}),
        ({"hypotheses": {"gd": {"hypothesis": "gd", "vary": {"lr": [0.1]}}}}, {"gd(lr=0.1)"}),
    ],
    ids=["hypothesis", "random", "shuffled", "alone", "value"],
)
def test_what_is_added_is_measured_alone_and_nothing_is_read_again(
    fields: dict[str, Any], small: Plan, done: Path, tmp_path: Path, read: list[str],
    change: dict[str, Any], new: set[str],
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    base = {"tasks": ["sst2"], "permutations": [0], "controls": [], "hypotheses": ["gd"]}
    larger = parse_plan(fields | base | {"queries": 4} | change)
    before = cells_of(folder)
    outcome = run_plan(larger, folder)
    assert (outcome.found, outcome.done, outcome.failed) == (8, 2 * len(new), {})
    assert read, "interventions are read"
    # ZS once: whether what is stored is equal to the bit to what is read here.
    assert Counter(read)["zs"] == 1
    assert set(read) == {"ftzs", "zs"}
    after = cells_of(folder)
    assert {name: after[name] for name in before} == before
    run = load_run(folder)
    added = [c for c in run.cells if f"{c.facts['key']}.parquet" not in before]
    assert {cell.facts["place"]["subject"] for cell in added} == new
    run_plan(larger, tmp_path / "anew")
    assert cells_of(tmp_path / "anew") == after, "as if all had been measured at once"


def test_a_network_that_is_added_is_read_and_the_model_is_not(
    fields: dict[str, Any], done: Path, tmp_path: Path, read: list[str]
) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    base = {"tasks": ["sst2"], "permutations": [0], "hypotheses": ["gd"], "queries": 4}
    outcome = run_plan(parse_plan(fields | base | {"controls": ["permuted"]}), folder)
    assert (outcome.found, outcome.done) == (8, 8)
    # Two networks: ZS, ICL, ICL after wrong labels; gd from right and from wrong labels.
    assert Counter(read) == {"zs": 2, "icl": 4, "ftzs": 4}


def test_readouts_that_are_damaged_are_set_aside_and_read_again(
    fields: dict[str, Any], done: Path, tmp_path: Path, read: list[str]
) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    first, second = sorted((folder / "readings").iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    data = bytearray(second.read_bytes())
    data[-50] ^= 1
    second.write_bytes(bytes(data))
    base = {"tasks": ["sst2"], "permutations": [0], "controls": [], "queries": 4}
    larger = parse_plan(fields | base)
    outcome = run_plan(larger, folder)
    assert {each.name for each in outcome.quarantined} == {
        f"readings/{first.name}", f"readings/{second.name}",
    }  # fmt: skip
    assert Counter(read) == {"zs": 1, "icl": 4, "ftzs": 4}, "both settings ask the same queries"
    assert outcome.done == 2
    read.clear()
    run_plan(larger, folder, fresh=True)
    assert Counter(read)["icl"] == 4, "all anew, the settings' own readouts included"


def test_a_larger_plan_keeps_what_is_finished(small: Plan, done: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(done, tmp_path / "run"))
    larger = small.model_copy(update={"seeds": (0, 1, 2)})
    outcome = run_plan(larger, folder)
    assert (outcome.found, outcome.done) == (8, 4)
    assert len(load_run(folder).cells) == 12
    lines = StringIO()
    run_plan(small, folder, progress=Lines(lines))
    assert "4 more files in cells/ are of another plan" in lines.getvalue()
    run = load_run(folder)
    assert len(run.cells) == 8
    assert repr(run).endswith("run: 8 of 8 cells of 'tiny'>")


# -- the numbers ---------------------------------------------------------------------------------


def test_a_run_holds_what_compare_gives(
    fields: dict[str, Any], model_folder: Path, data_folder: Path, tmp_path: Path
) -> None:
    controls = ["random", "shuffled", "untrained", "oracle", "gaussian", "constant_shift"]
    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "controls": controls, "queries": 3}
        | {"hypotheses": ["gd"]}
    )
    assert not run_plan(plan, tmp_path / "run").failed
    model = load_model(model_folder)
    draws = [
        load_episode(
            "sst2", model, shots=4, queries=3, seed=seed, data=data_folder, protocol="reference"
        )
        for seed in (0, 1)
    ]
    expected = compare(
        model, draws, ["gd"], controls=controls, lr=0.05, twins=2, twin_queries=3,
        budget="published", tok2attn_queries=2, resamples=50,
    )  # fmt: skip
    ours = load_run(tmp_path / "run")
    (comparison,) = ours.comparisons.values()
    assert comparison.labels == expected.labels
    for label, scores in expected.values.items():
        mine = comparison.values[label]
        assert mine.keys() == scores.keys(), label
        for score, value in scores.items():
            same = torch.allclose(mine[score], value, rtol=1e-5, atol=1e-6, equal_nan=True)
            assert same, (label, score)
    assert torch.equal(comparison.gold, expected.gold)
    frame, other = ours.frame().drop(columns=["model", "task"]), expected.frame()
    assert list(frame) == list(other)
    assert len(frame) == len(other)
    key = ["hypothesis", "score", "layer", "head"]
    both = frame.merge(other, on=key, suffixes=("", "_other"))
    assert len(both) == len(frame)
    for name in ("value", "ci_low", "ci_high", "n", "undefined"):
        left, right = (both[n].astype(float).to_numpy() for n in (name, f"{name}_other"))
        assert np.allclose(left, right, rtol=1e-4, atol=1e-5, equal_nan=True), name
    said = [(v.hypothesis, v.score, v.control, v.verdict) for v in comparison.verdicts()]
    assert said == [(v.hypothesis, v.score, v.control, v.verdict) for v in expected.verdicts()]


def test_matched_budgets_are_chosen_once_and_recorded(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"hypothesis": "gd", "settings": {"lr": 0.2}}
    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "seeds": [1], "controls": ["untrained"]}
        | {"hypotheses": {"gd": None, "fixed": own}, "lr": "matched", "queries": 3, "twins": 1}
    )
    chosen: list[str] = []
    real = session.with_budget

    def spy(rule: Any, *args: Any, **search: Any) -> Any:
        chosen.append(rule.name)
        return real(rule, *args, **search)

    monkeypatch.setattr(session, "with_budget", spy)
    few = partial(choosing, grid=(0.01, 0.1), epochs=(1,), losses=("label",))
    monkeypatch.setattr(budget, "choosing", few)
    assert not run_plan(plan, tmp_path / "run").failed
    # On the model, which the twin's first update shares, and on the twin itself.
    assert Counter(chosen) == {"gd": 2}
    run = load_run(tmp_path / "run")
    described = {
        (p["network"], p["budget"], p["subject"]): cell.facts["described"]
        for cell in run.cells
        if (p := cell.facts["place"])
    }
    same, twin, its_own = (
        described[place]
        for place in (("trained", "", "gd"), ("untrained", "", "gd"), ("untrained", "own", "gd"))
    )
    assert same["budget"] == twin["budget"]
    assert same["budget"]["settings"]["lr"] == float(same["settings"]["lr"])
    assert same["settings"] == twin["settings"]
    assert its_own["budget"]["zs_loss"] != same["budget"]["zs_loss"], "another network's loss"
    assert "budget" not in described["trained", "", "fixed"]
    assert run.provenance["hypotheses"]["fixed"]["settings"] == {"lr": "0.2"}
    labels = set(run.frame()["hypothesis"])
    assert {"gd@untrained", "gd(budget=own)@untrained", "fixed@untrained"} <= labels
    chosen.clear()
    run_plan(plan, tmp_path / "run")
    assert not chosen
    run_plan(plan, tmp_path / "run", fresh=True)
    assert Counter(chosen) == {"gd": 2}, "anew, whatever finished cells record"


def test_a_search_of_the_plans_own_is_followed(fields: dict[str, Any], tmp_path: Path) -> None:
    search = {"grid": [0.1, 0.3], "epochs": [1], "losses": ["label"], "folds": 1, "left_out": 0.5}
    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "seeds": [1], "controls": []}
        | {"hypotheses": {"gd": None}, "lr": "matched", "search": search, "queries": 3}
    )
    assert parse_plan(plan.as_dict()) == plan
    assert not run_plan(plan, tmp_path / "run").failed
    cells = load_run(tmp_path / "run").cells
    budget = next(
        cell.facts["described"]["budget"] for cell in cells
        if cell.facts["place"]["subject"] == "gd"
    )  # fmt: skip
    assert budget["left_out"] == plan.shots // 2
    assert {each["epochs"] for each in budget["tried"]} == {1}
    assert {each["loss_on"] for each in budget["tried"]} == {"label"}
    assert {0.1, 0.3} <= {each["lr"] for each in budget["tried"]}


def test_a_budget_that_a_finished_cell_records_is_not_sought_again(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twin's cell may be measured in another process, or after a run was cut off."""
    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "seeds": [1], "queries": 3, "twins": 1}
        | {"controls": ["untrained", "random"], "hypotheses": {"gd": None}, "lr": "matched"}
    )
    few = partial(choosing, grid=(0.01, 0.1), epochs=(1,), losses=("label",))
    monkeypatch.setattr(budget, "choosing", few)
    assert not run_plan(plan, tmp_path / "run").failed
    cells = {
        (each.setting.network, each.budget, str(each.subject)): each for each in list_cells(plan)
    }
    again = [cells["untrained", "", "gd"], cells["trained", "", "random[gd]"]]
    files = [tmp_path / "run" / "cells" / f"{each.key}.parquet" for each in again]
    before = [decode(file.read_bytes(), file.stem) for file in files]
    for file in files:
        file.unlink()

    def never(*_: Any) -> None:
        raise AssertionError("a search began")

    monkeypatch.setattr(session, "with_budget", never)
    assert run_plan(plan, tmp_path / "run").done == 2
    for file, old in zip(files, before, strict=True):
        new = decode(file.read_bytes(), file.stem)
        assert new.facts["described"].get("budget") == old.facts["described"].get("budget")
        for score, values in old.values.items():
            np.testing.assert_array_equal(new.values[score], values)
    (tmp_path / "run" / "cells" / f"{cells['trained', '', 'gd'].key}.parquet").unlink()
    files[0].unlink()
    assert run_plan(plan, tmp_path / "run").failed  # nothing records it now: it is sought


def test_nothing_is_computed_twice(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: list[str]
) -> None:
    made: list[int] = []
    real = nulls.untrained_twin

    def untrained_twin(host: Any, seed: int = 0) -> Any:
        made.append(seed)
        return real(host, seed)

    monkeypatch.setattr(nulls, "untrained_twin", untrained_twin)
    run_plan(plan.model_copy(update={"controls": ("untrained",)}), tmp_path / "run")
    assert made == [0, 1]
    # ZS once for the model's four draws and once for each network; ICL, right and wrong, for all.
    # gd from right and wrong labels in each.
    assert Counter(read) == {"zs": 3, "icl": 12, "ftzs": 12}


def test_zs_is_read_once_for_each_set_of_evaluation_rows(
    small: Plan, data_folder: Path, tmp_path: Path, read: list[str]
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
    first, second, third = settings_of(list_cells(plan))
    assert first.reading == third.reading != second.reading
    assert run_plan(plan, tmp_path / "run").done == 12
    assert read.count("zs") == 2


# -- failures ------------------------------------------------------------------------------------


def failing(fields: dict[str, Any], *hypotheses: str, **changes: Any) -> Plan:
    base = {"tasks": ["sst2"], "permutations": [0], "seeds": [0], "queries": 3}
    return parse_plan(fields | base | {"hypotheses": list(hypotheses)} | changes)


def test_a_hypothesis_that_raises_costs_its_own_cells_alone(
    fields: dict[str, Any], plugins: None, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"  # no value that the hypothesis would be known by
    broken.touch()

    @hypothesis("shaky")
    def shaky(model: Any, episode: Any, *, lr: float = 0.1) -> Intervention:
        if broken.exists():
            raise IndexError("my bug")
        return get_hypothesis("gd").build(model, episode, lr=lr)

    plan = failing(fields, "gd", "shaky", twins=1)
    outcome = run_plan(plan, tmp_path / "run")
    assert (outcome.exit_code, len(outcome.failed)) == (103, 3)
    (reason,) = set(outcome.failed.values())
    assert reason.startswith("shaky raised IndexError: my bug (test_run.py:")
    assert set(outcome.places.values()) == {
        "tiny, sst2, seed 0, order 0: shaky",
        "tiny, sst2, seed 0, order 0: random[shaky]",
        "tiny, sst2, seed 0, order 0, untrained 0: shaky",
    }
    run = load_run(tmp_path / "run")
    frame = run.frame().query("score == 'SimAOU' and level == 'all'").set_index("hypothesis")
    assert np.isfinite(frame.loc["gd", "value"])
    assert np.isnan(frame.loc["shaky", "value"])
    assert frame.loc["shaky", "undefined"] == 3
    assert set(run.failures["subject"]) == {"shaky", "random[shaky]"}
    assert len(run.cells) == outcome.cells, "what failed has its place in every table"
    said = {(v.hypothesis, v.verdict) for c in run.comparisons.values() for v in c.verdicts()}
    assert ("shaky", "yes") not in said

    again = run_plan(plan, tmp_path / "run")
    assert (again.done, len(again.failed)) == (0, 3), "a failure is not tried again unasked"
    broken.unlink()
    outcome = run_plan(plan, tmp_path / "run", retry_failed=True)
    assert (outcome.done, outcome.failed) == (3, {})
    assert load_run(tmp_path / "run").failures.empty


def test_a_failure_stays_one_when_its_record_is_lost(
    fields: dict[str, Any], plugins: None, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"  # no value that the hypothesis would be known by
    broken.touch()

    @hypothesis("shaky")
    def shaky(model: Any, episode: Any) -> Intervention:
        if broken.exists():
            raise DivergedError("shaky diverged")
        return get_hypothesis("gd").build(model, episode, lr=0.1)

    plan = failing(fields, "shaky", controls=[])
    run_plan(plan, tmp_path / "run")
    (record,) = (tmp_path / "run/failed").iterdir()
    key, text = record.stem, record.read_text()

    def check() -> None:
        outcome = run_plan(plan, tmp_path / "run")
        assert (outcome.failed, outcome.exit_code) == ({key: "shaky diverged"}, 101)
        assert outcome.done == 0
        failures = load_run(tmp_path / "run").failures
        assert failures["reason"].tolist() == ["shaky diverged"]

    check()
    record.unlink()
    check()
    for damage in ("", "{}", text[:-5], text.replace("diverged", "converged")):
        record.write_text(damage)
        check()
    broken.unlink()
    outcome = run_plan(plan, tmp_path / "run", retry_failed=True)
    assert (outcome.done, outcome.failed, outcome.exit_code) == (1, {}, 0)


@pytest.mark.parametrize("built", [False, True])
def test_a_budget_that_could_not_be_chosen_is_sought_again(
    fields: dict[str, Any], plugins: None, tmp_path: Path, built: bool
) -> None:
    """Whether the rule itself failed, too, or was measured at its defaults."""
    # A file, and no variable of the hypothesis, which would be part of what it is known by.
    broken = tmp_path / "broken"
    broken.touch()

    @hypothesis("shaky")
    def shaky(model: Any, episode: Any, *, lr: float = 0.125) -> Intervention:
        if broken.exists() and not (built and lr == 0.125):
            raise DivergedError("shaky diverged")
        return get_hypothesis("gd").build(model, episode, lr=lr)

    plan = failing(
        fields, "shaky", controls=["random", "untrained"], lr="matched", search={"grid": [0.5]}
    )

    def budgets() -> list[tuple[str, dict[str, Any]]]:
        cells = load_run(tmp_path / "run").cells
        each = ((cell.facts["place"]["subject"], cell.facts["described"]) for cell in cells)
        return [(name, facts["budget"]) for name, facts in each if "shaky" in name]

    first = run_plan(plan, tmp_path / "run")
    assert len(first.failed) == (0 if built else 6), "beside a control, two twins at two budgets"
    assert all("problem" in facts for _, facts in budgets())
    assert run_plan(plan, tmp_path / "run").done == 0, "not sought unasked"
    broken.unlink()
    again = run_plan(plan, tmp_path / "run", retry_failed=True)
    assert (again.done, again.found, again.failed) == (6, first.cells - 6, {})
    found = budgets()
    assert len(found) == 6
    assert all("problem" not in facts and facts["settings"]["lr"] != 0.125 for _, facts in found)
    assert run_plan(plan, tmp_path / "run", retry_failed=True).done == 0


@pytest.mark.parametrize("given", [None, 3])
def test_a_hypothesis_that_returns_nothing_usable(
    fields: dict[str, Any], plugins: None, tmp_path: Path, given: Any
) -> None:
    @hypothesis("useless")
    def useless(model: Any, episode: Any) -> Any:
        return given

    outcome = run_plan(failing(fields, "useless", controls=[]), tmp_path / "run")
    assert "not an Intervention" in next(iter(outcome.failed.values()))


@pytest.mark.parametrize("lr", [0.05, "matched"])
def test_what_fails_late_costs_nothing_else(
    fields: dict[str, Any], plugins: None, tmp_path: Path, lr: Any
) -> None:
    class Late(Intervention):
        def hooks(self, host: Any, batch: Any) -> Any:
            def hook(activation: Any, hook: Any) -> Any:
                raise KeyError("in the forward pass")

            return [(host.sites["blocks.0.attn.W_V"].output_hook, hook)]

    @hypothesis("late")
    def late(model: Any, episode: Any, *, lr: float = 0.1) -> Intervention:
        return Late()

    plan = failing(fields, "late", "zero", controls=["oracle"], lr=lr)
    outcome = run_plan(plan, tmp_path / "run")
    assert set(outcome.places.values()) == {"tiny, sst2, seed 0, order 0: late"}
    assert "in the forward pass" in next(iter(outcome.failed.values()))
    frame = load_run(tmp_path / "run").frame().set_index(["hypothesis", "score", "level"])
    assert np.isnan(frame.loc[("late", "SimAOU", "all"), "value"])
    assert frame.loc[("oracle", "SimAOU", "all"), "value"] == pytest.approx(1)


def test_divergence_is_a_failure_that_costs_nothing_else(
    fields: dict[str, Any], plugins: None, tmp_path: Path
) -> None:
    @hypothesis("wild")
    def wild(model: Any, episode: Any) -> Intervention:
        raise DivergedError("wild diverged: the loss of step 2 is not finite")

    lines = StringIO()
    plan = failing(fields, "wild", controls=["oracle"], seeds=[0, 1])
    outcome = run_plan(plan, tmp_path / "run", progress=Lines(lines))
    assert (outcome.done, outcome.exit_code) == (8, 102)
    line = "failed: tiny, sst2, seed 0, order 0: wild: wild diverged: the loss"
    assert line in lines.getvalue()
    run = load_run(tmp_path / "run")
    failures = run.failures
    assert failures["subject"].tolist() == ["wild", "wild"]
    assert failures["reason"].str.contains("step 2 is not finite").all()
    frame = run.frame().query("score == 'SimAOU' and level == 'all'").set_index("hypothesis")
    assert np.isnan(frame.loc["wild", "value"])
    assert frame.loc["wild", "n"] == 0
    assert frame.loc["oracle", "value"] == pytest.approx(1)


def test_non_finite_weights_are_named_not_averaged(
    fields: dict[str, Any], plugins: None, tmp_path: Path
) -> None:
    @hypothesis("nan")
    def nan(model: Any, episode: Any) -> Intervention:
        site = model.site("blocks.1.attn.W_V")
        return ParameterDelta({site.weight: torch.full(site.shape, torch.nan)})

    run_plan(failing(fields, "nan", controls=[]), tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert "not finite" in run.failures["reason"][0]
    frame = run.frame()
    value = frame.query("score == 'SimAOU' and layer == 2 and level == 'layer'")
    assert value["n"].tolist() == [0]
    assert value["undefined"].tolist() == [3]
    assert frame.query("score == 'accuracy' and hypothesis == 'nan'")["n"].tolist() == [0]


def test_a_setting_that_cannot_be_measured_is_recorded_and_the_rest_goes_on(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    # subj's label words are not in the tokenizer; cb has no rows.
    plan = failing(fields, "gd", controls=[], tasks=["cb", "subj", "sst2"])
    outcome = run_plan(plan, tmp_path / "run")
    assert (outcome.done, outcome.exit_code) == (4, 108)
    failures = load_run(tmp_path / "run").failures.set_index(["task", "subject"])
    assert set(failures.index) == {
        (task, name) for task in ("cb", "subj") for name in ("ZS", "ICL", "ICL_shuffled", "gd")
    }
    assert "No rows of task 'cb'" in failures.loc[("cb", "gd"), "reason"]
    assert "same tokens" in failures.loc[("subj", "gd"), "reason"]
    again = run_plan(plan, tmp_path / "run")
    assert (again.done, again.found, again.exit_code) == (0, 4, 108)
    retried = run_plan(plan, tmp_path / "run", retry_failed=True)
    assert (retried.done, retried.found, retried.exit_code) == (0, 4, 108)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_rows_that_change_during_a_run_are_not_measured_under_the_key_of_the_former(
    small: Plan, data_folder: Path, tmp_path: Path, split: str
) -> None:
    rows = shutil.copytree(data_folder, tmp_path / "rows")
    plan = small.model_copy(update={"data": str(rows)})
    cells = list_cells(plan)[:4]
    path = rows / "sst2" / f"{split}.jsonl"
    path.write_text(path.read_text().replace('"w', '"w1 w'), encoding="utf-8")
    outcomes = [outcome for _, outcome in Workbench(plan, Store(tmp_path / "run")).do(cells)]
    assert {outcome.state for outcome in outcomes} == {"failed"}
    assert all("the rows changed" in outcome.reason for outcome in outcomes)
    assert cells_of(tmp_path / "run") == {}


def test_out_of_memory_leaves_no_numbers_and_can_be_retried(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("tried to allocate 80 GB")

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", full)
        outcome = run_plan(small, tmp_path / "run")
    assert (outcome.done, len(outcome.failed)) == (6, 2), "what needs less memory is measured"
    assert set(outcome.failed.values()) == {"out of memory: tried to allocate 80 GB"}
    assert len(cells_of(tmp_path / "run")) == 6
    assert run_plan(small, tmp_path / "run", retry_failed=True).done == 2


def test_a_keyboard_interrupt_stops_the_run_and_loses_nothing(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Job, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_plan(small, tmp_path / "run")
    outcome = run_plan(small, tmp_path / "run")
    assert (outcome.found, outcome.done) == (3, 5)


def test_a_plan_that_cannot_run_leaves_nothing_behind(small: Plan, tmp_path: Path) -> None:
    wrong = small.model_copy(update={"tasks": ("sst3",)})
    with pytest.raises(PlanError, match="sst3"):
        run_plan(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(RunError, match=r"engine 'rai' is none of local, ray\. Did you mean 'ray'"):
        run_plan(small, tmp_path / "run", engine="rai")
    with pytest.raises(PlanError, match="The module 'no_such_module' cannot be imported"):
        run_plan(small, tmp_path / "run", imports=["no_such_module"])


def test_exit_codes_stay_clear_of_the_shells() -> None:
    def code(failed: int) -> int:
        reasons = {str(index): "why" for index in range(failed)}
        return Outcome("run", 99, 0, 0, reasons, {}, (), 1.0).exit_code

    assert [code(0), code(1), code(25), code(300)] == [0, 101, 125, 125]


# -- progress ------------------------------------------------------------------------------------


def test_progress_in_plain_lines(small: Plan, tmp_path: Path) -> None:
    lines = StringIO()
    run_plan(small, tmp_path / "run", progress=Lines(lines))
    text = lines.getvalue()
    assert "8/8 cells" in text
    assert "left" in text
    assert "\x1b" not in text


def test_progress_on_a_terminal(small: Plan, tmp_path: Path) -> None:
    with Live() as live:
        outcome = run_plan(small, tmp_path / "run", progress=live)
        live.advance(
            list_cells(small)[0],
            replace(_failed(), reason="[bold]no markup"),
        )
    assert (live.done, live.failed) == (8, 1)
    assert outcome.done == 8


def _failed() -> Any:
    from iclgd_lens.bench.workbench import CellOutcome

    return CellOutcome("0" * 32, "failed", 1.0)


def test_the_time_left_is_what_cells_took_not_when_copies_handed_them_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [0.0]
    monkeypatch.setattr("iclgd_lens.bench.progress.time.monotonic", lambda: now[0])
    counter = Silent()
    counter.begin(400, 0)
    done = replace(_failed(), state="done", seconds=2.0)
    now[0] = 100.0  # two copies hand over a setting of 50 cells each, at once
    counter.count(done)
    assert counter.summary == "1/400 cells"  # ZS, say: nothing is known of the others
    for _ in range(99):
        counter.count(done)
    # 200 s of work in 100 s: 300 cells of 2 s, two at a time.
    assert counter.summary == "100/400 cells, 1/s, 5 min 0 s left"
    found = replace(_failed(), state="found", seconds=0.0)
    quick = Silent()
    quick.begin(4, 0)
    quick.count(found)
    assert quick.summary.startswith("1/4 cells, ")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (67.0, "1 min 7 s"), (7500.0, "2 h 5 min")]
)
def test_durations_in_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
