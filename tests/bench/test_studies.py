"""Studies of a run: made once, kept whole, drawn without torch; and the tables of its figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import iclgd_lens as lens
from iclgd_lens.bench.cells import list_cells
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.plan_check import check_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.bench.studies import list_studies
from iclgd_lens.errors import PlanError

PLAN: dict[str, Any] = {
    "name": "studied", "models": ["embedded"], "tasks": ["sst2"], "data": "embedded", "shots": 4,
    "queries": 6, "seeds": [0, 1], "lr": 0.3, "tok2attn_queries": 0, "twins": 1,
    "controls": ["random", "shuffled", "untrained"],
    "hypotheses": ["lcgd", {"wide": {"hypothesis": "lcgd", "vary": {"epochs": [1, 2]}}}],
    "studies": {"hypotheses": ["lcgd"], "mediation": True},
}  # fmt: skip


def plan(**changes: Any) -> Plan:
    return parse_plan({**PLAN, **changes})


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studied") / "run"
    assert run_plan(plan(), out).exit_code == 0
    return out


def test_every_study_is_there_and_says_what_its_function_says(where: Path) -> None:
    run = lens.load_run(where)
    assert not run.missing
    assert not run.failed
    # Mediation is `mediate` on the plan's draws.
    model = lens.load_model("embedded")
    episodes = [lens.load_episode("sst2", model, shots=4, queries=6, seed=s) for s in (0, 1)]
    own = lens.mediate(model, episodes, ["lcgd"], lr=0.3)
    (found,) = run.mediations.values()
    assert np.allclose(found.map("necessity").value, own.map("necessity").value, equal_nan=True)
    kept = [each.map("kept", "lcgd").value for each in (found, own)]
    assert np.allclose(*kept, atol=1e-5, equal_nan=True)
    assert set(run.mediation()["hypothesis"]) == {"ICL", "lcgd", "lcgd@shuffled", "random[lcgd]"}
    assert run.head_sets().groupby("hypothesis")["value"].last()["ICL"] == pytest.approx(
        1, abs=0.01
    )
    assert "heads" in run.agreement()["sentence"].iloc[0]
    # The trajectory is that of `compare`, on the first draw, with its twin.
    path = run.trajectory()
    assert set(path["hypothesis"]) == {"lcgd", "lcgd@shuffled", "lcgd@untrained"} | (
        set(path["hypothesis"]) & {"lcgd@shuffled@untrained"}
    )
    first = path[(path["hypothesis"] == "lcgd") & (path["score"] == "KL_removed")]
    assert first["passes"].tolist() == [1, 2, 4, 8, 16]
    assert set(first["draw"]) == {0}
    cell = run.frame()
    one = cell[(cell["hypothesis"] == "lcgd") & (cell["score"] == "KL_removed")]["value"]
    assert np.isfinite(one).all()
    assert run.attention().groupby("setting")["weight"].sum().to_numpy() == pytest.approx(1)


def test_tables_of_figures_come_from_the_cells(where: Path) -> None:
    run = lens.load_run(where)
    (comparison,) = run.comparisons.values()
    nulls = run.nulls()
    own = nulls[(nulls["control"] == "random[lcgd]") & (nulls["score"] == "SimAOU")]["value"]
    assert own.tolist() == comparison.data.per_unit("SimAOU", "random[lcgd]").tolist()
    norms = run.norms()
    assert len(norms[norms["hypothesis"] == "lcgd"]) == 6
    assert (norms[["icl_norm", "ft_norm"]] > 0).all(axis=None)
    along = run.factors()
    assert set(along["factor"]) == {"epochs of wide"}
    assert set(along["value_of_factor"]) == {1, 2}
    assert {"ICL", "ZS", "wide", "wide@untrained"} <= set(along["hypothesis"])
    wide = along[(along["hypothesis"] == "wide") & (along["score"] == "AUC")].set_index(
        "value_of_factor"
    )["value"]
    frame = run.frame()
    for epochs in (1, 2):
        line = frame[(frame["hypothesis"] == f"wide(epochs={epochs})") & (frame["score"] == "AUC")]
        assert wide[epochs] == line["value"].iloc[0]


def test_studies_are_made_once_and_mended_where_they_are_damaged(where: Path) -> None:
    files = sorted((where / "studies").iterdir())
    before = {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}
    assert len(files) == 3
    run_plan(plan(), where)
    assert {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files} == before
    files[0].write_bytes(files[0].read_bytes()[:-4])
    run = lens.load_run(where)
    assert [each["reason"].startswith("damaged file") for each in run.failed] == [True]
    said = run_plan(plan(), where)
    assert len(said.quarantined) == 1
    assert files[0].read_bytes() == before[files[0]][1]


def test_another_hypothesis_is_studied_without_the_cells_of_the_first(where: Path) -> None:
    cells = list_cells(plan())
    keys = [study.key for study in list_studies(plan(), cells)]
    again = plan(studies={"hypotheses": ["lcgd"], "trajectory": False})
    assert [study.key for study in list_studies(again, cells)] == [keys[1]]
    other = plan(lr=0.1)
    assert not set(keys) & {study.key for study in list_studies(other, list_cells(other))}


def test_the_report_of_studies_needs_no_torch(where: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from iclgd_lens.report import write_report;"
        f"write_report({str(where)!r}, {str(tmp_path / 'report')!r});"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    sections = ("trajectory", "nulls", "norms", "attention", "factors", "mediation", "head_sets")
    assert all(f'id="{name}-section"' in page for name in sections)


@pytest.mark.parametrize(
    ("studies", "said"),
    [
        ({"hypotheses": ["lcdg"]}, r"no hypothesis 'lcdg'.*Did you mean 'lcgd'"),
        ({"hypotheses": ["wide"]}, "'wide' is gone through several values"),
    ],
)
def test_what_cannot_be_studied_is_refused_before_anything_runs(studies: Any, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        check_plan(plan(studies=studies))


def test_unknown_keys_and_empty_lists_of_studies_are_refused() -> None:
    with pytest.raises(PlanError, match=r"mediaton.*mediation"):
        plan(studies={"hypotheses": ["lcgd"], "mediaton": True})
    with pytest.raises(PlanError, match="studies"):
        plan(studies={"hypotheses": []})


def test_a_study_that_fails_says_why_and_spoils_no_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> Any:
        raise ValueError("no such thing")

    monkeypatch.setattr("iclgd_lens.bench.studies.readout_attention", broken)
    small = plan(
        controls=[], hypotheses=["lcgd"], seeds=[0],
        studies={"hypotheses": ["lcgd"], "trajectory": False},
    )  # fmt: skip
    out = run_plan(small, tmp_path / "run")
    assert out.exit_code == 101
    assert list(out.failed.values()) == ["ValueError: no such thing"]
    assert list(out.places.values()) == ["embedded, sst2: attention"]
    run = lens.load_run(tmp_path / "run")
    assert [each["subject"] for each in run.failed] == ["attention"]
    assert run.attention().empty
    monkeypatch.undo()
    assert run_plan(small, tmp_path / "run").exit_code == 101  # as a cell that failed before
    assert run_plan(small, tmp_path / "run", retry_failed=True).exit_code == 0
    assert len(lens.load_run(tmp_path / "run").attention())
