"""A digest of the code that computes a cell's numbers.

Part of every key: a version number tells releases apart, but not a checkout before and after an
edit. Comments, docstrings and layout do not count, so that tidying up loses no results. (The same
code has another digest under another minor version of Python, whose syntax trees differ.)
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_SHOWING = ("report", "embedded", "figures", "tables", "delta_file", "errors", "__main__")
"""Modules without a part in the numbers; of the bench itself only these have one:"""
_MEASURING = ("learning_rate", "measure", "cellfile")


@cache
def code_digest(root: Path = _ROOT) -> str:
    """Return sixteen hexadecimal digits over what the package's computing modules do."""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if computes(place):
            text = file.read_text(encoding="utf-8")
            digest.update(f"{place.as_posix()}\0{meaning(text)}\0".encode())
    return digest.hexdigest()[:16]


def computes(place: Path) -> bool:
    """Whether a module (by its place in the package) can change a cell's numbers.

    A new module counts until it is listed here as one that cannot.
    """
    if place == Path("__init__.py"):
        return False
    room = place.parts[0].removesuffix(".py")
    if room == "bench":
        return place.stem in _MEASURING
    return room not in _SHOWING and not room.startswith(("cli", "demo"))


def meaning(source: str) -> str:
    """A module's syntax tree as text, without docstrings and positions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return ast.dump(tree)


def _is_text(statement: ast.stmt) -> bool:
    """A docstring, of a definition or (by custom) of an attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
