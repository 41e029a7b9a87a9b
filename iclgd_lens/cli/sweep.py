"""The command `sweep`: a score and its controls along a factor, or the sweeps of a claim."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iclgd_lens import defaults
from iclgd_lens.cli.console import output, print_json, print_table, progress, say
from iclgd_lens.errors import ComparisonError

if TYPE_CHECKING:
    from iclgd_lens.sweeps import Sweep


def sweep(
    what: Annotated[
        str, typer.Argument(help="A factor (lr, shots, label_noise, ...), or a claim's YAML file.")
    ],
    value: Annotated[
        list[str] | None,
        typer.Option("--value", "-v", help="A value; repeatable.", show_default="the usual ones"),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Hub name, model folder, or 'embedded'.")
    ] = "embedded",
    task: Annotated[str, typer.Option("--task", "-t", help="A task of `iclgd tasks`.")] = "sst2",
    data: Annotated[
        str | None, typer.Option(help="Where rows are: 'hub', 'embedded', or a folder.")
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations.")] = 16,
    queries: Annotated[int, typer.Option(min=2, help="Queries.")] = 32,
    draws: Annotated[int, typer.Option(min=1, help="Draws of demonstrations.")] = 2,
    hypothesis: Annotated[
        list[str] | None,
        typer.Option(
            "--hypothesis",
            "-H",
            help="A name of `iclgd hypotheses`; repeatable.",
            show_default=", ".join(defaults.HYPOTHESES),
        ),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(
            "--control",
            "-C",
            help="A control at every point; repeatable.",
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
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first draw and of controls.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write the table (.parquet) or the figures (.html)."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document and nothing else.")
    ] = False,
) -> None:
    """Measure a score and its controls along a factor, or settle a published claim."""
    from iclgd_lens.cli.compare import parse_rate, parse_settings
    from iclgd_lens.files import check_place
    from iclgd_lens.sweeps.claims import load_claim
    from iclgd_lens.sweeps.factors import get_factor

    if out is not None:
        if out.suffix not in (".parquet", ".html"):
            raise ComparisonError(f"--out {out}: give a .parquet or .html file.")
        check_place(out)
    claim = load_claim(what) if what.endswith((".yaml", ".yml")) else None
    if claim is not None and out is not None and out.suffix == ".parquet" and len(claim.sweeps) > 1:
        raise ComparisonError(f"{what} has several sweeps; write their figures (.html).")
    factor = None if claim is not None else get_factor(what)
    rate, budget = parse_rate(lr)
    settings = parse_settings(set_ or [])
    with progress() as tell:
        tell("starting PyTorch and TransformerLens")
        from iclgd_lens.host.loading import load_model
        from iclgd_lens.sweeps.sweeping import CONTROLS
        from iclgd_lens.sweeps.sweeping import sweep as measured

        by_name = factor is not None and factor.kind == "model"
        tell(f"loading {model}")
        loaded: Any = None if by_name else load_model(model)
        if claim is not None:
            found = claim.run(loaded, data=data, progress=tell)
        else:
            assert factor is not None
            found = [
                measured(
                    loaded, task, what, _values(value),
                    hypotheses=hypothesis or defaults.HYPOTHESES,
                    controls=control or CONTROLS, settings=settings, lr=rate, budget=budget,
                    shots=shots, queries=queries, draws=draws, seed=seed, data=data, progress=tell,
                )
            ]  # fmt: skip
        if out is not None:
            _write(found, out)
    if as_json:
        print_json([_document(each) for each in found])
        return
    if claim is not None:
        for name in ("paper", "claim", "refuted_by"):
            say(output(), f"{name.replace('_', ' ')}: {getattr(claim, name)}")
    for number, each in enumerate(found):
        _show(each, None if claim is None else claim.sweeps[number].scores)


def _values(given: list[str] | None) -> list[Any] | None:
    import yaml

    return None if not given else [yaml.safe_load(text) for text in given]


def _document(found: Sweep) -> dict[str, Any]:
    lines = found.frame()
    whole = lines[lines["level"] == "all"]
    return {
        "factor": found.factor.name,
        "sentence": found.sentence(),
        "lines": [
            {str(key): _plain(value) for key, value in line.items()}
            for line in whole.to_dict("records")
        ],
    }  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value.__class__.__name__ == "NAType":
        return None
    return value.item() if hasattr(value, "item") else value


def _show(found: Sweep, scores: list[str] | None) -> None:
    shown = scores or [found.score, "logit_recovery"]
    for score in shown:
        curve = found.curve(score)
        names = list(dict.fromkeys(str(name) for name in curve["hypothesis"]))
        print_table(
            (f"{score} along {found.factor.axis}", *(str(p.value) for p in found.points)),
            [
                (name, *(_cell(curve, name, point.value) for point in found.points))
                for name in names
            ],
        )
    say(output(), found.sentence())


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

    parts = [
        f"<p>{each.sentence()}</p>"
        + each.figure().to_html(
            full_html=False, include_plotlyjs=not number, div_id=f"figure{number}"
        )
        for number, each in enumerate(found)
    ]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Sweep</title>'
        + "\n".join(parts) + "</html>"
    )  # fmt: skip
    write_whole(out, page.encode())
