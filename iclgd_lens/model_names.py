"""What names say by themselves, before anything is looked up."""

from __future__ import annotations

from pathlib import Path

UNTRAINED_SUFFIX = "-untrained"
"""Ends the name of a model's untrained twin."""


def split_untrained(name: str) -> tuple[str, bool]:
    """Return the model that a name stands for, and whether its untrained twin is meant.

    An existing folder with such a name is that folder.
    """
    if not name.endswith(UNTRAINED_SUFFIX) or Path(name).expanduser().exists():
        return name, False
    return name.removesuffix(UNTRAINED_SUFFIX), True


def label_of(name: str) -> str:
    """What results call a model: its name; for a folder or file, the last part of the path."""
    path = Path(name).expanduser()
    return path.resolve().name if path.exists() else name


def is_file_name(name: str) -> bool:
    """Whether a file or folder can have this name, in the place where it is made."""
    return (
        name.isprintable()
        and name.strip() == name != ""
        and not name.startswith(".")
        and not any(character in name for character in "/\\")
        and len(name.encode()) <= 200
    )
