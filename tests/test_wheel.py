"""The built wheel, alone: installed into an empty folder, used from outside the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "iclgd_lens"
TASKS = {"sst2", "sst5", "mr", "subj", "agnews", "cb"}

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def is_source(path: Path) -> bool:
    return path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built offline from a copy of what is packaged, so that nothing is left behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for file in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / file, source)
    shutil.copytree(PACKAGE, source / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    pip = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index")
    run(*pip, "--wheel-dir", out, source, cwd=source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds the wheel's contents and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", target)
    run(*pip, wheel, cwd=target)
    return target


def test_the_wheel_carries_every_file_of_the_package(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    source = {p.relative_to(ROOT).as_posix() for p in PACKAGE.rglob("*") if is_source(p)}
    assert source - packed == set()
    assert "iclgd_lens/py.typed" in packed
    assert any(file.endswith(".yaml") for file in packed)


def test_the_wheel_carries_nothing_else(wheel: Path) -> None:
    tops = {file.partition("/")[0] for file in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"iclgd_lens", wheel.name.split("-")[0] + "-0.1.0.dist-info"}


def test_the_installed_copy_is_the_one_in_use(installed: Path, tmp_path: Path) -> None:
    code = "import iclgd_lens; print(iclgd_lens.__file__)"
    out = run("-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert Path(out.strip()).is_relative_to(installed)


def test_the_installed_command_knows_the_tasks(installed: Path, tmp_path: Path) -> None:
    out = run("-m", "iclgd_lens", "tasks", cwd=tmp_path, PYTHONPATH=str(installed))
    assert {task for task in TASKS if task in out} == TASKS


def test_the_installed_command_compares(installed: Path, tmp_path: Path, shared: Path) -> None:
    size = ("--task", "sst2", "--shots", "2", "--queries", "4", "--lr", "0.05", "--quick")
    where = ("--model", shared / "models/stories260K", "--data", shared / "data")
    command = ("-m", "iclgd_lens", "compare", *where, *size, "--json")
    out = run(*command, cwd=tmp_path, PYTHONPATH=str(installed))
    assert json.loads(out)
    assert "lcgd" in out
