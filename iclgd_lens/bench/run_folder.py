"""A run's files: small ones by name, in a folder or wherever fsspec goes."""

from __future__ import annotations

import os
import stat
import time
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any

from iclgd_lens.errors import RunError
from iclgd_lens.files import PARTIAL, is_abandoned, partial_name, write_whole


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

    @abstractmethod
    def clean(self, *folders: str) -> int:
        """Remove what killed processes left half-written, in the top folder and these.

        Returns:
            How many files were removed; those of live processes stay.
        """

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
        place = self.folder / name
        try:
            # Opening a FIFO would wait for ever.
            if not stat.S_ISREG(place.stat().st_mode):
                raise RunError(f"{place} is not a regular file; move it away")
            return place.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise RunError(f"{place} cannot be read: {error.strerror}") from error

    def write(self, name: str, data: bytes) -> None:
        # Half-written files lie in the top folder, so that the others are data sets at any time.
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / name, data, scratch=self.folder)

    def names(self, folder: str = "") -> set[str]:
        try:
            entries = list(os.scandir(self.folder / folder))
        except (FileNotFoundError, NotADirectoryError):
            return set()
        return {
            entry.name
            for entry in entries
            if not entry.name.startswith(PARTIAL) and entry.is_file()
        }

    def remove(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        return (self.folder / name).is_file()

    def clean(self, *folders: str) -> int:
        removed = 0
        for folder in ("", *folders):
            try:
                entries = [e for e in os.scandir(self.folder / folder) if e.name[:9] == PARTIAL]
            except OSError:
                continue
            for entry in entries:
                try:
                    if is_abandoned(entry.name, time.time() - entry.stat().st_mtime):
                        os.unlink(entry.path)
                        removed += 1
                except OSError:  # another process was faster, or the folder is read-only
                    continue
        return removed


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
        self.fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        partial = self._path(partial_name())
        self.fs.pipe_file(partial, data)
        self.fs.mv(partial, path)

    def names(self, folder: str = "") -> set[str]:
        return {name for name in self._all_names(folder) if not name.startswith(PARTIAL)}

    def _all_names(self, folder: str) -> set[str]:
        try:
            self.fs.invalidate_cache()
            entries: list[dict[str, Any]] = self.fs.ls(self._path(folder), detail=True)
        except FileNotFoundError:
            return set()
        return {
            str(entry["name"]).rpartition("/")[2] for entry in entries if entry["type"] == "file"
        }

    def remove(self, name: str) -> None:
        try:
            self.fs.rm_file(self._path(name))
        except FileNotFoundError:
            return

    def exists(self, name: str) -> bool:
        return bool(self.fs.exists(self._path(name)))

    def clean(self, *folders: str) -> int:
        removed = 0
        for folder in ("", *folders):
            for name in self._all_names(folder):
                # Stores tell ages in many ways, so that files of other machines stay.
                if is_abandoned(name, 0.0):
                    self.remove(f"{folder}/{name}" if folder else name)
                    removed += 1
        return removed
