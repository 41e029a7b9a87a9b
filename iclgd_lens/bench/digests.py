"""Digests of the code that computes a cell's numbers, so that a key changes when they could.

Three of them. The *core* reads and scores whatever the hypothesis is. A *rule's* digest covers its
own module and what that imports besides the core; so does a *control's*. Comments, docstrings,
layout and sentences count nowhere; nor do modules that only show numbers. (The same code has
another digest under another minor version of Python, whose syntax trees differ.)
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from iclgd_lens.bench.code_meaning import meaning
from iclgd_lens.bench.own_code import own_code
from iclgd_lens.registry import resolve
from iclgd_lens.scores import SCORES

PACKAGE = "iclgd_lens"
_ROOT = Path(__file__).resolve().parents[1]
SHOWING = frozenset(
    {
        "__init__", "__main__", "bench", "calibration", "calibration_on_networks", "cli",
        "collapse", "comparing", "comparison_groups", "controls", "display_names", "embedded",
        "errors", "figures", "files", "mediation", "phrases", "provenance", "ratios", "report",
        "results", "scores", "sealed_files", "sweeps", "token_attention", "verdicts", "workers",
        "worlds",
    }
)  # fmt: skip
"""Rooms without a part in a cell's values: they show, summarise or keep them. (What the tables of
scores and controls say counts entry by entry.) A new room counts until it is listed here."""
_RULES = "hypotheses"
CORE_FILES = frozenset(
    {"bench/session.py", "hypotheses/companions.py", "hypotheses/described.py",
     "hypotheses/registry.py"}
)  # fmt: skip
"""Files of other rooms that compute for every hypothesis: the core itself builds with them."""


def core_digest() -> str:
    """Return sixteen hexadecimal digits over what the package's computing modules do.

    What the tables of scores say counts entry by entry, users' own scores included.
    """
    digest = hashlib.sha256(files_digest().encode())
    for name, score in sorted(SCORES.items()):
        if score.asked:  # measured in no cell
            continue
        made = [_known_as(each) for each in (score.function, score.by_head)]
        digest.update(f"{(name, score.level, score.needs, score.fact, *made)}\0".encode())
    return digest.hexdigest()[:16]


@cache
def files_digest(root: Path = _ROOT) -> str:
    """The digest of the computing modules of a package folder."""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if is_core(place):
            text = file.read_text(encoding="utf-8")
            digest.update(f"{place.as_posix()}\0{meaning(text)}\0".encode())
    return digest.hexdigest()


@cache
def rooms_digest(*names: str) -> str:
    """The digest of some files and folders of the package, as they stand in it."""
    digest = hashlib.sha256()
    for name in names:
        place = _root() / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            digest.update(f"{name}\0{meaning(file.read_text(encoding='utf-8'))}\0".encode())
    return digest.hexdigest()[:16]


def _known_as(function: Callable[..., Any] | str | None) -> str:
    """The name of one of the core's functions, or the digest of a user's own."""
    return function_digest(function) if callable(function) else str(function)


def is_core(place: Path) -> bool:
    """Whether a module (by its place in the package) computes for every hypothesis alike."""
    room = place.parts[0].removesuffix(".py")
    if place.as_posix() in CORE_FILES:
        return True
    return room not in SHOWING and room != _RULES


def function_digest(function: Callable[..., Any] | str) -> str:
    """Return sixteen hexadecimal digits over what a function's module does, and its imports.

    The core is left out, since every key holds its digest: of one of its functions only the name
    counts. Somebody's own function is known by its whole module; see `own_code`.
    """
    found = resolve(function)
    module = str(getattr(found, "__module__", ""))
    if not module.startswith(f"{PACKAGE}."):
        return hashlib.sha256(own_code(found).encode()).hexdigest()[:16]
    file = _file(module)
    if file is not None and is_core(file.relative_to(_root())):
        name = f"{module}:{getattr(found, '__qualname__', '')}"
        return hashlib.sha256(name.encode()).hexdigest()[:16]
    return module_digest(module)


@cache
def module_digest(module: str) -> str:
    """The digest of one of the package's modules and of what it imports besides the core."""
    digest = hashlib.sha256()
    for name in sorted(_reached(module)):
        file = _file(name)
        if file is not None and (name == module or not is_core(file.relative_to(_root()))):
            digest.update(f"{name}\0{meaning(file.read_text(encoding='utf-8'))}\0".encode())
    return digest.hexdigest()[:16]


def imported(function: Callable[..., Any] | str) -> frozenset[str]:
    """Other packages that one of the package's rules imports, itself or by another rule."""
    module = str(getattr(resolve(function), "__module__", ""))
    if not module.startswith(f"{PACKAGE}."):
        return frozenset()
    files = [file for name in _reached(module) if (file := _file(name)) is not None]
    return frozenset(name.split(".")[0] for file in files for name in _imports(file))


def _reached(module: str) -> set[str]:
    """A module and those hypotheses' modules that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        file = _file(name)
        if file is not None:
            wanted = (each for each in _imports(file) if each.startswith(f"{PACKAGE}.{_RULES}."))
            waiting += [each for each in wanted if _file(each) is not None]
    return found


def _root() -> Path:
    """Where the package that is running lies."""
    return Path(str(sys.modules[PACKAGE].__file__)).resolve().parent


def _file(module: str) -> Path | None:
    path = _root().joinpath(*module.split(".")[1:]).with_suffix(".py")
    return path if path.is_file() else None


def _imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
