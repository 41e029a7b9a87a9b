"""Run the notebooks of `examples/` and keep what they print.

    python docs/run_notebooks.py [--check] [NAME ...]

With `--check` they run in this process and nothing is kept. Figures are stored as Plotly's JSON,
without Plotly's own script; the site draws them. Needs the extra `dev`.
"""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[1]
CHECK = "--check"


def main(*arguments: str) -> None:
    """Run the named notebooks, or all."""
    names = [each for each in arguments if each != CHECK]
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, as_version=4)
        if CHECK in arguments:
            check(notebook, path.name)
            print(f"{path.name} runs")
        else:
            run(notebook)
            nbformat.write(notebook, path)
            print(f"ran {path.name}")


def check(notebook: Any, name: str) -> None:
    """Run the code of a notebook here."""
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}, cell {number}", "exec"), names)


def run(notebook: Any) -> None:
    """Run a notebook in a kernel of its own; its outputs are kept in it."""
    from nbclient import NotebookClient

    paths = filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])
    os.environ |= {"PLOTLY_RENDERER": "plotly_mimetype", "PYTHONPATH": os.pathsep.join(paths)}
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(ROOT)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":  # progress bars and notes of libraries are no results
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]


if __name__ == "__main__":
    main(*sys.argv[1:])
