"""A real local Ray cluster of several worker processes, one of which is killed at work."""

from __future__ import annotations

import sys
from collections import deque
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.bench import ray_engine
from iclgd_lens.bench.cells import list_cells
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.progress import Lines
from iclgd_lens.bench.run import RayOptions, run_plan
from iclgd_lens.bench.run_tables import load_run
from iclgd_lens.bench.workbench import by_setting
from iclgd_lens.errors import RunError
from tests.bench.conftest import cells_of

ray = pytest.importorskip("ray", reason="the ray extra is not installed")
pytestmark = [pytest.mark.ray, pytest.mark.slow]

PLUGIN = '''
import os, signal
from pathlib import Path
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.registry import hypothesis

@hypothesis("fragile", replace=True)
def fragile(model, episode, *, lr=None):
    """The first process that gets here dies as if the kernel had ended it."""
    place = Path(__file__).parent
    try:
        (place / "killed").touch(exist_ok=False)
    except FileExistsError:
        if (place / "deadly").exists() and len(episode.demonstrations) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return gd(model, episode, lr=lr)
    os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture(scope="module")
def cluster() -> Any:
    """Two workers' worth of this machine, for all tests of this file."""
    # The GPU is one in the cluster's books alone, which is what fractions are taken of.
    ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    yield
    ray.shutdown()


def test_a_killed_worker_is_replaced_and_the_numbers_are_the_local_engines(
    fields: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: None,
    plugins: None,
) -> None:
    (tmp_path / "fragile_plugin.py").write_text(PLUGIN, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    settings = fields | {"tasks": ["sst2"], "hypotheses": ["fragile"], "controls": ["random"]}
    settings |= {"permutations": [0], "queries": 3}
    plan, lines = parse_plan(settings), StringIO()
    try:
        outcome = run_plan(
            plan,
            tmp_path / "ray",
            engine="ray",
            ray=RayOptions(workers=2),
            imports=["fragile_plugin"],
            progress=Lines(lines),
        )
        assert (tmp_path / "killed").exists()
        assert "a worker died at tiny" in lines.getvalue()
        # What the dead worker had written of its setting is found.
        assert (outcome.done + outcome.found, outcome.failed) == (10, {})
        run_plan(plan, tmp_path / "local", imports=["fragile_plugin"])
        assert cells_of(tmp_path / "ray") == cells_of(tmp_path / "local")
        assert len(load_run(tmp_path / "ray").cells) == 10
        resumed = run_plan(plan, tmp_path / "ray", engine="ray", imports=["fragile_plugin"])
        assert (resumed.found, resumed.done) == (10, 0)

        # A setting that kills every worker is given up; the others are measured.
        (tmp_path / "deadly").touch()
        monkeypatch.setattr(ray_engine, "DEATHS", 1)
        deadly = parse_plan(settings | {"shots": 3, "seeds": [0]})
        outcome = run_plan(
            deadly, tmp_path / "deadly_run", engine="ray", ray=RayOptions(workers=1),
            imports=["fragile_plugin"],
        )  # fmt: skip
        # What was measured before its death is kept.
        assert set(outcome.places.values()) == {
            f"tiny, sst2, seed 0, order 0: {label}" for label in ("fragile", "random[fragile]")
        }
        assert all("1 workers died of it" in reason for reason in outcome.failed.values())
        assert outcome.exit_code == 102
    finally:
        sys.modules.pop("fragile_plugin", None)


def test_workers_that_do_not_fit_the_cluster(
    fields: dict[str, Any], tmp_path: Path, cluster: None
) -> None:
    plan = parse_plan(fields | {"tasks": ["sst2"], "controls": []})
    with pytest.raises(RunError, match=r"each takes 1 CPUs and 1\.5 GPUs, and the cluster has 2"):
        run_plan(plan, tmp_path / "run", engine="ray", ray=RayOptions(gpus=1.5))


def test_workers_share_a_gpu(fields: dict[str, Any], tmp_path: Path, cluster: None) -> None:
    fewer = {"seeds": [0], "permutations": [0], "hypotheses": ["gd"], "controls": []}
    plan, lines = parse_plan(fields | fewer), StringIO()
    outcome = run_plan(
        plan, tmp_path / "run", engine="ray", ray=RayOptions(gpus=0.5), progress=Lines(lines)
    )
    assert "Ray: 2 workers" in lines.getvalue()
    assert outcome.done == 8


def test_a_worker_takes_what_it_holds_and_leaves_others_their_readouts(
    fields: dict[str, Any],
) -> None:
    groups = by_setting(list_cells(parse_plan(fields)))  # of each task four draws, two networks
    waiting = deque(groups)
    first = ray_engine._next(waiting, None, [])[0].setting
    second = ray_engine._next(waiting, None, [first])[0].setting
    assert (first.task, first.network, second.task, second.network) == (
        "sst2", "trained", "sst2", "untrained",
    )  # fmt: skip
    third = ray_engine._next(waiting, second, [first])[0].setting
    assert third.reading not in (first.reading, second.reading), "it leaves others their readouts"
    assert ray_engine._next(waiting, first, [second, third])[0].setting.reading == first.reading
    left = deque([group for group in waiting if group[0].setting.reading == first.reading])
    assert ray_engine._next(left, second, [first])[0].setting.reading == first.reading, "no idling"


@pytest.mark.parametrize(("given", "joined"), [(None, "local"), ("auto", "auto")])
def test_a_cluster_that_nobody_named_is_not_joined(given: str | None, joined: str) -> None:
    class Cluster:
        asked: dict[str, Any]

        def is_initialized(self) -> bool:
            return False

        def init(self, **settings: Any) -> None:
            self.asked = settings

    started = Cluster()
    assert ray_engine._connect(started, RayOptions(address=given))
    assert started.asked["address"] == joined  # None would join any cluster of this machine
