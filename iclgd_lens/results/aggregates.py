"""From per-query values to the lines of `frame()`: means with intervals, by place.

With two or more units (draws of demonstrations; for a control's networks, networks; for random
controls on one draw, realisations) an interval is Student's t over units: it says what other draws,
or other networks, would give. Realisations of one of several draws are averaged. With one unit it
is a bootstrap over its queries, which says less: how the mean would vary with the queries asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.registry import resolve
from iclgd_lens.results.parts import (
    Floats,
    Part,
    Parts,
    ScoreArrays,
    statistic_of,
)
from iclgd_lens.scores import LABEL_SCORES, SCORES
from iclgd_lens.subjects import Subject
from iclgd_lens.verdicts.resampling import bootstrap_mean, bootstrap_ratio
from iclgd_lens.verdicts.statistics import nanmean, t_interval

Place = tuple["int | None", "int | None"]
"""Layer and head; None where a line is of no single one."""
COLUMNS = (
    "hypothesis", "rule", "control", "model_state", "settings", "score", "level", "layer", "head",
    "value", "ci_low", "ci_high", "n", "undefined",
)  # fmt: skip
OVER_UNITS = "Student t over draws (or networks)"
OVER_QUERIES = "bootstrap over queries (Student t over networks or realisations of a control)"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of `Comparison.frame()`."""

    hypothesis: str
    score: str
    layer: int | None = None
    head: int | None = None
    value: float
    ci_low: float
    ci_high: float
    n: int
    undefined: int

    @property
    def level(self) -> str:
        """How fine the line is: "all", "layer" or "head"."""
        return "all" if self.layer is None else "layer" if self.head is None else "head"

    def as_dict(self) -> dict[str, Any]:
        """The line with every column of `COLUMNS`."""
        subject = Subject.parse(self.hypothesis)
        facts = {
            "rule": subject.rule,
            "control": subject.control,
            "model_state": subject.model_state,
            "settings": ",".join(f"{k}={v}" for k, v in sorted(subject.settings.items())),
            "level": self.level,
        }
        return {name: {**facts, **vars(self)}[name] for name in COLUMNS}


@dataclass(frozen=True)
class Resampling:
    """How intervals are made: coverage, and resamples and seed where they are bootstrapped."""

    confidence: float = 0.95
    resamples: int = 1000
    seed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Keyword arguments of the bootstrap."""
        return dict(vars(self))


def rows(parts: Parts, how: Resampling) -> Iterator[Row]:
    """Every line of `Comparison.frame()`: by label, score, layer and head."""
    for label in parts.subjects:
        for score in parts.scores(label):
            yield from map(_in_range, score_rows(parts, label, score, how))


def _in_range(row: Row) -> Row:
    """A line whose interval ends where its score's range does: t knows of no range."""
    if row.score not in SCORES:
        return row
    low, high = SCORES[row.score].bounds
    inside = row.ci_low >= low and row.ci_high <= high
    if inside or not low <= row.value <= high:  # a score of somebody's own may say too little
        return row
    return replace(row, ci_low=max(row.ci_low, low), ci_high=min(row.ci_high, high))


def score_rows(parts: Parts, label: str, score: str, how: Resampling) -> Iterator[Row]:
    """The lines of one label and score."""
    units = parts.samples(label)
    series = parts.series[label]
    entry = SCORES[score] if score in SCORES else None
    if entry is not None and entry.fact is not None:
        yield _fact_row(parts, label, score, how)
        return
    arrays = [(part, measured[score]) for part, measured in series if score in measured]
    overall = np.concatenate([parts.per_query(score, *each, label) for each in arrays])
    n, undefined = _counts(overall)
    if len(units) > 1:
        value, low, high = _over_units(parts.per_unit(score, label), how)
    elif entry is not None and entry.per_draw:
        value, low, high = _first(overall), math.nan, math.nan
    else:
        each = [parts.per_query(score, *one, label) for one in arrays]
        found = bootstrap_mean(_over_orders(each), **how.as_dict())
        value, low, high = found.value, found.low, found.high
    yield Row(
        hypothesis=label, score=score, value=float(value), ci_low=float(low), ci_high=float(high),
        n=n, undefined=undefined,
    )  # fmt: skip
    if arrays[0][1].ndim > 1:
        yield from _places(parts, label, score, how)


def _places(parts: Parts, label: str, score: str, how: Resampling) -> Iterator[Row]:
    """The lines of single layers, then of single heads."""
    series, units = parts.series[label], parts.samples(label)
    for level, name in (("layer", score), ("head", f"{score}/head")):
        stacked = [measured[name] for _, measured in series if name in measured]
        if not stacked:
            continue
        together = np.concatenate(stacked).astype(np.float64)
        places = _grid(together.shape[1:])
        flat = together.reshape(len(together), -1)
        counts = np.isfinite(flat).sum(0)
        if len(units) > 1:
            each = np.stack([parts.by_place(score, unit, level).ravel() for unit in units])
            value, low, high = _over_units(each, how)
        else:
            each = [array.astype(np.float64).reshape(len(array), -1) for array in stacked]
            found = bootstrap_mean(_over_orders(each), **how.as_dict())
            value, low, high = found.value, found.low, found.high
        for index, (layer, head) in enumerate(places):
            yield Row(
                hypothesis=label, score=score, layer=layer, head=head, value=float(value[index]),
                ci_low=float(low[index]), ci_high=float(high[index]), n=int(counts[index]),
                undefined=int(len(flat) - counts[index]),
            )  # fmt: skip


def _fact_row(parts: Parts, label: str, score: str, how: Resampling) -> Row:
    """The line of a score that is a statistic of per-query facts."""
    entry, units = SCORES[score], parts.samples(label)
    having = [(p, m) for p, m in parts.series[label] if entry.fact in m]
    facts = np.concatenate([m[str(entry.fact)] for _, m in having]).astype(np.float64)
    defined = np.isfinite(facts).all(-1)
    n, undefined = int(defined.sum()), int((~defined).sum())
    if len(units) > 1:
        value, low, high = _over_units(parts.per_unit(score, label), how)
    elif entry.fact == LABEL_SCORES:
        value = np.mean([statistic_of(entry, m, p.gold) for p, m in having])
        low, high = _resampled(having, score, how) if math.isfinite(value) else (math.nan, math.nan)
    else:
        facts = _over_orders([m[str(entry.fact)].astype(np.float64) for _, m in having])
        found = bootstrap_ratio(facts, resolve(entry.statistic or ""), **how.as_dict())
        value, low, high = found.value, found.low, found.high
    return Row(
        hypothesis=label, score=score, value=float(value), ci_low=float(low), ci_high=float(high),
        n=n, undefined=undefined,
    )  # fmt: skip


def _resampled(
    having: Sequence[tuple[Part, ScoreArrays]], score: str, how: Resampling
) -> tuple[float, float]:
    """Percentile interval of a statistic of label scores, resampling queries within each part."""
    entry = SCORES[score]
    function = resolve(entry.statistic or "")
    generator = np.random.default_rng(how.seed)
    found: list[float] = []
    # A few hundred resamples give the bounds to the second decimal, which is what is shown.
    for _ in range(min(how.resamples, 300)):
        values: list[float] = []
        sizes = {len(part.gold) for part, _ in having}  # of one draw, whose orders share queries
        shared = {size: generator.integers(0, size, size) for size in sorted(sizes)}
        for part, measured in having:
            drawn = shared[len(part.gold)]
            facts = measured[str(entry.fact)][drawn].astype(np.float64)
            values.append(float(function(facts, part.gold[drawn])))
        found.append(float(np.mean(values)))
    known = np.array(found)[np.isfinite(found)]
    if known.size < 2:
        return math.nan, math.nan
    levels = [(1 - how.confidence) / 2, (1 + how.confidence) / 2]
    low, high = np.quantile(known, levels)
    return float(low), float(high)


def _over_orders(arrays: Sequence[Floats]) -> Floats:
    """Values of the same queries in several orders of one draw, averaged: [query ...].

    What is resampled is queries: an order more brings no more of them. Of different queries, all.
    """
    if len({each.shape for each in arrays}) > 1:
        return np.concatenate(arrays)
    return nanmean(np.stack(arrays), 0)


def _over_units(values: Floats, how: Resampling) -> tuple[Floats, Floats, Floats]:
    """Mean over units and Student's t interval of [unit], or of each column of [unit column]."""
    return t_interval(values, confidence=how.confidence)


def _grid(shape: tuple[int, ...]) -> list[Place]:
    if len(shape) == 1:
        return [(layer, None) for layer in range(shape[0])]
    return [(layer, head) for layer in range(shape[0]) for head in range(shape[1])]


def _counts(values: NDArray[Any]) -> tuple[int, int]:
    finite = int(np.isfinite(values).sum())
    return finite, len(values) - finite


def _first(values: Floats) -> float:
    known = values[np.isfinite(values)]
    return float(known[0]) if known.size else math.nan
