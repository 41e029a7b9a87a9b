"""Names of this package that its pages and notebooks give are there."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import iclgd_lens as lens
from iclgd_lens.bench.run_tables import Run

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"]
    + [path for path in (ROOT / "docs").rglob("*.md") if "hooks" not in path.parts]
    + list((ROOT / "examples").glob("*.ipynb"))
)


def text_of(path: Path) -> str:
    """A page's text; a notebook's cells as a page would show them, without outputs."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    sources = [("".join(cell["source"]), cell["cell_type"]) for cell in cells]
    return "\n".join(f"```python\n{s}\n```" if kind == "code" else s for s, kind in sources)


def names(text: str) -> Iterator[str]:
    """Dotted names of the package: in backticks, in Python blocks, and in their imports."""
    for block in re.findall(r"^```python\n(.+?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        # Notebooks' magics and shells are no Python, and hold no names.
        code = "\n".join(line for line in block.splitlines() if not line.startswith(("%", "!")))
        yield from names_in_code(ast.parse(code))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    for quoted in re.findall(r"`([^`\n]+)`", prose):
        yield from re.findall(r"(?<![\w./-])(?:iclgd_lens|lens)(?:[.:][A-Za-z_]\w*)+", quoted)
    # `NAME(...)`, of `iclgd_lens.module`: the name is the module's.
    for name, module in re.findall(r"`(\w+)[^`]*`,?\s+of\s+`(iclgd_lens[\w.]*)`", prose):
        yield f"{module}.{name}"


def names_in_code(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("iclgd_lens"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("iclgd_lens"))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in ("lens", "iclgd_lens"):
                yield f"lens.{node.attr}"


def is_there(name: str) -> bool:
    """Whether a dotted name is a module of the package, or what one holds."""
    parts = re.split("[.:]", name)
    if parts[0] == "lens":
        parts[0] = "iclgd_lens"
        if len(parts) > 1 and parts[1] not in lens.__all__:
            return False  # a module is no name of `lens.`
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, part) and part not in fields:
                return False
            found = getattr(found, part, None)
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_name_of_the_package_that_a_page_gives_is_there(path: Path) -> None:
    lost = [name for name in dict.fromkeys(names(text_of(path))) if not is_there(name)]
    assert lost == []


def test_the_search_finds_names_and_says_which_are_lost() -> None:
    page = (
        "`load_claim(PATH).run(model)`,\nof `iclgd_lens.sweeps`, and `iclgd_lens.job:Job`\n"
        "`lens.compar(model)`, `lens.Episode.from_tokens`, `iclgd_lens.scores`, `my_lens.x`\n"
        "```python\nimport iclgd_lens as lens\nfrom iclgd_lens.sweeps.claims import Claim, claim\n"
        "lens.load_run('x').frame()\nlens.none\n```\n"
    )
    found = list(names(page))
    assert {"iclgd_lens.job:Job", "lens.Episode.from_tokens", "lens.load_run"} <= set(found)
    assert "my_lens.x" not in found
    assert sorted(name for name in found if not is_there(name)) == [
        "iclgd_lens.sweeps.claims.claim", "iclgd_lens.sweeps.load_claim", "lens.compar",
        "lens.none",
    ]  # fmt: skip


def test_the_pages_name_many(root: Path) -> None:
    assert sum(1 for path in PAGES for _ in names(text_of(path))) > 80
    assert root / "docs/claims.md" in PAGES


def test_a_comparison_and_a_run_have_the_tables_that_a_page_lists() -> None:
    text = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+\(\)`(?:, )?)+) \|", text, flags=re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"\w+", row)]
    assert {"gate", "frame", "head_map", "top_heads"} <= set(listed)
    lost = [n for n in listed for owner in (lens.Comparison, Run) if not hasattr(owner, n)]
    assert lost == []
