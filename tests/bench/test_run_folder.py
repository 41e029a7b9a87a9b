"""A run's files: read without waiting, cleaned of what killed processes left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iclgd_lens import files
from iclgd_lens.bench.run_folder import open_files
from iclgd_lens.errors import RunError
from iclgd_lens.files import PARTIAL, partial_name


def dead_name() -> str:
    """The name of a partial file whose process is gone."""
    code = "from iclgd_lens.files import partial_name; print(partial_name())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_opening_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    run, dead, live = open_files(tmp_path), dead_name(), partial_name()
    run.write("cells/a.parquet", b"1")
    run.write("run.json", b"{}")
    for folder in (tmp_path, tmp_path / "cells"):
        (folder / dead).write_bytes(b"half")
        (folder / live).write_bytes(b"half")
        (folder / f"{PARTIAL}0123").write_bytes(b"of another version")
    assert run.names() == {"run.json"}
    assert run.names("cells") == {"a.parquet"}
    assert run.clean("cells", "failed") == 2
    left = {live, f"{PARTIAL}0123"}
    assert set(os.listdir(tmp_path)) == {"run.json", "cells"} | left
    assert set(os.listdir(tmp_path / "cells")) == {"a.parquet"} | left
    old = tmp_path / f"{PARTIAL}0123"
    os.utime(old, (0, 0))
    assert run.clean() == 1
    assert not old.exists()


def test_what_is_being_written_is_never_among_the_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append(set(os.listdir(tmp_path / "cells"))))
    open_files(tmp_path).write("cells/a.parquet", b"1")
    assert seen == [set()]
    assert os.listdir(tmp_path / "cells") == ["a.parquet"]


def test_a_folder_on_another_disk_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, refused = os.replace, []

    def across(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            refused.append(source)
            raise OSError(files.errno.EXDEV, "Invalid cross-device link")
        replace(source, target)

    monkeypatch.setattr(os, "replace", across)
    open_files(tmp_path).write("cells/a.parquet", b"1")
    assert len(refused) == 1
    assert os.listdir(tmp_path) == ["cells"]
    assert os.listdir(tmp_path / "cells") == ["a.parquet"]


def test_what_is_no_file_is_named_and_nothing_waits(tmp_path: Path) -> None:
    run = open_files(tmp_path)
    os.mkfifo(tmp_path / "run.json")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("run.json", "folder"):
        with pytest.raises(RunError, match=f"{name} is not a regular file; move it away"):
            run.read(name)
    with pytest.raises(RunError, match="loop cannot be read: Too many levels"):
        run.read("loop")
    assert run.read("missing") is None
    assert run.read("run.json/below") is None


def test_remote_files_are_cleaned_as_well(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    run = open_files("memory://clean/run")
    run.write("cells/a", b"1")
    dead, live = dead_name(), partial_name()
    for name in (f"cells/{dead}", dead, live):
        run.fs.pipe_file(run._path(name), b"half")  # type: ignore[attr-defined]
    assert run.clean("cells") == 2
    assert (run.names("cells"), run.names()) == ({"a"}, set())
    assert run.exists(live)
