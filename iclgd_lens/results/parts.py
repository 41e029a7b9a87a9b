"""The numbers behind a result: one part for each network and draw. NumPy alone, without torch.

A *draw* is one set of demonstrations with everything random that goes with it. A part on another
network than the model's (an untrained twin, say) belongs to the control of that name. *Units* are
what a statistic counts: draws of the model, or networks of a control.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.registry import resolve
from iclgd_lens.results.common_layers import CommonLayers, ScoreArrays
from iclgd_lens.scores import FACTS, LABEL_SCORES, SCORES, Score
from iclgd_lens.subjects import TRAINED, Subject
from iclgd_lens.verdicts.statistics import nanmean

Floats = NDArray[np.float64]
Values = Mapping[str, Mapping[str, NDArray[np.float32]]]
"""By label and score: [query], [query layer] or, of "score/head", [query layer head]."""


@dataclass(frozen=True, eq=False)
class Part:
    """What was measured on one network and one draw.

    Attributes:
        values: By label (without the network) and score.
        gold: Gold label ids of the queries.
        draw: Which draw of demonstrations.
        order: Which order of its demonstrations.
        network: "trained", or the control that put another network in the model's place.
        index: Which of that control's networks; of the model, which realisation of random controls.
        budget: "own" where another network's update was given the budget that this network chose
            for itself, "" where it is the model's.
        failures: Why a label has no scores.
        facts: Settings, budgets and costs of the rules, by name; the draw's seeds.
        trajectory: Scores along the training, by label and number of passes.
        queries: What tells queries of different draws apart: their rows in the evaluation split.
    """

    values: Values
    gold: NDArray[np.int64]
    draw: int = 0
    order: int = 0
    network: str = TRAINED
    index: int = 0
    budget: str = ""
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trajectory: Mapping[str, Mapping[int, Mapping[str, NDArray[np.float32]]]] = field(
        default_factory=dict[str, Mapping[int, Mapping[str, NDArray[np.float32]]]]
    )
    queries: tuple[int, ...] = ()

    def label(self, own: str) -> str:
        """A label of `values` as results show it: under this part's network."""
        if self.network == TRAINED:
            return own
        subject = Subject.parse(own).under(self.network)
        if self.budget:
            subject = replace(subject, settings={**subject.settings, "budget": self.budget})
        return str(subject)

    @property
    def is_models_own(self) -> bool:
        """Whether it is of the model itself, the settings' and the hypotheses' own numbers.

        Further realisations of random controls are parts of their own.
        """
        return self.network == TRAINED and self.index == 0

    @property
    def unit(self) -> tuple[int, int]:
        """What this part is a sample of: a draw, or a network."""
        return (self.draw, self.index) if self.network == TRAINED else (-1, self.index)


@dataclass(frozen=True, eq=False)
class Parts:
    """All parts of one model and task.

    Attributes:
        parts: The parts.
    """

    parts: tuple[Part, ...]

    @cached_property
    def series(self) -> dict[str, list[tuple[Part, ScoreArrays]]]:
        """Parts that hold each label, in order."""
        found: dict[str, list[tuple[Part, ScoreArrays]]] = {}
        for part in self.parts:
            for own, measured in part.values.items():
                found.setdefault(part.label(own), []).append((part, measured))
        return found

    @cached_property
    def subjects(self) -> dict[str, Subject]:
        """What was measured, by label: settings, then hypotheses, then controls."""
        subjects = {label: Subject.parse(label) for label in self.series}
        rank = {
            label: 0 if subject.is_setting and not subject.is_control
            else 1 if subject.is_hypothesis else 2
            for label, subject in subjects.items()
        }  # fmt: skip
        return {label: subjects[label] for label in sorted(subjects, key=lambda each: rank[each])}

    @cached_property
    def hypotheses(self) -> list[str]:
        """Labels of hypotheses on the model itself, under no control."""
        return [label for label, subject in self.subjects.items() if subject.is_hypothesis]

    @cached_property
    def draws(self) -> list[int]:
        """The draws that the model itself was measured on."""
        return list(dict.fromkeys(part.draw for part in self.parts if part.network == TRAINED))

    def scores(self, label: str) -> list[str]:
        """Names of the scores that a label has, in the table's order."""
        have = {name.split("/")[0] for _, found in self.series[label] for name in found}
        known = [name for name in SCORES.all() if name in have or self._follows(name, have)]
        return known + sorted(have - set(known) - set(FACTS))  # of a plugin that is not there now

    def _follows(self, name: str, have: set[str]) -> bool:
        fact = SCORES[name].fact
        return fact is not None and fact in have

    def units(self, label: str) -> list[list[tuple[Part, ScoreArrays]]]:
        """Parts of a label, one list per unit: orders of a draw or draws of a network together."""
        found: dict[tuple[int, int], list[tuple[Part, ScoreArrays]]] = {}
        for part, measured in self.series[label]:
            found.setdefault(part.unit, []).append((part, measured))
        return list(found.values())

    @cached_property
    def common_layers(self) -> CommonLayers:
        """The layers and queries that means are taken over."""
        return CommonLayers(self.subjects, self.series)

    def samples(self, label: str) -> list[list[tuple[Part, ScoreArrays]]]:
        """Parts of a label, one list for each thing that an interval counts.

        As `units`, but realisations of a draw, which share its demonstrations, together; unless
        there is one draw alone.
        """
        found: dict[tuple[int, int], list[tuple[Part, ScoreArrays]]] = {}
        several = len({part.draw for part, _ in self.series[label]}) > 1
        for part, measured in self.series[label]:
            unit = (part.draw, 0) if several and part.network == TRAINED else part.unit
            found.setdefault(unit, []).append((part, measured))
        return list(found.values())

    # -- one number per unit -----------------------------------------------------------------------

    def per_unit(self, score: str, label: str, beside: str | None = None) -> Floats:
        """A score's aggregate in each sample of a label: [sample], NaN where it does not exist.

        Over the layers that the label shares with `beside`, another label; as are the next two.
        """
        names = _names(label, beside)
        return np.array([self.aggregate(score, each, *names) for each in self.samples(label)])

    def per_draw(self, score: str, label: str, beside: str | None = None) -> Floats:
        """A score of a label on the model itself: [draw realisation], NaN where one failed.

        Every draw of the model has its row, whether the label was measured on it or not; orders of
        a draw are averaged. A mean with an undefined part, or without one of the draw's orders, is
        undefined: what failed is not averaged away.
        """
        names = _names(label, beside)
        found = (
            {unit[0][0].unit: unit for unit in self.units(label)} if label in self.series else {}
        )
        last = max((index for _, index in found), default=0)
        orders = Counter(part.unit for part in self.parts if part.network == TRAINED)
        return np.array(
            [
                [
                    self._strictly(score, found.get((draw, index), ()), names, orders[draw, index])
                    for index in range(last + 1)
                ]
                for draw in self.draws
            ]
        )

    def by_query(self, score: str, label: str, beside: str | None = None) -> Floats | None:
        """A score of a label on the model itself by draw and query: [draw query].

        Realisations and orders of a draw are averaged; NaN where one has none. None where the score
        is not one of each query, draws were asked different ones, or an order is missing.
        """
        if score in SCORES and SCORES[score].per_draw:
            return None
        names, found = _names(label, beside), dict[int, list[Floats]]()
        asked = {part.queries for part in self.parts if part.network == TRAINED}
        for part, measured in self.series.get(label, ()):
            if part.network == TRAINED and score in measured:
                each = self.per_query(score, part, measured[score], *names)
                found.setdefault(part.draw, []).append(each)
        lengths = {len(each) for draw in found.values() for each in draw}
        if len(lengths) != 1 or len(asked) != 1 or set(found) != set(self.draws):
            return None
        if not np.isfinite(self.per_draw(score, label, beside)).all():
            return None
        return np.stack([np.mean(found[draw], 0) for draw in self.draws])

    def per_network(self, score: str, label: str, control: str) -> Floats:
        """A score of a label in each network of a control: [network], NaN where one failed."""
        budget = Subject.parse(label).settings.get("budget", "")
        parts = [part for part in self.parts if part.network == control]
        networks = sorted({part.index for part in parts})
        there = Counter(part.index for part in parts if part.budget == budget)
        units = self.units(label) if label in self.series else []
        found = {unit[0][0].index: unit for unit in units}
        return np.array(
            [
                self._strictly(score, found.get(index, ()), (label,), there[index])
                for index in networks
            ]
        )

    def _strictly(
        self,
        score: str,
        unit: Sequence[tuple[Part, ScoreArrays]],
        labels: Sequence[str],
        expected: int,
    ) -> float:
        """The mean over so many parts; NaN where one is missing or undefined."""
        if len(unit) < expected:
            return float("nan")
        values = [self._of_part(score, part, measured, labels) for part, measured in unit]
        return float(np.mean(values)) if values else float("nan")

    def aggregate(
        self, score: str, unit: Sequence[tuple[Part, ScoreArrays]], *labels: str
    ) -> float:
        """A score over queries and the layers of these labels, mean over the parts of one unit."""
        return nanmean([self._of_part(score, part, measured, labels) for part, measured in unit])

    def _of_part(
        self, score: str, part: Part, measured: ScoreArrays, labels: Sequence[str]
    ) -> float:
        entry = SCORES[score] if score in SCORES else Score(score)
        if entry.fact is not None:
            return statistic_of(
                entry, self._shared_facts(entry.fact, part, measured, labels), part.gold
            )
        if score not in measured:
            return float("nan")
        return nanmean(self.per_query(score, part, measured[score], *labels))

    def _shared_facts(
        self, fact: str, part: Part, measured: ScoreArrays, labels: Sequence[str]
    ) -> ScoreArrays:
        """Facts with NaN at the queries at which others of the labels' families have none.

        Label scores are left as they are: what lacks one has no number at all.
        """
        if fact not in measured or fact == LABEL_SCORES:
            return measured
        facts = measured[fact]
        shared = self.common_layers.query_mask(fact, id(part), len(facts), *labels)
        return {**measured, fact: np.where(shared[:, None], facts, np.float32(np.nan))}

    def per_query(self, score: str, part: Part, value: NDArray[np.float32], *labels: str) -> Floats:
        """A score of each query of a part, averaged over the layers that these labels share.

        [query]; NaN where they share none.
        """
        array = value.astype(np.float64)
        if array.ndim == 1:
            shared = self.common_layers.query_mask(score, id(part), len(array), *labels)
            return np.where(shared, array, np.nan)
        shared = self.common_layers.queries(score, part, array.shape, *labels)
        array = np.where(shared, array, np.nan)
        return nanmean(array[:, self.common_layers.of(score, *labels)], 1)

    def by_place(self, score: str, unit: Sequence[tuple[Part, ScoreArrays]], level: str) -> Floats:
        """A score of each layer, or each layer and head, over the queries of one unit."""
        name = f"{score}/head" if level == "head" else score
        having = [measured[name].astype(np.float64) for _, measured in unit if name in measured]
        return nanmean(np.stack([nanmean(array, 0) for array in having]), 0)

    def by_draw(self, score: str, label: str, level: str) -> Floats:
        """`by_place` of each draw of the model, realisations of a draw averaged.

        NaN in a draw in which the label has none.
        """
        name = f"{score}/head" if level == "head" else score
        found: dict[int, list[Floats]] = {}
        for unit in self.units(label):
            if any(name in measured for _, measured in unit):
                found.setdefault(unit[0][0].draw, []).append(self.by_place(score, unit, level))
        means = {draw: np.mean(each, 0) for draw, each in found.items()}
        none = np.full_like(next(iter(means.values())), np.nan)
        return np.stack([means.get(draw, none) for draw in self.draws])


def statistic_of(score: Score, measured: ScoreArrays, gold: NDArray[np.int64]) -> float:
    """A score that follows from per-query facts; NaN where they are missing or not finite."""
    if score.fact is None or score.statistic is None or score.fact not in measured:
        return float("nan")
    facts = measured[score.fact].astype(np.float64)
    function = resolve(score.statistic)
    defined = np.isfinite(facts).all(-1)
    if not defined.any():
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        if score.fact == LABEL_SCORES:
            # What diverged answers nothing: a number from the queries that are left would flatter.
            return float(function(facts, gold)) if defined.all() else float("nan")
        return float(function(facts[defined].mean(0)))


def _names(label: str, beside: str | None) -> tuple[str, ...]:
    return (label,) if beside is None else (label, beside)


def parts_of(
    values: Mapping[str, Mapping[str, Any]], gold: NDArray[np.int64], failures: Mapping[str, str]
) -> tuple[Part, ...]:
    """Parts of one draw from arrays by label and score, each label with its network's."""
    found: dict[str, tuple[dict[str, Any], dict[str, str]]] = {TRAINED: ({}, {})}
    for label in dict.fromkeys((*values, *failures)):
        subject = Subject.parse(label)
        state = subject.model_state
        own = str(subject if state == TRAINED else subject.bare)
        there = found.setdefault(state, ({}, {}))
        if label in values:
            there[0][own] = {k: np.asarray(v, np.float32) for k, v in values[label].items()}
        if label in failures:
            there[1][own] = failures[label]
    return tuple(
        Part(values=own, gold=gold, network=network, failures=why)
        for network, (own, why) in found.items()
    )
