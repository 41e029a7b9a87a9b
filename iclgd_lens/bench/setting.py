"""A setting of a plan: a network and a draw of demonstrations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from iclgd_lens.bench.entries import ModelSpec
from iclgd_lens.subjects import TRAINED

Varied = tuple[str, Any]
"""A factor and its value."""


def varied_name(task: str, varied: Varied | None) -> str:
    """What results call a task at a value of a factor, as "sst2 (shots 4)".

    Each value has a gate, verdicts and tables of its own, as a task has.
    """
    return task if varied is None else f"{task} ({varied[0]} {varied[1]})"


@dataclass(frozen=True)
class Setting:
    """One network and one draw of demonstrations.

    Attributes:
        key: 32 hexadecimal digits over `facts`.
        model: The model.
        task: The task, as the plan names it.
        task_name: The task's own name, which results use.
        seed: Seed of the draw.
        permutation: Order of the draw.
        data: Where rows come from.
        queries: How many evaluation rows there are to measure; 0 where they could not be read.
        network: "trained", or the control that puts another network in the model's place.
        index: Which of that control's networks.
        facts: Everything that changes what the network leaves on the queries.
        problem: Why it cannot be measured (its rows are missing or malformed).
        trained: The model's own setting of the same draw, for another network's.
        other: The rows of the control "other_task", where they are asked for.
        auxiliary: Other tasks and the hashes of their rows, where a hypothesis needs them.
        shots: Demonstrations.
        varied: The factor of the plan's `vary:` that this setting has a value of, and the value.
    """

    key: str
    model: ModelSpec
    task: str
    task_name: str
    seed: int
    permutation: int
    data: str
    queries: int
    network: str
    index: int
    facts: Mapping[str, Any] = field(repr=False)
    problem: str | None = None
    trained: Setting | None = field(default=None, repr=False)
    other: tuple[str, ...] = ()
    auxiliary: tuple[tuple[str, ...], ...] = ()
    shots: int = 0
    varied: Varied | None = None

    @property
    def label(self) -> str:
        """What results call the task: its name, and the value of a factor."""
        return varied_name(self.task_name, self.varied)

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies in the grid."""
        return {
            "model": self.model.label,
            "task": self.label,
            "seed": self.seed,
            "permutation": self.permutation,
            "network": self.network,
            "index": self.index,
        }

    @property
    def reading(self) -> tuple[str, str, str, int, str]:
        """Settings that share all of this need ZS once: network, task and evaluation rows."""
        rows = json.dumps((self.facts["rows"] or [None])[-1])
        return self.model.label, self.task, self.network, self.index, rows

    def __str__(self) -> str:
        where = f"{self.model.label}, {self.label}, seed {self.seed}, order {self.permutation}"
        return where if self.network == TRAINED else f"{where}, {self.network} {self.index}"
