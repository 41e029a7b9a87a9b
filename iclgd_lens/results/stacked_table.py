"""Tables of numbers that are never broken: too wide a table becomes several, one below another.

Rich folds what does not fit a column, in the middle of a number where it must. Here a cell stays in
one line; columns that a terminal has no room for follow in a further table with the same lines.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence

# Rich draws from Python's generator as it is imported, and that is the caller's.
_callers_state = random.getstate()
try:
    from rich import box
    from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
    from rich.measure import Measurement
    from rich.table import Column, Table
finally:
    random.setstate(_callers_state)

_ENDLESS = 100_000
"""Columns of what is no terminal."""


class StackedTable(Table):
    """A Rich table whose columns are stacked where they do not fit beside one another.

    Args:
        title: Over it.
        beside: How many of the first columns name a line, and so stand in every part. They alone
            may be folded, and only where one more column would not fit otherwise.
    """

    def __init__(self, title: str | None = None, *, beside: int = 1) -> None:
        super().__init__(
            title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
            pad_edge=False, padding=(0, 1, 0, 0), title_style="bold", caption_style="dim",
        )  # fmt: skip
        self.beside = beside

    def __str__(self) -> str:
        return as_text(self)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        parts = list(self._parts(console, options))
        for number, columns in enumerate(parts):
            part = self._of(columns, whole=len(parts) == 1)
            part.title = self.title if number == 0 else None
            part.caption = self.caption if number == len(parts) - 1 else None
            yield part

    def _parts(self, console: Console, options: ConsoleOptions) -> Iterator[list[Column]]:
        """Columns of each table: as many as fit, at least one beside those that name lines."""
        names, rest = self.columns[: self.beside], self.columns[self.beside :]
        taken: list[Column] = []
        for column in rest:
            if (
                taken
                and self._width([*names, *taken, column], console, options) > options.max_width
            ):
                yield [*names, *taken]
                taken = []
            taken.append(column)
        yield [*names, *taken]

    def _width(self, columns: Sequence[Column], console: Console, options: ConsoleOptions) -> int:
        part = self._of(columns, whole=True)
        return Measurement.get(console, options.update_width(_ENDLESS), part).maximum

    def _of(self, columns: Sequence[Column], *, whole: bool) -> Table:
        """A plain table of some of the columns.

        Lines that one name alone names are left out where all their cells are empty, unless the
        table is the `whole` one.
        """
        part = Table(
            title_justify=self.title_justify, caption_justify=self.caption_justify, box=self.box,
            pad_edge=self.pad_edge, padding=self.padding, title_style=self.title_style,
            caption_style=self.caption_style,
        )  # fmt: skip
        for place, column in enumerate(columns):
            part.add_column(
                column.header, justify=column.justify, style=column.style, overflow="fold",
                no_wrap=place >= self.beside,
            )  # fmt: skip
        cells = [list(column.cells) for column in columns]
        for place, row in enumerate(self.rows):
            line = [column[place] for column in cells]
            if whole or self.beside > 1 or any(str(cell) for cell in line[self.beside :]):
                part.add_row(*line, style=row.style)
            if row.end_section:
                part.add_section()
        return part


class Tables(Group):
    """Tables one below another; as text they are what Rich prints."""

    def __str__(self) -> str:
        return as_text(self)


def as_text(shown: RenderableType) -> str:
    """Plain text: as wide as the terminal that standard output is, else as wide as it needs."""
    terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(color_system=None, width=None if terminal else _ENDLESS, highlight=False)
    with console.capture() as capture:
        console.print(shown)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())
