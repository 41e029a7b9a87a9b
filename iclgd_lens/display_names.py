"""How names of results are written for people: "GD, untrained twins".

Figures, tables and the report show these; files and frames keep the names themselves. Everything
follows from the tables of controls and scores and from `Subject`: no other list of names is kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from iclgd_lens.controls import CONTROLS, Control
from iclgd_lens.errors import LensError
from iclgd_lens.scores import SCORES
from iclgd_lens.subjects import BUDGET, Subject

_NOUNS = {"update": "directions", "change": "directions", "network": "twins"}
"""What varies from one realisation of a control to the next, by what it acts on."""
_SETTINGS = {
    "ZS": "the frozen model reads the query alone",
    "ICL": "the frozen model reads the demonstrations, then the query",
    "ICL_shuffled": "the frozen model reads the demonstrations with wrong labels, then the query",
}
_CONSONANTS = re.compile(r"[b-df-hj-np-tv-xz]{2,}")


@lru_cache(maxsize=4096)
def subject_of(name: str) -> Subject:
    """The subject that a name in results stands for; one that cannot be read is its own rule."""
    try:
        return Subject.parse(name)
    except LensError:
        return Subject(name)


def label(name: str) -> str:
    """What people call a name in results."""
    subject = subject_of(name)
    entry = _control(subject)
    if entry is not None and subject.rule == subject.control:
        return _control_label(entry)
    rule, settings = _words(subject.rule), dict(subject.settings)
    budget = settings.pop(BUDGET, "")
    tail = f" ({budget} budget)" if budget else ""
    if settings:
        rule += f" ({', '.join(f'{key} {value}' for key, value in settings.items())})"
    if subject.control is None:
        return rule + tail
    return f"{rule}, {_control_label(entry) if entry is not None else subject.control}{tail}"


def home(name: str) -> str:
    """The hypothesis that a name belongs to: `gd` for `gd@untrained`, at whatever budget."""
    return str(subject_of(name).hypothesis)


def control_label(name: str) -> str:
    """What people call the control alone: "untrained twins" for `gd@untrained`."""
    return label(name).removeprefix(f"{label(home(name))}, ")


def meaning(name: str, descriptions: Mapping[str, str]) -> str:
    """What a name in results stands for, in a sentence; empty where that is not known.

    Args:
        name: The name.
        descriptions: What each hypothesis is, by its rule.
    """
    subject = subject_of(name)
    entry = _control(subject)
    own = _SETTINGS.get(subject.rule) or descriptions.get(subject.rule, "")
    if entry is None or subject.rule == subject.control:
        return entry.meaning if entry is not None else own
    return f"{_words(subject.rule)} under a control: {entry.meaning}"


def score_meaning(score: str) -> str:
    """What a score is, in a sentence; empty for one that is in no table."""
    return SCORES[score].meaning if score in SCORES else ""


def lower_is_better(score: str) -> bool:
    """Whether a lower value of a score is nearer to in-context learning."""
    return score in SCORES and SCORES[score].better == "lower"


def in_order(scores: Iterable[str]) -> list[str]:
    """Scores in the order of display; those in no table last, as they come."""
    unique = list(dict.fromkeys(scores))
    known = [score for score in SCORES if score in unique]
    return known + [score for score in unique if score not in known]


def rank(name: str) -> int:
    """0 for hypotheses, 1 for controls, 2 for the frozen model's settings, 3 for a twin's."""
    subject = subject_of(name)
    if subject.is_setting:
        return 3 if subject.is_control else 2
    return int(subject.is_control)


def is_rival(name: str) -> bool:
    """Whether a verdict asks a hypothesis to beat what a name stands for."""
    subject = subject_of(name)
    return _control(subject) is not None and subject.is_rival


def in_results(hypothesis: str, control: str) -> str:
    """A control as results name it, where only the table's name is given: `gd@untrained`."""
    entry = CONTROLS[control] if control in CONTROLS else None
    if entry is None or entry.stands_alone:
        return control
    return str(subject_of(hypothesis).under(control))


def is_check(name: str) -> bool:
    """Whether a name's control only tells whether the instrument works."""
    entry = _control(subject_of(name))
    return entry is not None and entry.kind == "check"


def control_index(name: str) -> int:
    """The place of a name's control in the table; -1 where there is none."""
    control = subject_of(name).control
    return _order().get(control, -1) if control is not None else -1


@lru_cache(maxsize=1)
def _order() -> dict[str, int]:
    return {name: index for index, name in enumerate(CONTROLS)}


def _control(subject: Subject) -> Control | None:
    control = subject.control
    return CONTROLS[control] if control is not None and control in CONTROLS else None


def _control_label(entry: Control) -> str:
    """The control's name with what varies: "untrained twins"."""
    return f"{_words(entry.name)} {_NOUNS.get(entry.acts_on, '')}".rstrip()


def _words(name: str) -> str:
    """A name as words; one of consonants alone is an abbreviation (gd, lcgd)."""
    words = name.split("_")
    return " ".join(word.upper() if _CONSONANTS.fullmatch(word) else word for word in words)


def value_of_factor(value: Any) -> Any:
    """A number or word as it is; None, or a list, as words: "none", "W_V, b_V" or "3.0, 7.2"."""
    if value is None:
        return "none"
    if not isinstance(value, (list, tuple)):
        return value
    parts = cast("Sequence[Any]", value)
    return ", ".join(
        ".".join(map(str, cast("Sequence[Any]", part))) if isinstance(part, (list, tuple))
        else str(part)
        for part in parts
    )  # fmt: skip
