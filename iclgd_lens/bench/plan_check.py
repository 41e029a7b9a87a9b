"""Whether everything that a plan names exists: tasks, hypotheses, settings, controls, models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from iclgd_lens.bench.plan import MATCHED, PUBLISHED, Plan
from iclgd_lens.bench.plan_entries import HypothesisSpec, ModelSpec, Varied
from iclgd_lens.controls import CONTROLS
from iclgd_lens.errors import LensError, PlanError, nearest
from iclgd_lens.host.loading import has_hooked_transformer
from iclgd_lens.host.model_source import find_model
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.rules import resolve_rules
from iclgd_lens.subjects import Subject
from iclgd_lens.sweeps.factors import get_factor
from iclgd_lens.tasks import Task, get_task


def check_plan(plan: Plan) -> None:
    """Refuse a plan that cannot run, before anything runs; nothing is loaded or downloaded.

    Raises:
        PlanError: It names what does not exist; every fault is listed, with the nearest match.
    """
    faults: list[str] = []

    def attempt(check: Callable[[], None]) -> None:
        try:
            check()
        except LensError as error:
            faults.append(str(error))

    if not plan.models:
        faults.append("The plan names no model: give --model NAME (or `models:` in the plan)")
    for model in plan.models:
        attempt(lambda model=model: _check_model(model))
        attempt(lambda model=model: _check_controls(plan, model))
    for task in plan.tasks:
        attempt(lambda task=task: _check_task(plan, get_task(task)))
    for name, spec in plan.hypotheses.items():
        attempt(lambda name=name, spec=spec: _check_hypothesis(plan, name, spec))
        attempt(lambda spec=spec: CONTROLS.check(spec.controls or ()))
        attempt(lambda name=name, spec=spec: _check_auxiliary(plan, name, spec))
    for task in plan.auxiliary or ():
        attempt(lambda task=task: get_task(task) and None)
    attempt(lambda: _check_data(plan))
    attempt(lambda: _check_studies(plan))
    for factor, values in plan.vary.items():
        attempt(lambda factor=factor, values=values: _check_factor(factor, values))
    fewest = min((plan.shots_of(each) for each in plan.variants() if _counts(each)), default=0)
    if plan.budget == MATCHED and fewest < 2:
        faults.append("`lr: matched` leaves demonstrations out, so it needs at least 2 shots")
    if plan.search.asked() and plan.budget != MATCHED:
        faults.append("`search` is of matched budgets, and `lr` gives others: leave one out")
    if faults:
        raise PlanError("; ".join(dict.fromkeys(faults)))


def _counts(varied: Varied | None) -> bool:
    """Whether a value says how many demonstrations there are, or leaves that to the plan."""
    return varied is None or varied[0] != "shots" or isinstance(varied[1], int)


def _check_factor(name: str, values: list[Any]) -> None:
    factor = get_factor(name)
    if factor.kind not in ("episode", "draw"):
        raise PlanError(
            f"vary: {name} changes the {factor.kind}, and a plan's own factors the demonstrations: "
            "give it as `vary:` of a hypothesis, or list `models:`"
        )
    if not values or len({str(value) for value in values}) < len(values):
        raise PlanError(f"vary: {name} needs values, none of them twice")
    for value in values:
        factor.check(value)


def _check_model(model: ModelSpec) -> None:
    if model.host == "hooked" and not has_hooked_transformer():
        raise PlanError(
            f"Model {model.label!r}: host 'hooked' needs TransformerLens 3; use 'bridge' or 'auto'"
        )
    find_model(model.name).check()


def _check_controls(plan: Plan, model: ModelSpec) -> None:
    CONTROLS.check(plan.controls_of(model))


def _check_task(plan: Plan, task: Task) -> None:
    if plan.seeds == PUBLISHED and not task.seeds:
        raise PlanError(f"Task {task.name!r} has no published seeds: list `seeds:`")
    if plan.budget == PUBLISHED and task.learning_rate is None:
        for name, spec in plan.hypotheses.items():
            takes_rate = "lr" in get_hypothesis(spec.hypothesis).settings()
            if takes_rate and "lr" not in spec.settings:
                raise PlanError(
                    f"Task {task.name!r} has no published learning rate for {name!r}: give `lr:` "
                    "a number or 'matched'"
                )


def _check_hypothesis(plan: Plan, name: str, spec: HypothesisSpec) -> None:
    hypothesis, searched = get_hypothesis(spec.hypothesis), plan.budget == MATCHED
    hypothesis.check_names(spec.vary)
    resolve_rules({name: spec.hypothesis})
    hypothesis.settings_at(spec.settings, spec.variants(), searched=searched)
    labels: set[str] = set()
    for variant in spec.variants():
        label = str(Subject(name, None, variant))
        if label in labels:
            raise PlanError(
                f"hypothesis {name!r}: two variants are both labelled {label}; labels hold six "
                "digits of a number"
            )
        labels.add(label)
        if not _is_readable(label):
            raise PlanError(f"Hypothesis {name!r}: {label} is not a label: vary numbers and words")


def _check_auxiliary(plan: Plan, name: str, spec: HypothesisSpec) -> None:
    """Refuse a hypothesis that needs other tasks where a task has none beside it."""
    if "auxiliary" not in get_hypothesis(spec.hypothesis).needs:
        return
    alone = [task for task in plan.tasks if not plan.others(task)]
    if alone:
        raise PlanError(
            f"Hypothesis {name!r} needs demonstrations of other tasks, and {alone[0]!r} has none "
            "beside it: list more `tasks:`, or `auxiliary:` tasks"
        )


def _check_studies(plan: Plan) -> None:
    for name in () if plan.studies is None else plan.studies.hypotheses:
        if name not in plan.hypotheses:
            known = ", ".join(plan.hypotheses)
            raise PlanError(
                f"studies: the plan has no hypothesis {name!r}; it has {known}."
                + nearest(name, plan.hypotheses)
            )
        if plan.hypotheses[name].vary:
            raise PlanError(
                f"studies: {name!r} is gone through several values (`vary:`); list the one that is "
                "to be studied as a hypothesis of its own"
            )


def _is_readable(label: str) -> bool:
    """Whether the label of a result says again what was measured."""
    try:
        return str(Subject.parse(label)) == label
    except LensError:
        return False


def _check_data(plan: Plan) -> None:
    if plan.data not in (None, "hub", "embedded") and not Path(str(plan.data)).is_dir():
        raise PlanError(
            f"data {plan.data!r} is not 'hub', 'embedded' or a folder."
            + nearest(str(plan.data), ("hub", "embedded"))
        )
