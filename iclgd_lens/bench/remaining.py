"""Which of a plan's cells a command finds finished, and which it will measure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from iclgd_lens.bench.cells import Cell
from iclgd_lens.bench.store import State, Store, states


@dataclass(frozen=True)
class Remaining:
    """What a run directory holds of some cells, and what is left to do.

    Attributes:
        cells: The cells that are asked for.
        states: "done", "failed" or "missing", by key.
        todo: The cells to be measured.
        unchosen: Keys of those that have a file, but whose budget could not be chosen and is sought
            again: nothing of them is to be read.
    """

    cells: tuple[Cell, ...]
    states: Mapping[str, State]
    todo: tuple[Cell, ...]
    unchosen: frozenset[str]

    @property
    def finished(self) -> int:
        """Cells that are done and stay as they are."""
        again = {cell.key for cell in self.todo}
        return sum(state == "done" and key not in again for key, state in self.states.items())

    @property
    def failed(self) -> int:
        """Cells that failed and stay as they are."""
        again = {cell.key for cell in self.todo}
        return sum(state == "failed" and key not in again for key, state in self.states.items())

    def seconds(self, measured: Mapping[str, float]) -> float | None:
        """How long the cells to be measured will take, from how long others took, by key.

        A cell takes as long as the finished ones of its kind on average, or, where there are none,
        as long as all that are known; None where none is.
        """
        if not measured:
            return None
        mean = sum(measured.values()) / len(measured)
        known: dict[tuple[str, ...], list[float]] = {}
        for cell in self.cells:
            if cell.key in measured:
                known.setdefault(_kind(cell), []).append(measured[cell.key])
        each = {kind: sum(times) / len(times) for kind, times in known.items()}
        return sum((each.get(_kind(cell), mean) for cell in self.todo), 0.0)


def _kind(cell: Cell) -> tuple[str, ...]:
    """What the time of a cell depends on most."""
    setting = cell.setting
    return setting.model.label, setting.network, cell.budget, str(cell.subject)


def remaining(
    store: Store,
    cells: Sequence[Cell],
    *,
    fresh: bool = False,
    retry_failed: bool = False,
    tell: Callable[[str], None] | None = None,
) -> Remaining:
    """Look at the files of some cells; nothing is changed but that damaged ones are moved aside.

    Args:
        store: The run directory.
        cells: The cells that are asked for.
        fresh: Whether finished cells are measured again.
        retry_failed: Whether those are that failed, or were measured at the defaults since no
            budget could be chosen.
        tell: Told how many were looked at.
    """

    def stage(number: int) -> None:
        if tell is not None:
            tell(f"checking finished cells: {number}")

    found = states(store, cells, stage)
    unchosen = frozenset(
        cell.key for cell in cells
        if retry_failed and found[cell.key] != "missing" and _lacks_budget(store, cell.key)
    )  # fmt: skip
    todo = tuple(
        cell for cell in cells
        if fresh
        or found[cell.key] == "missing"
        or (retry_failed and found[cell.key] == "failed")
        or cell.key in unchosen
    )  # fmt: skip
    return Remaining(tuple(cells), found, todo, unchosen)


def _lacks_budget(store: Store, key: str) -> bool:
    """Whether a cell's own facts say that no budget could be chosen for it."""
    cell = store.cell(key)
    return cell is not None and "problem" in cell.facts["described"].get("budget", {})
