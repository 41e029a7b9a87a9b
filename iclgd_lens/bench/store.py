"""The run directory: what is finished, what failed, what had to be set aside.

    run.json                    the plan, its cells, environment, hardware, timings
    cells/<key>.parquet         a finished cell
    cells/<key>.failed.json     why a cell, or a hypothesis in it, failed
    invocations/<id>.json       one a command that worked on the run: what it did and when
    quarantine/                 damaged files, moved aside

Any number of processes may work on one directory: files appear whole, and two results of one cell
are equal, so whoever writes last changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from iclgd_lens.bench.cellfile import CellData, decode, encode
from iclgd_lens.bench.cells import Cell
from iclgd_lens.bench.files import open_files
from iclgd_lens.bench.measure import Measured
from iclgd_lens.bench.plan import Plan
from iclgd_lens.errors import RunError

RUN_FORMAT = "iclgd_lens.run/1"
State = Literal["done", "failed", "missing"]
_CELLS, _FAILED, _PARQUET = "cells", ".failed.json", ".parquet"
_KNOWN = {"run.json", "cells", "invocations", "quarantine", "report"}


@dataclass(frozen=True)
class Quarantined:
    """A file that was damaged or foreign, and where it lies now."""

    name: str
    reason: str
    moved_to: str


@dataclass
class Store:
    """A run directory.

    Attributes:
        where: A local folder, or a URL that fsspec opens.
        quarantined: What this process moved aside.
        warn: Told of every file that is moved aside.
    """

    where: str | os.PathLike[str]
    warn: Callable[[str], None] | None = None
    quarantined: list[Quarantined] = field(default_factory=list[Quarantined])

    def __post_init__(self) -> None:
        self.files = open_files(self.where)

    # -- cells ---------------------------------------------------------------------------------

    def state(self, key: str) -> State:
        """Whether a cell is finished, verified to the last byte; damaged files are moved aside."""
        failure = self.failure(key)
        found = self.cell(key)
        if failure is not None:
            return "failed"
        return "missing" if found is None else "done"

    def is_written(self, key: str) -> bool:
        """Whether the cell has a file and no failure; its content is not read."""
        return self.files.exists(f"{_CELLS}/{key}{_PARQUET}") and not self.files.exists(
            f"{_CELLS}/{key}{_FAILED}"
        )

    def cell(self, key: str) -> CellData | None:
        """Return a finished cell, or None; a damaged file is moved aside."""
        name = f"{_CELLS}/{key}{_PARQUET}"
        data = self.files.read(name)
        if data is None:
            return None
        try:
            return decode(data, key)
        except RunError as error:
            self.quarantine(name, str(error))
            return None

    def save(self, cell: Cell, measured: Measured) -> None:
        """Write a cell; if a hypothesis raised an error, record that first."""
        if measured.errors:
            self.fail(cell, "; ".join(measured.errors.values()), measured.errors)
        self.files.write(f"{_CELLS}/{cell.key}{_PARQUET}", encode(cell, measured))
        if not measured.errors:
            self.files.remove(f"{_CELLS}/{cell.key}{_FAILED}")

    def fail(self, cell: Cell, reason: str, errors: Mapping[str, str] | None = None) -> None:
        """Record why a cell (or the hypotheses named in `errors`) failed."""
        facts = {
            "format": RUN_FORMAT,
            "key": cell.key,
            "place": cell.place,
            "reason": reason,
            "errors": dict(errors or {}),
        }
        self._write_json(f"{_CELLS}/{cell.key}{_FAILED}", facts)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return the record of a failed cell, or None; a damaged record is moved aside."""
        return self._read_json(f"{_CELLS}/{key}{_FAILED}", {"key": key})

    # -- the run -------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Refuse a directory that holds something else.

        Raises:
            RunError: It is not empty and is no run directory.
        """
        found = self.files.names()
        strangers = {name for name in found if not name.startswith(".")} - _KNOWN
        is_run = "run.json" in found or self.files.names(_CELLS)
        if strangers and not is_run:
            raise RunError(
                f"{self.files.where} holds other files ({min(strangers)}, ...) and is no run; give "
                "an empty or new directory"
            )

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Write run.json."""
        self._write_json("run.json", {"format": RUN_FORMAT} | dict(facts))

    def read_run(self) -> dict[str, Any] | None:
        """Return run.json's facts, or None where there is none; a damaged one is moved aside."""
        return self._read_json("run.json", {"format": RUN_FORMAT})

    def write_invocation(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write what one command did so far."""
        self._write_json(f"invocations/{name}.json", facts)

    def invocations(self) -> list[dict[str, Any]]:
        """What each command did, oldest first."""
        names = sorted(self.files.names("invocations"))
        found = [self._read_json(f"invocations/{name}", {}) for name in names]
        return [facts for facts in found if facts is not None]

    def quarantine(self, name: str, reason: str) -> None:
        """Move a damaged file aside and say so."""
        to = f"quarantine/{name.replace('/', '_')}.{uuid.uuid4().hex[:8]}"
        self.files.move(name, to)
        self.quarantined.append(Quarantined(name, reason, to))
        if self.warn is not None:
            self.warn(f"{name} is not usable: {reason}. Moved to {to}.")

    # -- JSON ----------------------------------------------------------------------------------

    def _write_json(self, name: str, facts: Mapping[str, Any]) -> None:
        facts = dict(facts) | {"sha256": _digest(facts)}
        self.files.write(name, (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())

    def _read_json(self, name: str, expected: Mapping[str, Any]) -> dict[str, Any] | None:
        data = self.files.read(name)
        if data is None:
            return None
        try:
            facts: Any = json.loads(data)
            if not isinstance(facts, dict):
                raise RunError("it is no JSON object")
            known = cast("dict[str, Any]", facts)
            if known.pop("sha256", None) != _digest(known):
                raise RunError("its checksum does not match its content")
            for key, value in expected.items():
                if known.get(key) != value:
                    raise RunError(f"its {key} is {known.get(key)!r}, not {value!r}")
        except (ValueError, RecursionError) as error:
            self.quarantine(name, str(error))
            return None
        return known


def states(
    store: Store, cells: Sequence[Cell], tell: Callable[[int], None] | None = None
) -> dict[str, State]:
    """State of every cell by key."""
    found: dict[str, State] = {}
    for count, cell in enumerate(cells):
        found[cell.key] = store.state(cell.key)
        if tell is not None:
            tell(count + 1)
    return found


def run_facts(
    plan: Plan, cells: Iterable[Cell], environment: Mapping[str, Any], timings: Mapping[str, Any]
) -> dict[str, Any]:
    """What run.json holds."""
    return {
        "plan": plan.as_dict(),
        "cells": [{"key": cell.key, **cell.place, "queries": cell.queries} for cell in cells],
        "environment": dict(environment),
        "timings": dict(timings),
    }


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
