"""`Task`: a classification task as data, that is a prompt, label words and published settings.

A task knows neither models nor tokenizers. Its six shipped instances are the YAML files in
`definitions/`; `Task.from_yaml` reads a user's own.
"""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import yaml

from iclgd_lens.errors import RowsError, TaskError, nearest
from iclgd_lens.tasks._validate import check_definition, encodable, missing_column, prompt_fields

Published = Mapping[str, Mapping[str, float]]
"""Published scores: update rule ("gd", "lcgd", "gd_untrained") -> score name -> value."""


def _no_published() -> Published:
    return {}


@dataclass(frozen=True)
class Task:
    """One classification task.

    Attributes:
        name: An identifier; also the folder's name under `--data DIR`.
        prompt: Template with one `{column}` field for each text column. A label word follows it
            after one space, so it must not end in whitespace.
        labels: Label words; a word's position is its label id.
        label_column: The column that holds the label (an id or a label word).
        hub_id: Dataset id on the Hugging Face Hub, None for a task without one.
        hub_config: The Hub dataset's configuration name, if it has several.
        train_split: The Hub split that demonstrations are drawn from.
        evaluation_split: The Hub split that queries are drawn from.
        learning_rate: SGD learning rate of the published runs (None: none published, so the
            user has to give one).
        seeds: Seeds of the published runs, by permutation 0, 1, 2.
        published: Reference scores; see `Published`. Read-only by convention.
        description: One line on what is classified.
        citation: Where the data comes from, in short.

    Raises:
        TaskError: On construction, if any of the above is not as described.
    """

    name: str
    prompt: str
    labels: tuple[str, ...]
    label_column: str = "label"
    hub_id: str | None = None
    hub_config: str | None = None
    train_split: str = "train"
    evaluation_split: str = "validation"
    learning_rate: float | None = None
    seeds: tuple[int, ...] = ()
    published: Published = field(default_factory=_no_published, hash=False)
    description: str = ""
    citation: str = ""

    def __post_init__(self) -> None:
        """Refuse what could not be run; see the class."""
        check_definition({f.name: getattr(self, f.name) for f in fields(self)})

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The text columns that the prompt names, in order of first use."""
        return prompt_fields(self.prompt, f"task {self.name!r}: ")

    @property
    def prompt_hash(self) -> str:
        """16 hex digits of the SHA-256 of the prompt template and the label words."""
        content = json.dumps([self.prompt, list(self.labels)], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def prompt_for(self, row: Mapping[str, object], *, strip: bool = True) -> str:
        """Fill the prompt with a row's columns.

        Whitespace at a value's two ends is stripped by default: SST-2's rows end in a space,
        which would put two spaces before "Label:". The paper's reference implementation leaves
        it there; `strip=False` does the same. Inside a value nothing is ever changed.

        Raises:
            RowsError: A column is missing, or is not a text with something besides whitespace.
        """
        texts: dict[str, str] = {}
        for column in self.columns:
            value = row.get(column)
            if (
                not isinstance(value, str)
                or not value.strip()
                or not (value.isascii() or encodable(value))
            ):
                raise RowsError(_what_is_wrong(row, column))
            texts[column] = value.strip() if strip else value
        return self.prompt.format_map(texts)

    def label_word(self, label: int) -> str:
        """Return the label word of a label id.

        Raises:
            TaskError: There is no such id.
        """
        if isinstance(label, bool) or not 0 <= label < len(self.labels):
            raise TaskError(
                f"task {self.name!r}: no label {label!r}; labels are 0 to {len(self.labels) - 1}"
            )
        return self.labels[label]

    def label_id(self, value: object) -> int:
        """Return the label id of a row's label: an integer id, or exactly a label word.

        Raises:
            RowsError: It is neither. -1, the Hub's mark of an unlabelled row, is refused too.
        """
        if isinstance(value, str) and value in self.labels:
            return self.labels.index(value)
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(self.labels):
            return value
        allowed = ", ".join(f"{i} or {word!r}" for i, word in enumerate(self.labels))
        if value is None:
            given = "the label is empty (null)"
        elif isinstance(value, int) and value == -1:
            given = "label -1 marks an unlabelled row (a hidden test split?)"
        else:
            given = f"unknown label {reprlib.repr(value)} ({type(value).__name__})"
        near = nearest(value, self.labels) if isinstance(value, str) else ""
        raise RowsError(f"{given} (allowed: {allowed}).{near}")

    @classmethod
    def from_yaml(cls, path: str | Path) -> "Task":
        """Read a task from a YAML file whose keys are this class's attributes.

        `name` may be left out; it is then the file's name without `.yaml`.

        Raises:
            TaskError: The file is missing, not YAML, or not a valid task.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaskError(f"cannot read the task file {str(path)!r}: {error}") from error
        return cls.from_yaml_text(text, source=str(path), name=path.stem)

    @classmethod
    def from_yaml_text(cls, text: str, *, source: str, name: str) -> "Task":
        """Read a task from YAML text. See `from_yaml`.

        Args:
            text: The YAML text.
            source: Where the text is from, for error messages.
            name: The task's name where the text gives none.

        Raises:
            TaskError: Not YAML, or not a valid task.
        """
        values = _parse_yaml(text, source)
        allowed = [f.name for f in fields(cls)]
        for key in values:
            if key not in allowed:
                raise TaskError(
                    f"{source}: unknown key {key!r} (allowed: {', '.join(allowed)})."
                    f"{nearest(key, allowed)}"
                )
        for key in ("prompt", "labels"):
            if key not in values:
                raise TaskError(f"{source}: the key {key!r} is missing")
        defaults = {"name": name, **_DEFAULTS}
        complete = {key: _from_yaml_value(key, value) for key, value in (defaults | values).items()}
        try:
            check_definition(complete)  # before the constructor, which may count on its types
        except TaskError as error:
            raise TaskError(f"{source}: {error}") from None
        return cls(**complete)


_DEFAULTS: dict[str, Any] = {
    f.name: {} if f.default is MISSING else f.default
    for f in fields(Task)
    if f.name not in ("name", "prompt", "labels")
}


def _from_yaml_value(key: str, value: Any) -> Any:
    if key in ("labels", "seeds") and isinstance(value, list):
        return tuple(cast("list[object]", value))
    if key == "learning_rate" and isinstance(value, str):
        # YAML 1.1 reads 5e-4 (no dot) as text, yet everyone writes learning rates so. What is no
        # number either stays as it is, for the check to name it.
        with suppress(ValueError):
            return float(value)
    return value


def _what_is_wrong(row: Mapping[str, object], column: str) -> str:
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


def _parse_yaml(text: str, source: str) -> dict[str, Any]:
    try:
        # safe_load lets a repeated key win in silence, so the keys are looked at first.
        node: object = cast("Any", yaml).compose(text, Loader=yaml.SafeLoader)
        loaded: object = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise TaskError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(loaded, dict) or not isinstance(node, yaml.MappingNode):
        raise TaskError(f"{source}: a task is a mapping of keys to values")
    seen: set[str] = set()
    for key_node, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
        key = str(key_node.value)
        if key in seen:
            raise TaskError(f"{source}: the key {key!r} occurs twice")
        seen.add(key)
    return {str(key): value for key, value in cast("dict[object, Any]", loaded).items()}
