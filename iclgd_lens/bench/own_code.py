"""Somebody's own function, score or control as text that changes when what it does may change.

A function of a module is known by the whole module: a constant or a helper beside it counts. One
of a notebook has no file; it is known by its source, and by the functions and plain values of the
notebook that it names, and those that these name. A partial function is known by its arguments,
too, and an object that can be called by its class and what it holds. Comments and docstrings of a
module count nowhere.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

from iclgd_lens.bench.code_meaning import meaning

_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def own_code(function: Any) -> str:
    """What is known of a function of somebody's own, as text."""
    if isinstance(function, functools.partial):
        inner: Any = function
        given = (inner.args, sorted(inner.keywords.items()))
        return f"{own_code(inner.func)}\0{_steady(given)}"
    if inspect.ismethod(function):
        return f"{own_code(function.__func__)}\0{_held(function.__self__)}"
    if not isinstance(function, (FunctionType, type)):
        return f"{own_code(type(function))}\0{_held(function)}"
    file = _file(function)
    name = f"{function.__module__}:{function.__qualname__}"
    if file is not None:
        return f"{name}\0{meaning(file.read_text(encoding='utf-8'))}\0{_closed(function)}"
    found: dict[str, str] = {}
    _gather(function, found)
    return repr((name, sorted(found.items()), _closed(function)))


def _held(value: object) -> str:
    return _steady(sorted(getattr(value, "__dict__", {"": value}).items()))


def _closed(function: Any) -> str:
    """Plain values that a function was made with."""
    plain: list[Any] = [getattr(function, "__defaults__", None)]
    for cell in getattr(function, "__closure__", None) or ():
        try:
            value = cell.cell_contents
        except ValueError:  # nothing was put into it yet
            continue
        plain += [value] if isinstance(value, (*_PLAIN, tuple, list, dict)) else []
    return _steady(plain)


def _steady(value: object) -> str:
    """A value as text that is the same in every process: without addresses in memory."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _file(function: Any) -> Path | None:
    module = sys.modules.get(function.__module__)
    path = getattr(module, "__file__", None)
    return Path(path) if path is not None and Path(path).is_file() else None


def _gather(function: Any, found: dict[str, str]) -> None:
    """Collect the source of a notebook's function and of what it names there."""
    name = function.__qualname__
    if name in found:
        return
    try:
        found[name] = inspect.getsource(function)
    except (OSError, TypeError):
        code: Any = getattr(function, "__code__", None)
        found[name] = _steady(("unknown",) if code is None else (code.co_code, code.co_consts))
    named = getattr(getattr(function, "__code__", None), "co_names", ())
    there = getattr(function, "__globals__", {})
    for each in named:
        value = there.get(each)
        if isinstance(value, (FunctionType, type)) and value.__module__ == function.__module__:
            _gather(value, found)
        elif each in there and isinstance(value, (*_PLAIN, tuple)):
            found[each] = repr(value)
