"""What the report reads of a run, turned once from frames into typed records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import pandas as pd

from iclgd_lens.bench.contrasts import advantage
from iclgd_lens.tables import is_control, is_setting

MAIN_SCORES = ("SimAOU", "SimAM")
"""The scores that the summary in words is about."""
_SCORE_ORDER = (
    *MAIN_SCORES, "Tok2Attn", "KL_ICL", "accuracy", "Rec2FTP", "SimAOU_f2t", "SimAM_f2t",
    "logit_recovery", "logit_scale", "logit_recovery_unscaled",
)  # fmt: skip


@runtime_checkable
class RunFrames(Protocol):
    """A run as tidy tables; `iclgd_lens.load_run(RUN)` is one."""

    def summary(self) -> pd.DataFrame:
        """Model, task, hypothesis, score, layer, head, value, ci_low, ci_high, n, seeds."""
        ...

    def differences(self) -> pd.DataFrame:
        """Model, task, score, kind, a, b, difference, interval, p-values, verdict."""
        ...

    def order_sensitivity(self) -> pd.DataFrame:
        """Model, task, hypothesis, flip_rate with interval, accuracy_range, permutations."""
        ...

    def failures(self) -> pd.DataFrame:
        """Model, task, seed, permutation, hypothesis (missing: the whole cell), reason."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Everything that the numbers depend on."""
        ...


@dataclass(frozen=True)
class Cell:
    """A mean over seeds and queries with its interval; NaN where undefined."""

    value: float
    low: float
    high: float
    n: int
    seeds: int


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b; `outcome` is 1 if a is shown to be better, -1 if worse, else 0."""

    model: str
    task: str
    score: str
    kind: str
    a: str
    b: str
    difference: float
    low: float
    high: float
    p_corrected: float
    verdict: str
    outcome: int


@dataclass(frozen=True)
class Order:
    """How often predictions flip between orders of the same demonstrations."""

    model: str
    task: str
    hypothesis: str
    flips: Cell
    accuracy_range: float
    permutations: int


@dataclass(frozen=True)
class Failure:
    """A cell, or one hypothesis of a cell, that has no scores."""

    model: str
    task: str
    seed: str
    permutation: str
    hypothesis: str
    reason: str


@dataclass(frozen=True)
class View:
    """A run, read once.

    Attributes:
        models: In the run's order, as are tasks and hypotheses.
        tasks: Names of the tasks.
        hypotheses: Hypotheses first, then controls, then the settings ZS and ICL.
        scores: Main scores first.
        cells: Means over layers and heads, by (model, task, hypothesis, score).
        differences: Paired differences.
        order: Order sensitivity; empty where no seed was run in several orders.
        failures: What has no scores.
        provenance: Everything that the numbers depend on.
        summary: The frame itself, for figures by layer and head.
        paired: The frame of differences itself.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    hypotheses: tuple[str, ...]
    scores: tuple[str, ...]
    cells: Mapping[tuple[str, str, str, str], Cell]
    differences: tuple[Difference, ...]
    order: tuple[Order, ...]
    failures: tuple[Failure, ...]
    provenance: Mapping[str, Any]
    summary: pd.DataFrame
    paired: pd.DataFrame

    @property
    def name(self) -> str:
        """The run's title."""
        return str(self.provenance.get("name") or "benchmark")

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan, as plain values."""
        return self.provenance.get("plan") or {}

    def cell(self, model: str, task: str, hypothesis: str, score: str) -> Cell | None:
        """The mean over layers and heads; None if it was not measured."""
        return self.cells.get((model, task, hypothesis, score))

    def tasks_of(self, model: str) -> list[str]:
        """Tasks that a model has numbers on."""
        have = {(key[0], key[1]) for key in self.cells}
        return [task for task in self.tasks if (model, task) in have]

    def measured(self, model: str, score: str) -> list[str]:
        """Hypotheses, controls and settings that have a score on some task, in the view's order."""
        have = {key[2] for key in self.cells if key[0] == model and key[3] == score}
        return [name for name in self.hypotheses if name in have]


def view(run: RunFrames) -> View:
    """Read a run's frames once."""
    summary, paired = run.summary(), run.differences()
    whole = where(summary, summary["layer"].isna() & summary["head"].isna())
    cells = {
        (str(row.model), str(row.task), str(row.hypothesis), str(row.score)): Cell(
            _number(row.value), _number(row.ci_low), _number(row.ci_high),
            int(row.n), int(row.seeds),
        )
        for row in _records(whole)
    }  # fmt: skip
    scores = _unique(summary["score"])
    known = [score for score in _SCORE_ORDER if score in scores]
    return View(
        models=tuple(_unique(summary["model"])),
        tasks=tuple(_unique(summary["task"])),
        hypotheses=tuple(sorted(_unique(summary["hypothesis"]), key=rank)),
        scores=(*known, *(score for score in scores if score not in known)),
        cells=cells,
        differences=tuple(_difference(row) for row in _records(paired)),
        order=tuple(_order(row) for row in _records(run.order_sensitivity())),
        failures=tuple(_failure(row) for row in _records(run.failures())),
        provenance=run.provenance,
        summary=summary,
        paired=paired,
    )


def where(frame: pd.DataFrame, wanted: Any) -> pd.DataFrame:
    """The lines of a frame that a mask wants."""
    return cast("pd.DataFrame", frame[wanted])


def rank(name: str) -> int:
    """0 for hypotheses, 1 for controls, 2 for settings, 3 for settings of an untrained copy."""
    if is_setting(name):
        return 2
    return 3 if is_setting(name.split("@")[0]) else int(is_control(name))


def _unique(column: Any) -> list[str]:
    return [str(each) for each in column.unique()]


def _records(frame: pd.DataFrame) -> list[Any]:
    return list(frame.itertuples(index=False))


def _number(value: Any) -> float:
    """A finite number, or NaN for what is missing, undefined or infinite."""
    if value is None or value is pd.NA:
        return math.nan
    return float(value) if math.isfinite(value) else math.nan


def _difference(row: Any) -> Difference:
    return Difference(
        str(row.model), str(row.task), str(row.score), str(row.kind), str(row.a), str(row.b),
        _number(row.difference), _number(row.ci_low), _number(row.ci_high),
        _number(row.p_corrected), str(row.verdict), advantage(row._asdict()),
    )  # fmt: skip


def _order(row: Any) -> Order:
    flips = Cell(
        _number(row.flip_rate), _number(row.ci_low), _number(row.ci_high), int(row.n),
        int(row.seeds),
    )  # fmt: skip
    return Order(
        str(row.model), str(row.task), str(row.hypothesis), flips, _number(row.accuracy_range),
        int(row.permutations),
    )  # fmt: skip


def _failure(row: Any) -> Failure:
    return Failure(
        _text(row.model), _text(row.task), _text(row.seed), _text(row.permutation),
        _text(getattr(row, "hypothesis", None)), _text(row.reason),
    )  # fmt: skip


def _text(value: Any) -> str:
    """A value as text; empty for what is missing."""
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(int(value)) if isinstance(value, float) else str(value)
