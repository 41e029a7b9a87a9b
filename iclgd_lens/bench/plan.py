"""A benchmark's plan: what is asked for, validated whole before anything runs.

A plan is a YAML file (or a mapping). Unknown keys are refused with the nearest known one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from iclgd_lens import defaults
from iclgd_lens.bench.plan_entries import (
    HypothesisSpec,
    ModelSpec,
    SearchSpec,
    StudySpec,
    Varied,
)
from iclgd_lens.budget.asked_search import BudgetMode, usual_budget
from iclgd_lens.errors import LensError, PlanError, nearest
from iclgd_lens.model_names import is_file_name
from iclgd_lens.protocol import Protocol, get_protocol
from iclgd_lens.validation import StrictSpec, check_seed
from iclgd_lens.yaml_files import read_mapping

PUBLISHED = "published"
MATCHED = "matched"


class Plan(StrictSpec):
    """A grid of cells: models x tasks x (seed, permutation), all hypotheses in each cell.

    Attributes:
        name: The run's title.
        models: Names or `ModelSpec`s. May be empty in a file whose model is given on the command
            line.
        tasks: Names of shipped tasks, or paths of task files.
        data: "hub", "embedded" or a folder; None takes the embedded rows for the embedded model and
            the Hub for others.
        shots: Demonstrations.
        queries: Evaluation rows, at most (a task with fewer gives all it has); None for all, at
            most 2,000.
        seeds: Of the draws of demonstrations, or "published" for each task's own.
        permutations: Orders of each draw (0: as drawn); "published" pairs 0, 1, 2 with the first,
            second and third seed.
        protocol: A preset's name or its fields (with `preset:` for those not given).
        hypotheses: By the name that results use.
        controls: Names from `iclgd_lens.CONTROLS`.
        lr: A number, "published" (the task's, one epoch), or "matched": rate, epochs and loss
            tokens chosen by the label loss of left-out demonstrations, for each network and draw.
            None: "published" under the reference protocol, else "matched".
        search: Where the search for matched budgets differs from the default:
            `{epochs: [1, 2, 4], folds: 1, left_out: 0.5}`, parts of `choose_budget`.
        vary: Values of factors of the demonstrations to go through, `{shots: [4, 16]}`: each is
            measured in the plan's place, as a task of its own ("sst2 (shots 4)").
        auxiliary: Tasks for hypotheses that need others' demonstrations; None for the plan's.
        twins: Networks of each control that is another network.
        twin_queries: Queries that each of them is asked at most; None for all.
        tok2attn_queries: Queries on which Tok2Attn is measured.
        worlds: Whether the instrument is also read on models whose answer is known, once per run.
        studies: What is looked at once per model and task for the page's figures; None for nothing.
        resamples: Bootstrap resamples of intervals over queries.
        control_seed: Seed of random controls and untrained copies.
    """

    name: str = "benchmark"
    models: tuple[ModelSpec, ...] = ()
    tasks: tuple[str, ...] = Field(min_length=1)
    data: str | None = None
    shots: int = Field(default=defaults.SHOTS, ge=0)
    queries: int | None = Field(default=defaults.QUERIES, ge=1)
    seeds: tuple[int, ...] | Literal["published"] = tuple(range(defaults.DRAWS))
    permutations: tuple[int, ...] | Literal["published"] = (0,)
    protocol: Protocol = Field(default_factory=Protocol)
    hypotheses: dict[str, HypothesisSpec] = Field(min_length=1)
    controls: tuple[str, ...] = ()
    lr: float | Literal["published", "matched"] | None = None
    search: SearchSpec = Field(default_factory=SearchSpec)
    vary: dict[str, list[Any]] = Field(default_factory=dict)
    auxiliary: tuple[str, ...] | None = None
    twins: int = Field(default=defaults.TWINS, ge=0)
    twin_queries: int | None = Field(default=defaults.TWIN_QUERIES, ge=1)
    worlds: bool = False
    studies: StudySpec | None = None
    tok2attn_queries: int = Field(default=32, ge=0)
    resamples: int = Field(default=1000, ge=1)
    control_seed: int = Field(default=0, ge=0)

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if not is_file_name(name):
            raise ValueError(
                f"{name!a} is not a name for a folder in runs/: no / or \\, no dot or space in "
                "front, printable, at most 200 bytes"
            )
        return name

    @field_validator("models", "tasks", "controls", "auxiliary", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("hypotheses", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: {"hypothesis": value}}
        if isinstance(value, Mapping):
            pairs = cast("Mapping[str, Any]", value).items()
            return {name: item or {"hypothesis": name} for name, item in pairs}
        if not isinstance(value, (list, tuple)):
            return value
        found: dict[str, Any] = {}
        for item in cast("list[Any]", value):
            one: Any = {item: {"hypothesis": item}} if isinstance(item, str) else item
            if not isinstance(one, Mapping):
                raise ValueError("each is a name, or a mapping from a name to its hypothesis")
            for name, spec in cast("Mapping[str, Any]", one).items():
                if name in found:
                    raise ValueError(f"{name!r} is given twice")
                found[name] = spec
        return found

    @field_validator("protocol", mode="before")
    @classmethod
    def _preset(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            fields = dict(cast("Mapping[str, Any]", value))
            preset = get_protocol(str(fields.pop("preset", "default")))
            if "trained" in fields:
                names = fields["trained"]
                fields["trained"] = tuple(names) if isinstance(names, list) else (names,)
            return preset.replace(**fields) if fields else preset
        return get_protocol(value) if isinstance(value, str) else value

    @field_validator("lr", mode="before")
    @classmethod
    def _rate(cls, value: Any) -> Any:
        if isinstance(value, str) and value not in (PUBLISHED, MATCHED):
            hint = nearest(value, (PUBLISHED, MATCHED))
            raise ValueError(f"{value!r} is not a number.{hint}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Plan:
        if isinstance(self.lr, float) and not 0 < self.lr < float("inf"):
            raise ValueError(f"lr is {self.lr}; it must be a positive number")
        labels = [model.label for model in self.models]
        for what, values in (
            ("tasks", self.tasks),
            ("seeds", self.seeds),
            ("permutations", self.permutations),
            ("model labels", labels),
        ):
            if isinstance(values, str):
                continue
            if not values and what != "model labels":
                raise ValueError(f"{what}: at least one is needed")
            twice = [value for value in values if list(values).count(value) > 1]
            if twice:
                raise ValueError(f"{what}: {twice[0]!r} is given twice")
            if any(isinstance(value, int) and value < 0 for value in values):
                raise ValueError(f"{what}: {min(cast('tuple[int, ...]', values))} is negative")
            for value in values:
                if isinstance(value, int):
                    check_seed(value, what)
        check_seed(self.control_seed, "control_seed")
        return self

    @property
    def budget(self) -> BudgetMode | None:
        """How a rate that is not given is found; None where the plan gives it."""
        if isinstance(self.lr, (float, int)):
            return None
        if self.lr is None:
            return usual_budget(self.protocol)
        return self.lr

    def draws(self, published: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """Yield (seed, permutation) pairs for a task whose published seeds are given."""
        seeds = published if isinstance(self.seeds, str) else self.seeds
        if isinstance(self.permutations, str):
            yield from zip(seeds, range(len(seeds)), strict=True)
        else:
            yield from ((seed, order) for seed in seeds for order in self.permutations)

    def variants(self) -> list[Varied | None]:
        """Each factor with each of its values; None alone where nothing is varied."""
        found = [(factor, value) for factor, values in self.vary.items() for value in values]
        return [*found] or [None]

    def shots_of(self, varied: Varied | None) -> int:
        """Demonstrations at a value of a factor."""
        return int(varied[1]) if varied is not None and varied[0] == "shots" else self.shots

    def controls_of(self, model: ModelSpec) -> tuple[str, ...]:
        """The plan's controls and the model's own, without repetition."""
        return tuple(dict.fromkeys((*self.controls, *model.controls)))

    def controls_asked(self, model: ModelSpec) -> tuple[str, ...]:
        """Every control that is asked for on a model, be it of one of its hypotheses alone."""
        own = (spec.controls or () for spec in self.hypotheses.values())
        return tuple(dict.fromkeys((*self.controls_of(model), *chain(*own))))

    def controls_for(self, model: ModelSpec, spec: HypothesisSpec) -> tuple[str, ...]:
        """The controls of one of its hypotheses on one of its models."""
        return self.controls_of(model) if spec.controls is None else spec.controls

    def others(self, task: str) -> tuple[str, ...]:
        """The tasks whose demonstrations stand beside those of `task`."""
        given = self.tasks if self.auxiliary is None else self.auxiliary
        return tuple(other for other in given if other != task)

    def with_models(self, models: list[str]) -> Plan:
        """Return the plan with other models, which keep the settings of a single one in the file.

        Raises:
            PlanError: No such model can be.
        """
        own = {"dtype", "host", "controls"}
        kept = self.models[0].model_dump(include=own) if len(self.models) == 1 else {}
        return parse_plan(self.as_dict() | {"models": [kept | {"name": name} for name in models]})

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which `parse_plan` reads back."""
        fields = self.model_dump(mode="json", exclude={"protocol"})
        return fields | {"protocol": self.protocol.as_dict()}


def load_plan(path: str | Path) -> Plan:
    """Read a plan from a YAML file.

    Raises:
        PlanError: The file is missing, no YAML, or no valid plan; the message names every fault.
    """
    path = Path(path)
    fields = {"name": path.stem} | read_mapping(path, PlanError, "a plan")
    return parse_plan(fields, where=f"{path}: ")


def parse_plan(fields: Mapping[str, Any], where: str = "") -> Plan:
    """Build a plan from a mapping, as a YAML file would hold it.

    Raises:
        PlanError: It is not a valid plan; the message names every fault.
    """
    try:
        return Plan.model_validate(dict(fields))
    except ValidationError as error:
        faults = [_fault(item) for item in cast("list[dict[str, Any]]", error.errors())]
        raise PlanError(where + "; ".join(dict.fromkeys(faults))) from None
    except LensError as error:
        raise PlanError(f"{where}{error}") from None


_KEYS: dict[str, type[BaseModel]] = {
    "models": ModelSpec,
    "hypotheses": HypothesisSpec,
    "studies": StudySpec,
    "search": SearchSpec,
}


def _fault(item: Mapping[str, Any]) -> str:
    """One fault in words: where, what is wrong, what is allowed."""
    places = [str(part) for part in item["loc"]]
    # Pydantic names the branch of a union that it tried; the reader of a plan knows no branches.
    shown = [part for part in places if not part.endswith("]") and part not in _BRANCHES]
    place = ".".join(shown) or "plan"
    if item["type"] == "extra_forbidden":
        owner = _KEYS.get(places[0], Plan) if len(places) > 1 else Plan
        known = list(owner.model_fields)
        return f"unknown key {place!r} (known: {', '.join(known)}).{nearest(shown[-1], known)}"
    ours = str(item["msg"]).startswith("Value error, ")  # which names what was given itself
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    silent = ours or isinstance(given, (dict, list)) or item["type"] == "missing"
    said = "" if silent else f" ({given!r})"
    return f"{place}: {message if ours else message[0].lower() + message[1:]}{said}"


_BRANCHES = {
    "float", "int", "literal['published']", "literal['published','matched']", "tuple[int, ...]",
}  # fmt: skip
