"""Files that are there whole or not at all.

Every file of this package is written by `write_whole`: under a hidden name that says which process
writes it, then moved to its place.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import tempfile
import uuid
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from iclgd_lens.errors import FileError, LensError

PARTIAL = ".partial-"
"""How the name of a file begins while it is being written; readers skip such files."""

FORGOTTEN = 24 * 3600
"""Seconds after which a partial file counts as abandoned, where its process cannot be asked."""

_OWNED = re.compile(re.escape(PARTIAL) + r"(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]+")


def write_whole(
    path: str | os.PathLike[str], data: bytes, *, scratch: str | os.PathLike[str] | None = None
) -> None:
    """Write `data` to `path`: the file is there whole, or as it was before.

    Missing folders are made. A symbolic link is followed: its target is replaced, not the link. A
    file that is replaced keeps its permissions.

    Args:
        path: The file.
        data: Its content.
        scratch: A folder on the same disk for the file that is being written; by default the one
            that holds `path`.

    Raises:
        OSError: The place takes no files, cannot be a file (a folder, a device, a loop of links),
            or the disk is full; nothing is left behind.
    """
    place = _place(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = place.parent if scratch is None else Path(scratch)
    try:
        _write_and_move(folder / partial_name(), place, data)
    except OSError as error:
        if scratch is None or error.errno != errno.EXDEV:
            raise
        _write_and_move(place.parent / partial_name(), place, data)


def check_suffix(path: Path, suffix: str, error: type[LensError]) -> Path:
    """Return a path that ends in a format's suffix, or in none.

    Raises:
        LensError: (the class `error`) It ends in another one: a reader would take the file for
            something else.
    """
    if path.suffix not in ("", suffix):
        raise error(
            f"{path} ends in {path.suffix!r}, and what is written there is a {suffix} file: give "
            f"a name such as {path.with_suffix(suffix).name!r}."
        )
    return path


def write_together(files: Mapping[Path, bytes]) -> None:
    """Write files that belong together: all are there in full before any takes its place.

    Args:
        files: Contents by path; missing folders are made. The last one is moved last.

    Raises:
        OSError: As in `write_whole`; all files are as they were, unless moving itself fails.
    """
    written: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            place = _place(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(partial_name())
            written[partial] = place
            write_whole(partial, data)
        for partial, place in written.items():
            if place.exists():
                os.chmod(partial, _mode(place))
            os.replace(partial, place)
    finally:
        for partial in written:
            partial.unlink(missing_ok=True)


def _place(path: str | os.PathLike[str]) -> Path:
    """The file that a path leads to, which need not be there.

    Raises:
        OSError: Something else is there.
    """
    place = Path(os.path.realpath(path))
    try:
        mode = place.lstat().st_mode
    except FileNotFoundError:
        return place
    if stat.S_ISLNK(mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return place


def _write_and_move(partial: Path, place: Path, data: bytes) -> None:
    descriptor, here, folder = _open_new(partial)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if place.exists():
                os.chmod(file.fileno() if os.chmod in os.supports_fd else here, _mode(place))
            os.fsync(file.fileno())
        within = {} if folder is None else {"src_dir_fd": folder}
        os.replace(here, place, **within)
    except BaseException:
        os.unlink(here, dir_fd=folder)
        raise
    finally:
        if folder is not None:
            os.close(folder)


def _open_new(partial: Path) -> tuple[int, str | Path, int | None]:
    """Open a new file: its descriptor, and its name within an open folder if that was needed.

    A path may be so near the system's limit that the one beside it is too long.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        return os.open(partial, flags, 0o666), partial, None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG or os.open not in os.supports_dir_fd:
            raise
    folder = os.open(partial.parent, os.O_RDONLY)
    try:
        return os.open(partial.name, flags, 0o666, dir_fd=folder), partial.name, folder
    except BaseException:
        os.close(folder)
        raise


def _mode(place: Path) -> int:
    return stat.S_IMODE(place.stat().st_mode)


# -- checked first, and somewhere else if need be --------------------------------------------------


def check_place(path: str | os.PathLike[str]) -> None:
    """Refuse a file that could not be written, before anything is computed for it.

    An empty file is made beside the place and removed again; missing folders are made.

    Raises:
        FileError: Something else is there, or the folder takes no files.
    """
    try:
        place = _place(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        _probe(place)
    except OSError as error:
        raise FileError(f"{os.fspath(path)} cannot be written: {error.strerror}.") from error


def _probe(place: Path) -> None:
    """Make and remove a file beside the place, with a name as long as the wanted one."""
    name = partial_name()
    wanted = len(os.fsencode(place.name))
    descriptor, here, folder = _open_new(place.with_name(name.ljust(wanted, "0")))
    try:
        os.close(descriptor)
        os.unlink(here, dir_fd=folder)
    finally:
        if folder is not None:
            os.close(folder)


def write_somewhere(path: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file where it was asked for; failing that, in this folder or the temporary one.

    For results that took long: they are not lost because a disk has filled up meanwhile.

    Returns:
        Where the file is.

    Raises:
        FileError: None of these places takes it.
    """
    wanted = Path(path)
    name = wanted.name[-100:] or "result"
    other = (Path.cwd() / name, Path(tempfile.gettempdir()) / f"{uuid.uuid4().hex[:8]}-{name}")
    reasons: list[str] = []
    # What lies in this folder under that name is somebody else's.
    for place in (wanted, *(each for each in other if not each.exists())):
        try:
            write_whole(place, data)
            return place
        except OSError as error:
            reasons.append(f"{place} ({error.strerror})")
    raise FileError(f"No place takes the file: {', '.join(reasons)}.")


# -- files of killed processes ---------------------------------------------------------------------


def partial_name() -> str:
    """A name for a file that is being written: hidden, and with host and process in it."""
    return f"{PARTIAL}{_host()}-{os.getpid()}-{uuid.uuid4().hex[:12]}"


def is_abandoned(name: str, age: float) -> bool:
    """Whether a partial file's process is gone.

    Args:
        name: The file's name.
        age: Seconds since it was last written to.

    Returns:
        False for a live process of this machine. A process of another machine cannot be asked:
        its file, and one of an unknown name, is abandoned after `FORGOTTEN` seconds.
    """
    if not name.startswith(PARTIAL):
        return False
    owner = _OWNED.fullmatch(name)
    if owner is None or owner["host"] != _host() or os.name == "nt":
        return age > FORGOTTEN
    return not _lives(int(owner["pid"]))


def _host() -> str:
    return sha256(socket.gethostname().encode()).hexdigest()[:8]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # asks, and sends nothing
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
