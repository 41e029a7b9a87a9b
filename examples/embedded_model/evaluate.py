"""Measure the embedded model: `python -m examples.embedded_model.evaluate`.

Prints accuracy by task and number of demonstrations, with usual and permuted label words, for the
trained model and its untrained twin, and the prefix-matching score of every head.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from jaxtyping import Float
from rich.console import Console
from rich.table import Table
from torch import Tensor

from examples.embedded_model.card import write_card
from examples.embedded_model.measurements import Measurements, measure
from examples.embedded_model.scoring import SHOTS, chance
from iclgd_lens.embedded import embedded_model_folder


def accuracy_table(measurements: Measurements, condition: str) -> Table:
    """Accuracy in one condition, by task and number of demonstrations."""
    table = Table(title=f"{condition}: accuracy on {measurements.queries} validation rows a task")
    for column in ("task", "chance", *(f"{n} shots" for n in SHOTS)):
        table.add_column(column, justify="left" if column == "task" else "right")
    tasks = measurements.accuracy[condition]
    for task, values in tasks.items():
        table.add_row(task, f"{chance(task):.2f}", *(f"{v:.2f}" for v in values))
    mean_chance = sum(chance(task) for task in tasks) / len(tasks)
    means = (f"{v:.3f}" for v in measurements.mean(condition))
    table.add_row("mean", f"{mean_chance:.3f}", *means, style="bold")
    return table


def head_table(scores: Float[Tensor, "layer head"]) -> Table:
    """Prefix-matching score by layer and head."""
    table = Table(title="Prefix-matching score (induction)")
    for column in ("layer", *(f"head {h}" for h in range(scores.shape[1]))):
        table.add_column(column, justify="right")
    for layer, row in enumerate(scores.tolist()):
        table.add_row(str(layer), *(f"{value:.2f}" for value in row))
    return table


def evaluate(
    folder: Annotated[Path | None, typer.Option(help="Default: the shipped model.")] = None,
    queries: Annotated[int, typer.Option(help="Validation rows a task, at most 180.")] = 180,
    seed: Annotated[int, typer.Option(help="Of the demonstrations.")] = 0,
    card: Annotated[bool, typer.Option(help="Write the folder's card and figure anew.")] = False,
) -> None:
    """Measure a model that `examples.embedded_model.train` trained."""
    folder = folder or embedded_model_folder()
    measurements = measure(folder, queries=queries, seed=seed)
    console = Console()
    for condition in measurements.accuracy:
        console.print(accuracy_table(measurements, condition))
    console.print(head_table(measurements.prefix_matching))
    if card:
        training: dict[str, Any] = json.loads((folder / "training.json").read_text())
        write_card(folder, measurements, training)


if __name__ == "__main__":
    typer.run(evaluate)
