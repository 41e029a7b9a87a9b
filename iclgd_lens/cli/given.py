"""What options mean that several commands have: names or 'none', and the file to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from iclgd_lens.errors import ComparisonError

NONE = "none"


def names(option: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
    """The names that were given; none for 'none', and None where nothing was asked.

    Args:
        option: How the option is called, for messages.
        given: What it was given.

    Raises:
        ComparisonError: 'none' stands beside a name.

    Examples:
        >>> names("--control", ["zero"]), names("--control", ["none"]), names("--control", [])
        (('zero',), (), None)
    """
    if not given:
        return None
    if NONE not in given:
        return tuple(given)
    if len(given) > 1:
        raise ComparisonError(f"{option} {NONE} stands alone: it cannot be combined.")
    return ()


def check_output(out: Path | None, kinds: Mapping[str, str]) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Args:
        out: What `--out` was given.
        kinds: What is written, by the suffix of the file.

    Raises:
        ComparisonError: Its kind is unknown, or it is a folder.
        FileError: Its place takes no files.
    """
    if out is None:
        return
    from iclgd_lens.files import check_place

    if out.suffix not in kinds:
        raise ComparisonError(
            f"--out {out} ends in {out.suffix or 'no suffix'!r}; give a {' or '.join(kinds)} file "
            f"({', or '.join(kinds.values())})."
        )
    if out.is_dir():
        raise ComparisonError(f"--out {out} is a folder; give a file.")
    check_place(out)
