"""Which rows each draw of a plan shows and asks: read once, known by their hashes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from iclgd_lens.bench.plan import Plan
from iclgd_lens.errors import LensError, RowsError
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.phrases import one_label_asked, one_label_shown
from iclgd_lens.tasks import (
    Row,
    Rows,
    Task,
    asked_elsewhere,
    draw_demonstrations,
    draw_queries,
    get_task,
    hash_rows,
    list_tasks,
    load_rows,
)


def needs_auxiliary(plan: Plan) -> bool:
    """Whether a hypothesis of the plan learns from other tasks' demonstrations, too."""
    specs = plan.hypotheses.values()
    return any("auxiliary" in get_hypothesis(spec.hypothesis).needs for spec in specs)


class Draws:
    """Hashes of the rows that each draw shows; every split is read once."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows: dict[tuple[str, str, str], Rows | LensError] = {}
        self._seeds: dict[tuple[str, str, frozenset[int]], int] = {}
        self._asked: dict[tuple[str, str, str], frozenset[int]] = {}

    def facts(
        self, task: Task, data: str, seed: int, permutation: int, shots: int
    ) -> tuple[dict[str, Any], int, str | None, tuple[str, ...]]:
        """A draw's facts, its number of queries, why it cannot be measured, and one-label notes."""
        plan = self.plan
        facts: dict[str, Any] = {
            "task": task.name, "prompt": task.prompt_hash, "seed": seed, "permutation": permutation,
        }  # fmt: skip
        try:
            train = self._split(task, data, "train")
            validation = self._split(task, data, "validation")
            shown = self._drawn(train, seed, permutation, shots)
            self._check_is_new(task, data, seed, shown)
            repeated = shown if plan.protocol.skip_repeated else ()
            every = draw_queries(validation, None, seed=plan.protocol.query_seed, exclude=repeated)
            asked = every[: plan.queries or len(every)]
        except LensError as error:
            return facts | {"rows": None}, 0, str(error), ()
        rows = [hash_rows(shown), hash_rows(asked)]
        # The indices tell which query is which where seeds were measured on different ones.
        places = [row.index for row in asked]
        alike = (*_alike(task, shown, one_label_shown), *_alike(task, asked, one_label_asked))
        return facts | {"rows": rows, "query_rows": places}, len(asked), None, alike

    def _check_is_new(self, task: Task, data: str, seed: int, shown: tuple[Any, ...]) -> None:
        """Refuse a draw that another seed gives as well, in whatever order."""
        place = (task.name, data, frozenset(row.index for row in shown))
        first = self._seeds.setdefault(place, seed)
        if shown and first != seed:
            raise RowsError(
                f"{task.name}: seed {seed} draws the same {len(shown)} demonstrations as seed "
                f"{first}: a draw counted twice makes chance look sure."
            )

    def other(self, task: Task, data: str, seed: int, shots: int) -> tuple[str, ...]:
        """The rows of the control "other_task", where the plan asks for it and has them."""
        asked = {name for model in self.plan.models for name in self.plan.controls_asked(model)}
        name = task.other_task if task.name in list_tasks() else None
        if "other_task" not in asked or name is None:
            return ()
        other = get_task(name)
        try:
            drawn = self._beside(task, other, data, seed, shots)
        except LensError as error:
            return (other.prompt_hash, str(error))
        return (other.prompt_hash, hash_rows(drawn))

    def auxiliary(self, name: str, data: str, seed: int, shots: int) -> tuple[tuple[str, ...], ...]:
        """The other tasks that a hypothesis of the plan needs, with those rows that they have.

        Args:
            name: The task, as the plan names it.
            data: Where rows come from.
            seed: Of the draw.
            shots: Demonstrations of each.
        """
        found: list[tuple[str, ...]] = []
        for other in self.plan.others(name) if needs_auxiliary(self.plan) else ():
            task = get_task(other)
            try:
                rows = hash_rows(self._beside(get_task(name), task, data, seed, shots))
            except LensError as error:
                rows = str(error)
            found.append((task.name, task.prompt_hash, rows))
        return tuple(found)

    def _beside(
        self, asking: Task, other: Task, data: str, seed: int, shots: int
    ) -> tuple[Any, ...]:
        """Another task's demonstrations beside a task's queries; no query is shown."""
        train = self._split(other, data, "train")
        place = (asking.name, other.name, data)
        if place not in self._asked:
            asked = self._split(asking, data, "validation")
            self._asked[place] = asked_elsewhere(train, other, asked, asking)
        return self._drawn(train, seed, 0, shots, self._asked[place])

    def _drawn(
        self, train: Rows, seed: int, permutation: int, shots: int, exclude: Collection[int] = ()
    ) -> tuple[Any, ...]:
        return draw_demonstrations(
            train,
            shots,
            seed=seed,
            permutation=permutation,
            balanced=self.plan.protocol.balanced,
            exclude=exclude,
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


def _alike(task: Task, rows: Sequence[Row], sentence: Callable[[int, str], str]) -> tuple[str, ...]:
    """The sentence about rows that all have one label; nothing of others."""
    labels = {row.label for row in rows}
    return (sentence(len(rows), task.labels[labels.pop()]),) if len(labels) == 1 else ()
