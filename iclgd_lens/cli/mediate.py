"""The command `mediate`: which heads do the work, and does the update do it there."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iclgd_lens import defaults
from iclgd_lens.cli.console import output, print_json, print_table, progress, say
from iclgd_lens.errors import ComparisonError

if TYPE_CHECKING:
    from iclgd_lens.mediation import Mediation

_SUFFIXES = (".parquet", ".html")
_COLUMNS = ("necessity", "p_corrected", "sufficiency", "visibility", "direct", "substitution")


def mediate(
    model: Annotated[
        str, typer.Option("--model", "-m", help="Hub name, model folder, or 'embedded'.")
    ] = "embedded",
    task: Annotated[
        str, typer.Option("--task", "-t", help="A task of `iclgd tasks`, or a task's YAML file.")
    ] = "sst2",
    data: Annotated[
        str | None, typer.Option(help="Where rows are: 'hub', 'embedded', or a folder.")
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations.")] = defaults.SHOTS,
    queries: Annotated[int, typer.Option(min=2, help="Queries.")] = 16,
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
    lr: Annotated[
        str | None, typer.Option(help="Learning rate of the updates, 'matched' or 'published'.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME.KEY=VALUE: a hypothesis's setting; repeatable."),
    ] = None,
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
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first draw and of controls.")] = 0,
    protocol: Annotated[str, typer.Option(help="'default' or 'reference'.")] = "default",
    host: Annotated[str, typer.Option(help="'auto', 'hooked' or 'bridge'.")] = "auto",
    dtype: Annotated[str, typer.Option(help="'float32', 'bfloat16', ...")] = "float32",
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", help="Module or FILE.py that registers hypotheses; repeatable."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the tidy table (.parquet) or figures (.html)."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Find the heads that do in-context learning's work, and whether an update does it there."""
    from iclgd_lens.cli.compare import parse_rate, parse_settings
    from iclgd_lens.files import check_place

    if out is not None and out.suffix not in _SUFFIXES:
        raise ComparisonError(f"--out {out}: give a {' or '.join(_SUFFIXES)} file.")
    if out is not None:
        check_place(out)
    rate, budget = parse_rate(lr)
    settings = parse_settings(set_ or [])
    with progress() as tell:
        tell("starting PyTorch and TransformerLens")
        from iclgd_lens.bench.work import import_modules
        from iclgd_lens.host.loading import load_model
        from iclgd_lens.mediation import mediate as measured
        from iclgd_lens.mediation.mediating import CONTROLS
        from iclgd_lens.writing import load_episodes

        import_modules(imports or [])
        tell(f"loading {model}")
        loaded = load_model(model, dtype=dtype, host=host)  # type: ignore[arg-type]
        episodes = load_episodes(
            task, loaded, draws=draws, shots=shots, queries=queries, seed=seed, data=data,
            protocol=protocol,
        )  # fmt: skip
        found = measured(
            loaded, episodes, _names(hypothesis, defaults.HYPOTHESES),
            controls=_names(control, CONTROLS), exact=exact, visibility=visibility, lr=rate,
            settings=settings, budget=budget, seed=seed, progress=tell,
        )  # fmt: skip
        if out is not None:
            tell(f"writing {out}")
            _write(found, out)
    if as_json:
        print_json(document(found))
    else:
        _show(found, top, out)


def _names(given: list[str] | None, usual: tuple[str, ...]) -> list[str]:
    if not given:
        return list(usual)
    return [] if given == ["none"] else given


def document(found: Mediation) -> dict[str, Any]:
    """Everything that was found, as plain JSON values."""
    lines = found.frame().to_dict("records")
    return {
        "sentence": found.sentence(),
        "verification": {**vars(found.verification), "sentence": found.verification.sentence},
        "units_of_p_values": found.frame().attrs["units"],
        "agreement": [_plain(line) for line in found.agreement().to_dict("records")],
        "heads": [_plain(line) for line in lines],
        "curves": {
            label: {"heads": list(curve.heads), "value": [_number(v) for v in curve.value]}
            for label, curve in ((name, found.curve(name)) for name in found.labels)
        },
        "failures": found.failures,
        "provenance": dict(found.provenance),
    }  # fmt: skip


def _plain(line: Any) -> dict[str, Any]:
    return {str(key): _number(value) for key, value in line.items()}


def _number(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.item() if hasattr(value, "item") else value


def _show(found: Mediation, top: int, out: Path | None) -> None:
    names = found.hypotheses or (None,)
    for name in names:
        frame = found.top(top, hypothesis=name)
        own = list(frame.columns)
        score = [column for column in own if column.startswith("Sim")]
        columns = [c for c in (*_COLUMNS, *score, "induction", "function_vector") if c in own]
        print_table(
            (name or "ICL", *columns),
            [
                (f"{line['layer']:.0f}.{line['head']:.0f}", *(_cell(line[c]) for c in columns))
                for line in frame.to_dict("records")
            ],
        )
    agreement = found.agreement().to_dict("records")
    columns = [str(column) for column in agreement[-1] if column != "hypothesis"]
    print_table(
        ("the same heads?", *columns),
        [(str(line["hypothesis"]), *(_cell(line[c]) for c in columns)) for line in agreement],
    )
    console = output()
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

    figures = [found.heatmap(name) for name in found.effects()]
    for name in found.hypotheses:
        figures.append(found.heatmap("substitution", name))
    figures += [found.set_curves(), *([found.scatter()] if len(found.labels) > 1 else [])]
    parts = [
        figure.to_html(full_html=False, include_plotlyjs=not number, div_id=f"figure{number}")
        for number, figure in enumerate(figures)
    ]
    body = "\n".join(parts)
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Heads</title>'
        f"<p>{found.sentence()}</p>{body}</html>"
    )
    write_whole(out, page.encode())
