"""Cells: the units of a benchmark, each named by a hash of everything that changes its numbers."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from iclgd_lens import __version__
from iclgd_lens.bench.code import code_digest
from iclgd_lens.bench.plan import HypothesisSpec, ModelSpec, Plan
from iclgd_lens.episode import EMBEDDED
from iclgd_lens.errors import LensError
from iclgd_lens.host.loading import ALIASES, identify_model
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.tasks import (
    Rows,
    Task,
    draw_demonstrations,
    draw_queries,
    get_task,
    hash_rows,
    list_tasks,
    load_rows,
)

FORMAT = "iclgd_lens.cell/1"
"""Part of every key: changes when what a cell file holds changes."""
# NumPy draws rows and bootstrap samples; the others read and run the model.
_LIBRARIES = ("numpy", "tokenizers", "torch", "transformers", "transformer-lens")


@dataclass(frozen=True)
class Cell:
    """One model, task and draw of demonstrations, with every hypothesis and control.

    Attributes:
        key: 32 hexadecimal digits over `facts`.
        model: The model.
        task: The task, as the plan names it.
        task_name: The task's own name, which results use.
        seed: Seed of the draw.
        permutation: Order of the draw.
        data: Where rows come from.
        queries: How many evaluation rows there are to measure; 0 where they could not be read.
        facts: Everything that changes the cell's numbers.
        problem: Why the cell cannot be measured (its rows are missing or malformed).
    """

    key: str
    model: ModelSpec
    task: str
    task_name: str
    seed: int
    permutation: int
    data: str
    queries: int
    facts: Mapping[str, Any] = field(repr=False)
    problem: str | None = None

    @property
    def place(self) -> dict[str, Any]:
        """Where the cell lies in the grid: model, task, seed, permutation."""
        return {
            "model": self.model.label,
            "task": self.task_name,
            "seed": self.seed,
            "permutation": self.permutation,
        }

    @property
    def reading(self) -> tuple[str, str, str]:
        """Model, task and evaluation rows: cells that share all three need ZS once."""
        return self.model.label, self.task, json.dumps((self.facts["rows"] or [None])[-1])

    def __str__(self) -> str:
        return f"{self.model.label} · {self.task_name} · seed {self.seed}.{self.permutation}"


def list_cells(plan: Plan, *, tell: Callable[[str], None] | None = None) -> list[Cell]:
    """Return the plan's cells: by model, task, seed, permutation.

    Models are identified and rows read (both once), but no model is loaded.

    Raises:
        LensError: A model cannot be identified.
    """
    draws = _Draws(plan)
    found: list[Cell] = []
    for model in plan.models:
        if tell is not None:
            tell(f"identifying {model.label}")
        shared = _facts_of_plan(plan) | _facts_of_model(plan, model)
        data = data_of(plan, model)
        for name in plan.tasks:
            task = get_task(name)
            for seed, permutation in plan.draws(task.seeds):
                own, queries, problem = draws.facts(task, data, seed, permutation, shared)
                facts = shared | own
                found.append(
                    Cell(
                        _hash(facts)[:32], model, name, task.name, seed, permutation, data,
                        queries, facts, problem,
                    )
                )  # fmt: skip
    return found


def count_cells(plan: Plan) -> int:
    """Number of cells, without looking at models or rows."""
    return len(plan.models) * sum(
        len(list(plan.draws(get_task(name).seeds))) for name in plan.tasks
    )


def data_of(plan: Plan, model: ModelSpec) -> str:
    """Where the plan's rows come from for a model; see `Plan.data`."""
    if plan.data is not None:
        return plan.data
    embedded = model.name in ALIASES or model.name.startswith(EMBEDDED)
    return "embedded" if embedded else "hub"


def shard(cells: list[Cell], index: int, count: int) -> list[Cell]:
    """Return share `index` of `count` (from 1), in the given order.

    Shares are dealt by key, so they are disjoint and together complete on any machine.

    Raises:
        LensError: There is no such share.
    """
    if not 1 <= index <= count:
        raise LensError(f"shard {index}/{count} does not exist; they count from 1/{count}")
    mine = set(sorted(cell.key for cell in cells)[index - 1 :: count])
    return [cell for cell in cells if cell.key in mine]


def _hash(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _facts_of_plan(plan: Plan) -> dict[str, Any]:
    fields = plan.as_dict()
    kept = ("shots", "lr", "tok2attn_queries", "resamples", "control_seed")
    return {
        "format": FORMAT,
        "protocol": plan.protocol.hash,
        "hypotheses": {name: hypothesis_facts(spec) for name, spec in plan.hypotheses.items()},
        "versions": {name: _version(name) for name in _LIBRARIES}
        | {"iclgd-lens": __version__, "code": code_digest()},
    } | {name: fields[name] for name in kept}


def _facts_of_model(plan: Plan, model: ModelSpec) -> dict[str, Any]:
    return {
        "model": identify_model(model.name, model.revision),
        "dtype": model.dtype,
        "host": model.host,
        "untrained": model.untrained,
        "controls": list(plan.controls_of(model)),
    }


def hypothesis_facts(spec: HypothesisSpec) -> dict[str, Any]:
    """What changes a hypothesis's numbers: name, version, settings and, of a plugin, its source."""
    hypothesis = get_hypothesis(spec.hypothesis)
    facts: dict[str, Any] = {
        "hypothesis": hypothesis.name,
        "version": hypothesis.version,
        "settings": {key: repr(value) for key, value in sorted(spec.settings.items())},
    }
    # A plugin's author may forget to raise the version; our own files have the package's.
    if not hypothesis.build.__module__.startswith("iclgd_lens."):
        try:
            source = inspect.getsource(hypothesis.build)
        except (OSError, TypeError):
            source = "unknown"
        facts["source"] = hashlib.sha256(source.encode()).hexdigest()[:16]
    return facts


class _Draws:
    """Hashes of the rows that each draw shows; every split is read once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: dict[tuple[str, str, str], Rows | LensError] = {}

    def facts(
        self, task: Task, data: str, seed: int, permutation: int, shared: Mapping[str, Any]
    ) -> tuple[dict[str, Any], int, str | None]:
        """A draw's facts, its number of queries and why it cannot be measured, if so."""
        plan = self.plan
        facts: dict[str, Any] = {
            "task": task.name,
            "prompt": task.prompt_hash,
            "task_lr": task.learning_rate,
            "seed": seed,
            "permutation": permutation,
        }
        try:
            train, validation = (
                self._split(task, data, "train"),
                self._split(task, data, "validation"),
            )
            shown = self._drawn(train, seed, permutation)
            repeated = shown if plan.protocol.skip_repeated else ()
            every = draw_queries(validation, None, seed=plan.protocol.query_seed, exclude=repeated)
            asked = every[: plan.queries or len(every)]
            if "other_task" in shared["controls"] and task.name in (known := list_tasks()):
                other = get_task(known[(known.index(task.name) + 1) % len(known)])
                foreign = self._drawn(self._split(other, data, "train"), seed, 0)
                facts["other"] = [other.prompt_hash, hash_rows(foreign)]
        except LensError as error:
            return facts | {"rows": None}, 0, str(error)
        rows = [hash_rows(shown), hash_rows(asked)]
        # The indices tell which query is which where seeds were measured on different ones.
        places = [row.index for row in asked]
        return facts | {"rows": rows, "query_rows": places}, len(asked), None

    def _drawn(self, train: Rows, seed: int, permutation: int) -> tuple[Any, ...]:
        return draw_demonstrations(
            train,
            self.plan.shots,
            seed=seed,
            permutation=permutation,
            balanced=self.plan.protocol.balanced,
        )

    def _split(self, task: Task, data: str, split: Any) -> Rows:
        place = (task.name, data, split)
        if place not in self.rows:
            try:
                self.rows[place] = load_rows(task, split, data, strip=self.plan.protocol.strip)
            except LensError as error:
                self.rows[place] = error
        found = self.rows[place]
        if isinstance(found, LensError):
            raise found
        return found


def _version(name: str) -> str:
    try:
        return version(name).split("+")[0]  # +cpu and +cu130 are builds of one version
    except PackageNotFoundError:
        return "not installed"
