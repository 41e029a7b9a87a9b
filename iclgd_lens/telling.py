"""What long work is given to say how far it is: a function called with a short text per stage."""

from __future__ import annotations

from collections.abc import Callable

Tell = Callable[[str], None]


def silent(stage: str) -> None:
    """A `Tell` that says nothing."""
