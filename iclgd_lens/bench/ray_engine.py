"""Settings on a Ray cluster: each actor holds a loaded model, the driver deals the settings.

An actor writes its results through the store itself, so only names and seconds travel. The run
directory must therefore be one that every machine sees: a shared file system, or a URL for fsspec.
A setting whose worker dies goes to a new worker; the third death is recorded as the failure of its
cells.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclgd_lens.bench.cells import Cell
from iclgd_lens.bench.plan import Plan
from iclgd_lens.bench.plan_entries import Setting
from iclgd_lens.bench.progress import Progress
from iclgd_lens.bench.store import Store
from iclgd_lens.bench.workbench import CellOutcome, Workbench, by_setting, import_modules
from iclgd_lens.errors import RunError

if TYPE_CHECKING:
    from iclgd_lens.bench.run import Engine, RayOptions

DEATHS = 3
"""Workers that may die of one setting before its cells count as failed."""


def ray_engine(options: RayOptions, imports: Sequence[str]) -> Engine:
    """Return an engine that spreads cells over a cluster.

    Raises:
        RunError: Ray is not installed.
    """
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise RunError("engine 'ray' needs Ray: pip install 'iclgd_lens[ray]'") from error

    def engine(
        plan: Plan, cells: Sequence[Cell], store: Store, fresh: bool, tell: Progress
    ) -> Iterator[tuple[Cell, CellOutcome]]:
        if not cells:
            return
        mine = _connect(ray, options)
        try:
            crew = _Crew(ray, options, plan, store, fresh, tuple(imports), tell)
            yield from crew.work(cells)
        finally:
            if mine:
                ray.shutdown()

    return engine


def _connect(ray: Any, options: RayOptions) -> bool:
    """Join or start a cluster; returns whether this process did so, and so has to leave it."""
    if ray.is_initialized():
        return False
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if options.address is None:
        settings |= {"include_dashboard": False}
        if options.workers is not None:
            # More workers than cores are allowed here, as threads would be.
            cores = max(options.workers * options.cpus, os.cpu_count() or 1)
            settings |= {"num_cpus": max(1, round(cores))}
    try:
        # "local": without an address Ray would join any cluster that runs on this machine.
        ray.init(address=options.address or "local", **settings)
    except Exception as error:  # Ray fails in many ways: no such cluster, no shared memory
        where = options.address or "a local cluster"
        raise RunError(f"Ray cannot use {where}: {' '.join(str(error).split())[:300]}") from error
    return True


class _Worker:
    """The actor: a workbench on another process."""

    def __init__(self, plan: Plan, where: str, imports: tuple[str, ...], fresh: bool) -> None:
        import_modules(imports)
        self.bench = Workbench(plan, Store(where))
        self.fresh = fresh

    def do(self, cells: list[Cell]) -> list[CellOutcome]:
        """Measure the cells of a setting and write them."""
        return [outcome for _, outcome in self.bench.do(cells, fresh=self.fresh)]


@dataclass
class _Job:
    """A setting's cells at work."""

    cells: list[Cell]
    actor: Any

    @property
    def setting(self) -> Setting:
        """The setting."""
        return self.cells[0].setting


@dataclass
class _Crew:
    """The driver's view: actors, who is idle, what each works on."""

    ray: Any
    options: RayOptions
    plan: Plan
    store: Store
    fresh: bool
    imports: tuple[str, ...]
    tell: Progress

    def work(self, cells: Sequence[Cell]) -> Iterator[tuple[Cell, CellOutcome]]:
        """Deal all settings and yield what became of each cell."""
        waiting, deaths = deque(by_setting(cells)), Counter[str]()
        count = min(len(waiting), self._size())
        self.tell.say(f"Ray: {count} workers")
        idle: list[tuple[Any, Setting | None]] = [(self._hire(), None) for _ in range(count)]
        at_work: dict[Any, _Job] = {}
        while waiting or at_work:
            while waiting and idle:
                actor, last = idle.pop(0)
                group = _next(waiting, last, (job.setting for job in at_work.values()))
                at_work[actor.do.remote(group)] = _Job(group, actor)
            ready, _ = self.ray.wait(list(at_work), num_returns=1)
            job = at_work.pop(ready[0])
            try:
                outcomes: list[CellOutcome] = self.ray.get(ready[0])
            except self.ray.exceptions.RayActorError as error:
                if getattr(error, "actor_init_failed", False):
                    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                    raise RunError(f"A Ray worker cannot start: {lines[-1]}") from error
                deaths[job.setting.key] += 1
                idle.append((self._hire(), None))
                if deaths[job.setting.key] < DEATHS:
                    self.tell.say(f"a worker died at {job.setting}; another takes the setting")
                    waiting.appendleft(job.cells)
                    continue
                outcomes = [self._died(cell, error) for cell in job.cells]
            else:
                idle.append((job.actor, job.setting))
                by_key = {cell.key: cell for cell in job.cells}
                for outcome in outcomes:
                    self._check_shared(by_key[outcome.key], outcome)
            by_key = {cell.key: cell for cell in job.cells}
            for outcome in outcomes:
                yield by_key[outcome.key], outcome

    def _size(self) -> int:
        """Workers that the cluster's processors (or accelerators) hold."""
        options = self.options
        if options.workers is not None:
            return max(1, options.workers)
        held: dict[str, float] = self.ray.cluster_resources()
        sizes = [held.get("CPU", 1.0) / options.cpus] if options.cpus else []
        sizes += [held.get("GPU", 0.0) / options.gpus] if options.gpus else []
        if not sizes or min(sizes) < 1:
            raise RunError(
                f"No worker fits the cluster: each takes {options.cpus:g} CPUs and "
                f"{options.gpus:g} GPUs, and the cluster has {held.get('CPU', 0):g} and "
                f"{held.get('GPU', 0):g}"
            )
        return int(min(sizes))

    def _hire(self) -> Any:
        options = self.options
        threads = str(max(1, int(options.cpus)))
        remote: Any = self.ray.remote(
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            max_restarts=0,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "PYTHONPATH": _python_path()}},
        )(_Worker)
        return remote.remote(self.plan, str(self.store.where), self.imports, self.fresh)

    def _died(self, cell: Cell, error: Exception) -> CellOutcome:
        reason = (
            f"{DEATHS} workers died of it (out of memory?): {' '.join(str(error).split())[:300]}"
        )
        self.store.fail(cell, reason)
        return CellOutcome(cell.key, "failed", 0.0, reason)

    def _check_shared(self, cell: Cell, outcome: CellOutcome) -> None:
        if outcome.state == "done" and not self.store.is_written(cell.key):
            raise RunError(
                f"A worker wrote {cell} but {self.store.files.where} does not hold it here: the "
                "run directory must be shared by all machines (or be a URL, such as s3://...)"
            )


def _python_path() -> str:
    """The path of worker processes: this package, where it is not installed, and the caller's."""
    here = str(Path(__file__).resolve().parents[2])
    return os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))


def _next(
    waiting: deque[list[Cell]], last: Setting | None, at_work: Iterable[Setting]
) -> list[Cell]:
    """Take the setting that best fits what a worker holds: its model, then its ZS readout.

    Otherwise one whose readout no other worker is making.
    """
    others = {setting.reading for setting in at_work}

    def misfit(i: int) -> tuple[bool, bool, bool, int]:
        setting = waiting[i][0].setting
        held = (
            last is not None and last.model != setting.model,
            last is None or last.reading != setting.reading,
        )
        return *held, setting.reading in others, i

    best = min(range(len(waiting)), key=misfit)
    group = waiting[best]
    del waiting[best]
    return group
