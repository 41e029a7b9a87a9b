"""Hypotheses and controls as a comparison takes them: resolved, checked, with their settings."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from iclgd_lens.controls import CONTROLS, Control
from iclgd_lens.episode import Episode
from iclgd_lens.errors import ControlError, HypothesisError, LensError, nearest
from iclgd_lens.hypotheses.registry import Hypothesis, get_hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.raised import FailureWarning, is_out_of_memory
from iclgd_lens.subjects import check_name

OnError = Literal["raise", "record_theirs", "record_builds"]
"""What is recorded as a failure: nothing; what a hypothesis, a control or a score of somebody's own
raises, while this package's errors (a wrong setting, say) stay errors; or whatever is raised while
a hypothesis is built."""
HypothesisLike = str | Hypothesis | Intervention | Callable[..., Intervention]


@dataclass(frozen=True)
class Rule:
    """A hypothesis as it is measured.

    Attributes:
        name: What results call it.
        value: The hypothesis, or an intervention that exists already.
        settings: What it is built with.
        facts: How the settings came about, for the record.
    """

    name: str
    value: Hypothesis | Intervention
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Options:
    """How queries are read.

    Attributes:
        batch_size: Queries run together at most; None fits it to the prompt.
        pad_queries: Run queries of unequal length together.
        tok2attn_queries: On how many queries Tok2Attn is measured.
        on_error: What is recorded as a failure, so that the rest is measured all the same; see
            `OnError`.
    """

    batch_size: int | None = None
    pad_queries: bool = True
    tok2attn_queries: int = 32
    on_error: OnError = "raise"

    def records(self, error: Exception, *, building: bool = False) -> bool:
        """Whether an error is recorded as a failure.

        Args:
            error: What was raised.
            building: Whether a hypothesis raised it while it was built.
        """
        if is_out_of_memory(error):
            return False  # another machine may do better
        if self.on_error == "record_theirs":
            return not isinstance(error, (LensError, FailureWarning))
        return self.on_error == "record_builds" and building


def resolve_rules(
    hypotheses: str | Sequence[str] | Mapping[str, HypothesisLike],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    searched: bool = True,
) -> dict[str, Rule]:
    """Rules by the name that results will use.

    Args:
        hypotheses: Registered names, or a mapping from a name of the caller's choice to a
            registered name, a hypothesis, a function or an intervention.
        settings: Settings by that name.
        searched: Whether a budget is searched for those without a rate.

    Raises:
        HypothesisError: A name or setting is unknown, a setting would do nothing beside the others,
            or a value is not a hypothesis.
        ComparisonError: A name would collide with something else in results.
    """
    pairs = _by_name(hypotheses)
    for name in settings or {}:
        if name not in pairs:
            raise HypothesisError(
                f"Settings are given for {name!r}, which is not compared." + nearest(name, pairs)
            )
    found: dict[str, Rule] = {}
    for name, given in pairs.items():
        value = _hypothesis(name, given)
        check_name(name, value.name if isinstance(value, Hypothesis) else None)
        own = (settings or {}).get(name, {})
        if not isinstance(cast("object", own), Mapping):
            raise HypothesisError(
                f"The settings of {name!r} are {own!r}; give a mapping, such as {{'epochs': 4}}."
            )
        own = dict(own)
        if isinstance(value, Hypothesis):
            value.check_settings(own, searched=searched)
        found[name] = Rule(name, value, own)
    return found


def _by_name(given: object) -> Mapping[str, HypothesisLike]:
    """What was given, by the name that results will use.

    Raises:
        HypothesisError: It is neither names nor a mapping from names.
    """
    if isinstance(given, str):
        return {given: given}
    if isinstance(given, Mapping):
        pairs = cast("Mapping[str, HypothesisLike]", given)
    elif isinstance(given, Iterable):
        listed = list(cast("Iterable[Any]", given))
        for each in listed:
            _check_is_name(each)
        pairs: Mapping[str, HypothesisLike] = {each: each for each in listed}
    else:
        _check_is_name(given)
        pairs = {}
    for name in pairs:
        _check_is_name(name)
    return pairs


def _check_is_name(given: object) -> None:
    if isinstance(given, str):
        return
    name = getattr(given, "name", None) or getattr(given, "__name__", None)
    shown = f"a {type(given).__name__}, {name}" if name else reprlib.repr(given)
    raise HypothesisError(
        f"Hypotheses are given by registered names, such as {str(name or 'gd')!r}, or as a mapping "
        f"from a name to a hypothesis or function; this is {shown}."
    )


def _hypothesis(name: str, value: HypothesisLike) -> Hypothesis | Intervention:
    if isinstance(value, str):
        return get_hypothesis(value)
    if isinstance(value, (Hypothesis, Intervention)):
        return value
    if callable(value):
        return Hypothesis(name=name, build=value)
    raise HypothesisError(
        f"{name!r} is a {type(value).__name__}; expected a registered name, a function or an "
        "Intervention."
    )


def split_controls(
    names: str | Sequence[str], rules: Mapping[str, Rule]
) -> dict[str, list[Control]]:
    """Controls by what is done with them: "rule", "alone", "network".

    A control that stands alone is left out where a hypothesis is measured under its name.

    Raises:
        ControlError: A control is unknown.
    """
    found: dict[str, list[Control]] = {"rule": [], "alone": [], "network": []}
    for name in dict.fromkeys([names] if isinstance(names, str) else names):
        control = CONTROLS[name]
        if control.stands_alone and name in rules:
            continue
        place = "alone" if control.stands_alone else "network"
        found["rule" if control.acts_on in ("update", "demonstrations") else place].append(control)
    return found


_MAKES: Mapping[str, tuple[type, str]] = {
    "update": (Intervention, "an Intervention"),
    "demonstrations": (Episode, "an Episode"),
    "network": (object, "a network"),
    "change": (Mapping, "scores by name"),
}
"""What a control returns, by what it acts on. (One that stands alone is built as a hypothesis.)"""


def returned_by(control: Control, found: Any) -> Any:
    """What a control's function returned, checked to be of the kind that it has to return.

    Raises:
        ControlError: It is not.
    """
    kind, words = _MAKES[control.acts_on]
    if found is None or not isinstance(found, kind):
        given = "None" if found is None else f"a {type(found).__name__}"
        raise ControlError(
            f"The control {control.name!r} returned {given}; one with acts_on={control.acts_on!r} "
            f"must return {words}."
        )
    return found
