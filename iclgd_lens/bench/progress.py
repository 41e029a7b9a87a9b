"""Progress of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from iclgd_lens.bench.cells import Cell
    from iclgd_lens.bench.workbench import CellOutcome

_EVERY = 10.0  # seconds between plain lines
_ENOUGH = 20  # a time left is given from this many cells on


@runtime_checkable
class Writer(Protocol):
    """What text can be written to."""

    def write(self, text: str, /) -> object:
        """Write."""
        ...

    def flush(self) -> object:
        """Write what is held back."""
        ...


@runtime_checkable
class Progress(Protocol):
    """What a run tells while it works."""

    def say(self, text: str) -> None:
        """Report something worth a line of its own."""
        ...

    def stage(self, text: str) -> None:
        """Report what is being done now."""
        ...

    def begin(self, total: int, finished: int) -> None:
        """Report how many cells there are, and how many of them were finished before."""
        ...

    def advance(self, cell: Cell, outcome: CellOutcome) -> None:
        """Report what became of a cell."""
        ...


class Counter:
    """Cells done and failed, the rate and the time left; the base of both displays."""

    def __init__(self) -> None:
        self.total = self.before = self.done = self.failed = 0
        self.busy = 0.0
        self.start = time.monotonic()

    def begin(self, total: int, finished: int) -> None:
        """Start counting."""
        self.total, self.before, self.start = total, finished, time.monotonic()

    def count(self, outcome: CellOutcome) -> None:
        """Count one cell."""
        self.failed += outcome.state == "failed"
        self.done += outcome.state != "failed"
        self.busy += outcome.seconds

    @property
    def summary(self) -> str:
        """For example "22/40 cells, 1 failed, 0.42/s, 43 s left".

        The first cells say too little about the others to estimate a time: ZS is read with them,
        say. Copies may hand over several cells at once: what they took counts, not when they come.
        """
        worked = self.done + self.failed
        seconds = max(time.monotonic() - self.start, 1e-9)
        parts = [f"{self.before + worked}/{self.total} cells"]
        parts += [f"{self.failed} failed"] if self.failed else []
        if worked >= min(_ENOUGH, (self.total - self.before) / 4) and worked:
            beside = max(1.0, self.busy / seconds)
            rate = worked * beside / self.busy if self.busy else worked / seconds
            left = (self.total - self.before - worked) / rate
            parts += [f"{rate:.2g}/s", f"{duration(left)} left"]
        return ", ".join(parts)


class Silent(Counter):
    """Tells nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def stage(self, text: str) -> None:
        """Do nothing."""

    def advance(self, cell: Cell, outcome: CellOutcome) -> None:
        """Count."""
        self.count(outcome)


class Lines(Counter):
    """Plain lines: every failure, and a summary now and then."""

    def __init__(self, out: Writer | None = None) -> None:
        super().__init__()
        self.out: Writer | None = out or sys.stderr
        self.last = float("-inf")

    def say(self, text: str) -> None:
        """Write a line; where nothing takes it, the run goes on all the same."""
        if self.out is not None:
            with suppress(OSError, ValueError):
                print(text, file=self.out, flush=True)

    def stage(self, text: str) -> None:
        """Stages come too fast for lines."""

    def advance(self, cell: Cell, outcome: CellOutcome) -> None:
        """Write failures at once, and the state of things at most every ten seconds."""
        self.count(outcome)
        if outcome.state == "failed":
            self.say(f"failed: {cell}: {outcome.reason}")
        finished = self.before + self.done + self.failed == self.total
        if finished or time.monotonic() - self.last > _EVERY:
            self.last = time.monotonic()
            self.say(f"{self.summary} ({cell}, {outcome.seconds:.1f} s)")


class Live(Counter):
    """A live bar on a terminal; use as a context manager."""

    def __init__(self) -> None:
        super().__init__()
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as Bar

        self.bar = Bar(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
            transient=True,
        )
        self.task: TaskID | None = None
        self.now = ""

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def say(self, text: str) -> None:
        """Print above the bar."""
        self.bar.console.print(text, markup=False, highlight=False)

    def stage(self, text: str) -> None:
        """Show what is being done."""
        self.now = text
        self._show()

    def begin(self, total: int, finished: int) -> None:
        """Show the bar."""
        super().begin(total, finished)
        self.task = self.bar.add_task("", total=total, completed=finished)
        self._show()

    def advance(self, cell: Cell, outcome: CellOutcome) -> None:
        """Move the bar; failures stay above it."""
        self.count(outcome)
        if outcome.state == "failed":
            self.say(f"failed: {cell}: {outcome.reason}")
        self._show()

    def _show(self) -> None:
        if self.task is not None:
            worked = self.before + self.done + self.failed
            text = f"{self.summary}  {self.now}"
            self.bar.update(self.task, completed=worked, description=text)


def duration(seconds: float) -> str:
    """For example "2 h 5 min", "1 min 7 s", "12 s"."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
