"""The run directory: what is finished, what failed, what had to be set aside.

    run.json                    the plan, its cells, environment, hardware, timings
    cells/<key>.parquet         a measured cell; nothing else, so that the folder is a dataset
    failed/<key>.json           why a cell could not be measured at all
    readings/<key>.safetensors  what a setting's own network leaves: ZS and ICL
    studies/<key>.safetensors   a study: training, attention or heads of one model and task
    invocations/<id>.json       one per command that worked on the run: what it did and when
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
from typing import TYPE_CHECKING, Any, Literal, cast

from iclgd_lens.bench.cell_file import PLACE, CellData, Measured, decode, encode
from iclgd_lens.bench.plan import Plan
from iclgd_lens.bench.run_folder import open_files
from iclgd_lens.errors import RunError

if TYPE_CHECKING:
    from iclgd_lens.bench.cells import Cell
    from iclgd_lens.bench.studies import Study

RUN_FORMAT = "iclgd_lens.run/2"
_FAMILY = "iclgd_lens.run/"
State = Literal["done", "failed", "missing"]
_KNOWN = {
    "run.json", "cells", "failed", "invocations", "quarantine", "readings", "report", "studies",
    "worlds.json",
}  # fmt: skip


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
        """Whether a cell is measured, verified to the last byte; damaged files are moved aside.

        What was measured decides: a cell whose own facts name a failure has failed, whatever became
        of the record beside it.
        """
        found = self.cell(key)
        if found is not None:
            return "failed" if found.facts["failure"] else "done"
        return "missing" if self.failure(key) is None else "failed"

    def is_written(self, key: str) -> bool:
        """Whether the cell has a file, which is not read."""
        return self.files.exists(_cell(key))

    def cell(self, key: str) -> CellData | None:
        """Return a measured cell, or None; a damaged file is moved aside."""
        name = _cell(key)
        data = self.files.read(name)
        if data is None:
            return None
        try:
            return decode(data, key)
        except RunError as error:
            self.quarantine(name, str(error))
            return None

    def save(self, cell: Cell, measured: Measured) -> str:
        """Write a cell; returns why it has no scores, empty where it has."""
        facts = {"setting": dict(cell.setting.facts), "cell": dict(cell.facts)}
        self.files.write(_cell(cell.key), encode(cell.key, cell.place, measured, facts))
        reason = measured.failure or ""
        if reason:
            self.fail(cell, reason)
        else:
            self.files.remove(_failure(cell.key))
        return reason

    def fail(self, cell: Cell | Study, reason: str) -> None:
        """Record why a cell or study failed."""
        facts = {"format": RUN_FORMAT, "key": cell.key, "place": cell.place, "reason": reason}
        self._write_json(_failure(cell.key), facts)

    def why(self, key: str) -> str | None:
        """Why a cell failed, or None: its own facts decide, then the record beside them."""
        found = self.cell(key)
        if found is not None:
            return found.facts["failure"] or None
        record = self.failure(key)
        return None if record is None else str(record["reason"])

    def forget(self, key: str) -> None:
        """Remove a cell, and the record of its failure."""
        self.files.remove(_cell(key))
        self.files.remove(_failure(key))

    def readings(self, key: str) -> bytes | None:
        """What is kept of a setting's own readouts, or None."""
        return self.files.read(_readings(key))

    def keep_readings(self, key: str, data: bytes) -> None:
        """Keep a setting's own readouts."""
        self.files.write(_readings(key), data)

    def refuse_readings(self, key: str) -> None:
        """Set damaged readouts aside."""
        self.quarantine(_readings(key), "it is damaged, or of another version")

    def study(self, key: str) -> bytes | None:
        """A study's bytes, or None."""
        return self.files.read(_study(key))

    def keep_study(self, key: str, data: bytes) -> None:
        """Keep a study, and forget why it failed before."""
        self.files.write(_study(key), data)
        self.files.remove(_failure(key))

    def refuse_study(self, key: str, reason: str) -> None:
        """Set a damaged study aside."""
        self.quarantine(_study(key), reason)

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return the record of a failed cell, or None; a damaged record is moved aside."""
        return self._read_json(_failure(key), _tells_why(key))

    def strangers(self, cells: Iterable[Cell]) -> int:
        """How many cell files belong to none of these cells but to another plan or other code."""
        return len(self.files.names("cells") - {f"{cell.key}.parquet" for cell in cells})

    # -- the run -------------------------------------------------------------------------------

    def check_usable(self) -> None:
        """Refuse a directory that holds something else; remove what killed processes left in it.

        Raises:
            RunError: It is not empty and is not a run directory, or is an earlier version's.
        """
        self.check_version()
        found = self.files.names()
        strangers = {name for name in found if not name.startswith(".")} - _KNOWN
        is_run = "run.json" in found or self.files.names("cells")
        if strangers and not is_run:
            raise RunError(
                f"{self.files.where} holds other files ({min(strangers)}, ...) and is not a run; "
                "give an empty or new directory"
            )
        self.files.clean("cells", "failed", "invocations", "readings", "studies", "quarantine")

    def check_version(self) -> None:
        """Refuse a run of another version; nothing of it is touched.

        Raises:
            RunError: Another version wrote it.
        """
        data = self.files.read("run.json")
        try:
            facts: Any = json.loads(data) if data is not None else {}
        except (ValueError, RecursionError):
            return
        known = str(cast("dict[str, Any]", facts).get("format")) if isinstance(facts, dict) else ""
        if known.startswith(_FAMILY) and known != RUN_FORMAT:
            raise RunError(
                f"{self.files.where} was written by {_age(known)} version of iclgd_lens (format "
                f"{known}; this version writes {RUN_FORMAT}). Give a new directory; nothing of the "
                "old one was touched."
            )

    def write_run(self, facts: Mapping[str, Any]) -> None:
        """Write run.json."""
        self._write_json("run.json", {"format": RUN_FORMAT} | dict(facts))

    def read_run(self) -> dict[str, Any] | None:
        """Return run.json's facts, or None where there is none; a damaged one is moved aside."""
        return self._read_json("run.json", _is_run)

    def write_worlds(self, marks: Sequence[Mapping[str, Any]]) -> None:
        """Keep what the instrument reads on models whose answer is known."""
        self._write_json("worlds.json", {"format": RUN_FORMAT, "marks": [dict(m) for m in marks]})

    def worlds(self) -> list[dict[str, Any]] | None:
        """What the instrument reads on models whose answer is known; None where it was not read."""
        facts = self._read_json("worlds.json", _holds_marks)
        return None if facts is None else facts["marks"]

    def write_invocation(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write what one command did so far."""
        self._write_json(f"invocations/{name}.json", facts)

    def invocations(self) -> list[dict[str, Any]]:
        """What each command did, oldest first."""
        names = sorted(self.files.names("invocations"))
        found = [self._read_json(f"invocations/{name}", _is_invocation) for name in names]
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

    def _read_json(
        self, name: str, fits: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any] | None:
        """Facts that fit, or None; a damaged or foreign file is moved aside."""
        data = self.files.read(name)
        if data is None:
            return None
        try:
            facts: Any = json.loads(data)
            if not isinstance(facts, dict):
                raise RunError("it is not a JSON object")
            known = cast("dict[str, Any]", facts)
            if known.pop("sha256", None) != _digest(known):
                raise RunError("its checksum does not match its content")
            if not fits(known):
                raise RunError("it holds something else")
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
    plan: Plan,
    cells: Iterable[Cell],
    environment: Mapping[str, Any],
    timings: Mapping[str, Any],
    studies: Iterable[Study] = (),
) -> dict[str, Any]:
    """What run.json holds."""
    return {
        "plan": plan.as_dict(),
        "cells": [
            {"key": cell.key, **cell.place, "queries": cell.setting.queries} for cell in cells
        ],
        "studies": [{"key": study.key, "kind": study.kind, **study.place} for study in studies],
        "environment": dict(environment),
        "timings": dict(timings),
    }


# -- what well-sealed facts must look like ---------------------------------------------------------


def _is_run(facts: dict[str, Any]) -> bool:
    plan, cells = facts.get("plan"), facts.get("cells")
    if facts.get("format") != RUN_FORMAT or not isinstance(plan, dict):
        return False
    if not {"name", "hypotheses", "controls", "resamples", "protocol", "models"} <= plan.keys():
        return False
    if not all(isinstance(facts.get(name), dict) for name in ("environment", "timings")):
        return False
    wanted = {"key", "subject", *PLACE}
    each = cast("list[Any]", cells) if isinstance(cells, list) else [None]
    return all(isinstance(cell, dict) and wanted <= cell.keys() for cell in each)


def _is_invocation(facts: dict[str, Any]) -> bool:
    cells: Any = facts.get("cells")
    return (
        isinstance(facts.get("started"), str)
        and isinstance(cells, dict)
        and all(isinstance(each, (int, float)) for each in cast("dict[str, Any]", cells).values())
    )


def _holds_marks(facts: dict[str, Any]) -> bool:
    return facts.get("format") == RUN_FORMAT and isinstance(facts.get("marks"), list)


def _tells_why(key: str) -> Callable[[dict[str, Any]], bool]:
    return lambda facts: facts.get("key") == key and isinstance(facts.get("reason"), str)


def _age(found: str) -> str:
    number, own = (each.rpartition("/")[2] for each in (found, RUN_FORMAT))
    return "a later" if number.isdigit() and int(number) > int(own) else "an earlier"


def _cell(key: str) -> str:
    return f"cells/{key}.parquet"


def _readings(key: str) -> str:
    return f"readings/{key}.safetensors"


def _study(key: str) -> str:
    return f"studies/{key}.safetensors"


def _failure(key: str) -> str:
    return f"failed/{key}.json"


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
