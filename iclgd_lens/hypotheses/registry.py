"""Hypotheses by name: the built-in ones, those of plugins, and those of a notebook.

A hypothesis is a function `(host, episode, **settings) -> Intervention`. Register one with the
decorator, or from a package of your own through the entry point group `iclgd_lens.hypotheses`.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar, cast

from iclgd_lens.errors import HypothesisError, nearest
from iclgd_lens.intervention import Intervention

ENTRY_POINTS = "iclgd_lens.hypotheses"
_BUILT_IN = ("gd", "lcgd", "oracle", "random", "zero")

Build = Callable[..., Intervention]
_B = TypeVar("_B", bound=Callable[..., Any])


@dataclass(frozen=True)
class Hypothesis:
    """A named way to turn demonstrations into an intervention.

    Attributes:
        name: What results call it.
        build: `(host, episode, **settings) -> Intervention`.
        description: One line for listings.
        version: Changes whenever its numbers do; part of a benchmark cell's key.
    """

    name: str
    build: Build
    description: str = ""
    version: str = "1"

    def settings(self) -> dict[str, Any]:
        """Names and defaults of the settings that `build` takes by keyword."""
        parameters = list(inspect.signature(self.build).parameters.values())[2:]
        return {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}

    def check_settings(self, settings: dict[str, Any]) -> None:
        """Raise `HypothesisError` for a setting that `build` does not take."""
        parameters = inspect.signature(self.build).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            return
        allowed = self.settings()
        for key in settings:
            if key not in allowed:
                raise HypothesisError(
                    f"{self.name} has no setting {key!r}; it has "
                    f"{', '.join(allowed) or 'none'}.{nearest(key, allowed)}"
                )


class HypothesisWarning(UserWarning):
    """A plugin's hypothesis could not be loaded and is skipped."""


_REGISTERED: dict[str, Hypothesis] = {}


def hypothesis(
    name: str, *, description: str = "", version: str = "1", replace: bool = False
) -> Callable[[_B], _B]:
    """Register the decorated function under `name`; the function itself is returned unchanged.

    Args:
        name: What results call it.
        description: One line for listings; default, the first line of the docstring.
        version: Change it whenever the numbers change.
        replace: Allow the name to be taken over, as in a notebook cell run twice.

    Raises:
        HypothesisError: The name is taken, or is not a usable name.
    """

    def register(build: _B) -> _B:
        if not name or any(character in name for character in "@[]|/ "):
            raise HypothesisError(
                f"{name!r} is no hypothesis name: no spaces, '@', '|', '/' or '[]'."
            )
        if name in _REGISTERED and not replace and not _is_same(_REGISTERED[name].build, build):
            raise HypothesisError(
                f"A hypothesis called {name!r} is registered already (by "
                f"{_REGISTERED[name].build.__module__}). Choose another name, or replace=True."
            )
        first_line = (inspect.getdoc(build) or "").split("\n", 1)[0]
        _REGISTERED[name] = Hypothesis(name, build, description or first_line, version)
        return build

    return register


def _is_same(one: Build, other: Callable[..., Any]) -> bool:
    """Whether a module was loaded twice, which registers the same function again."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__) and (
        one.__module__ != "__main__"
    )


def _load_built_in() -> None:
    for name in _BUILT_IN:
        importlib.import_module(f"iclgd_lens.hypotheses.{name}")


def _load_plugin(point: EntryPoint) -> Hypothesis | None:
    try:
        found = point.load()
    # A plugin may fail in any way, also by ending the program: it must not take the rest along.
    except (Exception, SystemExit) as error:
        warnings.warn(
            f"The hypothesis plugin {point.name!r} ({point.value}) is skipped: {error!r}",
            HypothesisWarning,
            stacklevel=1,  # one place, so that a plugin is complained about once
        )
        return None
    if isinstance(found, Hypothesis):
        return found
    if point.name in _REGISTERED and _REGISTERED[point.name].build is found:
        return _REGISTERED[point.name]
    if not callable(found):
        warnings.warn(
            f"The hypothesis plugin {point.name!r} ({point.value}) is skipped: it is a "
            f"{type(found).__name__}, not a function (host, episode) -> Intervention.",
            HypothesisWarning,
            stacklevel=1,
        )
        return None
    first_line = (inspect.getdoc(found) or "").split("\n", 1)[0]
    return Hypothesis(point.name, cast(Build, found), first_line)


def list_hypotheses() -> dict[str, Hypothesis]:
    """Every hypothesis by name: built-in, registered, and from installed plugins.

    A plugin whose name is taken is refused with a warning; the one registered first stays.
    """
    _load_built_in()
    found = dict(_REGISTERED)
    for point in entry_points(group=ENTRY_POINTS):
        plugin = _load_plugin(point)
        if plugin is None:
            continue
        if plugin.name in found and found[plugin.name].build is not plugin.build:
            warnings.warn(
                f"The hypothesis plugin {point.name!r} ({point.value}) is skipped: the name "
                f"{plugin.name!r} is taken by {found[plugin.name].build.__module__}.",
                HypothesisWarning,
                stacklevel=1,
            )
            continue
        found[plugin.name] = plugin
    return found


def get_hypothesis(name: str) -> Hypothesis:
    """Return the hypothesis called `name`.

    Raises:
        HypothesisError: There is none; the nearest name is given.
    """
    _load_built_in()
    if name in _REGISTERED:
        return _REGISTERED[name]
    known = list_hypotheses()
    if name not in known:
        raise HypothesisError(
            f"No hypothesis is called {name!r}; known: {', '.join(sorted(known))}."
            + nearest(name, known)
        )
    return known[name]
