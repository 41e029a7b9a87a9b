"""What was measured: a rule, possibly under a control, possibly at settings of its own.

The one place that writes and reads the labels of results: `gd`, `gd@untrained` (the rule gd under
the control untrained), `random[gd]` (a control of gd's update), `gd(lr=0.1)@shuffled`, `oracle`,
`ZS`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from iclgd_lens.controls import CONTROLS, Control
from iclgd_lens.errors import ComparisonError, HypothesisError
from iclgd_lens.registry import NAME_RULE, is_name

SETTINGS = ("ZS", "ICL", "ICL_shuffled")
"""The frozen model's own settings: the query alone, after the demonstrations, after demonstrations
with wrong labels."""
TRAINED = "trained"
BUDGET = "budget"
"""The setting that tells whose budget another network's update was given."""
_RESERVED = (*SETTINGS, "gold")
_NAME = r"[^@\[\]()|/= ]+"
_RULE = r"[^@\[\]]+"
_LABEL = re.compile(
    rf"(?:(?P<update>{_NAME})\[(?P<of>{_RULE})\]|(?P<plain>{_RULE}))(?:@(?P<at>{_NAME}))?"
)


@dataclass(frozen=True)
class Subject:
    """What a number is about.

    Attributes:
        rule: The hypothesis's name in results, a setting of the frozen model, or the name of a
            control that stands alone.
        control: The control, or None.
        settings: Settings that tell this subject from others of the same rule.

    Examples:
        >>> str(Subject("gd", "shuffled", {"epochs": 4}))
        'gd(epochs=4)@shuffled'
        >>> Subject.parse("random[lcgd]").rule
        'lcgd'
    """

    rule: str
    control: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __hash__(self) -> int:
        return hash(str(self))

    def __str__(self) -> str:
        rule = self.rule
        if self.settings:
            pairs = (f"{key}={_short(self.settings[key])}" for key in sorted(self.settings))
            rule = f"{rule}({','.join(pairs)})"
        if self.control is None or self.control == self.rule:
            return rule
        if CONTROLS[self.control].acts_on == "update":
            return f"{self.control}[{rule}]"
        return f"{rule}@{self.control}"

    @classmethod
    def parse(cls, label: str) -> Subject:
        """Read a label of results.

        Raises:
            ComparisonError: It is none.
        """
        match = _LABEL.fullmatch(label)
        if match is None:
            raise ComparisonError(f"{label!r} is not a label of a result.")
        rule, settings = _with_settings(match["of"] or match["plain"])
        control = match["update"] or match["at"]
        if control is None and rule in CONTROLS and CONTROLS[rule].stands_alone:
            control = rule
        return cls(rule, control, settings)

    @property
    def is_setting(self) -> bool:
        """Whether it is the frozen model, without any hypothesis."""
        return self.rule in SETTINGS

    @property
    def is_control(self) -> bool:
        """Whether a control is at work."""
        return self.control is not None

    @property
    def is_hypothesis(self) -> bool:
        """Whether it is a hypothesis on the model itself, under no control."""
        return not self.is_setting and not self.is_control

    @property
    def table_entry(self) -> Control | None:
        """The control's entry in `CONTROLS`, or None."""
        return None if self.control is None else CONTROLS[self.control]

    @property
    def is_rival(self) -> bool:
        """Whether a verdict asks a hypothesis to beat it."""
        entry = self.table_entry
        return entry is not None and entry.is_rival and not self.is_setting

    @property
    def stands_alone(self) -> bool:
        """Whether it is a control that belongs to no single hypothesis."""
        entry = self.table_entry
        return entry is not None and entry.stands_alone

    @property
    def model_state(self) -> str:
        """Whose weights they are: "trained", or the control that put another network in place."""
        entry = self.table_entry
        return entry.name if entry is not None and entry.acts_on == "network" else TRAINED

    @property
    def bare(self) -> Subject:
        """The same without its control."""
        return replace(self, control=None)

    @property
    def hypothesis(self) -> Subject:
        """The hypothesis that it belongs to: without its control, at whatever budget."""
        settings = {key: value for key, value in self.settings.items() if key != BUDGET}
        return Subject(self.rule, None, settings)

    def under(self, control: str) -> Subject:
        """The same under a control."""
        return replace(self, control=control)

    def reading(self, setting: str) -> Subject:
        """The frozen model's setting that belongs to this subject: of the same network."""
        state = self.model_state
        return Subject(setting, None if state == TRAINED else state)


def parse_all(labels: Iterable[str]) -> dict[str, Subject]:
    """Subjects by label, once each, in order."""
    return {label: Subject.parse(label) for label in dict.fromkeys(labels)}


def hypothesis_labels(labels: Iterable[str]) -> list[str]:
    """Those labels that are hypotheses on the model itself, once each, in order."""
    return [label for label, subject in parse_all(labels).items() if subject.is_hypothesis]


def rivals(label: str, labels: Iterable[str]) -> list[str]:
    """Those labels that a hypothesis has to beat: its own controls, and random directions."""
    own = Subject.parse(label).bare
    return [
        other for other, subject in parse_all(labels).items()
        if subject.is_rival and (subject.stands_alone or subject.bare == own)
    ]  # fmt: skip


def under_control(label: str, control: str) -> str:
    """What a control of this name is called where it stands beside a label; see `Subject.under`."""
    return control if CONTROLS[control].stands_alone else str(Subject.parse(label).under(control))


def check_name(name: str, registered: str | None = None) -> None:
    """Refuse a hypothesis's name in results that would collide with something else there.

    Args:
        name: The name.
        registered: The registered hypothesis behind it: `oracle` may be called `oracle`.

    Raises:
        HypothesisError: It is reserved, a control's, or holds a character of the labels.
    """
    if not is_name(name):
        raise HypothesisError(f"A hypothesis cannot be called {name!a} in results: {NAME_RULE}.")
    if name in _RESERVED:
        raise HypothesisError(f"A hypothesis cannot be called {name!r}: results use it themselves.")
    # Where this package registers a control as a hypothesis, too, both are the same; not so others.
    if name in CONTROLS and (name != registered or not CONTROLS[name].is_built_in):
        raise HypothesisError(
            f"A hypothesis cannot be called {name!r} in results: that is a control's name."
        )


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(";", ":"), default=str)


def _with_settings(text: str) -> tuple[str, dict[str, Any]]:
    rule, opened, inside = text.partition("(")
    if not opened:
        return rule, {}
    if not inside.endswith(")"):
        raise ComparisonError(f"{text!r} is not a label of a result: a bracket is not closed.")
    pairs = (part.partition("=") for part in inside[:-1].split(","))
    return rule, {key: _value(value) for key, _, value in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text.replace(";", ","))
    except ValueError:
        return text
