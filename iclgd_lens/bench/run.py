"""Running a plan: finished cells are found, missing ones measured, failures recorded."""

from __future__ import annotations

import math
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from iclgd_lens.bench.cells import Cell, list_cells, shard
from iclgd_lens.bench.known_before import known_before, told_already
from iclgd_lens.bench.plan import Plan
from iclgd_lens.bench.plan_check import check_plan
from iclgd_lens.bench.plan_entries import Setting
from iclgd_lens.bench.progress import Progress, Silent
from iclgd_lens.bench.remaining import remaining
from iclgd_lens.bench.run_folder import open_files
from iclgd_lens.bench.store import Quarantined, Store, run_facts
from iclgd_lens.bench.studies import Study, list_studies, run_studies
from iclgd_lens.bench.workbench import CellOutcome, Workbench, by_setting, import_modules
from iclgd_lens.errors import RunError, nearest
from iclgd_lens.provenance import environment
from iclgd_lens.workers import as_they_come, how_many

ENGINES = ("local", "ray")
_SAVE_EVERY = 5.0  # seconds between writes of what this command did so far


@dataclass(frozen=True)
class RayOptions:
    """How cells are spread with Ray.

    Attributes:
        address: A cluster's address ("auto" finds this machine's); None starts one here.
        workers: Actors, each with a model of its own; None for as many as the cluster holds.
        gpus: GPUs per worker, possibly a fraction.
        cpus: CPUs per worker, and the threads it computes with.
    """

    address: str | None = None
    workers: int | None = None
    gpus: float = 0.0
    cpus: float = 1.0


@dataclass(frozen=True)
class Outcome:
    """What a command did to a run.

    Attributes:
        where: The run directory.
        cells: Cells of the plan (of the shard, where one was asked for).
        found: Cells that were finished before.
        done: Cells that were measured now.
        failed: Keys and reasons of cells that failed, now or (where they were not retried) before.
        places: Model, task, seed and order of the failed cells, in words, by key.
        quarantined: Damaged files that were moved aside.
        seconds: Wall-clock seconds.
    """

    where: str
    cells: int
    found: int
    done: int
    failed: dict[str, str]
    places: dict[str, str]
    quarantined: tuple[Quarantined, ...]
    seconds: float

    @property
    def exit_code(self) -> int:
        """0, or 100 plus the number of failed cells, at most 125.

        Shells and this program's other errors use lower and higher codes.
        """
        return 100 + min(len(self.failed), 25) if self.failed else 0


def run_plan(
    plan: Plan,
    out: str | os.PathLike[str],
    *,
    engine: str = "local",
    ray: RayOptions | None = None,
    workers: int = 1,
    shard_of: tuple[int, int] | None = None,
    fresh: bool = False,
    retry_failed: bool = False,
    imports: Sequence[str] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Measure the plan's cells that `out` does not hold yet.

    Args:
        plan: The plan.
        out: The run directory (or a URL for fsspec). Finished cells in it are recognised.
        engine: "local" for this machine, "ray" for a cluster.
        ray: How Ray spreads the cells.
        workers: Processes of the local engine, each with a model of its own, on one thread (Linux,
            on a CPU); 1 for this process alone.
        shard_of: (i, n) for the i-th of n shares, from 1; shares are disjoint and complete.
        fresh: Measure finished cells again.
        retry_failed: Measure cells and studies that failed before again, and those that were
            measured at the defaults since no budget could be chosen: it is sought anew.
        imports: Modules that register hypotheses.
        progress: Told what happens.

    Raises:
        PlanError: The plan names what does not exist; nothing was run.
        RunError: The directory cannot be used, or the engine cannot run.
        LensError: A model cannot be identified, there is no such shard, or `workers` is less
            than 1.
    """
    start = time.monotonic()
    tell = progress or Silent()
    if engine not in ENGINES:
        raise RunError(
            f"engine {engine!r} is none of {', '.join(ENGINES)}.{nearest(engine, ENGINES)}"
        )
    crew = how_many(workers)
    import_modules(imports)
    check_plan(plan)
    store = Store(_absolute(out), tell.say)
    store.check_usable()
    work = resolved(plan)
    every = list_cells(work, tell=tell.stage)
    cells = shard(every, *shard_of) if shard_of else every
    for line in known_before(cells):
        tell.say(f"note: {line}")
    studies = list_studies(work, every)
    store.read_run()  # a damaged one is set aside, with a note, before it is written anew
    _settle(store, plan, every, studies)
    left = remaining(store, cells, fresh=fresh, retry_failed=retry_failed, tell=tell.stage)
    for key in left.unchosen:  # else their budget would be read from them in place of being sought
        store.forget(key)
    if others := store.strangers(every):
        tell.say(
            f"{others} more files in cells/ are of another plan or another version of the code; "
            "load_run and the report leave them out."
        )
    log = _Log(store, engine, shard_of)
    tell.begin(len(cells), len(cells) - len(left.todo))
    measure = _engine(engine, ray, crew, imports)
    with told_already(cells):
        for cell, outcome in measure(work, left.todo, store, fresh, tell):
            log.add(outcome)
            tell.advance(cell, outcome)
    for study in run_studies(work, studies, store, tell.stage, fresh=fresh, retry=retry_failed):
        tell.stage(f"{study}: done")
    if plan.worlds and store.worlds() is None:
        tell.stage("worlds: models whose answer is known")
        store.write_worlds(_read_worlds())
    log.finish()
    _settle(store, plan, every, studies)
    seconds = time.monotonic() - start
    return _outcome(store, [*cells, *studies], len(cells), left.finished, log, seconds)


def _read_worlds() -> list[dict[str, Any]]:
    """The ruler's marks as plain values; what does not exist is None."""
    from iclgd_lens.worlds import ruler

    return [
        {
            key: None if isinstance(v, float) and math.isnan(v) else v
            for key, v in vars(mark).items()
        }
        for mark in ruler()
    ]


Engine = Callable[[Plan, Sequence[Cell], Store, bool, Progress], Iterator[tuple[Cell, CellOutcome]]]


def _engine(name: str, ray: RayOptions | None, workers: int, imports: Sequence[str]) -> Engine:
    if name == "local":
        return run_local if workers < 2 else partial(run_beside, workers)
    from iclgd_lens.bench.ray_engine import ray_engine

    return ray_engine(ray or RayOptions(), imports)


def run_local(
    plan: Plan, cells: Sequence[Cell], store: Store, fresh: bool, tell: Progress
) -> Iterator[tuple[Cell, CellOutcome]]:
    """Measure settings one after the other in this process."""
    bench = Workbench(plan, store)
    # A session keeps the last ZS readout, so settings that share one follow one another: a row that
    # repeats a seed's demonstration is passed over, so seeds need not have the same queries.
    for group in by_setting(cells):

        def stage(text: str, setting: Setting = group[0].setting) -> None:
            tell.stage(f"{setting}: {text}")

        yield from bench.do(group, fresh=fresh, tell=stage)


def run_beside(
    workers: int, plan: Plan, cells: Sequence[Cell], store: Store, fresh: bool, tell: Progress
) -> Iterator[tuple[Cell, CellOutcome]]:
    """Measure settings in copies of this process, each with a model of its own."""
    bench = Workbench(plan, store)
    groups = by_setting(cells)

    def work(
        index: int, announce: Callable[[str], None]
    ) -> Generator[tuple[Cell, CellOutcome], None, None]:
        announce(str(groups[index][0].setting))
        yield from bench.do(groups[index], fresh=fresh)

    told = set[str]()  # what a copy that was killed had done comes again
    with closing(as_they_come(work, len(groups), workers, tell.stage)) as found:
        for _, (cell, outcome) in found:
            if cell.key not in told:
                told.add(cell.key)
                yield cell, outcome


def resolved(plan: Plan) -> Plan:
    """Return the plan with absolute paths, so that it means the same in any working directory."""
    models = [model.model_copy(update={"name": _folder(model.name)}) for model in plan.models]
    tasks = tuple(
        str(Path(task).resolve()) if task.lower().endswith((".yaml", ".yml")) else task
        for task in plan.tasks
    )
    others = plan.auxiliary and tuple(
        str(Path(task).resolve()) if task.lower().endswith((".yaml", ".yml")) else task
        for task in plan.auxiliary
    )
    data = plan.data if plan.data in (None, "hub", "embedded") else _folder(str(plan.data))
    return plan.model_copy(
        update={"models": tuple(models), "tasks": tasks, "data": data, "auxiliary": others}
    )


def _folder(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.is_dir() else name


def _absolute(out: str | os.PathLike[str]) -> str:
    text = os.fspath(out)
    return text if "://" in text else str(Path(text).expanduser().resolve())


def _settle(store: Store, plan: Plan, cells: Sequence[Cell], studies: Sequence[Study]) -> None:
    """Write run.json: the plan, its cells and what all commands took."""
    past = store.invocations()
    # A command that found everything finished says nothing of where numbers are from.
    measured = [each["environment"] for each in past if each["cells"]]
    timings = {
        "commands": len(past),
        "cell_seconds": round(sum(sum(each["cells"].values()) for each in past), 3),
        "first_started": min((each["started"] for each in past), default=None),
    }
    store.write_run(run_facts(plan, cells, (measured or [environment()])[-1], timings, studies))


class _Log:
    """What this command did, kept beside the results."""

    def __init__(self, store: Store, engine: str, shard_of: tuple[int, int] | None) -> None:
        now = datetime.now(timezone.utc)
        self.store = store
        self.name = f"{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        self.facts: dict[str, Any] = {
            "started": now.isoformat(timespec="seconds"),
            "finished": None,
            "engine": engine,
            "shard": "/".join(map(str, shard_of)) if shard_of else None,
            "environment": environment(),
            "cells": {},
        }
        self.counts: Counter[str] = Counter()
        self.saved = float("-inf")
        self._save()

    def add(self, outcome: CellOutcome) -> None:
        self.counts[outcome.state] += 1
        if outcome.state != "found":
            self.facts["cells"][outcome.key] = round(outcome.seconds, 3)
        if time.monotonic() - self.saved > _SAVE_EVERY:
            self._save()

    def finish(self) -> None:
        now = datetime.now(timezone.utc)
        self.facts["finished"] = now.isoformat(timespec="seconds")
        self._save()

    def _save(self) -> None:
        self.saved = time.monotonic()
        self.store.write_invocation(self.name, self.facts)


def _outcome(
    store: Store, asked: Sequence[Cell | Study], cells: int, known: int, log: _Log, seconds: float
) -> Outcome:
    failed = {each.key: why for each in asked if (why := store.why(each.key)) is not None}
    return Outcome(
        where=open_files(store.where).where,
        cells=cells,
        found=known + log.counts["found"],
        done=log.counts["done"],
        failed=failed,
        places={each.key: str(each) for each in asked if each.key in failed},
        quarantined=tuple(store.quarantined),
        seconds=seconds,
    )
