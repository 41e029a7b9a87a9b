"""Tables of named things that anybody may add to: hypotheses, scores, controls.

An entry comes from this package, from a decorator in a script or notebook, or from an installed
package through an entry point group. Names are taken once; an unknown one is answered with the
nearest. A table reads like a mapping and cannot be assigned to.
"""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar, cast

from iclgd_lens.errors import LensError, nearest


class PluginWarning(UserWarning):
    """Something that a plugin brings could not be loaded and is skipped."""


class ReplacedWarning(UserWarning):
    """A definition of a notebook or script took the place of its earlier version."""


class Entry:
    """What a table holds: a frozen dataclass with a name and a function."""

    name: str

    def made_by(self) -> Callable[..., Any] | str:
        """The function behind it, or where that is ("package.module:function")."""
        raise NotImplementedError

    @property
    def is_built_in(self) -> bool:
        """Whether it is this package's own."""
        return _home(self.made_by()).partition(".")[0] == "iclgd_lens"


E = TypeVar("E", bound=Entry)

FORBIDDEN = "@[]()|/= "
"""Characters that names in results cannot hold: they separate the parts of a label."""
NAME_RULE = "no spaces, nothing that is not printed, none of @ | / = () []"


def is_name(text: str) -> bool:
    """Whether results, their files and lines of text can hold a name."""
    return bool(text) and text.isprintable() and not any(each in text for each in FORBIDDEN)


class Table(Mapping[str, E], Generic[E]):
    """Named entries, in the order of display.

    Args:
        what: What an entry is called in messages, such as "hypothesis".
        kind: The class of the entries.
        group: The entry point group through which packages add to it.
        wrap: Makes an entry of a function that a plugin names without one.
        error: Raised for names that are unknown, unusable or taken.
        warning: Given where a plugin is skipped.
        load: Called once, before the table is first read or added to from outside, to fill in the
            package's own entries; called again where it failed.
        reserved: Names that no entry may have.
    """

    def __init__(
        self,
        what: str,
        kind: type[E],
        group: str,
        wrap: Callable[[str, Callable[..., Any]], E],
        *,
        error: type[LensError],
        warning: type[Warning] = PluginWarning,
        load: Callable[[], None] | None = None,
        reserved: Iterable[str] = (),
    ) -> None:
        self.what = what
        self.group = group
        self._kind = kind
        self._wrap = wrap
        self._error = error
        self._warning = warning
        self._load = load
        self._reserved = frozenset(reserved)
        self._entries: dict[str, E] = {}
        self._plugins: list[tuple[EntryPoint, E]] | None = None

    # -- reading ---------------------------------------------------------------------------------

    def known(self) -> dict[str, E]:
        """The package's own entries and those of decorators, without plugins."""
        self._fill()
        return dict(self._entries)

    def all(self) -> dict[str, E]:
        """Every entry, plugins' included.

        A plugin whose name is taken is skipped with a warning; the entry registered first stays.
        """
        found = self.known()
        if self._plugins is None:  # looking through what is installed is slow, so it is done once
            loaded = ((point, self._plugin(point)) for point in entry_points(group=self.group))
            self._plugins = [(point, plugin) for point, plugin in loaded if plugin is not None]
        for point, plugin in self._plugins:
            if not is_name(plugin.name) or plugin.name in self._reserved:
                self._skip(point, f"no {self.what} can be called {plugin.name!a}.")
                continue
            if plugin.name in found and found[plugin.name].made_by() is not plugin.made_by():
                self._skip(
                    point,
                    f"the name {plugin.name!r} is taken by {_home(found[plugin.name].made_by())}.",
                )
                continue
            found[plugin.name] = plugin
        return found

    def __getitem__(self, name: str) -> E:
        if not isinstance(cast("object", name), str):
            raise self._error(f"A {self.what} is given by its name, not as {name!r}.")
        self._fill()
        if name in self._entries:  # a plugin cannot take it, so none need be asked
            return self._entries[name]
        known = self.all()
        if name not in known:
            raise self._error(
                f"No {self.what} is called {name!r}; known: {', '.join(sorted(known))}."
                + nearest(name, known)
                + " One of your own is known once the file that registers it is imported."
            )
        return known[name]

    def __contains__(self, name: object) -> bool:
        self._fill()
        return name in self._entries or name in self.all()

    def __iter__(self) -> Iterator[str]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self.all())

    def check(self, names: Iterable[str]) -> None:
        """Raise the table's error for the first name that it does not hold."""
        for name in names:
            _ = self[name]

    # -- adding ----------------------------------------------------------------------------------

    def add(self, entry: E, *, replace: bool = False) -> None:
        """Add an entry.

        A function of the same name and module `__main__` takes its earlier version's place with a
        note: it is a notebook's cell that was run again.

        Raises:
            LensError: (the table's class) The name is taken, or not usable.
        """
        name = entry.name
        # The package's own entries are there first, or they would find their names taken. (They
        # do not ask for one another: modules that are being imported would import each other.)
        if not entry.is_built_in:
            self._fill()
        if not is_name(name):
            raise self._error(f"{name!a} is not a {self.what} name: {NAME_RULE}.")
        if name in self._reserved:
            raise self._error(f"No {self.what} can be called {name!r}: results use it themselves.")
        earlier = self._entries.get(name)
        if earlier is not None and not replace:
            if not _is_same(earlier.made_by(), entry.made_by()):
                by = _home(earlier.made_by()) or "iclgd_lens"  # a statistic's score has no function
                raise self._error(
                    f"A {self.what} called {name!r} is registered already (by {by}). Choose "
                    "another name, or replace=True."
                )
            if _home(entry.made_by()) == "__main__":
                warnings.warn(
                    f"The {self.what} {name!r} was defined again and replaces its earlier version.",
                    ReplacedWarning,
                    stacklevel=4,
                )
        self._entries[name] = entry

    def _fill(self) -> None:
        if self._load is not None:
            load, self._load = self._load, None
            try:
                load()
            except BaseException:
                self._load = load  # what it has added already it may add again
                raise

    # -- plugins ---------------------------------------------------------------------------------

    def _plugin(self, point: EntryPoint) -> E | None:
        try:
            found = point.load()
        # A plugin may fail in any way, also by ending the program: it must not take the rest along.
        except (Exception, SystemExit) as error:
            self._skip(point, repr(error))
            return None
        if isinstance(found, self._kind):
            return found
        known = self._entries.get(point.name)
        if known is not None and known.made_by() is found:
            return known
        if not callable(found):
            self._skip(point, f"it is a {type(found).__name__}, not a function or a {self.what}.")
            return None
        return self._wrap(point.name, cast("Callable[..., Any]", found))

    def _skip(self, point: EntryPoint, why: str) -> None:
        warnings.warn(
            f"The {self.what} plugin {point.name!r} ({point.value}) is skipped: {why}",
            self._warning,
            stacklevel=1,  # one place, so that a plugin is complained about once
        )


def check_choice(
    error: type[LensError], name: str, what: str, given: Any, allowed: Iterable[str]
) -> None:
    """Refuse a word that is not one of those allowed.

    Args:
        error: Raised for it.
        name: The entry that it belongs to.
        what: What the argument is called.
        given: The word.
        allowed: The words that there are.

    Raises:
        LensError: (the class `error`) It is not one of them; the nearest is named.
    """
    words = tuple(allowed)
    if given not in words:
        raise error(
            f"{name}: {what} is {given!r}; allowed: {', '.join(words)}."
            + nearest(str(given), words)
        )


def check_parameters(
    error: type[LensError],
    what: str,
    function: Callable[..., Any],
    needed: Iterable[str],
    *,
    settings: bool = False,
) -> None:
    """Refuse a function that cannot be called with what it will be given, by place.

    Args:
        error: Raised for it.
        what: What is called, for the message.
        function: The function.
        needed: What it is given.
        settings: Whether it may ask for more, which is then given by name.

    Raises:
        LensError: (the class `error`) It takes other parameters.
    """
    names = tuple(needed)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C do not tell their parameters
        return
    try:
        (signature.bind_partial if settings else signature.bind)(*names)
    except TypeError:
        raise error(
            f"{what} is called with ({', '.join(names)}); the function takes {signature}."
        ) from None


def first_line(function: Callable[..., Any]) -> str:
    """The first line of a function's docstring: what it means, where nobody says it otherwise."""
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


def resolve(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return the function itself, imported if it is given as "package.module:function"."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), name))


def _home(function: Callable[..., Any] | str) -> str:
    if isinstance(function, str):
        return function.partition(":")[0]
    return str(getattr(function, "__module__", "an unnamed module"))


def _is_same(one: Callable[..., Any] | str, other: Callable[..., Any] | str) -> bool:
    """Whether a module or notebook cell was run twice, which registers a function again."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    names = [(each.__module__, getattr(each, "__qualname__", None)) for each in (one, other)]
    return names[0] == names[1]
