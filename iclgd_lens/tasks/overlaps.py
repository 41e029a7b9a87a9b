"""Rows of one task that are queries of another: sets of film reviews, say, share sentences.

A row that a query of another task repeats is no demonstration beside that query: it would show the
answer under another template. Texts are compared only by their letters and digits, since sets
differ in case, spaces and punctuation.
"""

from __future__ import annotations

import re
from string import Formatter

from iclgd_lens.tasks.rows import Rows
from iclgd_lens.tasks.task import Task


def asked_elsewhere(train: Rows, task: Task, asked: Rows, asking: Task) -> frozenset[int]:
    """Places of the rows of `train` whose text is one of `asked`.

    Args:
        train: Rows of a task.
        task: That task.
        asked: Rows that another task asks.
        asking: The other task.

    Returns:
        Their `Row.index`.
    """
    theirs = set(_texts(asked, asking))
    own = zip(train.examples, _texts(train, task), strict=True)
    return frozenset(row.index for row, text in own if text in theirs)


def _texts(rows: Rows, task: Task) -> list[str]:
    """Letters and digits of the text that each row fills into its task's prompt."""
    template = _pattern(task.prompt)
    found: list[str] = []
    for row in rows.examples:
        filled = template.fullmatch(row.prompt)
        words = row.prompt if filled is None else " ".join(filled.groups())
        found.append("".join(each for each in words.casefold() if each.isalnum()))
    return found


def _pattern(prompt: str) -> re.Pattern[str]:
    """A pattern of filled prompts whose groups are what was filled in."""
    parts = [
        re.escape(text) + ("" if field is None else "(.*?)")
        for text, field, _, _ in Formatter().parse(prompt)
    ]
    return re.compile("".join(parts), re.DOTALL)
