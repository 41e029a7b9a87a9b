"""Settings that act beside others only: one that was given, and would do nothing, is refused.

A hypothesis says it in a table, `only_with`: {"rank": {"rung": 4}} is "rank acts where rung is 4".
What a companion must be is a value, a tuple of values, or a test of a few words (`above`,
`other_than`, `NOT_GIVEN`, a `Where` of one's own); where several settings decide together, a tuple
of their names has one test of their values. All companions of a setting must be as they must be.

A setting at its default counts as not given: what does not differ cannot mislead.
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from numbers import Real
from typing import Any, TypeVar, cast

from iclgd_lens.errors import HypothesisError

Company = Mapping[str | tuple[str, ...], Any]
"""What a setting's companions must be, by their names."""
OnlyWith = Mapping[str, Company]
"""The company that settings need, by their names."""
_B = TypeVar("_B", bound=Callable[..., Any])
_TABLE, _UNASKED = "only_with", "unasked"


@dataclass(frozen=True)
class Where:
    """What companions must be, where that is no list of values.

    Attributes:
        words: It in words: what follows the companion's name, or of several a whole phrase.
        holds: Takes the companion's value (those of several, in order); whether the setting acts.
    """

    words: str
    holds: Callable[..., bool]


def _is_none(given: Any) -> bool:
    return given is None


NOT_GIVEN = Where("not given", _is_none)


def above(low: int) -> Where:
    """A companion that must be above a number."""

    def holds(given: Any) -> bool:
        return not isinstance(given, Real) or cast("Any", given) > low

    return Where(f"above {low}", holds)


def other_than(value: int | float) -> Where:
    """A companion that may be anything but one number."""

    def holds(given: Any) -> bool:
        return not _same(given, value)

    return Where(f"other than {value:g}", holds)


def naming(wanted: str) -> Where:
    """A companion, one word or several, that must name a certain one; None may be any."""

    def holds(given: Any) -> bool:
        if given is None or not isinstance(given, (str, list, tuple, set, frozenset)):
            return True  # the default, or what can be gone through only once
        words = [given] if isinstance(given, str) else list(cast("Iterable[Any]", given))
        return wanted in words

    return Where(f"that name {wanted!r}", holds)


def in_words(company: Company) -> str:
    """What a setting needs, in words: `rung=4`, `gamma other than 0`."""
    return " and ".join(_in_words(key, wanted) for key, wanted in company.items())


def _in_words(key: str | tuple[str, ...], wanted: Any) -> str:
    if isinstance(wanted, Where):
        return wanted.words if isinstance(key, tuple) else f"{key} {wanted.words}"
    *first, last = [repr(each) for each in _allowed(wanted)]
    return f"{key}={', '.join(first)} or {last}" if first else f"{key}={last}"


def idle(
    table: OnlyWith,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    undecided: Collection[str] = (),
) -> dict[str, str]:
    """Settings that were given and do nothing, each with why and with what it would act.

    Args:
        table: The company that settings need.
        given: Settings.
        defaults: Of all settings.
        undecided: Those of which a value is still to be found, where none is given.
    """
    at, found = {**defaults, **given}, dict[str, str]()
    for name, company in table.items():
        if name not in given or _same(given[name], defaults[name]):
            continue
        without = [
            each
            for key, wanted in company.items()
            if not _holds(key, wanted, at, {each for each in undecided if each not in given})
            for each in _names(key)
            if each != name
        ]
        if without:
            beside = ", ".join(f"{each}={reprlib.repr(at[each])}" for each in without)
            found[name] = (
                f"{name}={reprlib.repr(given[name])} does nothing beside {beside}: it needs "
                f"{in_words(company)}."
            )
    return found


def refuse_idle(rule: str, reasons: Mapping[str, str]) -> None:
    """Raise `HypothesisError` for the first setting that does nothing."""
    for reason in reasons.values():
        raise HypothesisError(f"{rule}: {reason}")


def at_each(
    rule: str,
    fixed: Mapping[str, Any],
    varied: Iterable[Mapping[str, Any]],
    idle_at: Callable[[Mapping[str, Any]], Mapping[str, str]],
) -> Iterator[dict[str, Any]]:
    """Yield the settings at each point of a sweep: what varies, and of the rest what acts there.

    Args:
        rule: The hypothesis.
        fixed: Settings given for all points.
        varied: Those of each point.
        idle_at: Settings that do nothing among some, as `idle` gives them.

    Raises:
        HypothesisError: What varies does nothing at a point, or what is fixed at none.
    """
    everywhere: dict[str, str] | None = None
    for own in varied:
        reasons = idle_at({**fixed, **own})
        refuse_idle(rule, {name: why for name, why in reasons.items() if name in own})
        kept = {name: value for name, value in fixed.items() if name not in reasons}
        everywhere = {
            name: why
            for name, why in (reasons if everywhere is None else everywhere).items()
            if name in reasons
        }
        yield {**kept, **own}
    refuse_idle(rule, everywhere or {})


def check_table(rule: str, table: OnlyWith, settings: Collection[str]) -> None:
    """Raise `HypothesisError` where a table names a setting that the hypothesis does not have."""
    named = [*table, *(each for own in table.values() for key in own for each in _names(key))]
    for name in named:
        if name not in settings:
            raise HypothesisError(f"{rule}: only_with names {name!r}, which is no setting of it.")


def asked_for_company(rule: str, build: _B, table: OnlyWith) -> _B:
    """The function, refusing settings that do nothing when it is called from outside."""
    signature = inspect.signature(build)
    defaults = {name: each.default for name, each in signature.parameters.items()}

    @wraps(build)
    def checked(*values: Any, **named: Any) -> Any:
        try:
            given = signature.bind(*values, **named).arguments
        except TypeError:  # Python says so itself, below
            given = {}
        refuse_idle(rule, idle(table, given, defaults))
        return build(*values, **named)

    setattr(checked, _TABLE, table)
    setattr(checked, _UNASKED, build)
    return cast("_B", checked)


def table_of(build: Callable[..., Any]) -> OnlyWith:
    """The company that a function's settings need; empty for one without a table."""
    return cast("OnlyWith", getattr(build, _TABLE, {}))


def unasked(build: Callable[..., Any]) -> Callable[..., Any]:
    """The function as it builds at settings that nobody gave: those of a search's trial, say."""
    return cast("Callable[..., Any]", getattr(build, _UNASKED, build))


def _names(key: str | tuple[str, ...]) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else key


def _allowed(wanted: Any) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", wanted) if isinstance(wanted, tuple) else (wanted,)


def _holds(
    key: str | tuple[str, ...], wanted: Any, at: Mapping[str, Any], undecided: Collection[str]
) -> bool:
    names = _names(key)
    if any(name in undecided for name in names):
        return True
    if isinstance(wanted, Where):
        return wanted.holds(*(at[name] for name in names))
    return any(_same(at[name], each) for name in names for each in _allowed(wanted))


def _same(one: Any, other: Any) -> bool:
    """Whether two values of a setting are one; what is neither number nor word only if itself."""
    if one is other:
        return True
    for kind in (str, Real):
        if isinstance(one, kind) and isinstance(other, kind):
            return bool(cast("Any", one) == other)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return not cast("Sequence[Any]", one) and not cast("Sequence[Any]", other)
    return False
