"""What a verdict is given on, and the one test of a hypothesis against one control.

A control of kind "draw" is drawn with the demonstrations and compared draw by draw. One of kind
"network" is a population of untrained networks, of which the trained model may be one more. All
numbers are aggregates by draw or by network: queries of one draw are no replication.

A test never gets easier by what is missing: a value that is not finite, a control that failed, too
few draws or networks, and units that do not differ at all are *faults*, and a test with a fault
supports no "yes".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.defaults import DRAWS, TWINS
from iclgd_lens.errors import VerdictError
from iclgd_lens.phrases import count, interval, number, p_value
from iclgd_lens.verdicts.power import MOST_UNITS
from iclgd_lens.verdicts.resampling import sign_flip
from iclgd_lens.verdicts.statistics import (
    RANK_FROM,
    Difference,
    equivalence,
    nanmean,
    paired_t,
    prediction_t,
    rank_p,
)

Floats = NDArray[np.float64]
Kind = Literal["draw", "network"]

LEAST_DRAWS, LEAST_NETWORKS = 2, 3
LEAST_REALISATIONS = 20
"""Realisations of a control that stand in for draws where there is one draw only."""
FLIPS_FROM = 8
"""Draws from which the exact sign-flip test is shown beside the t-test."""
MOST_UNREAD = 0.1
"""Share of its own layers that a hypothesis may lose to what its controls lack, for a "no"."""
_NAN = float("nan")
_ADVICE = "if difference and spread stay as they are"


@dataclass(frozen=True, eq=False)
class ControlEvidence:
    """What one control scores.

    Attributes:
        kind: "draw" or "network".
        values: Of kind "draw": [draw], in the order of the hypothesis's, or [draw realisation].
            Of kind "network": [network], or [network draw]; each over the hypothesis's draws, or
            over its share of them. NaN where one failed; None if nothing was measured.
        variants: In place of `values`, several ways in which the control was scored, by name, such
            as "at the model's budget" and "at their own budget": `yes` needs all of them.
        failed: Why the control could not be built or measured.
    """

    kind: Kind
    values: ArrayLike | None = None
    variants: Mapping[str, ArrayLike] = field(default_factory=dict[str, ArrayLike])
    failed: str | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """One hypothesis on one score, with everything that it is held against.

    Attributes:
        hypothesis: Its label.
        score: The score's name.
        values: Its aggregate in each draw, [draw]; NaN where it failed or is undefined.
        controls: Every control that was asked for, by the control's name ("untrained"): also one
            that failed, since a control that is left out makes a verdict easier.
        better: Whether higher or lower scores are nearer to in-context learning.
        kind: The hypothesis's; only an "explanation" is given verdicts.
        inapplicable: Why there is nothing to give a verdict on (the gate, or an update that has not
            learned); None if there is.
        incomparable: Why the values are no comparison, whatever the gate says; None if they are.
        rate: The learning rate behind `values`; None if there is none.
        rates: The same evidence at other rates, for the range over which the verdict holds.
        asked: Names of controls that bear on this score, besides those that `decide` is given: one
            without evidence is held to be missing, not absent.
        unasked: Names of controls that were asked for but have nothing to say on this score; told.
        left_out: Layers that the values are not over, though something has the score there; told.
        unread: Share of the layers in which the hypothesis itself has the score that are left out,
            since a control or a draw lacks it there.
    """

    hypothesis: str
    score: str
    values: ArrayLike
    controls: Mapping[str, ControlEvidence] = field(default_factory=dict[str, ControlEvidence])
    better: Literal["higher", "lower"] = "higher"
    kind: str = "explanation"
    inapplicable: str | None = None
    incomparable: str | None = None
    rate: float | None = None
    rates: Mapping[float, Evidence] = field(default_factory=dict[float, "Evidence"])
    asked: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    left_out: tuple[int, ...] = ()
    unread: float = 0.0

    @property
    def sign(self) -> int:
        """+1 where higher is better, -1 where lower is."""
        return 1 if self.better == "higher" else -1


@dataclass(frozen=True)
class Tested:
    """One test. Differences are in favour of the hypothesis: positive is better than the control.

    Attributes:
        score: The hypothesis's mean over draws.
        control: The control's mean over draws, realisations or networks.
        difference: The first minus the second, or the reverse where lower is better.
        low: Lower bound of the difference.
        high: Upper bound.
        p: Two-sided, of the same statistic; NaN if it could not be tested.
        equivalent: P-value that the difference lies within the margin.
        spread: Standard deviation over units.
        n: Units that it rests on.
        unit: What these are.
        one_draw: Whether the hypothesis has one draw only.
        beside: What another test says, in words.
        fault: Why it supports no "yes"; empty if it may.
        least: How many units are needed at least, where there are too few.
        variant: Which of the control's variants was tested.
    """

    score: float = _NAN
    control: float = _NAN
    difference: float = _NAN
    low: float = _NAN
    high: float = _NAN
    p: float = _NAN
    equivalent: float = _NAN
    spread: float = _NAN
    n: int = 0
    unit: Literal["draw", "network", "realisation"] = "draw"
    one_draw: bool = False
    beside: str = ""
    fault: str = ""
    least: int | None = None
    variant: str = ""

    @property
    def evidence_for(self) -> float:
        """How strongly it speaks for the hypothesis: signed, NaN-free; the least decides."""
        if not np.isfinite(self.p):
            return -2.0
        return (1 - self.p) * float(np.sign(self.difference))

    @property
    def replicate(self) -> Literal["draw", "network"]:
        """What more of would replicate it."""
        return "network" if self.unit == "network" else "draw"

    @property
    def method(self) -> str:
        """The test's name."""
        return "paired t" if self.unit == "draw" else "prediction t"


def tests_against(evidence: Evidence, name: str, *, alpha: float, margin: float) -> list[Tested]:
    """Test a hypothesis against one of its controls, once for each of the control's variants.

    Raises:
        VerdictError: The values have the wrong number of axes or of draws.
    """
    control = evidence.controls[name]
    if control.kind not in ("draw", "network"):
        raise VerdictError(f"{name} is of kind {control.kind!r}; allowed are 'draw' and 'network'")
    values = np.asarray(evidence.values, np.float64)
    if values.ndim != 1:
        raise VerdictError(f"{evidence.hypothesis} needs one value per draw, not {values.shape}")
    if control.failed is not None:
        return [Tested(nanmean(values), fault=f"{name} failed ({control.failed})")]
    if not np.isfinite(values).any():
        return [Tested(fault=f"{evidence.hypothesis} has no {evidence.score} in any draw")]
    if control.values is None and not control.variants:
        return [Tested(nanmean(values), fault=f"{name} was not measured")]
    found: list[Tested] = []
    for variant, given in (control.variants or {"": control.values}).items():
        others = np.asarray(given, np.float64)
        where = f"{name} {variant}".rstrip()
        if control.kind == "network":
            tested = _against_networks(values, others, where, evidence.sign, alpha, margin)
        else:
            tested = _against_draws(values, others, where, evidence.sign, alpha, margin)
        found.append(replace(tested, variant=variant))
    return found


def _against_draws(
    values: Floats, others: Floats, name: str, sign: int, alpha: float, margin: float
) -> Tested:
    draws = len(values)
    if others.ndim not in (1, 2) or (draws > 1 and len(others) != draws):
        raise VerdictError(f"{name} has values of shape {others.shape} for {count(draws, 'draw')}")
    if draws == 1:
        return _on_one_draw(float(values[0]), others.ravel(), name, sign, alpha, margin)
    if others.ndim == 2:
        others = others.mean(1)  # undefined where any of a draw's realisations is
    differences = sign * (values - others)
    found = paired_t(differences, confidence=1 - alpha)
    fault, least = "", None
    if int(found.n) < LEAST_DRAWS:
        fault = f"{name} can be compared on {count(int(found.n), 'draw')} only"
        least = DRAWS
    elif found.undefined:
        fault = (
            f"the difference from {name} is undefined in {int(found.undefined)} of {draws} draws"
        )
    elif np.isnan(found.p):
        fault = f"the difference from {name} is the same in every draw, which tells no chance"
    beside = ""
    if draws >= FLIPS_FROM:
        beside = f"sign flips {p_value(float(sign_flip(differences[:, None])[0]))}"
    tested = _tested(found, equivalence(differences, margin), nanmean(values), nanmean(others))
    return replace(tested, beside=beside, fault=fault, least=least)


def _on_one_draw(
    value: float, others: Floats, name: str, sign: int, alpha: float, margin: float
) -> Tested:
    """One draw: the value may be one more realisation of the control."""
    if others.size < LEAST_REALISATIONS:
        fault = (
            f"one draw and {count(others.size, 'realisation')} of {name}: "
            f"{LEAST_DRAWS} draws or more are needed, or {LEAST_REALISATIONS} realisations"
        )
        return Tested(value, nanmean(others), one_draw=True, fault=fault, least=DRAWS)
    found = prediction_t(sign * value, sign * others, confidence=1 - alpha)
    fault = _population_fault(found, name, "realisations")
    equal = equivalence(sign * (value - others), margin)
    tested = _tested(found, equal, value, nanmean(others))
    return replace(tested, unit="realisation", one_draw=True, fault=fault)


def _against_networks(
    values: Floats, others: Floats, name: str, sign: int, alpha: float, margin: float
) -> Tested:
    value, one_draw = float(values.mean()), len(values) == 1  # undefined where any draw is
    if others.ndim not in (1, 2):
        raise VerdictError(f"{name} has values of shape {others.shape}, not one per network")
    if others.ndim == 2:
        others = others.mean(1)
    if np.isfinite(others).sum() < LEAST_NETWORKS:
        fault = f"{name} has {count(int(np.isfinite(others).sum()), 'network')} with a score"
        return Tested(
            value, nanmean(others), unit="network", one_draw=one_draw, fault=fault, least=TWINS
        )
    # The model's mean over draws has an error of its own, which its twins' spread need not hold.
    error, draws = _error_of_mean(values), len(values)
    found = prediction_t(
        sign * value, sign * others, confidence=1 - alpha, error=error, draws=draws
    )
    fault = _population_fault(found, name, "networks")
    if not np.isfinite(value):
        fault = (
            f"the score is undefined in {int((~np.isfinite(values)).sum())} of {len(values)} draws"
        )
    beside = ""
    if others.size >= RANK_FROM:
        beside = f"rank {p_value(rank_p(sign * value, sign * others))}"
    equal = equivalence(sign * (value - others), margin, error=error, draws=draws)
    tested = _tested(found, equal, value, nanmean(others))
    return replace(tested, unit="network", one_draw=one_draw, beside=beside, fault=fault)


def _population_fault(found: Difference, name: str, things: str) -> str:
    if found.undefined:
        total = int(found.n + found.undefined)
        return f"{name} is undefined in {int(found.undefined)} of {total} {things}"
    if np.isnan(found.p) and np.isfinite(found.value):
        return f"all {things} of {name} score the same, which tells no chance"
    return ""


def _tested(found: Difference, equal: Floats, score: float, control: float) -> Tested:
    return Tested(
        score, control, float(found.value), float(found.low), float(found.high), float(found.p),
        float(equal), float(found.spread), int(found.n),
    )  # fmt: skip


def _error_of_mean(values: Floats) -> float:
    """Standard error of a mean over draws; 0 of one draw, whose result says that it is one."""
    if len(values) < 2 or not np.isfinite(values).all():
        return 0.0
    return float(values.std(ddof=1)) / len(values) ** 0.5


# -- in words ------------------------------------------------------------------------------------


def facts(evidence: Evidence, control: str, tested: Tested, test: str = "") -> str:
    """Both means, their difference with its interval, over what, and the test in words."""
    where = f" {tested.variant}" if tested.variant else ""
    side = "better" if tested.difference >= 0 else "worse"
    tests = "; ".join(each for each in (test, tested.beside) if test and each)
    return (
        f"{evidence.score} {number(tested.score)} where {control}{where} has "
        f"{number(tested.control)}, {side} by {number(abs(tested.difference))}"
        f"{interval(tested.low, tested.high)} over {count(tested.n, tested.unit)}"
        f"{' on one draw' if tested.one_draw else ''}{f' ({tests})' if tests else ''}"
    )


def test_of(method: str, p: float, family: int) -> str:
    """A test by name, with its p-value and for how many questions that is corrected."""
    return f"{method}, {p_value(p)}" + (f" corrected for {family} questions" if family > 1 else "")


def would_do(needed: int | None, tested: Tested) -> str:
    """How many units would decide it."""
    if tested.least is not None:
        return f"; {count(tested.least, tested.replicate)} would usually do"
    if needed is not None:
        more = ", or more draws" if tested.unit == "realisation" else ""
        return f"; about {count(needed, tested.unit)} would do{more} {_ADVICE}"
    if tested.unit == "draw":
        return f"; not even {MOST_UNITS:,} draws would do {_ADVICE}"
    return f"; more {tested.unit}s would not do, since it lies within their spread"
