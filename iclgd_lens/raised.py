"""What a function raised, in one line with its place, where a comparison goes on without it."""

from __future__ import annotations

import sysconfig
import traceback
import warnings
from pathlib import Path

_LIBRARIES = tuple(
    str(Path(sysconfig.get_paths()[name])) for name in ("stdlib", "platlib", "purelib")
)
_PACKAGE = str(Path(__file__).resolve().parent)


class FailureWarning(UserWarning):
    """Something could not be measured because a function raised; the rest goes on without it."""


def raised(what: str, error: BaseException) -> str:
    r"""Say what raised which error, and where, in one line.

    Examples:
        >>> raised("mine", ValueError("no\nsuch thing"))
        'mine raised ValueError: no such thing'
    """
    text = " ".join(str(error).split()) or "no message"
    place = _place(error)
    return f"{what} raised {type(error).__name__}: {text[:600]}" + (f" ({place})" if place else "")


def warn_of_failure(told: str) -> None:
    """Tell at once what is lost: a long comparison's reader need not wait for its end."""
    warnings.warn(told, FailureWarning, stacklevel=2)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: another machine may do better."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and "memory" in text and "alloc" in text)
        or type(error).__name__ == "OutOfMemoryError"
    )


def _place(error: BaseException) -> str:
    """The file and line where a user's own code raised, or called what raised; else the last."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if not each.filename.startswith((_PACKAGE, *_LIBRARIES))]
    for frame in (own or frames)[::-1][:1]:
        return f"{Path(frame.filename).name}:{frame.lineno}"
    return ""
