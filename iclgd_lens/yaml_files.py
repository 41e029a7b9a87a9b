"""YAML as people write it: 5e-4 is a number, and a key stands once.

PyYAML follows YAML 1.1, to which 5e-4 (no dot) and 1.5e3 (no sign) are text, and it lets the last
of several equal keys win in silence. Every file and every option's value is read here: by the safe
loader, with YAML 1.2's decimal numbers and with a check for repeated keys.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import yaml

from iclgd_lens.errors import LensError, nearest

_DECIMAL = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?$|[-+]?[0-9]+[eE][-+]?[0-9]+$"
)
"""YAML 1.2's decimal numbers that are no integers. (A 08 stays what it was: text.)"""
_FLOAT, _MERGE, _VALUE = (f"tag:yaml.org,2002:{name}" for name in ("float", "merge", "value"))
# What PyYAML's constructors raise beside its own errors, of `!!int ""` or 2024-02-31 for example.
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)


class _RepeatedKey(yaml.YAMLError):
    """A key that occurs twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """The safe loader, which knows more numbers and refuses repeated keys."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; keys are looked at before merges (`<<`) bring those of others."""
        node: yaml.MappingNode = cast("Any", super()).compose_mapping_node(anchor)
        seen: set[object] = set()
        for key_node, _ in cast("list[tuple[yaml.Node, yaml.Node]]", node.value):
            if not isinstance(key_node, yaml.ScalarNode):
                continue  # no key of a Python mapping, which is refused where it is built
            plain = key_node.tag in (_MERGE, _VALUE)  # which stand for no value of their own
            key: object = key_node.value if plain else cast("Any", self).construct_object(key_node)
            if key in seen:
                line = key_node.start_mark.line + 1
                raise _RepeatedKey(f"the key {key!r} occurs twice (line {line})")
            seen.add(key)
        return node


cast("Any", _Loader).add_implicit_resolver(_FLOAT, _DECIMAL, list("-+.0123456789"))


def value(text: str, error: type[LensError], where: str) -> Any:
    """Read one value: a number, true, false, null, a list, a mapping or a word.

    Args:
        text: What was given.
        error: What is raised.
        where: What it was given for, set before the message.

    Raises:
        LensError: (the class `error`) It is no YAML, or repeats a key.

    Examples:
        >>> [value(text, LensError, "--value") for text in ("5e-4", "2", "true", "[V, 1e3]")]
        [0.0005, 2, True, ['V', 1000.0]]
    """
    try:
        return _loaded(text)
    except _RepeatedKey as found:
        raise error(f"{where}: {found}") from found
    except _UNREADABLE as found:
        raise error(f"{where}: {text!r} is no value.") from found


def mapping(text: str, error: type[LensError], where: str, what: str) -> dict[str, Any]:
    """Read a mapping of keys to values.

    Args:
        text: The YAML text.
        error: What is raised.
        where: Where the text is from, set before the message.
        what: What it should be, such as "a plan".

    Raises:
        LensError: (the class `error`) It is no YAML, no mapping, or repeats a key.
    """
    try:
        loaded = _loaded(text)
    except _RepeatedKey as found:
        raise error(f"{where}: {found}") from found
    except _UNREADABLE as found:
        raise error(f"{where}: not valid YAML: {' '.join(str(found).split())}") from found
    if not isinstance(loaded, dict):
        raise error(f"{where}: {what} is a mapping of keys to values")
    return {str(key): each for key, each in cast("dict[object, Any]", loaded).items()}


def read_mapping(path: Path, error: type[LensError], what: str) -> dict[str, Any]:
    """Read a file that holds a mapping; see `mapping`.

    Raises:
        LensError: (the class `error`) The file cannot be read; a missing one is answered with the
            nearest beside it. Or it holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as found:
        siblings = path.parent.glob("*.y*ml") if path.parent.is_dir() else ()
        hint = nearest(path.name, [other.name for other in siblings])
        raise error(f"{path}: cannot be read ({found.strerror}).{hint}") from found
    except UnicodeDecodeError as found:
        raise error(f"{path}: cannot be read ({found})") from found
    return mapping(text, error, str(path), what)


def _loaded(text: str) -> object:
    return cast("Any", _Loader(text)).get_single_data()
