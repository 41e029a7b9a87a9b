"""What makes a task's definition valid: one `TaskError` for each way to get it wrong."""

import math
import string
from collections.abc import Iterable, Mapping
from typing import cast

from iclgd_lens.errors import TaskError, nearest


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


def prompt_fields(prompt: str, where: str) -> tuple[str, ...]:
    """Return the columns that a prompt template names, in order of first use.

    Only plain `{column}` fields are allowed: attribute and index access would let a template
    reach into objects.

    Raises:
        TaskError: Malformed braces, no field, or a field that is more than a column's name.
            The message starts with `where`.
    """
    try:
        parts = list(string.Formatter().parse(prompt))
    except ValueError as error:
        raise TaskError(
            f"{where}the prompt {prompt!r} is malformed: {error} (a literal brace is doubled)"
        ) from error
    names: list[str] = []
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if not name.strip() or name.isdigit():
            raise TaskError(f"{where}the prompt's field {{{name}}} must name a column")
        if spec or conversion or set(name) & set(".[]"):
            raise TaskError(
                f"{where}the prompt's field {name!r} may be a column's name alone, without "
                "attribute, index, conversion or format"
            )
        if name not in names:
            names.append(name)
    if not names:
        raise TaskError(f"{where}the prompt {prompt!r} has no {{column}} field")
    return tuple(names)


def check_definition(values: Mapping[str, object]) -> None:
    """Check a task's attributes, whose names are the keys of `values`.

    Raises:
        TaskError: The first thing that is wrong.
    """
    name = values["name"]
    if not (isinstance(name, str) and name.isascii() and name.isidentifier()):
        raise TaskError(
            f"task name {name!r} is not an identifier (ASCII letters, digits and _, "
            "not starting with a digit)"
        )
    where = f"task {name!r}: "
    _check_texts(values, where)
    _check_labels(values["labels"], where)
    _check_prompt(str(values["prompt"]), str(values["label_column"]), where)
    _check_settings(values, where)
    _check_published(values["published"], where)


def _check_texts(values: Mapping[str, object], where: str) -> None:
    for name in ("prompt", "label_column", "train_split", "evaluation_split"):
        value = values[name]
        if not isinstance(value, str) or not value.strip() or not encodable(value):
            raise TaskError(f"{where}{name} must be a non-empty text, not {value!r}")
    for name in ("hub_id", "hub_config"):
        value = values[name]
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise TaskError(f"{where}{name} must be a non-empty text or null, not {value!r}")
    for name in ("description", "citation"):
        if not isinstance(values[name], str):
            raise TaskError(f"{where}{name} must be text, not {values[name]!r}")


def _check_labels(labels: object, where: str) -> None:
    if not isinstance(labels, tuple):
        raise TaskError(
            f"{where}labels must be a list of words (a tuple in Python), not {labels!r}"
        )
    words = cast("tuple[object, ...]", labels)
    if len(words) < 2:
        raise TaskError(f"{where}at least 2 labels are needed, got {len(words)}")
    for i, word in enumerate(words):
        if not isinstance(word, str):
            raise TaskError(f"{where}label {i} is not text but {word!r}; in YAML, quote it")
        if not word or word != word.strip() or not encodable(word):
            raise TaskError(
                f"{where}label {i} ({word!r}) must be a non-empty word without spaces at its ends"
            )
        if word in words[:i]:
            raise TaskError(f"{where}label {word!r} occurs twice")


def _check_prompt(prompt: str, label_column: str, where: str) -> None:
    if label_column in prompt_fields(prompt, where):
        raise TaskError(
            f"{where}the prompt contains the label column {{{label_column}}}, "
            "which would give the answer away"
        )
    if prompt != prompt.rstrip():
        raise TaskError(
            f"{where}the prompt ends in whitespace; end it at its last word, since a label "
            "word is appended after one space"
        )


def _check_settings(values: Mapping[str, object], where: str) -> None:
    rate, seeds = values["learning_rate"], values["seeds"]
    if rate is not None and not (_is_number(rate) and cast("float", rate) > 0):
        raise TaskError(f"{where}learning_rate must be a positive number or null, not {rate!r}")
    if not isinstance(seeds, tuple) or not all(
        isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
        for seed in cast("tuple[object, ...]", seeds)
    ):
        raise TaskError(
            f"{where}seeds must be a list of integers >= 0 (a tuple in Python): {seeds!r}"
        )


def _check_published(published: object, where: str) -> None:
    if not isinstance(published, Mapping):
        raise TaskError(f"{where}published must map rules to scores, not {published!r}")
    for rule, scores in cast("Mapping[object, object]", published).items():
        if not isinstance(scores, Mapping) or not all(
            _is_number(value) for value in cast("Mapping[object, object]", scores).values()
        ):
            raise TaskError(f"{where}published[{rule!r}] must map scores to numbers: {scores!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
