"""The run directory: what is finished, what failed, what had to be set aside.

    run.json                    the plan, its cells, environment, hardware, timings
    cells/<key>.parquet         a finished cell; nothing else, so that the folder is a dataset
    failed/<key>.json           why a cell, or a hypothesis in it, failed
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
from iclgd_lens.bench.plan import Plan
from iclgd_lens.comparison import Comparison
from iclgd_lens.errors import RunError
from iclgd_lens.files import open_files

RUN_FORMAT = "iclgd_lens.run/1"
State = Literal["done", "failed", "missing"]
_KNOWN = {"run.json", "cells", "failed", "invocations", "quarantine", "report"}


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
        # A record of single hypotheses without the cell's file is that of a process which ended
        # between the two.
        if failure is not None and (found is not None or not failure["hypotheses"]):
            return "failed"
        return "missing" if found is None else "done"

    def is_written(self, key: str) -> bool:
        """Whether the cell has a file and no failure; its content is not read."""
        return self.files.exists(_cell(key)) and not self.files.exists(_failure(key))

    def cell(self, key: str) -> CellData | None:
        """Return a finished cell, or None; a damaged file is moved aside."""
        name = _cell(key)
        data = self.files.read(name)
        if data is None:
            return None
        try:
            return decode(data, key)
        except RunError as error:
            self.quarantine(name, str(error))
            return None

    def save(self, cell: Cell, measured: Comparison) -> str:
        """Write a cell; if a hypothesis has no scores, record that first.

        Returns:
            Which hypotheses have none, and why; empty where all have.
        """
        lost = measured.failures
        names: dict[str, list[str]] = {}
        for name, why in lost.items():
            names.setdefault(why, []).append(name)
        reason = "; ".join(f"{', '.join(those)}: {why}" for why, those in names.items())
        if lost:
            self.fail(cell, reason, lost)
        self.files.write(_cell(cell.key), encode(cell, measured))
        if not lost:
            self.files.remove(_failure(cell.key))
        return reason

    def fail(self, cell: Cell, reason: str, hypotheses: Mapping[str, str] | None = None) -> None:
        """Record why a cell (or only the `hypotheses`, each with its reason) failed."""
        facts = {
            "format": RUN_FORMAT,
            "key": cell.key,
            "place": cell.place,
            "reason": reason,
            "hypotheses": dict(hypotheses or {}),
        }
        self._write_json(_failure(cell.key), facts)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return the record of a failed cell, or None; a damaged record is moved aside."""
        return self._read_json(_failure(key), {"key": key})

    def strangers(self, cells: Iterable[Cell]) -> int:
        """How many cell files are of none of these cells: of another plan, or of other code."""
        return len(self.files.names("cells") - {f"{cell.key}.parquet" for cell in cells})

    # -- the run -------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Refuse a directory that holds something else.

        Raises:
            RunError: It is not empty and is no run directory.
        """
        found = self.files.names()
        strangers = {name for name in found if not name.startswith(".")} - _KNOWN
        is_run = "run.json" in found or self.files.names("cells")
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


def _cell(key: str) -> str:
    return f"cells/{key}.parquet"


def _failure(key: str) -> str:
    return f"failed/{key}.json"


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
