"""What a plan consists of: models, hypotheses with their settings, networks and draws."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, cast

from pydantic import Field, field_validator, model_validator

from iclgd_lens.budget.asked_search import check_search
from iclgd_lens.errors import LensError
from iclgd_lens.model_names import label_of, split_untrained
from iclgd_lens.subjects import TRAINED
from iclgd_lens.validation import StrictSpec


class ModelSpec(StrictSpec):
    """One model of a plan.

    Attributes:
        name: What `load_model` takes: a Hub name, a folder or "embedded". "X-untrained" is short
            for X with `untrained: embeddings`.
        label: What results call it; default, the name (for a folder, its last part).
        dtype: Of weights and activations.
        host: "auto", "hooked" or "bridge".
        revision: Of the Hub repository.
        untrained: Measure an untrained copy that keeps "embeddings" or "norms" instead.
        controls: Controls for this model besides the plan's, e.g. [untrained].
    """

    name: str = Field(min_length=1)
    label: str = ""
    dtype: Literal["float32", "bfloat16", "float16", "float64"] = "float32"
    host: Literal["auto", "hooked", "bridge"] = "auto"
    revision: str | None = None
    untrained: Literal["embeddings", "norms"] | None = None
    controls: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        given: Any = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, Mapping):
            return given
        fields = dict(cast("Mapping[str, Any]", given))
        name = fields.get("name")
        if isinstance(name, str) and name:
            fields.setdefault("label", label_of(name))
            fields["name"], untrained = split_untrained(name)
            if untrained:
                fields.setdefault("untrained", "embeddings")
        return fields


class HypothesisSpec(StrictSpec):
    """A hypothesis under the name that results use, with its settings.

    Attributes:
        hypothesis: Its registered name.
        settings: What it is built with.
        vary: Values of settings to go through, each a subject of its own: {epochs: [1, 2, 4]}.
            Rates ({lr: [0.001, 0.01]}) are tried beside the plan's.
        controls: In place of the plan's; None for the plan's.
    """

    hypothesis: str
    settings: dict[str, Any] = Field(default_factory=dict)
    vary: dict[str, list[Any]] = Field(default_factory=dict)
    controls: tuple[str, ...] | None = None

    @field_validator("vary")
    @classmethod
    def _has_values(cls, vary: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for name, values in vary.items():
            if not values:
                raise ValueError(f"{name} has no values to go through")
            if twice := [value for value in values if values.count(value) > 1]:
                raise ValueError(f"{name}: {twice[0]!r} is given twice")
        return vary

    def variants(self) -> Iterator[dict[str, Any]]:
        """Yield the varied settings of each subject: one empty mapping where nothing varies.

        Where several rates are tried, the rate that the plan gives or chooses is among them:
        verdicts check whether they would differ at other rates.
        """
        others = sorted(self.vary.keys() - {"lr"})
        for values in product(*(self.vary[name] for name in others)):
            chosen = dict(zip(others, values, strict=True))
            yield chosen
            yield from ({**chosen, "lr": rate} for rate in self.vary.get("lr", ()))


class SearchSpec(StrictSpec):
    """How the search for budgets differs from the default; see `choose_budget`.

    Attributes:
        grid: Rates tried first.
        epochs: Passes over the demonstrations.
        losses: Tokens whose loss is minimised.
        folds: How often other demonstrations are left out.
        left_out: Share of the demonstrations that a fold leaves out.
    """

    grid: tuple[float, ...] | None = None
    epochs: tuple[int, ...] | None = None
    losses: tuple[str, ...] | None = None
    folds: int | None = None
    left_out: float | None = None

    @model_validator(mode="after")
    def _can_be(self) -> SearchSpec:
        try:
            check_search(self.asked(), where="")
        except LensError as error:
            raise ValueError(str(error)) from None
        return self

    def asked(self) -> dict[str, Any]:
        """What is given, as `choose_budget` takes it."""
        return self.model_dump(exclude_none=True)


class StudySpec(StrictSpec):
    """What is looked at once per model and task for figures; see `iclgd_lens.bench.studies`.

    Attributes:
        hypotheses: Names of the plan's hypotheses, none of them with `vary:`.
        trajectory: Scores along the training, on the first draw.
        attention: Attention of the readout token of one query, in ZS, in ICL and after each.
        mediation: Which heads do the work, and whether each hypothesis does it there. Costs L x H
            last-token passes per query and hypothesis on models of up to 200 heads.
    """

    hypotheses: tuple[str, ...] = Field(min_length=1)
    trajectory: bool = True
    attention: bool = True
    mediation: bool = False

    @property
    def kinds(self) -> list[str]:
        """What is asked for."""
        return [name for name in ("trajectory", "attention", "mediation") if getattr(self, name)]


Varied = tuple[str, Any]
"""A factor and its value."""


def varied_name(task: str, varied: Varied | None) -> str:
    """What results call a task at a value of a factor, such as "sst2 (shots 4)".

    Each value has a gate, verdicts and tables of its own, as a task has.
    """
    return task if varied is None else f"{task} ({varied[0]} {varied[1]})"


@dataclass(frozen=True, kw_only=True)
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
        one_label: Sentences about demonstrations or queries that hold one label alone.
        trained: The model's own setting of the same draw, for another network's.
        other: The rows of the control "other_task", where they are asked for.
        auxiliary: Other tasks and the hashes of their rows, where a hypothesis needs them.
        shots: Demonstrations.
        varied: The factor of the plan's `vary:` that was varied for this setting, and its value.
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
    one_label: tuple[str, ...] = ()
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
