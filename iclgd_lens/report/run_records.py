"""What the report reads of a run, turned once from frames into typed records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from iclgd_lens.display_names import home, in_order, in_results, is_rival, rank, subject_of
from iclgd_lens.figures.evidence import VERDICTS
from iclgd_lens.report.run_frames import (
    OPTIONAL_FRAMES,
    RunFrames,
    number_of,
    offered_frame,
    records,
    text_of,
)
from iclgd_lens.results.display import aggregates
from iclgd_lens.scores import SCORES
from iclgd_lens.verdicts.answer import OVERALL

if TYPE_CHECKING:
    import pandas as pd
ReadingKey = tuple[str, str, str, str]
"""Model, task, hypothesis, score."""


@dataclass(frozen=True)
class Reading:
    """A mean over draws and queries with its interval; NaN where undefined."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class PairVerdict:
    """Whether a is better than b on one task and score, and why.

    Attributes:
        kind: "hypotheses", "control" or "untrained" for a line of `differences()`.
        verdict: yes, no, undecided, not applicable.
        why: The rule's reason, in words.
        robust: Over which learning rates the verdict holds, in words.
    """

    model: str
    task: str
    score: str
    a: str
    b: str
    verdict: str
    kind: str = "control"
    difference: float = math.nan
    ci_low: float = math.nan
    ci_high: float = math.nan
    p: float = math.nan
    why: str = ""
    robust: str = ""


@dataclass(frozen=True)
class RunRecords:
    """A run, read once.

    Attributes:
        models: In the run's order, as are tasks and hypotheses.
        tasks: Names of the tasks.
        hypotheses: Hypotheses first, then controls, then settings such as ZS and ICL.
        scores: In the order of display.
        readings: Means over layers and heads, by (model, task, hypothesis, score).
        verdicts: One per model, task, hypothesis, score and control.
        overall: The rule's answer to all controls together, by (model, task, hypothesis, score).
        differences: Paired differences.
        order_sensitivity: That frame; empty where no seed was run in several orders.
        failures: The frame of what has no scores.
        provenance: Everything that the numbers depend on.
        summary: The run's frame itself.
        lines: Its columns that are drawn, as plain text and floats, which are quick to read.
        paired: The frame of differences itself.
        optional: Optional frames that the run offers, by the method's name.
    """

    models: tuple[str, ...]
    tasks: tuple[str, ...]
    hypotheses: tuple[str, ...]
    scores: tuple[str, ...]
    readings: Mapping[ReadingKey, Reading]
    verdicts: tuple[PairVerdict, ...]
    overall: Mapping[ReadingKey, str]
    differences: tuple[PairVerdict, ...]
    order_sensitivity: pd.DataFrame
    failures: pd.DataFrame
    provenance: Mapping[str, Any]
    summary: pd.DataFrame
    lines: pd.DataFrame
    paired: pd.DataFrame
    optional: Mapping[str, pd.DataFrame] = field(default_factory=dict[str, Any])

    @property
    def name(self) -> str:
        """The run's title."""
        return str(self.provenance.get("name") or "benchmark")

    @property
    def plan(self) -> Mapping[str, Any]:
        """The plan, as plain values."""
        return self.provenance.get("plan") or {}

    @property
    def draws(self) -> int:
        """Draws of demonstrations; 0 where the plan does not say."""
        return len(seeds) if isinstance(seeds := self.plan.get("seeds"), list | tuple) else 0

    @cached_property
    def main_scores(self) -> tuple[str, ...]:
        """What the summary is about: primary scores, else those of heads that the oracle fills."""
        known = [score for score in self.scores if score in SCORES]
        primary = [score for score in known if SCORES[score].primary]
        by_head = [s for s in known if SCORES[s].level == "head" and SCORES[s].oracle == 1]
        return tuple(primary or by_head or self.scores[:1])

    def reading(self, model: str, task: str, name: str, score: str) -> Reading | None:
        """The mean over layers and heads of a hypothesis; None if it was not measured."""
        return self.readings.get((model, task, name, score))

    def tasks_of(self, model: str) -> list[str]:
        """Tasks that a model has numbers on."""
        return [task for task in self.tasks if any(k[:2] == (model, task) for k in self.readings)]

    def measured(self, model: str, score: str) -> list[str]:
        """Hypotheses, controls and settings that have a score on some task, in the run's order."""
        have = {key[2] for key in self.readings if key[0] == model and key[3] == score}
        return [name for name in self.hypotheses if name in have]

    def bare_hypotheses(self, names: Iterable[str] | None = None) -> list[str]:
        """Those names (default, all) that are hypotheses, under no control."""
        return [each for each in (self.hypotheses if names is None else names) if rank(each) == 0]

    def rivals(self, hypothesis: str, names: Iterable[str]) -> list[str]:
        """Those names that a hypothesis has to beat."""
        return [
            name for name in names
            if is_rival(name) and rank(name) == 1
            and (home(name) == hypothesis or subject_of(name).rule == subject_of(name).control)
        ]  # fmt: skip

    def twins(self, model: str, hypothesis: str) -> list[tuple[str, str]]:
        """(model, hypothesis) of the same hypothesis on other networks in the model's place."""
        have = {key[2] for key in self.readings if key[0] == model}
        own = [
            (model, name) for name in self.hypotheses
            if name in have and rank(name) == 1 and subject_of(name).model_state != "trained"
            and home(name) == hypothesis
        ]  # fmt: skip
        return own + [(other, hypothesis) for other in self._untrained.get(model, ())]

    @cached_property
    def _untrained(self) -> dict[str, list[str]]:
        """Untrained copies measured as models of their own, by the trained one's label."""
        specs: list[dict[str, Any]] = list(self.plan.get("models") or [])
        specs = [spec for spec in specs if spec.get("label") in self.models]
        found: dict[str, list[str]] = {}
        for spec in (spec for spec in specs if spec.get("untrained")):
            for other in specs:
                same = all(spec.get(k) == other.get(k) for k in _MODEL_FIELDS)
                if same and not other.get("untrained"):
                    found.setdefault(str(other["label"]), []).append(str(spec["label"]))
        return found

    def over_tasks(self, model: str, hypothesis: str, score: str) -> float | None:
        """The mean over the tasks on which it is defined; None where there is none."""
        read = (self.reading(model, task, hypothesis, score) for task in self.tasks)
        known = [each.value for each in read if each is not None and not math.isnan(each.value)]
        return sum(known) / len(known) if known else None

    def twin_places(self) -> Iterator[tuple[str, str, str, str, str, str]]:
        """Model, score, hypothesis, task, and the model and name of each untrained twin of it."""
        for model in self.models:
            for score in self.main_scores:
                for name in self.bare_hypotheses(self.measured(model, score)):
                    for task in self.tasks_of(model):
                        for other_model, other in self.twins(model, name):
                            both = ((model, name), (other_model, other))
                            if all(self.reading(m, task, h, score) for m, h in both):
                                yield model, score, name, task, other_model, other


_TEXT = ("model", "task", "hypothesis", "score")
_NUMBERS = ("layer", "head", "value", "ci_low", "ci_high", "n")
_PLACE = ("model", "task", "score", "a", "b")
_MODEL_FIELDS = ("name", "dtype", "host", "revision")


def read_run(run: RunFrames) -> RunRecords:
    """Read a run's frames once."""
    summary, paired = run.frame(), run.differences()
    offered = ((name, offered_frame(run, name)) for name in OPTIONAL_FRAMES)
    optional = {name: frame for name, frame in offered if frame is not None}
    lines = _plain_columns(summary)
    readings = {
        (row.model, row.task, row.hypothesis, row.score): Reading(
            number_of(row.value), number_of(row.ci_low), number_of(row.ci_high), int(row.n)
        )
        for row in records(aggregates(lines))
    }
    judged = optional.get("verdicts")
    given = None if judged is None else [_verdict(row) for row in records(judged)]
    known = {(v.model, v.task, v.score, v.a, v.b): v for v in given or ()}
    differences = tuple(_difference(row, known) for row in records(paired))
    return RunRecords(
        models=tuple(_unique(lines["model"])),
        tasks=tuple(_unique(lines["task"])),
        hypotheses=tuple(sorted(_unique(lines["hypothesis"]), key=rank)),
        scores=tuple(in_order(_unique(lines["score"]))),
        readings=readings,
        verdicts=tuple(
            each
            for each in (differences if given is None else given)
            if each.kind != "hypotheses" and each.b != OVERALL
        ),
        overall={
            (each.model, each.task, each.a, each.score): each.verdict
            for each in given or ()
            if each.b == OVERALL
        },
        differences=differences,
        order_sensitivity=run.order_sensitivity(),
        failures=run.failures,
        provenance=run.provenance,
        summary=summary,
        lines=lines,
        paired=paired,
        optional=optional,
    )


def _plain_columns(frame: pd.DataFrame) -> pd.DataFrame:
    kinds = dict.fromkeys(_TEXT, object) | dict.fromkeys(_NUMBERS, float)
    return cast("pd.DataFrame", frame.reindex(columns=[*kinds]).astype(cast("Any", kinds)))


def _unique(column: Any) -> list[str]:
    return [str(each) for each in column.unique()]


def _verdict(row: Any) -> PairVerdict:
    p, low, high = (number_of(getattr(row, name, None)) for name in ("p", "ci_low", "ci_high"))
    why = text_of(getattr(row, "why", None))
    return PairVerdict(
        model=str(row.model), task=str(row.task), score=str(row.score), a=str(row.hypothesis),
        b=in_results(str(row.hypothesis), str(row.control)), verdict=str(row.verdict),
        ci_low=low, ci_high=high, p=p, why=why, robust=_range(getattr(row, "robust", None)),
    )  # fmt: skip


def _range(robust: Any) -> str:
    """Lowest and highest rate as words; a text as it is."""
    if isinstance(robust, list | tuple):
        return "rates {:g} to {:g}".format(*cast("tuple[float, float]", robust))
    return text_of(robust)


def _difference(row: Any, known: Mapping[Any, PairVerdict]) -> PairVerdict:
    """A line of `differences()`; what stands beside it is the rule's verdict, if it gives any."""
    place = {name: str(getattr(row, name)) for name in _PLACE}
    low, high, p = (number_of(getattr(row, n)) for n in ("ci_low", "ci_high", "p_corrected"))
    value, own = number_of(row.difference), text_of(getattr(row, "verdict", None))
    rule, own = known.get(tuple(place.values())), own if own in VERDICTS else "undecided"
    verdict, why = (rule.verdict, rule.why) if rule is not None else (own, "")
    return PairVerdict(
        **place, verdict=verdict, kind=str(row.kind), difference=value, ci_low=low, ci_high=high,
        p=p, why=why,
    )  # fmt: skip
