"""The examples run as they stand: on the embedded model where it is, on a small one in any case."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from iclgd_lens.embedded import embedded_model_folder
from iclgd_lens.errors import ModelError
from tests.smallmodel import save_small_model

pytestmark = pytest.mark.slow
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
def test_the_notebook_runs_from_top_to_bottom(root: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(root / "examples/quickstart.ipynb", as_version=4)
    here = os.environ.get("PYTHONPATH", "")
    paths = os.pathsep.join(filter(None, [str(root), here]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", paths)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root)}}).execute()


def test_the_notebook_is_stored_as_it_was_run_and_small(root: Path) -> None:
    import nbformat

    path = root / "examples/quickstart.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds == {"stream", "execute_result", "display_data"}
    assert path.stat().st_size < 200_000, "Plotly's own script is not stored with each figure"
