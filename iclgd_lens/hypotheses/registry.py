"""Hypotheses by name: the built-in ones, those of plugins, and those of a notebook.

A hypothesis is a function `(host, episode, **settings) -> Intervention`. Register one with the
decorator, or from a package of your own through the entry point group `iclgd_lens.hypotheses`. A
built-in one is a file of this folder: nothing else names it.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from iclgd_lens.errors import HypothesisError, nearest
from iclgd_lens.hypotheses.companions import (
    OnlyWith,
    asked_for_company,
    at_each,
    check_table,
    idle,
    refuse_idle,
    table_of,
    unasked,
)
from iclgd_lens.hypotheses.described import SettingDescription, described, parameters
from iclgd_lens.intervention import Intervention
from iclgd_lens.registry import (
    Entry,
    PluginWarning,
    Table,
    check_choice,
    check_parameters,
    first_line,
)
from iclgd_lens.validation import check_arguments


def one_of(rule: str, name: str, given: str, allowed: Iterable[str]) -> None:
    """Raise `HypothesisError` unless `given` is one of the allowed words."""
    check_choice(HypothesisError, rule, name, given, allowed)


def between(
    rule: str,
    name: str,
    given: int | float,
    low: int | float,
    high: int | float = math.inf,
    *,
    above: bool = False,
) -> None:
    """Raise `HypothesisError` unless low <= given <= high; the nearest allowed value is named.

    Args:
        rule: The hypothesis.
        name: The setting.
        given: Its value.
        low: The least value allowed.
        high: The largest value allowed.
        above: Whether `low` itself is not allowed.
    """
    if not low <= given <= high or (above and given == low):
        if math.isinf(high):
            allowed = f"above {low:g}" if above else f"at least {low:g}"
        else:
            allowed = f"above {low:g} and at most {high:g}" if above else f"{low:g} to {high:g}"
        hint = "" if above and not given > high else f" The nearest is {_nearest(given, low, high)}"
        raise HypothesisError(f"{rule}: {name} is {given}; it must be {allowed}.{hint}".rstrip())


def _nearest(given: int | float, low: int | float, high: int | float) -> str:
    return f"{high if given > high else low:g}."


Build = Callable[..., Intervention]
Kind = Literal["explanation", "fitted", "check", "control"]
Need = Literal["demonstrations", "auxiliary", "queries"]
_B = TypeVar("_B", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Hypothesis(Entry):
    """A named way to turn demonstrations into an intervention.

    Attributes:
        name: What results call it.
        build: `(host, episode, **settings) -> Intervention`.
        description: One line for listings.
        version: Changes whenever its numbers do; part of a benchmark cell's key.
        kind: "explanation": a rule that could be what in-context learning does. "fitted": it was
            fitted to in-context learning's own passes, so that a high score is no evidence.
            "check": it tells whether the instrument works. "control": it cannot be true.
        needs: What it reads: the "demonstrations"; "auxiliary" demonstrations of other tasks; the
            "queries", which no explanation may read.
        source: The paper, or where it is from.
        rows: The step by which it trains (an `UpdateRule`), where several rates can train side by
            side as rows of one batch; None where it is built anew for each. This package's own
            steps read no weight of a block, so that their rows may be of several networks; a
            plugin's step may read one.
        row_settings: Its settings that `rows` takes by keyword, too.
        chooses: Settings that it finds on the demonstrations itself: no budget is searched for it.
        budgeted_at: Settings with which a budget is searched, where it searches itself: without
            them a search would run inside every trial of another.
    """

    name: str
    build: Build
    description: str = ""
    version: str = "1"
    kind: Kind = "explanation"
    needs: tuple[Need, ...] = ("demonstrations",)
    source: str = ""
    rows: Callable[..., Any] | None = None
    row_settings: tuple[str, ...] = ()
    chooses: tuple[str, ...] = ()
    budgeted_at: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def made_by(self) -> Build:
        """The function behind it."""
        return self.build

    @property
    def only_with(self) -> OnlyWith:
        """Settings that act beside others only, each with what those must be."""
        return table_of(self.build)

    def built(self, host: Any, episode: Any, **settings: Any) -> Any:
        """What it builds at settings that were checked before, or that a search found."""
        return unasked(self.build)(host, episode, **settings)

    @property
    def takes_rate(self) -> bool:
        """Whether it has a learning rate."""
        return "lr" in self.settings()

    @property
    def takes_budget(self) -> bool:
        """Whether a rate can be chosen for it: it has one, and does not choose it itself."""
        return self.takes_rate and "lr" not in self.chooses

    def settings(self) -> dict[str, Any]:
        """Names and defaults of the settings that `build` takes by keyword."""
        return {p.name: p.default for p in parameters(self.build) if p.kind is not p.VAR_KEYWORD}

    def described_settings(self) -> list[SettingDescription]:
        """Every setting with its type and meaning."""
        return described(self.build)

    def check_settings(self, settings: Mapping[str, Any], *, searched: bool = True) -> None:
        """Refuse settings that `build` does not take, or that would do nothing beside the others.

        Args:
            settings: What was given.
            searched: Whether a budget is searched for it where no rate is given.

        Raises:
            HypothesisError: It has no such setting, a value is plainly of another type than the
                one that `build` names, or a setting would do nothing.
        """
        self._check_values(settings)
        refuse_idle(self.name, self._idle(settings, searched))

    def settings_at(
        self,
        fixed: Mapping[str, Any],
        varied: Iterable[Mapping[str, Any]],
        *,
        searched: bool = True,
    ) -> list[dict[str, Any]]:
        """Settings at each point of a sweep: what varies, and of what is fixed that which acts.

        Raises:
            HypothesisError: As `check_settings`; what is fixed has to act at one point at least.
        """

        def idle_at(settings: Mapping[str, Any]) -> dict[str, str]:
            self._check_values(settings)
            return self._idle(settings, searched)

        return list(at_each(self.name, fixed, varied, idle_at))

    def _idle(self, settings: Mapping[str, Any], searched: bool) -> dict[str, str]:
        found = searched and self.takes_budget and settings.get("lr") is None
        undecided = ("lr", "epochs", "loss_on") if found else ()
        return idle(self.only_with, settings, self.settings(), undecided)

    def _check_values(self, settings: Mapping[str, Any]) -> None:
        self.check_names(settings)
        check_arguments(self.build, settings, HypothesisError, f"{self.name}: ")

    def check_names(self, settings: Iterable[str]) -> None:
        """Raise `HypothesisError` for the name of a setting that `build` does not take."""
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.build).parameters.values()):
            return
        allowed = self.settings()
        for key in settings:
            if key not in allowed:
                raise HypothesisError(
                    f"{self.name} has no setting {key!r}; it has "
                    f"{', '.join(allowed) or 'none'}.{nearest(key, allowed)}"
                )


class HypothesisWarning(PluginWarning):
    """A plugin's hypothesis could not be loaded and is skipped."""


def _wrap(name: str, build: Callable[..., Any]) -> Hypothesis:
    return Hypothesis(name=name, build=build, description=first_line(build))


def _scan() -> None:
    import iclgd_lens.hypotheses as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")


HYPOTHESES: Table[Hypothesis] = Table(
    "hypothesis",
    Hypothesis,
    "iclgd_lens.hypotheses",
    _wrap,
    error=HypothesisError,
    warning=HypothesisWarning,
    load=_scan,
)
"""Every hypothesis by name."""


def hypothesis(
    name: str,
    *,
    description: str = "",
    version: str = "1",
    kind: Kind = "explanation",
    needs: Need | tuple[Need, ...] = ("demonstrations",),
    source: str = "",
    rows: Callable[..., Any] | None = None,
    row_settings: tuple[str, ...] = (),
    chooses: tuple[str, ...] = (),
    budgeted_at: Mapping[str, Any] | None = None,
    only_with: OnlyWith | None = None,
    replace: bool = False,
) -> Callable[[_B], _B]:
    """Register the decorated function under `name`, and return it.

    Without `only_with` it is returned unchanged; with it, it refuses settings that do nothing.

    Args:
        name: What results call it.
        description: One line for listings; default, the first line of the docstring.
        version: Change it whenever the numbers change.
        kind: "explanation", "fitted", "check" or "control"; see `Hypothesis`.
        needs: What it reads: "demonstrations", "auxiliary", "queries".
        source: The paper, or where it is from.
        rows: The step by which it trains; see `Hypothesis`.
        row_settings: Its settings that `rows` takes, too.
        chooses: Settings that it finds itself; see `Hypothesis`.
        budgeted_at: Settings with which a budget is searched; see `Hypothesis`.
        only_with: Settings that act beside others only, each with what those must be, such as
            `{"rank": {"rung": 4}}`; see `iclgd_lens.hypotheses.companions`.
        replace: Allow the name to be taken over. A notebook's cell that is run again does not
            need it.

    Raises:
        HypothesisError: The name is taken or not usable, `kind` or `needs` does not exist, an
            explanation asks for queries, `only_with` names an unknown setting, or the function does
            not take a host and an episode.
    """
    needed = (needs,) if isinstance(needs, str) else tuple(needs)
    check_choice(HypothesisError, name, "kind", kind, get_args(Kind))
    for need in needed:
        check_choice(HypothesisError, name, "needs", need, get_args(Need))
    if kind == "explanation" and "queries" in needed:
        raise HypothesisError(
            f"{name}: an explanation never reads queries; use kind='fitted' or 'check'."
        )

    def register(build: _B) -> _B:
        what, given = f"{name}: a hypothesis", ("host", "episode")
        check_parameters(HypothesisError, what, build, given, settings=True)
        if only_with:
            build = asked_for_company(name, build, only_with)
        entry = Hypothesis(
            name=name, build=build, description=description or first_line(build), version=version,
            kind=kind, needs=needed, source=source, rows=rows, row_settings=tuple(row_settings),
            chooses=tuple(chooses), budgeted_at=dict(budgeted_at or {}),
        )  # fmt: skip
        check_table(name, only_with or {}, entry.settings())
        HYPOTHESES.add(entry, replace=replace)
        return build

    return register


def list_hypotheses() -> dict[str, Hypothesis]:
    """Every hypothesis by name: built-in, registered, and from installed plugins.

    A plugin whose name is taken is refused with a warning; the one registered first stays.
    """
    return HYPOTHESES.all()


def get_hypothesis(name: str) -> Hypothesis:
    """Return the hypothesis called `name`.

    Raises:
        HypothesisError: There is none; the nearest name is given.

    Examples:
        >>> get_hypothesis("lcgd").kind
        'explanation'
    """
    return HYPOTHESES[name]
