"""Settings of a hypothesis as listings and pages tell of them, from its signature and docstring."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from iclgd_lens.hypotheses.companions import in_words, table_of


@dataclass(frozen=True)
class SettingDescription:
    """One setting of a hypothesis.

    Attributes:
        name: By which it is given.
        default: Its value where it is not given.
        annotation: Its type, as written.
        meaning: What it does, from the docstring, and beside what others alone it does that.
    """

    name: str
    default: Any
    annotation: str
    meaning: str


def described(build: Callable[..., Any]) -> list[SettingDescription]:
    """Every setting of a function `(host, episode, **settings)`."""
    meanings, company = _argument_meanings(inspect.getdoc(build) or ""), table_of(build)
    needs = {name: f" Needs {in_words(own)}." for name, own in company.items()}
    return [
        SettingDescription(
            p.name,
            None if p.default is p.empty else p.default,
            "" if p.annotation is p.empty else str(p.annotation).strip("'"),
            meanings.get(p.name, "") + needs.get(p.name, ""),
        )
        for p in parameters(build)
        if p.kind is not p.VAR_KEYWORD
    ]


def parameters(build: Callable[..., Any]) -> list[inspect.Parameter]:
    """What a function takes beside host and episode."""
    return list(inspect.signature(build).parameters.values())[2:]


def _argument_meanings(text: str) -> dict[str, str]:
    """Meanings by argument of a docstring's section "Args:"."""
    match = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)+)", text, re.MULTILINE)
    found: dict[str, str] = {}
    name = ""
    for line in (match[1] if match else "").splitlines():
        start = re.match(r" {4}(\w+)(?: \([^)]*\))?: (.*)", line)
        if start:
            name = start[1]
            found[name] = start[2].strip()
        elif name and line.strip():
            found[name] += f" {line.strip()}"
    return found
