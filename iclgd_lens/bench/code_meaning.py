"""What a module's code does, as text: without comments, docstrings, layout and sentences."""

from __future__ import annotations

import ast


def meaning(source: str) -> str:
    """A module's syntax tree as text, without docstrings, sentences for people, and positions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            node.body = [statement for statement in node.body if not _is_text(statement)]
        elif isinstance(node, ast.Call) and _registers(node.func):
            node.keywords = [each for each in node.keywords if each.arg not in _PROSE]
    return ast.dump(tree)


_PROSE = frozenset({"description", "meaning", "source"})
"""Arguments of registrations that are read by people alone."""


_REGISTRATIONS = frozenset({"hypothesis", "score", "control", "Hypothesis", "Score", "Control"})


def _registers(called: ast.expr) -> bool:
    """Whether a call makes an entry of one of the tables."""
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    return name in _REGISTRATIONS


def _is_text(statement: ast.stmt) -> bool:
    """A docstring, of a definition or (by custom) of an attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )
