"""Files: whole or not at all, through links, on awkward places, and nothing left of the killed."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens import files
from iclgd_lens.errors import FileError
from iclgd_lens.files import (
    PARTIAL,
    check_place,
    is_abandoned,
    partial_name,
    write_somewhere,
    write_whole,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_whole(tmp_path / "a" / "b", b"1")
    write_whole(str(tmp_path / "a" / "b"), b"2")
    assert (tmp_path / "a" / "b").read_bytes() == b"2"
    assert names(tmp_path) == {"a", "b"}


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link, chain = tmp_path / "far" / "target", tmp_path / "link", tmp_path / "chain"
    target.parent.mkdir()
    target.write_bytes(b"old")
    link.symlink_to(target)
    chain.symlink_to("link")
    write_whole(chain, b"new")
    assert target.read_bytes() == b"new"
    assert link.is_symlink()
    assert chain.is_symlink()
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere" / "yet")
    write_whole(dangling, b"new")
    assert (tmp_path / "nowhere" / "yet").read_bytes() == b"new"
    assert dangling.is_symlink()


def test_permissions_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"old")
    path.chmod(0o600)
    write_whole(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("length", [1, 200, 255])
def test_names_up_to_the_limit_are_written(length: int, tmp_path: Path) -> None:
    path = tmp_path / ("x" * length)
    check_place(path)
    write_whole(path, b"1")
    assert names(tmp_path) == {path.name}
    with pytest.raises(FileError, match="cannot be written: File name too long"):
        check_place(tmp_path / ("x" * 256))
    assert names(tmp_path) == {path.name}


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of a path's length is Linux's")
def test_a_path_up_to_the_limit_is_written(tmp_path: Path) -> None:
    deep = tmp_path
    while len(str(deep)) < 4000:
        deep /= "d" * min(200, 4090 - len(str(deep)))
    deep = deep.parent / ("d" * (4088 - len(str(deep.parent)) - 1))
    path = deep / "result"  # 4,095 letters, the most there may be; the one beside it has 40 more
    assert len(str(path)) == 4095
    check_place(path)
    write_whole(path, b"1")
    assert path.read_bytes() == b"1"
    assert os.listdir(deep) == ["result"]


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    before = names(tmp_path)
    for name, code in (("folder", errno.EISDIR), ("fifo", errno.EINVAL), ("one", errno.ELOOP)):
        with pytest.raises(OSError, match=r"\[Errno") as caught:
            write_whole(tmp_path / name, b"1")
        assert caught.value.errno == code
        with pytest.raises(FileError, match=f"{name} cannot be written: "):
            check_place(tmp_path / name)
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert names(tmp_path) == before
    with pytest.raises(FileError, match="cannot be written"):
        check_place("/dev/null")


def full(*arguments: Any, **named: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == {"a"}


def test_a_result_finds_another_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "spare").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spare"))
    blocked = tmp_path / "file"
    blocked.write_bytes(b"x")
    assert write_somewhere(tmp_path / "a.json", b"1") == tmp_path / "a.json"
    assert write_somewhere(blocked / "a.json", b"1") == tmp_path / "here" / "a.json"
    # What lies there already is somebody else's.
    third = write_somewhere(blocked / "a.json", b"2")
    assert third.parent == tmp_path / "spare"
    assert third.read_bytes() == b"2"
    assert (tmp_path / "here" / "a.json").read_bytes() == b"1"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match=r"No place takes the file: .*No space left"):
        write_somewhere(tmp_path / "b.json", b"1")


# -- what the killed leave -------------------------------------------------------------------------

KILLED = """
import os, sys, time
from iclgd_lens import files
os.fsync = lambda fd: (print("writing", flush=True), time.sleep(60))
files.write_whole(sys.argv[1], b"half")
"""


def test_a_partial_file_is_abandoned_once_its_process_is_gone(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "a")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "writing"
    (partial,) = tmp_path.iterdir()
    assert partial.name.startswith(PARTIAL)
    assert not is_abandoned(partial.name, 1e9), "its process lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert is_abandoned(partial.name, 0.0)


def test_a_live_process_and_strangers_keep_their_files() -> None:
    own = partial_name()
    assert own.startswith(".")
    assert not is_abandoned(own, 1e9)
    assert not is_abandoned("a.parquet", 1e9)
    elsewhere = f"{PARTIAL}00000000-1-abc"
    for name in (elsewhere, f"{PARTIAL}0123"):
        assert not is_abandoned(name, 60.0)
        assert is_abandoned(name, files.FORGOTTEN + 1.0)


def test_two_writes_never_share_a_name() -> None:
    assert partial_name() != partial_name()
