"""The command `mediate`: which heads do the work, and does the update do it there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iclgd_lens import defaults
from iclgd_lens.cli import options
from iclgd_lens.cli.console import hand_over, json_document, numbers_of, progress, say
from iclgd_lens.cli.given import check_output, names
from iclgd_lens.cli.opening import Names, Rows, open_model
from iclgd_lens.cli.options import figures_page
from iclgd_lens.display_names import label as shown_label

if TYPE_CHECKING:
    from rich.console import Console

    from iclgd_lens.mediation.mediation_result import Mediation

_KINDS = {".parquet": "the tidy table", ".html": "figures"}
_COLUMNS = ("necessity", "p_corrected", "sufficiency", "visibility", "direct", "substitution")


def mediate(
    model: options.ModelName = "embedded",
    task: options.TaskName = "sst2",
    data: options.Rows = None,
    shots: options.Shots = defaults.SHOTS,
    queries: options.Queries = 16,
    draws: Annotated[
        int, typer.Option(min=1, help="Draws of demonstrations; p-values count draws from 6 on.")
    ] = 2,
    hypothesis: Annotated[
        list[str] | None,
        typer.Option(
            "--hypothesis",
            "-H",
            help="A name of `iclgd hypotheses`, or 'none'; repeatable.",
            show_default=", ".join(defaults.HYPOTHESES),
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            "-C",
            help="random, shuffled, oracle, zero, ... or 'none'; repeatable.",
            show_default="random, shuffled",
        ),
    ] = None,
    lr: options.Rate = None,
    set_: options.Settings = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--attribution",
            help="Every head exactly, or attribution for all and some heads exactly.",
            show_default="exact up to 200 heads",
        ),
    ] = None,
    visibility: Annotated[
        bool,
        typer.Option("--visibility/--no-visibility", help="Show each head the demonstrations."),
    ] = True,
    top: Annotated[int, typer.Option(min=1, help="Heads to print.")] = 10,
    seed: options.Seed = 0,
    protocol: options.ProtocolName = "default",
    host: options.HostName = "auto",
    dtype: options.Dtype = "float32",
    imports: options.Imports = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the tidy table (.parquet) or figures (.html)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Find the heads that do in-context learning's work, and whether an update does it there."""
    from iclgd_lens.cli.compare import parse_rate, parse_settings

    check_output(out, _KINDS)
    rate, budget = parse_rate(lr)
    settings = parse_settings(set_ or [])
    hypotheses, controls = names("--hypothesis", hypothesis), names("--control", control)
    hypotheses = defaults.HYPOTHESES if hypotheses is None else hypotheses
    with progress() as tell:
        loaded, rows = open_model(
            model, Rows(task, data, shots, queries, draws, seed, protocol=protocol), tell,
            names=[Names(hypotheses, settings, controls or ())], imports=imports or [],
            dtype=dtype, host=host,
        )  # fmt: skip
        from iclgd_lens.episode_loading import load_episodes
        from iclgd_lens.mediation.mediation_job import MEDIATION_CONTROLS
        from iclgd_lens.mediation.mediation_job import mediate as measured

        episodes = load_episodes(
            task, loaded, draws=draws, shots=shots, queries=queries, seed=seed, data=rows,
            protocol=protocol,
        )  # fmt: skip
        found = measured(
            loaded, episodes, list(hypotheses),
            controls=MEDIATION_CONTROLS if controls is None else controls, exact=exact,
            visibility=visibility, lr=rate, settings=settings, budget=budget, seed=seed,
            progress=tell,
        )  # fmt: skip
        if out is not None:
            tell(f"writing {out}")
            _write(found, out)
    hand_over(
        json_document(document(found)) if as_json else None,
        lambda console: _show(found, top, out, console),
        "iclgd-mediate",
    )


def document(found: Mediation) -> dict[str, Any]:
    """Everything that was found, as JSON values."""
    frame = found.frame()
    measured = found.draws[0].curves
    return {
        "sentence": found.sentence(),
        "verification": {**vars(found.verification), "sentence": found.verification.sentence},
        "units_of_p_values": frame.attrs["units"],
        "agreement": found.agreement().to_dict("records"),
        "heads": frame.to_dict("records"),
        "curves": {
            label: {"heads": curve.heads, "value": curve.value.tolist()}
            for label, curve in ((name, found.curve(name)) for name in found.labels if measured)
        },
        "failures": found.failures,
        "provenance": dict(found.provenance),
    }  # fmt: skip


def _show(found: Mediation, top: int, out: Path | None, console: Console) -> None:
    names = found.hypotheses or (None,)
    for name in names:
        frame = found.top(top, hypothesis=name)
        own = list(frame.columns)
        score = [column for column in own if column.startswith("Sim")]
        columns = [c for c in (*_COLUMNS, *score, "induction", "function_vector") if c in own]
        lines = [
            (f"{line['layer']:.0f}.{line['head']:.0f}", *(_cell(line[c]) for c in columns))
            for line in frame.to_dict("records")
        ]
        console.print(numbers_of((name or "ICL", *columns), lines))
    agreement = found.agreement().to_dict("records")
    columns = [str(column) for column in agreement[-1] if column != "hypothesis"]
    lines = [(str(line["hypothesis"]), *(_cell(line[c]) for c in columns)) for line in agreement]
    console.print(numbers_of(("the same heads?", *columns), lines))
    say(console, found.sentence())
    for what, why in found.failures.items():
        say(console, f"{what} is undefined: {why}")
    if out is not None:
        say(console, f"Written: {out}")


def _cell(value: Any) -> str:
    return "—" if value is None or not math.isfinite(value) else f"{value:.3f}"


def _write(found: Mediation, out: Path) -> None:
    if out.suffix == ".parquet":
        found.to_parquet(out)
        return
    from iclgd_lens.files import write_whole
    from iclgd_lens.mediation.head_maps import MEANINGS

    shown = [(name, MEANINGS[name], found.heatmap(name)) for name in found.effects()]
    for name in found.hypotheses:
        title = f"substitution, {shown_label(name)}"
        shown.append((title, MEANINGS["substitution"], found.heatmap("substitution", name)))
    if found.draws[0].curves:
        caption = "Share of in-context learning's gain that the first heads of the ranking carry."
        shown.append(("Sets of heads", caption, found.set_curves()))
    if len(found.labels) > 1:
        caption = "What in-context learning needs of each head, and what is kept of it, in nats."
        shown.append(("The same heads?", caption, found.scatter()))
    write_whole(out, figures_page("Which heads do the work", [found.sentence()], shown))
