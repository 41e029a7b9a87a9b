"""A figure of a page: what can be chosen, and the drawing of every choice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from iclgd_lens.figures.style import Spec
from iclgd_lens.report.run_records import RunRecords


@dataclass(frozen=True)
class Choice:
    """One drawing of a picture: its labels under the picture's selectors, caption and figure."""

    labels: tuple[str, ...]
    caption: str
    spec: Spec


@dataclass(frozen=True)
class Picture:
    """A figure of the page, with a selector for each thing that can be chosen.

    Attributes:
        name: Its identifier, and how its files' names begin.
        title: Over it.
        selects: What can be chosen.
        choices: One for every combination that exists.
    """

    name: str
    title: str
    selects: tuple[str, ...]
    choices: tuple[Choice, ...]

    def files(self) -> Iterator[tuple[str, Spec, str]]:
        """File name, figure and what it shows, of each drawing; names differ."""
        taken: set[str] = set()
        for each in self.choices:
            parts = (self.name, *(slug(text) for text in each.labels))
            name = "_".join(part for part in parts if part)
            while name.lower() in taken:
                name += "_"
            taken.add(name.lower())
            yield name, each.spec, each.caption

    def options(self) -> list[tuple[str, list[str]]]:
        """What each selector offers."""
        return [
            (title, list(dict.fromkeys(each.labels[i] for each in self.choices)))
            for i, title in enumerate(self.selects)
        ]


Maker = tuple[str, str, tuple[str, ...], Callable[[RunRecords], Iterator[Choice]]]
"""A picture's name, title, selectors, and what gives its choices."""


def groups(
    run: RunRecords, name: str, keys: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """An optional frame in parts; none where the run has no such frame."""
    frame = run.optional.get(name)
    if frame is not None:
        for key, part in frame.groupby(list(keys), sort=False, observed=True):
            yield tuple(str(each) for each in key), part


def slug(text: str) -> str:
    """Text as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text).strip("-.")[:60] or "x"
