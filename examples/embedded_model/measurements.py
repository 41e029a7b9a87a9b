"""All that is measured on the embedded model, in one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from rich.progress import track
from torch import Tensor

from examples.embedded_model.grammar import TASKS
from examples.embedded_model.scoring import (
    SHOTS,
    Labels,
    accuracy,
    load,
    prefix_matching,
    untrained_twin,
)

CONDITIONS: Mapping[str, tuple[bool, Labels]] = {
    "trained, usual labels": (True, "usual"),
    "trained, permuted labels": (True, "permuted"),
    "untrained, usual labels": (False, "usual"),
}
"""By name: whether the model is the trained one, and the label words."""


@dataclass(frozen=True)
class Measurements:
    """What was measured.

    Attributes:
        accuracy: By condition and task: one accuracy for each of `SHOTS`.
        prefix_matching: Of the trained model's heads.
        queries: Validation rows of each task.
        seed: Of demonstrations, permutations and the twin's weights.
    """

    accuracy: dict[str, dict[str, list[float]]]
    prefix_matching: Float[Tensor, "layer head"]
    queries: int
    seed: int

    def mean(self, condition: str) -> list[float]:
        """Return the mean accuracy over the tasks, for each of `SHOTS`."""
        rows = self.accuracy[condition].values()
        return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def measure(folder: Path, *, queries: int = 180, seed: int = 0) -> Measurements:
    """Measure a trained model on the first `queries` validation rows of every task."""
    trained = load(folder)
    untrained = untrained_twin(trained, seed=seed)
    cells = [(name, task) for name in CONDITIONS for task in TASKS]
    measured: dict[str, dict[str, list[float]]] = {name: {} for name in CONDITIONS}
    for name, task in track(cells, description="evaluating", transient=True):
        is_trained, labels = CONDITIONS[name]
        subject = trained if is_trained else untrained
        measured[name][task] = [
            accuracy(subject, task, shots, labels=labels, queries=queries, seed=seed)
            for shots in SHOTS
        ]
    return Measurements(measured, prefix_matching(trained, seed=seed), queries, seed)
