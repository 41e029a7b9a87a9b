"""Where a run was made: libraries, hardware, commit. Recorded, never part of a cell's key."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from iclgd_lens import __version__

_LIBRARIES = (
    "torch", "transformers", "transformer-lens", "tokenizers", "datasets", "numpy", "scipy",
    "pandas", "pyarrow", "pydantic", "ray", "fsspec",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Return versions, hardware and the git commit of the code, as plain JSON values."""
    return {
        "versions": {"iclgd-lens": __version__, "python": platform.python_version()}
        | {name: found for name in _LIBRARIES if (found := _version(name)) is not None},
        "hardware": hardware(),
        "system": platform.platform(),
        "git_commit": git_commit(),
    }


def hardware() -> dict[str, Any]:
    """Return what computes: processor, cores, threads, memory in GB, accelerators."""
    facts: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": _memory_gb(),
    }
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        facts["accelerators"] = [torch.cuda.get_device_name(index) for index in range(count)]
    return facts


def git_commit() -> str | None:
    """Return the commit of the repository that holds this package, "-dirty" if changed, or None."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None  # installed; a repository further up would be another project's
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return f"{commit}-dirty" if _git(root, "status", "--porcelain") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        return None
