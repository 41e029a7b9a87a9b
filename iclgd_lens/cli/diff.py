"""The command `diff`: what moved between two runs of a benchmark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from iclgd_lens.cli.console import hand_over, json_document, numbers_of, say
from iclgd_lens.cli.options import Imports, Json
from iclgd_lens.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from iclgd_lens.bench.run_differences import Change, RunDifferences

DIFFERENT = 1
EPILOG = (
    "Exit code, as of `diff`: 0 if the same cells have numbers, no mean moved by more than the "
    "tolerance, and no answer or verdict changed; 1 if not; 2 for a run that cannot be read. How "
    "the runs were made is told and does not count."
)
_SHOWN = 12
"""Lines of a list that are shown; --json has all."""


def diff(
    run_a: Annotated[str, typer.Argument(help="A run directory.", metavar="RUN_A")],
    run_b: Annotated[str, typer.Argument(help="Another.", metavar="RUN_B")],
    tolerance: Annotated[
        list[str] | None,
        typer.Option(
            "--tolerance",
            help="How much a mean may move: a number, or SCORE=NUMBER; repeatable.",
            show_default="0",
        ),
    ] = None,
    imports: Imports = None,
    as_json: Json = False,
) -> None:
    """Say what moved between two runs of a plan: means, verdicts, cells, how they were made."""
    allowed = parse_tolerance(tolerance or ())
    if imports:
        from iclgd_lens.bench.workbench import import_modules

        import_modules(imports)
    from iclgd_lens.bench.run_differences import run_differences
    from iclgd_lens.bench.run_tables import load_run

    a, b = load_run(run_a), load_run(run_b)
    general = allowed.pop("", 0.0)
    scores = dict.fromkeys([*a.frame()["score"], *b.frame()["score"]]) if allowed else {}
    found = run_differences(
        a, b, tolerance=dict.fromkeys(scores, general) | allowed if allowed else general
    )
    hand_over(
        json_document(found.as_dict()) if as_json else None,
        lambda console: show(found, console),
        "iclgd-diff",
    )
    if found:
        raise typer.Exit(DIFFERENT)


def parse_tolerance(given: Sequence[str]) -> dict[str, float]:
    """Read "0.01" and "SimAOU=0.01"; the tolerance of all scores is under "".

    Raises:
        RunError: It is no number.
    """
    found: dict[str, float] = {}
    for text in given:
        score, _, number = text.rpartition("=")
        try:
            found[score] = float(number)
        except ValueError:
            raise RunError(
                f"--tolerance {text!r} is no number, nor SCORE=NUMBER, such as SimAOU=0.01"
            ) from None
    return found


def show(found: RunDifferences, console: Console) -> None:
    """Print what moved, and last whether anything did."""
    say(console, f"A: {found.a}")
    say(console, f"B: {found.b}")
    _list(console, "How they were made", [_change(each) for each in found.facts])
    _list(console, "Cells in A alone", found.only_a)
    _list(console, "Cells in B alone", found.only_b)
    _list(console, "Answers and verdicts", [_change(each) for each in found.answers])
    largest = found.largest()
    largest = largest[largest["lines_moved"] > 0]
    if len(largest):
        say(console, "")
        say(console, "Means that moved: the one that moved most of each score", style="bold")
        lines = [_line(line) for line in largest.to_dict("records")]
        console.print(numbers_of(("score", "moved", "A", "B", "B - A", "of"), lines))
    say(console, "")
    say(console, found.sentence, style="bold")


def _list(console: Console, title: str, lines: Sequence[str]) -> None:
    if not lines:
        return
    say(console, "")
    say(console, title, style="bold")
    for line in lines[:_SHOWN]:
        say(console, f"  {line}")
    if len(lines) > _SHOWN:
        say(console, f"  and {len(lines) - _SHOWN:,} more: --json has all")


def _change(each: Change) -> str:
    return f"{each.what}: {_value(each.a)} -> {_value(each.b)}"


def _value(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _line(line: dict[str, Any]) -> tuple[str, ...]:
    places = [str(line[name]) for name in ("model", "task", "hypothesis")]
    places += [f"{name} {at}" for name in ("layer", "head") if (at := _place(line[name]))]
    a, b, moved = (_number(line[name]) for name in ("a", "b", "difference"))
    some = f"{line['lines_moved']} of {line['lines']}"
    return str(line["score"]), some, a, b, moved, ", ".join(places)


def _place(value: Any) -> str:
    return "" if value is None or str(value) == "<NA>" else str(value)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.4g}"
