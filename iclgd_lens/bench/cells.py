"""Cells: a setting and a subject, named by a hash of everything that changes their numbers.

A *setting* is a network and a draw of demonstrations: the model's own, or another network that a
control puts in its place. A *cell* is one subject in one setting. A new hypothesis, control or
value of a setting makes new cells and changes no other cell's key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from iclgd_lens.bench.digests import core_digest, function_digest, imported
from iclgd_lens.bench.drawn_rows import Draws
from iclgd_lens.bench.plan import MATCHED, PUBLISHED, Plan
from iclgd_lens.bench.plan_entries import HypothesisSpec, ModelSpec, Setting, Varied
from iclgd_lens.controls import CONTROLS, Control
from iclgd_lens.embedded import rows_source
from iclgd_lens.errors import LensError
from iclgd_lens.host.loading import identify_model
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.subjects import SETTINGS, TRAINED, Subject
from iclgd_lens.sweeps.factors import get_factor
from iclgd_lens.tasks import Task, get_task

FORMAT = "iclgd_lens.cell/2"
"""Part of every key: changes when what a cell file holds changes."""
# NumPy draws rows; the others read and run the model.
_LIBRARIES = ("numpy", "tokenizers", "torch", "transformers", "transformer-lens")
_SOLVERS = frozenset({"optuna", "cmaes", "torchjd"})
OWN = "own"
OTHER = "other"
"""Any network but the model itself."""


@dataclass(frozen=True)
class Cell:
    """One subject in one setting.

    Attributes:
        key: 32 hexadecimal digits over `facts` and the setting's.
        setting: The setting.
        subject: What is measured in it, without the setting's network.
        budget: "own" where another network's update gets the budget that it chooses itself.
        facts: Everything that changes its numbers, beside the setting's.
    """

    key: str
    setting: Setting
    subject: Subject
    budget: str
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies in the grid, with its label."""
        return {**self.setting.place, "budget": self.budget, "subject": str(self.subject)}

    def __str__(self) -> str:
        own = f" ({self.budget} budget)" if self.budget else ""
        return f"{self.setting}: {self.subject}{own}"


def list_cells(plan: Plan, *, tell: Callable[[str], None] | None = None) -> list[Cell]:
    """Return the plan's cells, setting by setting.

    Models are identified and rows read (both once), but no model is loaded.

    Raises:
        LensError: A model cannot be identified.
    """
    draws = Draws(plan)
    found: list[Cell] = []
    for model in plan.models:
        if tell is not None:
            tell(f"identifying {model.label}")
        shared = _facts_of_plan(plan) | _facts_of_model(model)
        for name in plan.tasks:
            task = get_task(name)
            for varied in plan.variants():
                for setting in _settings(plan, model, name, task, draws, shared, varied):
                    found += _cells(plan, setting, task)
    return found


def count_cells(plan: Plan) -> int:
    """Number of cells, without looking at models or rows."""
    total = 0
    for model in plan.models:
        for name in plan.tasks:
            task = get_task(name)
            count = len(list(plan.draws(task.seeds)))
            own = len(list(subjects_of(plan, model, TRAINED)))
            total += count * own
            for control in _networks(plan, model):
                total += plan.twins * len(list(subjects_of(plan, model, control.name)))
    return total * len(plan.variants())


def settings_of(cells: list[Cell]) -> list[Setting]:
    """The settings of some cells, once each, in order."""
    return list({cell.setting.key: cell.setting for cell in cells}.values())


def data_of(plan: Plan, model: ModelSpec) -> str:
    """Where the plan's rows come from for a model; see `Plan.data`."""
    if plan.data is not None:
        return plan.data
    return rows_source(model.name)


def shard(cells: list[Cell], index: int, count: int) -> list[Cell]:
    """Return share `index` of `count` (from 1), in the given order.

    Shares are dealt by setting, so they are disjoint and together complete on any machine, and no
    two of them read the same setting.

    Raises:
        LensError: There is no such share.
    """
    if not 1 <= index <= count:
        raise LensError(f"Shard {index}/{count} does not exist; they count from 1/{count}")
    mine = set(sorted({cell.setting.key for cell in cells})[index - 1 :: count])
    return [cell for cell in cells if cell.setting.key in mine]


# -- settings --------------------------------------------------------------------------------------


def _settings(
    plan: Plan, model: ModelSpec, name: str, task: Task, draws: Draws, shared: Mapping[str, Any],
    varied: Varied | None,
) -> Iterator[Setting]:  # fmt: skip
    data, shots = data_of(plan, model), plan.shots_of(varied)
    trained: list[Setting] = []
    for seed, permutation in plan.draws(task.seeds):
        own, queries, problem, alike = draws.facts(task, data, seed, permutation, shots)
        facts = {**shared, **own, **_facts_of_value(shots, varied)}
        trained.append(
            Setting(
                key=_key(facts), model=model, task=name, task_name=task.name, seed=seed,
                permutation=permutation, data=data, queries=queries, network=TRAINED, index=0,
                facts=facts, problem=problem, one_label=alike,
                other=draws.other(task, data, seed, shots),
                auxiliary=draws.auxiliary(name, data, seed, shots), shots=shots, varied=varied,
            )
        )  # fmt: skip
    yield from trained
    for control in _networks(plan, model):
        for index in range(plan.twins):
            one = trained[index % len(trained)]
            most = one.queries if plan.twin_queries is None else plan.twin_queries
            queries = min(most, one.queries)
            facts = {
                **one.facts,
                "network": [control.name, function_digest(control.function), index],
                "asked": queries,
            }
            yield replace(
                one, key=_key(facts), queries=queries, network=control.name, index=index,
                facts=facts, trained=one, other=(),
            )  # fmt: skip


def _facts_of_plan(plan: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "protocol": plan.protocol.hash,
        "versions": {name: _version(name) for name in _LIBRARIES} | {"core": core_digest()},
        "shots": plan.shots,
        "tok2attn_queries": plan.tok2attn_queries,
        "control_seed": plan.control_seed,
        "wrong_labels": function_digest(CONTROLS["shuffled"].function),
    }


def _facts_of_value(shots: int, varied: Varied | None) -> dict[str, Any]:
    """What a value of a factor changes; nothing where the plan varies nothing."""
    if varied is None:
        return {}
    alter = get_factor(varied[0]).alter
    code = function_digest(alter) if alter else None
    return {"shots": shots, "varied": [varied[0], repr(varied[1]), code]}


def _facts_of_model(model: ModelSpec) -> dict[str, Any]:
    return {
        "model": identify_model(model.name, model.revision),
        "dtype": model.dtype,
        "host": model.host,
        "untrained": model.untrained,
    }


def _networks(plan: Plan, model: ModelSpec) -> list[Control]:
    every = (CONTROLS[name] for name in plan.controls_asked(model))
    return [control for control in every if control.acts_on == "network"]


# -- subjects --------------------------------------------------------------------------------------


def _cells(plan: Plan, setting: Setting, task: Task) -> Iterator[Cell]:
    for subject, budget, spec in subjects_of(plan, setting.model, setting.network):
        facts: dict[str, Any] = {"subject": str(subject), "budget": budget}
        if spec is not None:
            facts |= {"rule": rule_facts(spec, subject), **_rate_facts(plan, task, spec, subject)}
            if "auxiliary" in get_hypothesis(spec.hypothesis).needs:
                facts["auxiliary"] = setting.auxiliary
        control = subject.table_entry
        if control is not None:
            facts["control"] = [control.name, control.acts_on, function_digest(control.function)]
            facts["other"] = setting.other if control.name == "other_task" else None
        key = _key({"setting": setting.facts, "cell": facts})
        yield Cell(key, setting, subject, budget, facts)


def key_of(plan: Plan, setting: Setting, subject: Subject, budget: str) -> str | None:
    """The key of one subject's cell in a setting; None where the plan has no such cell."""
    cells = _cells(plan, setting, get_task(setting.task))
    found = (each.key for each in cells if (each.subject, each.budget) == (subject, budget))
    return next(found, None)


def subjects_of(
    plan: Plan, model: ModelSpec, network: str
) -> Iterator[tuple[Subject, str, HypothesisSpec | None]]:
    """Subjects of a setting, each with its budget and, for a rule, its entry in the plan.

    Args:
        plan: The plan.
        model: One of its models.
        network: The setting's: "trained", a control's, or `OTHER`.
    """
    for name in SETTINGS:
        yield Subject(name), "", None
    controls = [CONTROLS[name] for name in plan.controls_asked(model)]
    for name, spec in plan.hypotheses.items():
        for variant in spec.variants():
            subject = Subject(name, None, variant)
            own = [CONTROLS[name] for name in plan.controls_for(model, spec)]
            if network == TRAINED:
                yield subject, "", spec
                yield from ((subject.under(c.name), "", spec) for c in own if _acts(c))
            elif _is_on(network, own):
                yield subject, "", spec
                if plan.budget == MATCHED and _chooses(spec, variant):
                    yield subject, OWN, spec
    if network == TRAINED:
        alone = (c for c in controls if c.stands_alone and c.name not in plan.hypotheses)
        yield from ((Subject(control.name, control.name), "", None) for control in alone)


def _is_on(network: str, controls: list[Control]) -> bool:
    """Whether another network is among a hypothesis's controls."""
    names = [control.name for control in controls if control.acts_on == "network"]
    return bool(names) if network == OTHER else network in names


def _acts(control: Control) -> bool:
    """Whether it is a hypothesis's own control on the model itself."""
    return control.acts_on in ("update", "demonstrations")


def _chooses(spec: HypothesisSpec, variant: Mapping[str, Any]) -> bool:
    """Whether the rule takes a rate that the plan does not give."""
    return get_hypothesis(spec.hypothesis).takes_budget and _has_no_rate(spec, variant)


def _has_no_rate(spec: HypothesisSpec, variant: Mapping[str, Any]) -> bool:
    return {**spec.settings, **variant}.get("lr") is None


def rule_facts(spec: HypothesisSpec, subject: Subject) -> dict[str, Any]:
    """What changes a rule's numbers: name, version, settings, and what its code does."""
    hypothesis = get_hypothesis(spec.hypothesis)
    settings = {**spec.settings, **subject.settings}
    return {
        "hypothesis": hypothesis.name,
        "version": hypothesis.version,
        "settings": {key: repr(value) for key, value in sorted(settings.items())},
        "code": function_digest(hypothesis.build),
        "rows": None if hypothesis.rows is None else function_digest(hypothesis.rows),
        **_facts_of_solvers(hypothesis.build),
    }


def _facts_of_solvers(build: Any) -> dict[str, Any]:
    """Versions of the optimisers that a rule of the package imports; nothing where it has none."""
    found = {name: _version(name) for name in sorted(imported(build) & _SOLVERS)}
    return {"solvers": found} if found else {}


def _rate_facts(plan: Plan, task: Task, spec: HypothesisSpec, subject: Subject) -> dict[str, Any]:
    takes = get_hypothesis(spec.hypothesis).takes_rate and _has_no_rate(spec, subject.settings)
    if not takes:
        return {}
    chosen = _chooses(spec, subject.settings)
    if plan.budget == PUBLISHED or (plan.budget == MATCHED and not chosen):
        return {"lr": [PUBLISHED, task.learning_rate]}
    if plan.budget == MATCHED and (search := plan.search.asked()):
        return {"lr": [MATCHED, search]}
    return {"lr": plan.budget or plan.lr}


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def _version(name: str) -> str:
    try:
        return version(name).split("+")[0]  # +cpu and +cu130 are builds of one version
    except PackageNotFoundError:
        return "not installed"
