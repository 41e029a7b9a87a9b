"""The notebook: what it shows is what the ruler reads, and it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
import pytest

from iclgd_lens.embedded import embedded_model_folder
from iclgd_lens.errors import ModelError


def notebook(root: Path) -> Any:
    return nbformat.read(root / "examples/worlds.ipynb", as_version=4)


def printed(book: Any) -> str:
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    return "".join(out.get("text", "") for cell in cells for out in cell.outputs)


def test_the_stored_outputs_are_the_ruler(root: Path) -> None:
    book = notebook(root)
    nbformat.validate(book)
    shown = printed(book)
    for line in ("gd [nan, 1.0, 1.0]", "lcgd [nan, 0.5, 0.5]", "[1.0, 0.866, 0.5, 0.0, nan]"):
        assert line in shown
    assert not [o for c in book.cells for o in c.get("outputs", ()) if o.output_type == "error"]


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(root: Path) -> None:
    from nbclient import NotebookClient

    try:
        if not (embedded_model_folder() / "config.json").is_file():
            pytest.skip("the embedded model is not in this checkout")
    except ModelError:
        pytest.skip("the embedded model is not in this checkout")
    book = notebook(root)
    with pytest.MonkeyPatch.context() as patch:
        paths = filter(None, [str(root), os.environ.get("PYTHONPATH", "")])
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        NotebookClient(book, timeout=300, resources={"metadata": {"path": str(root)}}).execute()
    assert "gd [nan, 1.0, 1.0]" in printed(book)
