"""Files that are there whole or not at all; and a run's files, in a folder or wherever fsspec goes.

Every file of this package is written by `write_whole`: beside its place under a hidden name, then
moved there.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any

from iclgd_lens.errors import RunError

_PARTIAL = ".partial-"
"""How the names of files begin that are being written."""


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write `data` to `path`: the file is there whole, or as it was before.

    Missing folders are made. A symbolic link is followed: its target is replaced, not the link.

    Raises:
        OSError: The place takes no files, or the disk is full; nothing is left behind.
    """
    place = Path(os.path.realpath(path))
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, place)
    finally:
        partial.unlink(missing_ok=True)


class Files(ABC):
    """A folder of small files, by names with forward slashes relative to it."""

    where: str

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, or None where there is no such file."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file whole, replacing one of that name."""

    @abstractmethod
    def names(self, folder: str = "") -> set[str]:
        """Names of the files in a folder (not below it), without those being written."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def move(self, name: str, to: str) -> None:
        """Move a file, if it is there; another process may have moved it before."""
        data = self.read(name)
        if data is not None:
            self.write(to, data)
            self.remove(name)


def open_files(where: str | os.PathLike[str]) -> Files:
    """Return the files under a path, or under a URL such as "s3://bucket/run" (needs fsspec).

    Raises:
        RunError: The URL needs a library that is not installed, or the path is a file.
    """
    text = os.fspath(where)
    scheme, separator, rest = text.partition("://")
    if separator and scheme != "file":
        return _RemoteFiles(text)
    return _LocalFiles(Path(rest if separator else text))


class _LocalFiles(Files):
    def __init__(self, folder: Path) -> None:
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{folder} is a file; a run needs a directory of its own")
        self.folder = folder
        self.where = str(folder)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, data: bytes) -> None:
        write_whole(self.folder / name, data)

    def names(self, folder: str = "") -> set[str]:
        try:
            entries = list(os.scandir(self.folder / folder))
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {
            entry.name
            for entry in entries
            if not entry.name.startswith(_PARTIAL) and entry.is_file()
        }

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        return (self.folder / name).is_file()


class _RemoteFiles(Files):
    """Through fsspec. An object store's put is atomic; elsewhere a file is moved into place."""

    def __init__(self, url: str) -> None:
        try:
            core: Any = import_module("fsspec.core")
        except ImportError as error:
            raise RunError(f"{url}: a URL needs fsspec (pip install 'iclgd_lens[ray]')") from error
        try:
            self.fs, self.root = core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise RunError(f"{url}: fsspec cannot open it ({error})") from error
        self.where = url

    def _path(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def read(self, name: str) -> bytes | None:
        try:
            return bytes(self.fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        path = self._path(name)
        folder = path.rpartition("/")[0]
        self.fs.makedirs(folder, exist_ok=True)
        partial = f"{folder}/{_PARTIAL}{uuid.uuid4().hex}"
        self.fs.pipe_file(partial, data)
        self.fs.mv(partial, path)

    def names(self, folder: str = "") -> set[str]:
        try:
            self.fs.invalidate_cache()
            entries: list[dict[str, Any]] = self.fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return set()
        names = {
            str(entry["name"]).rpartition("/")[2] for entry in entries if entry["type"] == "file"
        }
        return {name for name in names if not name.startswith(_PARTIAL)}

    def remove(self, name: str) -> None:
        try:
            self.fs.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self._path(name)))
