"""Runs that would have said something else than was measured: labels, controls, disks, stores."""

from __future__ import annotations

import errno
import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from iclgd_lens.bench.cells import list_cells
from iclgd_lens.bench.digests import function_digest
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.plan_check import check_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.bench.run_tables import load_run
from iclgd_lens.bench.store import Store
from iclgd_lens.bench.workbench import Workbench
from iclgd_lens.errors import PlanError, RunError
from iclgd_lens.readout.reader import Reader
from tests.bench.conftest import cells_of

# -- labels ----------------------------------------------------------------------------------------


def labelled(fields: dict[str, Any], *labels: str, **changes: Any) -> Plan:
    model = fields["models"][0]
    few = {"tasks": ["sst2"], "permutations": [0], "controls": [], "hypotheses": ["gd"]}
    models = [{"name": model, "label": label} for label in labels]
    return parse_plan(fields | few | {"queries": 4, "models": models} | changes)


def test_a_run_goes_by_the_labels_of_its_plan_whatever_its_files_hold(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    run_plan(labelled(fields, "old"), tmp_path / "run")
    run_plan(labelled(fields, "new", hypotheses=["gd", "lcgd"]), tmp_path / "run")
    (comparison,) = load_run(tmp_path / "run").comparisons.items()
    assert comparison[0] == ("new", "sst2")
    assert {"ZS", "ICL", "gd", "lcgd"} <= set(comparison[1].labels)


def test_one_model_under_two_labels_is_shown_under_both(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    run_plan(labelled(fields, "a", "b"), tmp_path / "run")
    found = load_run(tmp_path / "run").comparisons
    assert list(found) == [("a", "sst2"), ("b", "sst2")]
    a, b = (each.tensor("SimAOU", "gd") for each in found.values())
    assert torch.equal(a, b)


def test_variants_whose_labels_are_one_are_refused(fields: dict[str, Any]) -> None:
    vary = {"gd": {"hypothesis": "gd", "vary": {"lr": [0.1234567, 0.1234569]}}}
    with pytest.raises(PlanError, match="two variants are both labelled gd"):
        check_plan(labelled(fields, "a", hypotheses=vary))


# -- controls --------------------------------------------------------------------------------------


def test_controls_of_one_hypothesis_alone_are_measured(fields: dict[str, Any]) -> None:
    own = {"hypothesis": "gd", "controls": ["untrained", "oracle", "random"]}
    plan = labelled(
        fields, "a", hypotheses={"gd": own, "lcgd": {"hypothesis": "lcgd"}}, controls=["shuffled"]
    )
    found = {(cell.setting.network, str(cell.subject)) for cell in list_cells(plan)}
    assert {("untrained", "gd"), ("trained", "oracle"), ("trained", "random[gd]")} <= found
    assert ("untrained", "lcgd") not in found
    assert ("trained", "lcgd@shuffled") in found


# -- disks and stores ------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 4])
def test_a_full_disk_ends_the_run_and_is_no_failure_of_a_cell(
    at: int, small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, real = [0], Store.save

    def save(store: Store, *given: Any) -> Any:
        count[0] += 1
        if count[0] == at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(store, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "save", save)
        with pytest.raises(RunError, match=r"results cannot be written: .*No space left"):
            run_plan(small, tmp_path / "run")
    again = run_plan(small, tmp_path / "run")
    assert (again.found, again.done, again.failed) == (at - 1, 8 - at + 1, {})


def test_fresh_reads_the_models_own_passes_anew(
    small: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_plan(small, tmp_path / "run")
    count, real = [0], Reader.icl

    def icl(reader: Reader) -> Any:
        count[0] += 1
        return real(reader)

    monkeypatch.setattr(Reader, "icl", icl)
    run_plan(small, tmp_path / "run", fresh=True)
    assert count[0] == 4, "two settings, each after right and after wrong labels"


def test_a_model_that_changes_during_a_run_is_not_measured_under_the_key_of_the_former(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(fields["models"][0], tmp_path / "model"))
    plan = parse_plan(fields | {"models": [str(folder)], "tasks": ["sst2"], "controls": []})
    cells = list_cells(plan)[:4]
    (weights,) = folder.glob("*.safetensors")
    tensors = {name: value.clone() for name, value in load_file(weights).items()}
    next(iter(tensors.values())).add_(1)
    save_file(tensors, weights, metadata={"format": "pt"})
    outcomes = [outcome for _, outcome in Workbench(plan, Store(tmp_path / "run")).do(cells)]
    assert all("changed after this run began" in outcome.reason for outcome in outcomes)
    assert cells_of(tmp_path / "run") == {}


@pytest.mark.parametrize("alike", [True, False])
def test_stored_readouts_of_other_passes_are_not_taken_to_be_equal_to_the_bit(
    alike: bool, fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they were read otherwise, an update of nothing has no direction all the same."""
    plan = labelled(fields, "a")
    with monkeypatch.context() as patch:
        if not alike:
            patch.setattr("iclgd_lens.readout.reader.PASS_TOKENS", {"cpu": 0})
            patch.setattr("iclgd_lens.readout.reader.READ_TOKENS_AT_ONCE", {"cpu": 1})
        run_plan(plan, tmp_path / "run")
    more = labelled(fields, "a", hypotheses=["gd", "zero"])
    run_plan(more, tmp_path / "run")
    (comparison,) = load_run(tmp_path / "run").comparisons.values()
    assert comparison.tensor("SimAOU", "zero").isnan().all()


# -- somebody's own code ---------------------------------------------------------------------------


SOURCE = """
SCALE = {scale}

def helper(x):
    "{text}"
    return {factor} * x

def rule(host, episode):
    return helper(SCALE)
"""


def module(folder: Path, name: str, **values: Any) -> Any:
    import importlib.util

    path = folder / f"{name}.py"
    path.write_text(SOURCE.format(**{"scale": 1.0, "factor": 2, "text": "one"} | values))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.mark.parametrize(
    ("values", "same"),
    [({"scale": -5.0}, False), ({"factor": 3}, False), ({"text": "other"}, True), ({}, True)],
)
def test_what_a_function_calls_and_names_counts(
    values: dict[str, Any], same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    digests: list[str] = []
    for given in ({}, values):
        made = module(tmp_path, "somebodys", **given)
        monkeypatch.setitem(sys.modules, "somebodys", made)
        digests.append(function_digest(made.rule))
    assert (digests[0] == digests[1]) == same


def test_arguments_of_a_partial_function_and_what_an_object_holds_count() -> None:
    def rule(host: Any, episode: Any, *, lr: float = 0.1) -> None: ...

    class Rule:
        def __init__(self, sign: int) -> None:
            self.sign, self.other = sign, object()

        def __call__(self, host: Any, episode: Any) -> None: ...

    partials = [function_digest(functools.partial(rule, lr=lr)) for lr in (0.1, 5.0, 0.1)]
    objects = [function_digest(Rule(sign)) for sign in (1, -1, 1)]
    for first, second, again in (partials, objects):
        assert first != second
        assert first == again


def test_a_function_of_a_notebook_is_known_by_what_it_names_there() -> None:
    digests: list[str] = []
    for scale, factor in ((1.0, 2), (-5.0, 2), (1.0, 3), (1.0, 2)):
        there: dict[str, Any] = {"__name__": "a_notebook"}
        exec(compile(SOURCE.format(scale=scale, factor=factor, text=""), "<cell>", "exec"), there)
        digests.append(function_digest(there["rule"]))
    assert digests[0] == digests[3]
    assert len(set(digests)) == 3
