"""The command `worlds`: the instrument on models whose answer is known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from iclgd_lens.cli.console import hand_over, json_document, numbers_of, progress
from iclgd_lens.cli.options import HostName, Json

if TYPE_CHECKING:
    from iclgd_lens.worlds import Mark

COLUMNS = ("world", "theta", "rule", "SimAOU", "exact", "largest error", "KL to ICL", "recovery")


def worlds(
    theta: Annotated[
        list[float] | None,
        typer.Option(
            "--theta",
            help="Angle between GD and LCGD in degrees; repeatable.",
            show_default="0, 15, 30, 60, 90",
        ),
    ] = None,
    labels: Annotated[int, typer.Option(help="Label words, odd and at least 5.")] = 9,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the demonstrations.")] = 0,
    host: HostName = "auto",
    as_json: Json = False,
) -> None:
    """Check the instrument on models whose answer is known: what it reads, what it must read."""
    with progress() as tell:
        tell("starting PyTorch and TransformerLens")
        from iclgd_lens.worlds.instrument import THETAS, ruler

        marks: list[Mark] = []
        for mark in ruler(theta or THETAS, labels=labels, seed=seed, kind=host):
            tell(f"{mark.world}: {mark.rule}")
            marks.append(mark)
    plain = [vars(mark) for mark in marks]
    shown = numbers_of(COLUMNS, [_line(mark) for mark in marks])
    hand_over(
        json_document(plain) if as_json else None,
        lambda console: console.print(shown),
        "iclgd-worlds",
    )


def _line(mark: Mark) -> tuple[str, ...]:
    angle = "" if mark.theta is None else f"{mark.theta:g}"
    behaviour = ("", "") if math.isnan(mark.kl) else (f"{mark.kl:.0e}", f"{mark.recovery:.3f}")
    return (
        mark.world, angle, mark.rule.replace("[", " head ").rstrip("]"), f"{mark.value:.5f}",
        f"{mark.exact:.5f}", f"{mark.error:.0e}", *behaviour,
    )  # fmt: skip
