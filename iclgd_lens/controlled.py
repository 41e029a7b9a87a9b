"""What a control puts in place of a rule's interventions, from right and from wrong labels."""

from __future__ import annotations

from iclgd_lens.building import Builder, Pair
from iclgd_lens.controls import Control
from iclgd_lens.episode import Episode
from iclgd_lens.errors import ControlError
from iclgd_lens.intervention import Intervention
from iclgd_lens.registry import resolve
from iclgd_lens.rules import Rule, returned_by
from iclgd_lens.subjects import Subject
from iclgd_lens.telling import Tell, silent

_WRONG_APART = 1_000_003
"""Offset between the seeds of an update's control from right and from wrong labels."""


def controlled(
    builder: Builder, control: Control, rule: Rule, pair: Pair, *, seed: int = 0,
    other: Episode | None = None, tell: Tell = silent,
) -> Pair | None:  # fmt: skip
    """The interventions that a control puts in place of a rule's.

    Args:
        builder: Builds on the network and the draw.
        control: It acts on the update or on the demonstrations.
        rule: The hypothesis.
        pair: Its interventions from right and from wrong labels.
        seed: Of the control.
        other: Demonstrations for the control "other_task"; None draws them.
        tell: Called with a short text before a rule is built.

    Returns:
        Interventions from right and from wrong labels, None where one failed (`Builder.failures`
        says why) or there is none; None in place of both where the control has nothing to act on.

    Raises:
        ControlError: The control's function returned something else.
    """
    label = str(Subject(rule.name, control.name))
    if control.acts_on == "update":
        return _from_update(builder, control, label, pair, seed)
    if control.acts_on != "demonstrations":
        return None
    if control.name == "shuffled" and builder.wrong is not None:
        changed = pair[1]
    elif isinstance(rule.value, Intervention):
        return None  # it was made before, from this draw's own demonstrations
    else:
        tell(f"{label}: building the update, then each query alone")
        shown = other if control.name == "other_task" else None
        if shown is None:
            made = resolve(control.function)(builder.host, builder.episode, seed)
            shown = returned_by(control, made)
        changed = builder.build(rule, shown, label)
    return None if changed is None and label not in builder.failures else (changed, None)


def _from_update(
    builder: Builder, control: Control, label: str, pair: Pair, seed: int
) -> Pair | None:
    right, wrong = pair
    if right is None:
        return None
    replace = resolve(control.function)
    try:
        first = replace(right, seed)
        second = None if wrong is None else replace(wrong, seed + _WRONG_APART)
    except ControlError as error:
        builder.failures[label] = str(error)
        return None, None
    return returned_by(control, first), None if wrong is None else returned_by(control, second)
