"""Help without a type behind flags: `--json`, not `--json <bool>`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typer.core import TyperGroup


class Commands(TyperGroup):
    """The commands of an app."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters before a command's name."""
        return without_types(super().get_params(ctx))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        found: Any = super().get_command(ctx, cmd_name)
        if found is not None:
            without_types(found.get_params(ctx))
        return found


def without_types(parameters: Iterable[Any]) -> list[Any]:
    """The same parameters; flags, which take no value, show none."""
    kept = list(parameters)
    for parameter in kept:
        if getattr(parameter, "is_flag", False) and parameter.metavar is None:
            parameter.metavar = ""
    return kept
