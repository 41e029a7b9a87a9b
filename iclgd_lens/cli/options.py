"""Options that several commands share, among them the page of a command's figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from iclgd_lens import defaults

if TYPE_CHECKING:
    import plotly.graph_objects as go

ModelName = Annotated[
    str, typer.Option("--model", "-m", help="Hub name, model folder, GGUF file, or 'embedded'.")
]
TASK = "A task of `iclgd tasks`, or a task's YAML file."
TaskName = Annotated[str, typer.Option("--task", "-t", help=TASK)]
Rows = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Where rows are: 'hub', 'embedded', or a folder with TASK/train.jsonl and "
        "TASK/validation.jsonl.",
        show_default="embedded rows for an embedded model, else hub",
    ),
]
Shots = Annotated[int, typer.Option(min=1, help="Demonstrations.")]
Queries = Annotated[int, typer.Option(min=1, help="Queries.")]
Hypotheses = Annotated[
    list[str] | None,
    typer.Option(
        "--hypothesis",
        "-H",
        help="A name of `iclgd hypotheses`; repeatable.",
        show_default=", ".join(defaults.HYPOTHESES),
    ),
]
Rate = Annotated[
    str | None,
    typer.Option(
        "--lr",
        help="Learning rate of the updates; 'matched' chooses rate, epochs and loss on "
        "left-out demonstrations, 'published' takes the task's.",
        show_default="matched; published under the reference protocol",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="NAME.KEY=VALUE: a hypothesis's setting; repeatable."),
]
Auxiliary = Annotated[
    list[str] | None,
    typer.Option(
        "--auxiliary",
        help="Another task, whose demonstrations hypotheses get that read auxiliary ones; "
        "repeatable.",
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the first draw and of controls.")]
ProtocolName = Annotated[
    str, typer.Option("--protocol", help="'default', or 'reference' for the published choices.")
]
HostName = Annotated[
    str,
    typer.Option(
        "--host",
        help="'hooked', 'bridge', or 'auto': 'hooked' where there is one, but 'bridge' for large "
        "models with gated MLPs.",
    ),
]
Dtype = Annotated[
    str, typer.Option("--dtype", help="'float32', 'bfloat16', 'float16' or 'float64'.")
]
Imports = Annotated[
    list[str] | None,
    typer.Option(
        "--import",
        help="Module or FILE.py that registers hypotheses, controls or scores; repeatable.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes beside one another, on one thread each.",
        show_default="one a thread for a small model on a CPU, else 1",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]


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


def figures_page(
    title: str, lines: Sequence[str], shown: Iterable[tuple[str, str, go.Figure]]
) -> bytes:
    """Return the page.

    Args:
        title: Over it.
        lines: What was found, in sentences.
        shown: Title, caption and figure of each.
    """
    from iclgd_lens.report.figure_choices import Choice, Picture
    from iclgd_lens.report.page import document

    drawn: list[Picture] = []
    for number, (name, caption, figure) in enumerate(shown):
        spec: dict[str, Any] = figure.to_plotly_json()  # pyright: ignore[reportCallIssue]
        spec["layout"].pop("title", None)  # the page's own heading says it
        spec["layout"]["margin"] = {**spec["layout"].get("margin", {}), "t": 40}
        drawn.append(Picture(f"figure{number}", name, (), (Choice((), caption, spec),)))
    template = (files("iclgd_lens.cli") / "figures.html").read_text(encoding="utf-8")
    return document(template, drawn, title=title, lines=lines).encode()
