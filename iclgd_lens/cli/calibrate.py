"""The command `calibrate`: how often the verdict rule is wrong where the truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iclgd_lens import defaults
from iclgd_lens.cli.console import hand_over, json_document, numbers_of, progress
from iclgd_lens.cli.given import check_output
from iclgd_lens.cli.opening import Rows, open_model
from iclgd_lens.cli.options import Json, figures_page

if TYPE_CHECKING:
    from rich.console import Console

    from iclgd_lens.tasks import Splits
    from iclgd_lens.verdicts.shares import Rate

_TITLE = "How often the verdict rule is right or wrong, beside what is allowed"
_CAPTION = "Simulated comparisons, in which the truth is known."
THETAS = (2.0, 5.0, 10.0, 20.0)
"""Angles between the rules, in degrees."""
DRAWS, QUERIES = (3, 5, 10), (3, 9)
"""With which GD and LCGD are to be told apart; a world has nine queries."""


def calibrate(
    trials: Annotated[int, typer.Option(min=20, help="Simulated comparisons of each kind.")] = 500,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Also ask never-trained networks of this model's architecture."
        ),
    ] = None,
    networks: Annotated[
        int, typer.Option(min=4, help="Never-trained networks of that architecture.")
    ] = 12,
    task: Annotated[str, typer.Option("--task", "-t", help="The task they are asked on.")] = "sst2",
    worlds: Annotated[
        bool, typer.Option("--worlds/--no-worlds", help="Also the power, on models of known angle.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all of it.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the figure (.html) there.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure how often noise is called "yes", and from which angle GD and LCGD are told apart."""
    check_output(out, {".html": "the figure"})
    with progress() as tell:
        rows = Rows(task, None, defaults.SHOTS, queries=16, draws=2, seed=seed)
        opened = None if model is None else open_model(model, rows, tell)
        tell("simulating comparisons")
        from iclgd_lens.calibration import calibrate as simulated

        rates = simulated(trials=trials, seed=seed)
        if opened is not None:
            rates += _on_networks(*opened, rows, networks, tell)
        power = _power(tell) if worlds else None
    figure = None
    if out is not None:
        from iclgd_lens.files import write_somewhere

        figure = write_somewhere(out, figures_page(_TITLE, [_CAPTION], [_figure(rates)]))

    def show(console: Console) -> None:
        lines = [_line(rate) for rate in rates]
        console.print(numbers_of(("what", "share", "95 %", "allowed", ""), lines))
        if power is not None:
            console.print("Worlds: the smallest angle from which on GD and LCGD are told apart")
            console.print(numbers_of(("queries", "draws", "angle"), _power_lines(power)))
        if figure is not None:
            console.print(f"Figure: {figure}", markup=False)

    document = {"rates": [rate.as_dict() for rate in rates], "power": power}
    hand_over(json_document(document) if as_json else None, show, "iclgd-calibrate")


def _line(rate: Rate) -> tuple[str, ...]:
    low, high = rate.interval
    allowed = "" if rate.expected is None else f"{rate.expected[0]:.2f} to {rate.expected[1]:.2f}"
    return rate.what, f"{rate.share:.3f}", f"{low:.3f} to {high:.3f}", allowed, rate.said


def _on_networks(model: Any, read: Splits, rows: Rows, networks: int, tell: Any) -> list[Rate]:
    from iclgd_lens.calibration_on_networks import never_trained
    from iclgd_lens.comparing import compare
    from iclgd_lens.episode_loading import load_episodes

    episodes = load_episodes(
        rows.task, model, draws=rows.draws, seed=rows.seed, shots=rows.shots,
        queries=rows.queries, data=read,
    )  # fmt: skip
    result = compare(
        model, episodes, controls=("shuffled", "untrained"), lr=0.05, twins=networks,
        seed=rows.seed, tok2attn_queries=0, progress=tell,
    )  # fmt: skip
    return [never_trained([result])]


def _power(tell: Any) -> dict[str, Any]:
    tell("worlds: from which angle on are GD and LCGD told apart?")
    from iclgd_lens.worlds import power

    lines: list[dict[str, Any]] = []
    for queries in QUERIES:
        found = power(THETAS, n=max(DRAWS), queries=queries)
        for draws in DRAWS:
            own = found.first(draws)
            lines.append(
                {
                    "queries": queries, "draws": draws, "told_apart": list(own.told_apart()),
                    "smallest": own.smallest(),
                }
            )  # fmt: skip
    return {"thetas": list(THETAS), "lines": lines}


def _power_lines(power: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            str(line["queries"]),
            str(line["draws"]),
            "none tried" if line["smallest"] is None else f"{line['smallest']:g} degrees",
        )
        for line in power["lines"]
    ]


def _figure(rates: list[Rate]) -> tuple[str, str, Any]:
    """Every rate with its interval beside what is allowed."""
    import plotly.graph_objects as go

    names = [rate.what for rate in rates]
    low, high = zip(*(rate.interval for rate in rates), strict=True)
    shares = [rate.share for rate in rates]
    figure = go.Figure()
    for rate, name in zip(rates, names, strict=True):
        if rate.expected is not None:
            figure.add_trace(
                go.Scatter(
                    x=list(rate.expected), y=[name, name], mode="lines", showlegend=False,
                    line={"width": 12, "color": "#cfe6f5"}, hoverinfo="skip",
                )
            )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=shares, y=names, mode="markers", name="measured", marker={"color": "#0072b2"},
            error_x={
                "type": "data", "symmetric": False,
                "array": [h - s for h, s in zip(high, shares, strict=True)],
                "arrayminus": [s - lo for lo, s in zip(low, shares, strict=True)],
            },
        )
    )  # fmt: skip
    figure.update_layout(
        template="plotly_white", height=140 + 26 * len(rates), margin={"l": 420},
        xaxis={"title": {"text": "share of simulated comparisons"}, "range": [0, 1]},
    )  # fmt: skip
    return "Rates", "Each rate with its 95 % interval; wide bars are what is allowed.", figure
