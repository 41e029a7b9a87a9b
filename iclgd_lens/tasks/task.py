"""`Task`: a classification task as data, the shipped ones by name, a user's from a file.

A task knows neither models nor tokenizers. Its six shipped instances are the YAML files in
`definitions/`; `Task.from_yaml` reads a user's own.
"""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from iclgd_lens.errors import RowsError, TaskError, nearest
from iclgd_lens.tasks.columns import encodable, is_text, prompt_fields, what_is_wrong
from iclgd_lens.validation import STRICT, check_seed, own_message, validated
from iclgd_lens.yaml_files import mapping

Published = Mapping[str, Mapping[str, float]]
"""Published scores: update rule ("gd", "lcgd", "gd_untrained") -> score name -> value."""

_MUST = {
    "name": "be an identifier (ASCII letters, digits and _, not starting with a digit)",
    "prompt": "be a non-empty text",
    "labels": "be a list of words",
    "label_column": "be a non-empty text",
    "hub_id": "be a non-empty text or null",
    "hub_config": "be a non-empty text or null",
    "train_split": "be a non-empty text",
    "evaluation_split": "be a non-empty text",
    "learning_rate": "be a positive number or null",
    "seeds": "be a list of integers >= 0",
    "published": "map rules to scores",
    "description": "be text",
    "citation": "be text",
}
"""What each attribute must be or do, for messages."""


def _fault(fault: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    where = f"task {given.get('name')!r}: "
    own = own_message(fault)
    if own is not None:
        return where + own
    if fault["type"] == "unexpected_keyword_argument":
        known = tuple(_MUST)
        return f"{where}unknown key {name!r} (allowed: {', '.join(known)}).{nearest(name, known)}"
    if fault["type"].startswith("missing"):
        return f"{where}the key {name!r} is missing"
    if name == "name":
        return f"task name {given.get(name)!r} is not {_MUST[name].removeprefix('be ')}"
    value: Any = given.get(name)
    if name == "labels" and len(fault["loc"]) > 1:
        number = int(fault["loc"][1])
        return f"{where}label {number} is not text but {fault['input']!r}; in YAML, quote it"
    if name == "published" and len(fault["loc"]) > 1:
        rule = fault["loc"][1]
        return f"{where}published[{rule!r}] must map scores to numbers: {value[rule]!r}"
    return f"{where}{name} must {_MUST[name]}, not {value!r}"


def _tuple(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def _words(labels: Sequence[str]) -> tuple[str, ...]:
    if len(labels) < 2:
        raise ValueError(f"at least 2 labels are needed, got {len(labels)}")
    for i, word in enumerate(labels):
        if not word or word != word.strip() or not encodable(word):
            raise ValueError(
                f"label {i} ({word!r}) must be a non-empty word without spaces at its ends"
            )
        if word in labels[:i]:
            raise ValueError(f"label {word!r} occurs twice")
    return tuple(labels)


def _prompt(prompt: str) -> str:
    prompt_fields(prompt)
    if prompt != prompt.rstrip():
        raise ValueError(
            "the prompt ends in whitespace; end it at its last word, since a label word is "
            "appended after one space"
        )
    return prompt


def _seed(seed: int) -> int:
    return check_seed(seed, "a seed", TaskError)


# A pattern, so that what is wrong is told as for any other type.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_Text = Annotated[str, Field(pattern=r"\S")]
_Labels = Annotated[Sequence[str], AfterValidator(_words)]
_Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0), AfterValidator(_seed)], ...], BeforeValidator(_tuple)
]


def _no_published() -> Published:
    return {}


@validated(TaskError, _fault)
@dataclass(frozen=True, config=STRICT)
class Task:
    """One classification task.

    Attributes:
        name: An identifier; also the folder's name under `--data DIR`.
        prompt: Template with one `{column}` field for each text column. A label word follows it
            after one space, so it must not end in whitespace.
        labels: Label words, as a list or tuple; a word's position is its label id.
        label_column: The column that holds the label (an id or a label word).
        hub_id: Dataset id on the Hugging Face Hub, None for a task without one.
        hub_config: The Hub dataset's configuration name, if it has several.
        train_split: The Hub split that demonstrations are drawn from.
        evaluation_split: The Hub split that queries are drawn from.
        learning_rate: SGD learning rate of the published runs (None: none published, so the
            user has to give one).
        seeds: Seeds of the published runs, by permutation 0, 1, 2.
        published: Reference scores; see `Published`. Read-only by convention.
        other_task: The task whose demonstrations the control `other_task` shows: one of another
            concept and other label words. None for none.
        description: One line on what is classified.
        citation: Where the data comes from, in short.

    Raises:
        TaskError: On construction, if any of the above is not as described.
    """

    name: _Name
    prompt: Annotated[_Text, AfterValidator(_prompt)]
    labels: _Labels
    label_column: _Text = "label"
    hub_id: _Text | None = None
    hub_config: _Text | None = None
    train_split: _Text = "train"
    evaluation_split: _Text = "validation"
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    seeds: _Seeds = ()
    published: Mapping[str, Mapping[str, Annotated[float, Field(allow_inf_nan=False)]]] = field(
        default_factory=_no_published, hash=False
    )
    other_task: _Name | None = None
    description: str = ""
    citation: str = ""

    @model_validator(mode="after")
    def _label_stays_out_of_the_prompt(self) -> Task:
        if self.label_column in self.columns:
            raise ValueError(
                f"the prompt contains the label column {{{self.label_column}}}, which would give "
                "the answer away"
            )
        return self

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The text columns that the prompt names, in order of first use."""
        return prompt_fields(self.prompt)

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
            if not isinstance(value, str) or not is_text(value):
                raise RowsError(what_is_wrong(row, column))
            texts[column] = value.strip() if strip else value
        return self.prompt.format_map(texts)

    def label_word(self, label: int) -> str:
        """Return the label word of a label id.

        Raises:
            TaskError: There is no such id.
        """
        if isinstance(label, bool) or not 0 <= label < len(self.labels):
            raise TaskError(
                f"Task {self.name!r}: no label {label!r}; labels are 0 to {len(self.labels) - 1}"
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
    def from_yaml(cls, path: str | Path) -> Task:
        """Read a task from a YAML file whose keys are this class's attributes.

        `name` may be left out; it is then the file's name without `.yaml`.

        Raises:
            TaskError: The file is missing, not YAML, or not a valid task.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TaskError(f"Cannot read the task file {str(path)!r}: {error}") from error
        return cls.from_yaml_text(text, source=str(path), name=path.stem)

    @classmethod
    def from_yaml_text(cls, text: str, *, source: str, name: str) -> Task:
        """Read a task from YAML text. See `from_yaml`.

        Args:
            text: The YAML text.
            source: Where the text is from, for error messages.
            name: The task's name where the text gives none.

        Raises:
            TaskError: Not YAML, or not a valid task.
        """
        values = mapping(text, TaskError, source, "a task")
        allowed = [each.name for each in fields(cls)]
        for key in values:
            if key not in allowed:
                raise TaskError(
                    f"{source}: unknown key {key!r} (allowed: {', '.join(allowed)})."
                    f"{nearest(key, allowed)}"
                )
        for key in ("prompt", "labels"):
            if key not in values:
                raise TaskError(f"{source}: the key {key!r} is missing")
        given: dict[str, Any] = {"name": name, **values}
        try:
            return cls(**given)
        except TaskError as error:
            raise TaskError(f"{source}: {error}") from None


_SUFFIXES = (".yaml", ".yml")


def list_tasks() -> tuple[str, ...]:
    """Return the names of the shipped tasks, sorted.

    Examples:
        >>> list_tasks()
        ('agnews', 'cb', 'mr', 'sst2', 'sst5', 'subj')
    """
    entries = (files("iclgd_lens.tasks") / "definitions").iterdir()
    return tuple(sorted(e.name.removesuffix(".yaml") for e in entries if e.name.endswith(".yaml")))


def get_task(task: str | Path | Task) -> Task:
    """Return a task: a shipped one by name, a user's by the path of its YAML file, or itself.

    Args:
        task: A name of `list_tasks()`; a path that ends in `.yaml` or `.yml`; or a `Task`.

    Raises:
        TaskError: No such name (the nearest is suggested), no such file, or not a valid task.

    Examples:
        >>> get_task("sst2").labels
        ('Negative', 'Positive')
    """
    if isinstance(task, Task):
        return task
    if not isinstance(cast("object", task), (str, Path)):
        raise TaskError(
            "A task is given by its name, the path of its .yaml file or as a Task, not by a "
            f"{type(task).__name__}"
        )
    if isinstance(task, Path) or task.lower().endswith(_SUFFIXES):
        return Task.from_yaml(task)
    names = list_tasks()
    if task not in names:
        raise TaskError(
            f"Unknown task {task!r} (shipped: {', '.join(names)}; or give the path of a .yaml "
            f"file).{nearest(task.lower(), names)}"
        )
    source = f"{task}.yaml"
    resource = files("iclgd_lens.tasks") / "definitions" / source
    return Task.from_yaml_text(resource.read_text(encoding="utf-8"), source=source, name=task)
