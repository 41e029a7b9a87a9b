"""Columns: those that a prompt names, and faults of a row's."""

from __future__ import annotations

import reprlib
import string
from collections.abc import Iterable, Mapping

from iclgd_lens.errors import TaskError, nearest


def prompt_fields(prompt: str) -> tuple[str, ...]:
    """Return the columns that a prompt template names, in order of first use.

    Only plain `{column}` fields are allowed: attribute and index access would let a template
    reach into objects.

    Raises:
        TaskError: Malformed braces, no field, or a field that is more than a column's name.
    """
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise TaskError(
            f"the prompt {prompt!r} is malformed: {error} (a literal brace is doubled)"
        ) from error
    names: list[str] = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name.strip() or name.isdigit():
            raise TaskError(f"the prompt's field {{{name}}} must name a column")
        if spec or conversion or set(name) & set(".[]"):
            raise TaskError(
                f"the prompt's field {name!r} may be a column's name alone, without "
                "attribute, index, conversion or format"
            )
        if name not in names:
            names.append(name)
    if not names:
        raise TaskError(f"the prompt {prompt!r} has no {{column}} field")
    return tuple(names)


def encodable(text: str) -> bool:
    """Tell whether `text` is free of lone surrogates, which no tokenizer or file can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def missing_column(column: str, columns: Iterable[str]) -> str:
    """Return the message for a column that is not among `columns`."""
    names = list(columns)
    listed = ", ".join(names) or "none"
    return f"column {column!r} is missing (columns: {listed}).{nearest(column, names)}"


def is_text(value: object) -> bool:
    """Whether a column's value can stand in a prompt."""
    if not isinstance(value, str) or not value.strip():
        return False
    return value.isascii() or encodable(value)


def what_is_wrong(row: Mapping[str, object], column: str) -> str:
    """Say why a row's column cannot be text of a prompt."""
    if column not in row:
        return missing_column(column, row)
    value = row[column]
    if value is None:
        return f"column {column!r} is empty (null)"
    if not isinstance(value, str):
        return f"column {column!r} is not text but {reprlib.repr(value)}"
    if not value.strip():
        return f"column {column!r} is empty"
    return f"column {column!r} holds a lone surrogate, which no tokenizer can read"
