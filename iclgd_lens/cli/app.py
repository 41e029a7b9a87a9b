"""The `iclgd` command line. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from iclgd_lens import __version__, defaults
from iclgd_lens.cli import bench, listing, options
from iclgd_lens.cli.calibrate import calibrate
from iclgd_lens.cli.console import (
    any_encoding,
    complain,
    hand_over,
    progress,
    quiet_libraries,
    silence,
    usable_width,
)
from iclgd_lens.cli.diff import EPILOG as DIFF_EPILOG
from iclgd_lens.cli.diff import diff
from iclgd_lens.cli.mediate import mediate
from iclgd_lens.cli.sweep import sweep
from iclgd_lens.cli.worlds import worlds
from iclgd_lens.controls import DEFAULT_CONTROLS
from iclgd_lens.errors import LensError

INTERRUPTED = 130
USER_ERROR = 2
_USAGE_ERROR = typer.BadParameter.__mro__[2]  # ClickException, wherever this Typer keeps Click

app = typer.Typer(
    name="iclgd",
    cls=options.Commands,
    help="Does in-context learning do to attention what gradient descent would?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"iclgd_lens {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Does in-context learning do to attention what gradient descent would?"""


@app.command()
def compare(
    model: options.ModelName = "embedded",
    task: options.TaskName = "sst2",
    data: options.Rows = None,
    shots: options.Shots = defaults.SHOTS,
    queries: options.Queries = defaults.QUERIES,
    draws: Annotated[
        int, typer.Option(help="Draws of demonstrations; a verdict needs at least 2.")
    ] = defaults.DRAWS,
    twins: Annotated[
        int,
        typer.Option(help="Networks of each control that is another one; a verdict needs 3."),
    ] = defaults.TWINS,
    quick: Annotated[
        bool, typer.Option("--quick", help="One draw and no other networks: scores, no verdict.")
    ] = False,
    lr: options.Rate = None,
    set_: options.Settings = None,
    auxiliary: options.Auxiliary = None,
    seed: options.Seed = 0,
    permutation: Annotated[
        int, typer.Option(min=0, help="Order of the demonstrations; 0 is as drawn.")
    ] = 0,
    protocol: options.ProtocolName = "default",
    hypothesis: options.Hypotheses = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            "-C",
            help="A control of `iclgd controls`, or 'none'; repeatable.",
            show_default=", ".join(DEFAULT_CONTROLS),
        ),
    ] = None,
    host: options.HostName = "auto",
    dtype: options.Dtype = "float32",
    device: Annotated[
        str | None, typer.Option(help="A torch device.", show_default="the first GPU, else the CPU")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="The model's revision on the Hub.")] = None,
    data_revision: Annotated[
        str | None, typer.Option(help="The data set's revision on the Hub.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Queries run together.", show_default="what fits")
    ] = None,
    pad_queries: Annotated[
        bool,
        typer.Option(
            "--pad-queries/--no-pad-queries",
            help="Run queries of unequal length together: faster, equal up to rounding.",
        ),
    ] = True,
    workers: options.Workers = None,
    imports: options.Imports = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write the tidy table (.parquet), or every query's scores (.safetensors).",
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Compare hypotheses with in-context learning, by layer, beside the controls."""
    from iclgd_lens.cli import compare as cli_compare

    request = cli_compare.Request(
        model=model, task=task, data=data, shots=shots, queries=queries,
        draws=1 if quick else draws, twins=0 if quick else twins, lr=lr, settings=set_ or [],
        seed=seed, permutation=permutation, protocol=protocol,
        hypotheses=hypothesis or list(defaults.HYPOTHESES), controls=control or [], host=host,
        dtype=dtype, device=device, revision=revision, data_revision=data_revision,
        batch_size=batch_size, pad_queries=pad_queries, imports=imports or [], out=out,
        auxiliary=auxiliary or [], workers=workers,
    )  # fmt: skip
    with progress() as tell:
        comparison = cli_compare.run_request(request, tell)
    hand_over(
        cli_compare.as_json(comparison) if as_json else None,
        lambda console: cli_compare.show(comparison, console, out),
        "iclgd-compare",
    )


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the page.")] = Path("demo"),
    model: Annotated[str, typer.Option("--model", "-m", help="Another model.")] = "embedded",
    task: Annotated[
        list[str] | None,
        typer.Option(
            "--task", "-t", help="A task with embedded rows; repeatable.", show_default="sst2"
        ),
    ] = None,
    shots: Annotated[int, typer.Option(min=2, help="Demonstrations.")] = 12,
    queries: Annotated[int, typer.Option(min=2, help="Queries per task.")] = 24,
    draws: Annotated[int, typer.Option(min=1, help="Draws of demonstrations.")] = 3,
    twins: Annotated[int, typer.Option(min=0, help="Untrained networks.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of draws, controls and networks.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Show the whole point in a minute: in-context learning beside GD, twins and random updates."""
    with progress() as tell:
        from iclgd_lens.cli.demo_page import check_folder, show_demo, write_demo

        check_folder(out)
        from iclgd_lens.episode_rows import check_rows

        for name in task or ("sst2",):  # before a model is loaded
            check_rows(name, "embedded", shots=shots, queries=queries, seed=seed, draws=draws)
        tell("starting PyTorch and TransformerLens")
        from iclgd_lens.cli.demo import TASKS, run_demo

        result = run_demo(
            model, tasks=task or TASKS, shots=shots, queries=queries, draws=draws, twins=twins,
            seed=seed, progress=tell,
        )  # fmt: skip
        tell("writing the page")
        written = write_demo(result, out)
        tell(f"written: {written}")
    document = json.dumps(result.as_dict() | {"files": [str(written)]}, ensure_ascii=False)
    hand_over(
        document if as_json else None,
        lambda console: show_demo(result, written, console),
        "iclgd-demo",
    )


bench.add_commands(app)
app.command(epilog=DIFF_EPILOG)(diff)
listing.add_commands(app)
app.command()(mediate)
app.command()(sweep)
app.command()(worlds)
app.command()(calibrate)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0 is success, 2 a user's error (told in one line on standard error), 130 an interruption.
    Defects of the program keep their traceback.
    """
    try:
        with usable_width(), quiet_libraries(), any_encoding():
            given = None if arguments is None else list(arguments)
            code = app(given, prog_name="iclgd", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
        if code == INTERRUPTED:  # newer versions of Typer return it, older ones raise Abort
            complain("interrupted")
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        silence()
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    except LensError as error:
        complain(error)
    except OSError as error:
        complain(error)
    except Exception as error:
        if not isinstance(error, _USAGE_ERROR):
            raise
        message = error.format_message()  # type: ignore[attr-defined]
        if message:
            complain(f"{message.rstrip('.')}; see --help.")
        return int(getattr(error, "exit_code", USER_ERROR))
    return USER_ERROR


def main() -> NoReturn:
    """The `iclgd` command."""
    sys.exit(run())
