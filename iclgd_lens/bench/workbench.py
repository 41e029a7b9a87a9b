"""One setting's work, the same in this process and on a Ray worker."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

import torch

from iclgd_lens.bench.cells import Cell
from iclgd_lens.bench.plan import Plan
from iclgd_lens.bench.plan_entries import Setting
from iclgd_lens.bench.session import Session, reason_of
from iclgd_lens.bench.store import Measured, Store
from iclgd_lens.errors import PlanError, RunError


@dataclass(frozen=True)
class CellOutcome:
    """What became of a cell.

    Attributes:
        key: The cell's key.
        state: "done", "failed" (nothing or only a part of it could be measured), or "found" where
            another process finished it meanwhile.
        seconds: Wall-clock seconds.
        reason: Why it failed.
    """

    key: str
    state: Literal["done", "failed", "found"]
    seconds: float
    reason: str = ""


class _NotWrittenError(RunError):
    """A result was there and could not be kept: the run ends, and the cell stays to be measured."""


class Workbench:
    """Measures cells into a store, holding the model of the last setting."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self._session: Session | None = None

    def do(
        self,
        cells: Sequence[Cell],
        *,
        fresh: bool = False,
        tell: Callable[[str], None] | None = None,
    ) -> Iterator[tuple[Cell, CellOutcome]]:
        """Measure some cells of one setting and write each as soon as it is there.

        Whatever goes wrong with the setting as a whole is written for each cell that is left.
        """
        start = time.perf_counter()
        left: dict[str, Cell] = {}
        for cell in cells:
            if not fresh and self.store.state(cell.key) == "done":
                yield cell, CellOutcome(cell.key, "found", 0.0)
            else:
                left[cell.key] = cell
        if not left:
            return
        setting = cells[0].setting
        try:
            if setting.problem is not None:
                raise PlanError(setting.problem)
            session = self._session_of(setting, fresh)
            for cell, measured in session.measure(setting, list(left.values()), tell):
                reason = self._written(cell, measured)
                del left[cell.key]
                seconds, start = time.perf_counter() - start, time.perf_counter()
                yield cell, CellOutcome(cell.key, "failed" if reason else "done", seconds, reason)
            problem = "it was not measured"
        except _NotWrittenError:
            raise
        except Exception as error:  # of the model, the rows, the machine
            problem = reason_of(error)
        for cell in left.values():
            self.store.fail(cell, problem)
            yield cell, CellOutcome(cell.key, "failed", time.perf_counter() - start, problem)
            start = time.perf_counter()

    def _written(self, cell: Cell, measured: Measured | str) -> str:
        """Write what became of a cell; returns why it failed, if it did.

        Raises:
            RunError: The disk or the server did not take it, which says nothing about the cell.
        """
        try:
            if isinstance(measured, str):
                self.store.fail(cell, measured)
                return measured
            return self.store.save(cell, measured)
        except OSError as error:
            raise _NotWrittenError(f"results cannot be written: {error}") from error

    def _session_of(self, setting: Setting, fresh: bool) -> Session:
        if self._session is None or self._session.model != setting.model:
            self._session = None  # frees the last model before the next is loaded
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._session = Session(self.plan, setting.model, self.store, fresh=fresh)
        return self._session


def by_setting(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells in groups of one setting, those that share a ZS readout after one another."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.setting.key, []).append(cell)
    readings = dict.fromkeys(group[0].setting.reading for group in groups.values())
    first = {reading: place for place, reading in enumerate(readings)}
    return sorted(groups.values(), key=lambda group: first[group[0].setting.reading])


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register hypotheses, scores and controls.

    Args:
        names: Modules by name, those of the working directory included, or paths of `.py` files.

    Raises:
        PlanError: There is no such module or file, or it fails.
    """
    for name in names:
        is_file = name.endswith(".py")
        if is_file and not Path(name).is_file():
            raise PlanError(f"There is no file {name!r} to import")
        _look_in(Path(name).resolve().parent if is_file else Path.cwd())
        try:
            _import_file(Path(name).resolve()) if is_file else importlib.import_module(name)
        except (Exception, SystemExit) as error:  # the module is the user's
            what = "file" if is_file else "module"
            raise PlanError(
                f"The {what} {name!r} cannot be imported ({type(error).__name__}: {error})"
            ) from error


def _look_in(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _import_file(path: Path) -> None:
    """Run a file once, as a module with its own name: the file may be called like another."""
    name = f"iclgd_imported_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if name in sys.modules or spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
