"""Over which layers and queries a score is averaged: those that a family has in common.

What is compared is compared on the same places. A *family* is a hypothesis with everything that it
has to beat: its own controls, and the controls that belong to no hypothesis.

1. In one draw, on one network, a query counts in a layer where each of the family that was measured
   there has the score.
2. A layer counts where, in every draw and network, at least half of the queries are left that any
   of the family has there.
3. A mean of any of them is over these. Layers that are left out are told (`left_out`).

A score that is one number per query (or follows from such facts) counts at the queries at which
each of the family that was measured there has it, and nowhere where those are less than half.

A score for which each subject has queries of its own (`Score.own_queries`) is no comparison, and is
read wherever a subject has it. Other hypotheses take nothing away, so that a number does not depend
on what else was measured; a difference of two hypotheses is over the places of both families.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.scores import FACTS, SCORES
from iclgd_lens.subjects import Subject

Mask = NDArray[np.bool_]
ScoreArrays = Mapping[str, NDArray[np.float32]]
LEAST_SHARE = 0.5
"""All of a family must have a layer at this share of the queries at which any of it has it."""


@dataclass(frozen=True, eq=False)
class CommonLayers:
    """Layers and queries by score and label.

    Attributes:
        subjects: What was measured, by label.
        series: Of each label the parts (a network and draw) in which it was measured, and what.
    """

    subjects: Mapping[str, Subject]
    series: Mapping[str, Sequence[tuple[object, ScoreArrays]]]
    _known: dict[Any, Mask | None] = field(default_factory=dict[Any, "Mask | None"])
    """What was asked for once: reading a run asks for the same masks hundreds of times."""

    def of(self, score: str, *labels: str) -> list[int]:
        """Layers over which a score of these labels is averaged when they stand side by side.

        Empty where their families have none in common, or no score of layers.
        """
        masks = [mask for label in labels if (mask := self._layers(score, label)) is not None]
        return np.flatnonzero(np.logical_and.reduce(masks)).tolist() if masks else []

    def queries(self, score: str, part: object, shape: tuple[int, ...], *labels: str) -> Mask:
        """Which queries count in which layers of one part, [query layer]."""
        found = np.ones(shape, bool)
        for label in labels:
            mask = self._queries(score, part, self._family(score, label))
            if mask is not None and mask.shape == shape:
                found &= mask
        return found

    def query_mask(self, name: str, part: int, size: int, *labels: str) -> Mask:
        """Which queries count in one part, of a score of each query, or of facts: [query].

        None of them where less than half are left of those that any of a family has. `part` is the
        part's `id`.
        """
        found = np.ones(size, bool)
        for label in labels:
            there = self._flat.get(name, {}).get(part, {})
            masks = [there[each] for each in self._family(name, label) if each in there]
            if masks:
                every, some = np.logical_and.reduce(masks), np.logical_or.reduce(masks)
                found &= every & (every.sum() >= LEAST_SHARE * some.sum())
        return found

    def left_out(self, score: str, hypothesis: str) -> list[int]:
        """Layers that the means of a hypothesis and its controls leave out.

        Layers in which nothing at all has the score are left out for all, and not told.
        """
        mask = self._layers(score, hypothesis)
        if mask is None:
            return []
        present = np.logical_or.reduce(list(self._anywhere[score].values()))
        return np.flatnonzero(present & ~mask).tolist()

    def unread(self, score: str, hypothesis: str) -> float:
        """Share of the queries and layers in which a hypothesis has the score that are left out."""
        own = read = 0
        layers = self.of(score, hypothesis)
        for part, exists in self._exists.get(score, {}).get(hypothesis, []):
            counted = exists & self.queries(score, part, exists.shape, hypothesis)
            own, read = own + int(exists.sum()), read + int(counted[:, layers].sum())
        name = (SCORES[score].fact if score in SCORES else None) or score
        for part, there in self._flat.get(name, {}).items():
            if (exists := there.get(hypothesis)) is not None:
                counted = exists & self.query_mask(name, part, len(exists), hypothesis)
                own, read = own + int(exists.sum()), read + int(counted.sum())
        return 1 - read / own if own else 0.0

    def partial(self) -> Iterator[tuple[str, str, int, str]]:
        """Yield hypothesis, score, layer and label: what keeps a layer out of whose means.

        Where each of a family has a layer somewhere, but not for the same queries, it is the one
        with the fewest.
        """
        for score, anywhere in self._anywhere.items():
            for hypothesis, subject in self.subjects.items():
                if not subject.is_hypothesis or hypothesis not in anywhere:
                    continue
                having = [each for each in self._family(score, hypothesis) if each in anywhere]
                for layer in self.left_out(score, hypothesis):
                    shares = {label: self._least(score, label, layer) for label in having}
                    lacking = [label for label, share in shares.items() if share == 0]
                    for label in lacking or [min(shares, key=lambda each: shares[each])]:
                        yield hypothesis, score, layer, label

    # -- families --------------------------------------------------------------------------------

    @cached_property
    def _owners(self) -> dict[str, str | None]:
        """The hypothesis that each label belongs to; None of settings and controls by themselves.

        A network's own budget is a setting of its label, and not of the hypothesis.
        """
        found: dict[str, str | None] = {}
        hypotheses = {label for label, each in self.subjects.items() if each.is_hypothesis}
        for label, subject in self.subjects.items():
            names = (str(subject.bare), str(subject.hypothesis))
            found[label] = next((name for name in names if name in hypotheses), None)
        return found

    @cached_property
    def _families(self) -> dict[str, tuple[str, ...]]:
        """The labels of each hypothesis's family."""
        found: dict[str, tuple[str, ...]] = {}
        for hypothesis, own in self.subjects.items():
            if own.is_hypothesis:
                found[hypothesis] = tuple(
                    label for label, subject in self.subjects.items()
                    if (self._owners[label] == hypothesis or subject.stands_alone)
                    and (label == hypothesis or subject.is_rival)
                )  # fmt: skip
        return found

    def _family(self, score: str, label: str) -> tuple[str, ...]:
        owner = self._owners.get(label)
        if owner is None or (score in SCORES and SCORES[score].own_queries):
            return (label,)
        family = self._families[owner]
        return family if label in family else (*family, label)

    # -- where scores exist ----------------------------------------------------------------------

    @cached_property
    def _exists(self) -> dict[str, dict[str, list[tuple[object, Mask]]]]:
        """By score and label: each part's queries and layers that have it.

        What failed altogether in a part exists nowhere there and takes nothing away.
        """
        found: dict[str, dict[str, list[tuple[object, Mask]]]] = {}
        for label, parts in self.series.items():
            for part, measured in parts:
                for name, value in measured.items():
                    if name not in FACTS and value.ndim == 2:
                        exists = np.isfinite(value)
                        if exists.any():
                            found.setdefault(name, {}).setdefault(label, []).append((part, exists))
        return found

    @cached_property
    def _anywhere(self) -> dict[str, dict[str, Mask]]:
        """By score and label: the layers in which some query of some part has it."""
        return {
            score: {
                label: np.logical_or.reduce([exists.any(0) for _, exists in parts])
                for label, parts in by_label.items()
            }
            for score, by_label in self._exists.items()
        }

    @cached_property
    def _by_part(self) -> dict[str, dict[int, dict[str, Mask]]]:
        found: dict[str, dict[int, dict[str, Mask]]] = {}
        for score, by_label in self._exists.items():
            for label, parts in by_label.items():
                for part, exists in parts:
                    found.setdefault(score, {}).setdefault(id(part), {})[label] = exists
        return found

    @cached_property
    def _flat(self) -> dict[str, dict[int, dict[str, Mask]]]:
        """By score or fact of each query, part and label: the queries that have it."""
        found: dict[str, dict[int, dict[str, Mask]]] = {}
        for label, parts in self.series.items():
            for part, measured in parts:
                for name, value in measured.items():
                    if value.ndim == 1 or name in FACTS:
                        exists = np.isfinite(value.reshape(len(value), -1)).all(1)
                        if exists.any():
                            by_part = found.setdefault(name, {}).setdefault(id(part), {})
                            by_part[label] = np.asarray(exists)
        return found

    def _queries(self, score: str, part: object, family: tuple[str, ...]) -> Mask | None:
        key = (score, id(part), family)
        if key not in self._known:
            masks = self._masks(score, part, family)
            self._known[key] = np.logical_and.reduce(masks) if masks else None
        return self._known[key]

    def _masks(self, score: str, part: object, family: tuple[str, ...]) -> list[Mask]:
        there = self._by_part.get(score, {}).get(id(part), {})
        return [there[label] for label in family if label in there]

    def _layers(self, score: str, label: str) -> Mask | None:
        family = self._family(score, label)
        if (score, family) not in self._known:
            self._known[score, family] = self._shared(score, family)
        return self._known[score, family]

    def _shared(self, score: str, family: tuple[str, ...]) -> Mask | None:
        parts = {
            id(part): part
            for each in family for part, _ in self._exists.get(score, {}).get(each, [])
        }  # fmt: skip
        found: list[Mask] = []
        for part in parts.values():
            masks = self._masks(score, part, family)
            every = np.logical_and.reduce(masks).sum(0)
            some = np.logical_or.reduce(masks).sum(0)
            found.append((every > 0) & (every >= LEAST_SHARE * some))
        return np.asarray(np.logical_and.reduce(found)) if found else None

    def _least(self, score: str, label: str, layer: int) -> float:
        return min(float(exists[:, layer].mean()) for _, exists in self._exists[score][label])
