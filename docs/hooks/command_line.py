"""The command line's page: every command with its options, from the commands themselves."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from iclgd_lens.cli.app import app

PAGE = "reference/command_line.md"
VALUES = {
    "<str>": "TEXT", "<list[str]>": "TEXT", "<path>": "PATH", "<int>": "N", "<int range>": "N",
    "<float>": "X", "<list[float]>": "X", "<float range>": "X",
}  # fmt: skip
"""How the type of an option's value is written."""
EXTRA = re.compile(r"\s*\[(?P<facts>[^\[\]]+)\]$")
"""The default and the range, as help puts them at its end."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the page into the navigation."""
    for entry in config.nav or []:
        if "Reference" in entry:
            entry["Reference"].append(PAGE)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    files.append(File.generated(config, PAGE, content=text()))
    return files


def text() -> str:
    """The page: a section for each command."""
    group: Any = typer.main.get_command(app)
    above = typer.Context(group, info_name="iclgd")
    parts = [
        "# The command line",
        "What `iclgd COMMAND --help` says, in one place. Exit codes: 0 is success, 2 a user's "
        "error (told in one line on standard error), 130 an interruption.",
    ]
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        parts += [f"## iclgd {name}", *section(command, typer.Context(command, parent=above))]
    return "\n\n".join(parts) + "\n"


def section(command: Any, context: typer.Context) -> Iterator[str]:
    """What one command does, and its arguments and options."""
    yield "\n\n".join(_plain(line) for line in command.help.strip().split("\n\n"))
    rows = [_row(one, context) for one in command.get_params(context) if one.name != "help"]
    yield "\n".join(["| option | what it says | default and range |", "|---|---|---|", *rows])
    if command.epilog:
        yield _plain(command.epilog)


def _row(parameter: Any, context: typer.Context) -> str:
    """One option or argument: how it is written, what it says, what it is unless given."""
    written, said = parameter.get_help_record(context)
    if parameter.param_type_name == "argument":
        written = parameter.name.upper()
    for kind, value in VALUES.items():
        written = written.replace(kind, value)
    found = EXTRA.search(said)
    meaning = said[: found.start()] if found else said
    facts = found["facts"].removeprefix("default: ") if found else ""
    if facts.startswith("("):  # a default told in words
        facts = facts[1:].replace(")", "", 1)
    return f"| `{written}` | {_plain(meaning)} | {_plain(facts)} |"


def _plain(said: str) -> str:
    """Text of help as a cell of a table."""
    return " ".join(said.split()).replace("|", "\\|").replace("<", "&lt;")
