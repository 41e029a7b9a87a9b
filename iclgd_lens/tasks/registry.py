"""The shipped tasks by name, and a user's task from a file."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from iclgd_lens.errors import TaskError, nearest
from iclgd_lens.tasks.task import Task

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
    if isinstance(task, Path) or task.lower().endswith(_SUFFIXES):
        return Task.from_yaml(task)
    names = list_tasks()
    if task not in names:
        raise TaskError(
            f"unknown task {task!r} (shipped: {', '.join(names)}; or give the path of a .yaml "
            f"file).{nearest(task.lower(), names)}"
        )
    source = f"{task}.yaml"
    resource = files("iclgd_lens.tasks") / "definitions" / source
    return Task.from_yaml_text(resource.read_text(encoding="utf-8"), source=source, name=task)
