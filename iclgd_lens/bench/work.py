"""One cell's work, the same in this process and on a Ray worker."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from iclgd_lens.bench.cells import Cell
from iclgd_lens.bench.measure import Session, is_out_of_memory
from iclgd_lens.bench.plan import Plan
from iclgd_lens.bench.store import Store
from iclgd_lens.errors import PlanError


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


class Workbench:
    """Measures cells into a store, holding the model of the last cell."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.plan = plan
        self.store = store
        self._session: Session | None = None

    def do(
        self, cell: Cell, *, fresh: bool = False, tell: Callable[[str], None] | None = None
    ) -> CellOutcome:
        """Measure a cell and write it; whatever goes wrong with it is written instead."""
        start = time.perf_counter()
        if not fresh and self.store.is_written(cell.key):
            return CellOutcome(cell.key, "found", 0.0)
        try:
            if cell.problem is not None:
                raise PlanError(cell.problem)
            measured = self._session_of(cell).measure(cell, tell)
        except Exception as error:  # of the model, the rows, a hypothesis, the machine
            reason = _reason(error)
            self.store.fail(cell, reason)
            return CellOutcome(cell.key, "failed", time.perf_counter() - start, reason)
        reason = self.store.save(cell, measured)
        seconds = time.perf_counter() - start
        return CellOutcome(cell.key, "failed" if reason else "done", seconds, reason)

    def _session_of(self, cell: Cell) -> Session:
        if self._session is None or self._session.model != cell.model:
            self._session = None  # frees the last model before the next is loaded
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            self._session = Session(self.plan, cell.model)
        return self._session


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register hypotheses; the working directory is looked through as well.

    Raises:
        PlanError: There is no such module, or it fails.
    """
    for name in names:
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.append(here)
        try:
            importlib.import_module(name)
        except Exception as error:  # the module is the user's
            raise PlanError(
                f"the module {name!r} cannot be imported ({type(error).__name__}: {error})"
            ) from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    if is_out_of_memory(error):
        return f"out of memory: {text[:300]}"
    return f"{type(error).__name__}: {text[:600]}"
