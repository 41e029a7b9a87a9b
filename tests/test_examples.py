"""The examples run as they stand: on the embedded model where it is, on a small one in any case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.embedded import embedded_model_folder
from iclgd_lens.errors import ModelError
from tests.smallmodel import save_small_model

pytestmark = pytest.mark.slow
# tests/worlds runs the notebook of worlds.
NOTEBOOKS = ("benchmark", "own", "per_head", "quickstart", "worlds")
SCRIPTS = {
    "per_head.py": ("SimAOU", "norm of the update"),
    "new_hypothesis.py": ("mean_shift",),
}


def embedded_is_there() -> bool:
    try:
        return (embedded_model_folder() / "config.json").is_file()
    except ModelError:
        return False


needs_embedded = pytest.mark.skipif(
    not embedded_is_there(), reason="the embedded model is not in this checkout"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_small_model(tmp_path_factory.mktemp("model") / "tiny")


def run_script(root: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, f"examples/{name}", *arguments], cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_is_run_here(root: Path) -> None:
    assert {path.name for path in (root / "examples").glob("*.py")} == set(SCRIPTS)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_on_any_model(name: str, root: Path, model: Path) -> None:
    out = run_script(root, name, str(model), "subj")
    assert all(part in out for part in SCRIPTS[name])


@needs_embedded
@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_without_arguments(name: str, root: Path) -> None:
    out = run_script(root, name)
    assert all(part in out for part in SCRIPTS[name])


def test_the_command_line_takes_the_examples_hypothesis(root: Path, model: Path) -> None:
    size = ["--data", "embedded", "--shots", "4", "--queries", "4", "-C", "shuffled"]
    plugin = ["-H", "mean_shift", "--import", "examples.new_hypothesis"]
    command = ["compare", "-m", str(model), *size, *plugin]
    done = subprocess.run(
        [sys.executable, "-m", "iclgd_lens", *command], cwd=root, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mean_shift, SimAOU_label: not applicable. It was fitted" in done.stdout


@needs_embedded
def test_the_notebooks_run_from_top_to_bottom(root: Path) -> None:
    # In one process of its own: every kernel would load the libraries once more.
    done = subprocess.run(
        [sys.executable, "docs/run_notebooks.py", "--check", *sorted({*NOTEBOOKS} - {"worlds"})],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".ipynb runs") == len(NOTEBOOKS) - 1


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_as_it_was_run_and_small(name: str, root: Path) -> None:
    code = [cell for cell in cells(root, name) if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    shown = [output for cell in code for output in cell.outputs]
    assert {output.output_type for output in shown} <= {"stream", "execute_result", "display_data"}
    assert len(shown) >= 3
    assert not [output for output in shown if output.get("name") == "stderr"]
    assert len(json.dumps(shown)) < 100_000, "Plotly's own script is not stored with each figure"


def cells(root: Path, name: str) -> list[Any]:
    import nbformat

    notebook = nbformat.read(root / f"examples/{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    return notebook.cells


def test_every_notebook_is_run_here(root: Path) -> None:
    assert {path.stem for path in (root / "examples").glob("*.ipynb")} == set(NOTEBOOKS)
