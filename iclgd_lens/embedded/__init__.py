"""The embedded default: a small model that learns in context, and rows of the six tasks for it.

How they were made is `examples/embedded_model` in the repository.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal, cast

from iclgd_lens.errors import ModelError, RowsError, nearest

NAMES = ("embedded", "embedded-untrained")
"""What `load_model` calls the embedded model and its untrained twin."""

_WEIGHTS = "model.safetensors"
_TASKS = ("agnews", "cb", "mr", "sst2", "sst5", "subj")
_SPLITS = ("train", "validation")


def embedded_rows(task: str, split: Literal["train", "validation"]) -> list[dict[str, str | int]]:
    """Return the package's own rows of a task.

    Args:
        task: One of the six shipped tasks.
        split: 360 rows for "train", 180 for "validation", balanced over the classes.

    Returns:
        One mapping per row: the columns of the task's Hub copy, with the label's id under "label".

    Raises:
        RowsError: No such task or split.
    """
    if task not in _TASKS:
        raise RowsError(
            f"No embedded rows of task {task!r} (there are: {', '.join(_TASKS)})."
            f"{nearest(task, _TASKS)}"
        )
    if split not in _SPLITS:
        raise RowsError(
            f"No embedded split {split!r} (there are: {', '.join(_SPLITS)})."
            f"{nearest(split, _SPLITS)}"
        )
    resource = files(__name__) / "data" / f"{task}_{split}.jsonl.gz"
    lines = gzip.decompress(resource.read_bytes()).decode().splitlines()
    return [cast("dict[str, str | int]", json.loads(line)) for line in lines]


def embedded_model_folder() -> Path:
    """Return the folder of the embedded model: config, safetensors, tokenizer, model card.

    Raises:
        ModelError: The package is not installed as plain files (a zip archive, say).
    """
    folder = files(__name__) / "model"
    if not isinstance(folder, Path) or not folder.is_dir():
        raise ModelError(f"The embedded model is not a folder of plain files: {folder}")
    return folder


@cache
def embedded_revision() -> str:
    """Return what results record as the revision of the embedded model: a digest of its weights."""
    return f"sha256:{hashlib.sha256(_shipped_weights()).hexdigest()[:16]}"


def is_embedded(name_or_folder: str | Path) -> bool:
    """Whether a model's name or folder is the embedded model: by its name, or by its weights."""
    if str(name_or_folder) in NAMES:
        return True
    weights = Path(name_or_folder).expanduser() / _WEIGHTS
    if not weights.is_file():
        return False
    shipped = _shipped_weights()
    return weights.stat().st_size == len(shipped) and weights.read_bytes() == shipped


def rows_source(model: str | Path | None = None, *, revision: str | None = None) -> str:
    """Return where rows come from by default: those that a model was trained to read.

    Args:
        model: The model's name or folder, before it is loaded.
        revision: What a loaded model records as its revision.

    Returns:
        "embedded" for the embedded model, under whatever name, else "hub".
    """
    named = model is not None and is_embedded(model)
    return "embedded" if named or revision == embedded_revision() else "hub"


def _shipped_weights() -> bytes:
    return (files(__name__) / "model" / _WEIGHTS).read_bytes()
