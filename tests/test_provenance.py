"""Provenance: libraries, hardware and commit, without loading what is not needed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from iclgd_lens import provenance
from iclgd_lens.provenance import environment, git_commit, library_versions


def test_versions_are_those_of_the_installed_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    found = library_versions()
    assert found["python"] == platform.python_version()
    for name in ("torch", "transformers", "tokenizers", "transformer-lens"):
        assert found[name] == version(name)
    monkeypatch.setattr(provenance, "LIBRARIES", ("no-such-package",))
    assert library_versions()["no-such-package"] == "not installed"


def test_an_environment_is_plain_json(root: Path) -> None:
    facts = environment()
    assert json.loads(json.dumps(facts)) == facts
    assert library_versions().items() <= facts["versions"].items()
    assert facts["versions"]["numpy"] == version("numpy")
    assert facts["hardware"]["cores"] == os.cpu_count()
    assert facts["hardware"]["threads"] == torch.get_num_threads()
    assert facts["hardware"]["memory_gb"] > 0
    if not (root / ".git").exists():
        assert git_commit() is None
        return
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert facts["git_commit"] in (head, f"{head}-dirty")


def test_versions_are_told_without_torch() -> None:
    code = (
        "import sys; from iclgd_lens.provenance import library_versions; library_versions();"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
