"""The room stays light and knows neither models nor tokenizers."""

import ast
import subprocess
import sys
from pathlib import Path

ALLOWED = {"tasks", "errors", "embedded", "validation", "yaml_files"}
ROOM = Path(__file__).parents[2] / "iclgd_lens" / "tasks"


def test_no_heavy_import() -> None:
    code = (
        "import sys, iclgd_lens.tasks as t; t.get_task('cb'); t.list_tasks();"
        "heavy = {'transformer_lens', 'transformers', 'datasets', 'pyarrow', 'pandas'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert out.stdout.strip() == "[]"


def test_no_tensors_and_no_models_in_this_room() -> None:
    modules = list(ROOM.glob("*.py"))
    assert len(modules) > 4
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in names:
                assert name.split(".")[0] not in ("torch", "transformer_lens", "transformers"), path
                if name.startswith("iclgd_lens"):
                    assert name.split(".")[1] in ALLOWED, path
