"""The command line: `iclgd compare`, `tasks` and `hypotheses`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from iclgd_lens.errors import LensError

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.command()
def tasks() -> None:
    """List the tasks."""
    from iclgd_lens.tasks import list_tasks

    typer.echo("\n".join(list_tasks()))


@app.command()
def hypotheses() -> None:
    """List the hypotheses."""
    from iclgd_lens.hypotheses import list_hypotheses

    for name, found in sorted(list_hypotheses().items()):
        typer.echo(f"{name}: {found.description}")


@app.command()
def compare(
    model: Annotated[str, typer.Option(help="Hub name or local folder.")],
    task: Annotated[str, typer.Option()] = "sst2",
    data: Annotated[str | None, typer.Option(help="Folder, 'hub' or 'embedded'.")] = None,
    shots: Annotated[int, typer.Option()] = 8,
    queries: Annotated[int, typer.Option()] = 64,
    lr: Annotated[float | None, typer.Option()] = None,
    seed: Annotated[int, typer.Option()] = 0,
    protocol: Annotated[str, typer.Option()] = "default",
    out: Annotated[Path | None, typer.Option(help="Tidy parquet file.")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Compare GD and LCGD with in-context learning, beside the controls."""
    import iclgd_lens as lens

    loaded = lens.load_model(model)
    episode = lens.load_episode(
        task, loaded, shots=shots, queries=queries, seed=seed, data=data, protocol=protocol
    )
    result = lens.compare(loaded, episode, lr=lr)
    frame = result.frame()
    if out is not None:
        result.to_parquet(out)
    if as_json:
        rows = json.loads(frame.to_json(orient="records"))
        typer.echo(json.dumps({"rows": rows, "provenance": result.provenance}, default=str))
        return
    shown = frame[frame["head"].isna() & frame["score"].isin(["SimAOU", "SimAM"])]
    typer.echo(shown.drop(columns=["head"]).to_string(index=False))


def main() -> None:
    """Run the command line; a user's error is one line and exit code 2."""
    try:
        app()
    except LensError as error:
        typer.echo(f"iclgd: {error}", err=True)
        sys.exit(2)
