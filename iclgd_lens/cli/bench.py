"""The commands `bench` and `report`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iclgd_lens.cli.options import Imports
from iclgd_lens.errors import PlanError

if TYPE_CHECKING:
    from iclgd_lens.bench.plan import Plan
    from iclgd_lens.bench.run_tables import Run

EPILOG = (
    "Exit code: 0 if every cell has its numbers, else 100 plus the number of failed cells (125: "
    "25 or more); 2 for a plan or run directory that cannot be used. "
    "The same command goes on where it was interrupted."
)


def add_commands(app: typer.Typer) -> None:
    """Add `bench` and `report` to the command line."""
    app.command("bench", epilog=EPILOG)(bench)
    app.command("report")(report)


def bench(
    plan: Annotated[str, typer.Argument(help="The plan, a YAML file.", metavar="PLAN")],
    out: Annotated[
        str | None,
        typer.Option(help="Run directory, or a URL that fsspec opens. Default: runs/NAME."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model (Hub name, folder, 'embedded'); again for more. Over the plan's."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="'hub', 'embedded' or a folder of rows. Over the plan's.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check the plan; print what is left to measure and its cost."
        ),
    ] = False,
    engine: Annotated[str, typer.Option(help="local (this machine) or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Ray cluster to join, such as 'auto'; default, one here.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, each with a model of its own (Linux, on a CPU; Ray anywhere).",
            show_default="1; with ray, as many as fit the cluster",
        ),
    ] = None,
    gpus: Annotated[float, typer.Option(min=0, help="GPUs per Ray worker, such as 0.5.")] = 0.0,
    cpus: Annotated[float, typer.Option(min=0, help="CPUs per Ray worker.")] = 1.0,
    shard: Annotated[
        str | None, typer.Option(help="I/N: only the I-th of N shares of the cells, from 1.")
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure finished cells again.")] = False,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            help="Measure failed cells again, and seek budgets again that could not be chosen.",
        ),
    ] = False,
    imports: Imports = None,
) -> None:
    """Run a plan's grid of cells; finished ones are found and kept."""
    from iclgd_lens.bench.plan import load_plan
    from iclgd_lens.bench.plan_check import check_plan
    from iclgd_lens.bench.run import RayOptions, run_plan
    from iclgd_lens.bench.workbench import import_modules

    asked = load_plan(plan)
    if model:
        asked = asked.with_models(model)
    if data is not None:
        asked = asked.model_copy(update={"data": data})
    where = out or f"runs/{asked.name}"
    share = parse_shard(shard)
    if dry_run:
        import_modules(imports or ())
        check_plan(asked)
        _describe(asked, where, share, fresh=fresh, retry_failed=retry_failed)
        return
    with _display() as progress:
        outcome = run_plan(
            asked,
            where,
            engine=engine,
            ray=RayOptions(address, workers, gpus, cpus),
            workers=workers or 1,
            shard_of=share,
            fresh=fresh,
            retry_failed=retry_failed,
            imports=imports or (),
            progress=progress,
        )
    _conclude(outcome)
    if outcome.failed:
        raise typer.Exit(outcome.exit_code)


def report(
    run: Annotated[str, typer.Argument(help="The run directory.", metavar="RUN")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the report. Default: RUN/report.")
    ] = None,
    figures: Annotated[
        list[str] | None,
        typer.Option(help="Figure files too: svg, png or pdf; again for more. Needs a browser."),
    ] = None,
    imports: Imports = None,
) -> None:
    """Write a run's report: a page, tables and figures.

    A run that was measured with hypotheses, controls or scores of one's own needs their --import.
    """
    if imports:
        from iclgd_lens.bench.workbench import import_modules

        import_modules(imports)
    from iclgd_lens.bench.run_tables import load_run
    from iclgd_lens.report import write_report

    found = load_run(run)
    path = write_report(found, out, figures=figures or ())
    print(f"Report: {path}")
    _tell_what_lacks(found)


def _tell_what_lacks(run: Run) -> None:
    """Say on standard error which cells the report is without."""
    from iclgd_lens.cli.console import note
    from iclgd_lens.phrases import count

    again = "the `iclgd bench` command that made the run measures them"
    if run.damaged:
        note(f"{count(len(run.damaged), 'cell')} damaged, so without numbers: {again} again.")
    if run.missing:
        note(f"{count(len(run.missing), 'cell')} not measured yet: {again}.")


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """Read "2/8".

    Raises:
        PlanError: It is something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise PlanError(f"--shard {text!r} is not I/N with I from 1 to N, such as 2/8")
    return int(match[1]), int(match[2])


def _display() -> Any:
    from contextlib import nullcontext

    from iclgd_lens.bench.progress import Lines, Live

    return Live() if sys.stderr is not None and sys.stderr.isatty() else nullcontext(Lines())


def _describe(
    plan: Plan, where: str, share: tuple[int, int] | None, *, fresh: bool, retry_failed: bool
) -> None:
    from iclgd_lens.bench.cells import count_cells, list_cells, shard
    from iclgd_lens.bench.estimate import estimate
    from iclgd_lens.bench.known_before import known_before
    from iclgd_lens.bench.read_only_store import ReadOnlyStore, measured_seconds
    from iclgd_lens.bench.remaining import remaining
    from iclgd_lens.bench.run import resolved
    from iclgd_lens.phrases import count

    print(f"Plan {plan.name!r} is valid.")
    print(f"Models: {', '.join(model.label for model in plan.models)}")
    print(f"Tasks: {', '.join(plan.tasks)}")
    print(f"Hypotheses: {', '.join(plan.hypotheses)}")
    print(f"Controls: {', '.join(plan.controls) or 'none'}")
    print(f"Run directory: {where}")
    store = ReadOnlyStore(where)
    begun = store.files.exists("run.json")
    if not begun and not _is_at_hand(plan):  # nothing is downloaded for a look ahead
        print(str(estimate(plan)))
        if share is not None:
            cells = count_cells(plan)
            print(f"Share {share[0]} of {share[1]}: about {round(cells / share[1])} cells")
        return
    store.check_version()
    every = list_cells(resolved(plan))
    cells = shard(every, *share) if share else every
    left = remaining(store, cells, fresh=fresh, retry_failed=retry_failed)
    print(str(estimate(plan, measured_seconds(where) if begun else None, left)))
    if share is not None:
        print(f"Share {share[0]} of {share[1]}: {len(cells)} of {count(len(every), 'cell')}")
    if left.failed:
        print("--retry-failed measures again what failed.")
    if others := store.strangers(every):
        print(f"{count(others, 'more file')} in cells/: of another plan or another version.")
    for line in known_before(cells):
        print(f"note: {line}")


def _is_at_hand(plan: Plan) -> bool:
    """Whether models and rows are on this machine, whatever the Hub's cache holds."""
    from iclgd_lens.bench.cells import data_of
    from iclgd_lens.host.model_source import find_model

    here = (find_model(model.name).folder is not None for model in plan.models)
    return all(here) and all(data_of(plan, model) != "hub" for model in plan.models)


def _conclude(outcome: Any) -> None:
    from iclgd_lens.bench.progress import duration
    from iclgd_lens.cli.console import tell

    parts = [f"{outcome.done} measured", f"{outcome.found} found finished"]
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    print(
        f"{outcome.cells} cells in {duration(outcome.seconds)}: {', '.join(parts)}. "
        f"Run: {outcome.where}"
    )
    for key, reason in outcome.failed.items():
        tell(f"failed: {outcome.places[key]}: {reason}")
    if outcome.failed:
        tell("--retry-failed measures them again.")
    if sys.stderr is None or not sys.stderr.isatty():  # a log ends with where the results are
        tell(f"Results: {outcome.where}")
