"""The command `sweep`: a score and its controls along a factor, or the sweeps of a claim."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iclgd_lens import defaults
from iclgd_lens.cli import options
from iclgd_lens.cli.console import hand_over, json_document, numbers_of, progress, say
from iclgd_lens.cli.given import check_output, names
from iclgd_lens.cli.opening import Names, Rows, check_asked, open_model
from iclgd_lens.cli.options import figures_page
from iclgd_lens.errors import ComparisonError
from iclgd_lens.phrases import listed
from iclgd_lens.telling import Tell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from iclgd_lens.sweeps.claims import Claim
    from iclgd_lens.sweeps.factors import Factor
    from iclgd_lens.sweeps.sweep_result import Sweep

_KINDS = {".parquet": "the table", ".html": "the figures"}


def sweep(
    what: Annotated[
        str, typer.Argument(help="A factor (lr, shots, label_noise, ...), or a claim's YAML file.")
    ],
    value: Annotated[
        list[str] | None,
        typer.Option("--value", "-v", help="A value; repeatable.", show_default="the usual ones"),
    ] = None,
    model: options.ModelName = "embedded",
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help=options.TASK, show_default="sst2"),
    ] = None,
    data: options.Rows = None,
    shots: Annotated[
        int | None,
        typer.Option(min=1, help="Demonstrations.", show_default=str(defaults.SHOTS)),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(min=1, help="Queries.", show_default=str(defaults.SWEEP_QUERIES))
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            min=1, help="Draws of demonstrations.", show_default=str(defaults.SWEEP_DRAWS)
        ),
    ] = None,
    hypothesis: options.Hypotheses = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            "-C",
            help="A control at every point, or 'none'; repeatable.",
            show_default="random, shuffled",
        ),
    ] = None,
    auxiliary: options.Auxiliary = None,
    lr: options.Rate = None,
    set_: options.Settings = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the first draw and of controls.", show_default="0"),
    ] = None,
    imports: options.Imports = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the table (.parquet) or the figures (.html)."),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Measure a score and its controls along a factor, or settle a published claim.

    A claim's file says what is measured. Where they are given, --value, --hypothesis, --control,
    --lr, --shots, --queries and --draws take the place of what it says, in each of its sweeps.
    """
    from iclgd_lens.cli.compare import parse_rate, parse_settings
    from iclgd_lens.sweeps.factors import get_factor

    check_output(out, _KINDS)
    rate, budget = parse_rate(lr)
    settings = parse_settings(set_ or [])
    values, controls = _values(value), names("--control", control)
    claim = None
    if what.endswith((".yaml", ".yml")):
        from iclgd_lens.sweeps.claims import load_claim

        claim = load_claim(what)
        _refuse(what, {"--task": task, "--auxiliary": auxiliary, "--set": set_, "--seed": seed})
        wanted = {"shots": shots, "queries": queries, "draws": draws}
        claim = claim.at(
            values=values,
            hypotheses=hypothesis or None,
            controls=controls,
            **{name: number for name, number in wanted.items() if number is not None},
        )
    if claim is not None and out is not None and out.suffix == ".parquet" and len(claim.sweeps) > 1:
        raise ComparisonError(f"{what} has several sweeps; write their figures (.html).")
    hypotheses = hypothesis or list(defaults.HYPOTHESES)
    rows = Rows(
        task or "sst2", data, shots or defaults.SHOTS, queries or defaults.SWEEP_QUERIES,
        draws or defaults.SWEEP_DRAWS,
        seed or 0, auxiliary=auxiliary or (),
    )  # fmt: skip
    if claim is None:
        named = [Names(hypotheses, settings, controls or ())]
        asked = _Asked(rows, named, [(get_factor(what), values)])
    else:
        asked = _asked_by(claim, data)
    with progress() as tell:
        loaded, source = _open(model, asked, imports or [], tell)
        from iclgd_lens.sweeps.sweep_job import SWEEP_CONTROLS
        from iclgd_lens.sweeps.sweep_job import sweep as measured

        if claim is not None:
            found = claim.run(loaded, data=source, lr=rate, budget=budget, progress=tell)
        else:
            found = [
                measured(
                    loaded, rows.task, what, values, hypotheses=hypotheses,
                    controls=SWEEP_CONTROLS if controls is None else controls, settings=settings,
                    lr=rate, budget=budget, shots=rows.shots, queries=rows.queries,
                    draws=rows.draws, seed=rows.seed, data=source, auxiliary=rows.auxiliary,
                    progress=tell,
                )
            ]  # fmt: skip
        if out is not None:
            _write(found, out)
    hand_over(
        json_document([_document(each) for each in found]) if as_json else None,
        lambda console: _show(found, claim, out, console),
        "iclgd-sweep",
    )


@dataclass(frozen=True)
class _Asked:
    """What is looked up and read before a model is loaded, and what is gone through."""

    rows: Rows
    names: Sequence[Names]
    sweeps: Sequence[tuple[Factor, Sequence[Any] | None]]


def _asked_by(claim: Claim, data: str | None) -> _Asked:
    from iclgd_lens.sweeps.factors import get_factor

    # A file's settings may be for hypotheses in whose place the command line gives others.
    named = [Names(spec.hypotheses, spec.own_settings, spec.controls) for spec in claim.sweeps]
    rows = Rows(claim.task, data, claim.shots, claim.queries, claim.draws)
    return _Asked(rows, named, [(get_factor(spec.factor), spec.values) for spec in claim.sweeps])


def _open(model: str, asked: _Asked, imports: Sequence[str], tell: Tell) -> tuple[Any, Any]:
    """The model, and the rows that were read for it.

    Where models themselves are gone through, there is no model (they are loaded as they are
    measured), and rows are read anew for each.
    """
    points = [
        (factor, factor.values if values is None else values) for factor, values in asked.sweeps
    ]
    for factor, values in points:
        for value in values:
            factor.check(value)
    counts = [
        count
        for factor, values in points
        for count in (values if factor.kind == "draw" else (asked.rows.shots,))
    ]
    # What the most demonstrations leave is asked at every point.
    rows = replace(asked.rows, shots=max(counts, default=asked.rows.shots))
    others = [str(name) for factor, values in points if factor.kind == "model" for name in values]
    if others:
        check_asked(others, rows, tell, names=asked.names, imports=imports)
    if all(factor.kind == "model" for factor, _ in points):
        return (), rows.data
    loaded, read = open_model(model, rows, tell, names=asked.names, imports=imports)
    return loaded, rows.data if others else read


def _refuse(claim: str, given: dict[str, Any]) -> None:
    """Refuse options that would change what a claim says, and were ignored otherwise."""
    options_ = [option for option, value in given.items() if value not in (None, [])]
    if options_:
        raise ComparisonError(
            f"{claim} is a claim, which says itself what {listed(options_)} would; --value, "
            "--hypothesis, --control, --lr, --shots, --queries and --draws change what it says."
        )


def _values(given: list[str] | None) -> list[Any] | None:
    from iclgd_lens.yaml_files import value

    return None if not given else [value(text, ComparisonError, "--value") for text in given]


def _document(found: Sweep) -> dict[str, Any]:
    lines = found.frame()
    return {
        "factor": found.factor.name,
        "sentence": found.sentence(),
        "lines": lines[lines["level"] == "all"].to_dict("records"),
        # Values of the other factors differ in the model or in how demonstrations are drawn.
        "spread": (
            found.spread().to_dict("records") if found.factor.kind in ("rule", "episode") else []
        ),
    }


def _show(found: Sequence[Sweep], claim: Claim | None, out: Path | None, console: Console) -> None:
    if claim is not None:
        for name in ("paper", "claim", "refuted_by"):
            say(console, f"{name.replace('_', ' ')}: {getattr(claim, name)}")
    for number, each in enumerate(found):
        scores = None if claim is None else claim.sweeps[number].scores
        measured = set(each.frame()["score"])
        for score in scores or [each.score, "logit_recovery"]:
            if score not in measured:
                say(
                    console, f"{score} was not measured: it needs a control that was not asked for."
                )
                continue
            curve = each.curve(score)
            names = list(dict.fromkeys(str(name) for name in curve["hypothesis"]))
            columns = (f"{score} along {each.factor.axis}", *(str(p.shown) for p in each.points))
            lines = [
                (name, *(_cell(curve, name, point.shown) for point in each.points))
                for name in names
            ]
            console.print(numbers_of(columns, lines))
        say(console, each.sentence())
    if out is not None:
        say(console, f"Written: {out}")


def _cell(curve: Any, name: str, value: Any) -> str:
    line = curve[(curve["hypothesis"] == name) & (curve["value_of_factor"] == value)]
    if not len(line) or not math.isfinite(line["value"].iloc[0]):
        return "—"
    first = line.iloc[0]
    return f"{first['value']:.3f} [{first['ci_low']:.2f},{first['ci_high']:.2f}]"


def _write(found: list[Sweep], out: Path) -> None:
    if out.suffix == ".parquet":
        found[0].to_parquet(out)
        return
    from iclgd_lens.files import write_whole

    shown = [
        (f"Along {each.factor.axis}", "Behaviour above, scores and their controls below.",
         each.figure())
        for each in found
    ]  # fmt: skip
    title = f"What changes with {listed([each.factor.axis for each in found])}"
    write_whole(out, figures_page(title, [each.sentence() for each in found], shown))
