"""Over which layers a score is averaged: those that a hypothesis and its controls have in common.

What is compared is compared on the same layers. A *family* is a hypothesis with everything that it
has to beat: its own controls, and the controls that belong to no hypothesis. A mean of any of them
is over the layers in which each of them has the score, in every draw and network. Other hypotheses
take no layer away, so that a number does not depend on what else was measured; a difference of two
hypotheses is over the layers of both families.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.scores import FACTS
from iclgd_lens.subjects import Subject

Mask = NDArray[np.bool_]
Measured = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class CommonLayers:
    """Layers by score and label.

    Attributes:
        subjects: What was measured, by label.
        series: What was measured of each label in each draw and network, by score.
    """

    subjects: Mapping[str, Subject]
    series: Mapping[str, Sequence[Measured]]

    def of(self, score: str, *labels: str) -> list[int]:
        """Layers over which a score of these labels is averaged when they stand side by side.

        Empty where their families have none in common, or no score of layers.
        """
        masks = [mask for label in labels if (mask := self._mask(score, label)) is not None]
        return np.flatnonzero(np.logical_and.reduce(masks)).tolist() if masks else []

    def left_out(self, score: str, hypothesis: str) -> list[int]:
        """Layers that the means of a hypothesis and its controls leave out.

        Layers in which nothing that is compared has the score are left out for all, and not told.
        """
        present = [
            mask for name, subject in self.subjects.items() if subject.is_hypothesis
            for mask in self._having(score, name).values()
        ]  # fmt: skip
        found = list(self._having(score, hypothesis).values())
        if not found:
            return []
        every = np.logical_and.reduce(found)
        return np.flatnonzero(np.logical_or.reduce(present) & ~every).tolist()

    def partial(self) -> Iterator[tuple[str, str, int, str]]:
        """Yield hypothesis, score, layer and label: what keeps a layer out of whose means."""
        for score in self._masks:
            for hypothesis, subject in self.subjects.items():
                if subject.is_hypothesis:
                    having = self._having(score, hypothesis)
                    for layer in self.left_out(score, hypothesis):
                        for label, mask in having.items():
                            if not mask[layer]:
                                yield hypothesis, score, layer, label

    @cached_property
    def _masks(self) -> dict[str, dict[str, Mask]]:
        """By score and label: where it exists for some query in every draw and network.

        What failed altogether exists in no layer and takes none away.
        """
        found: dict[str, dict[str, Mask]] = {}
        for label, parts in self.series.items():
            for measured in parts:
                for name, value in measured.items():
                    if name in FACTS or value.ndim != 2:
                        continue
                    exists = np.atleast_1d(np.isfinite(value).any(0))
                    if exists.any():
                        masks = found.setdefault(name, {})
                        masks[label] = exists & masks.get(label, exists)
        return found

    @cached_property
    def _owners(self) -> dict[str, str | None]:
        """The hypothesis that each label belongs to; None of settings and controls by themselves.

        A network's own budget is a setting of its label, and not of the hypothesis.
        """
        found: dict[str, str | None] = {}
        hypotheses = {label for label, each in self.subjects.items() if each.is_hypothesis}
        for label, subject in self.subjects.items():
            rest: dict[str, Any] = {k: v for k, v in subject.settings.items() if k != "budget"}
            names = (str(subject.bare), str(Subject(subject.rule, None, rest)))
            found[label] = next((name for name in names if name in hypotheses), None)
        return found

    @cached_property
    def _families(self) -> dict[str, list[str]]:
        """The labels of each hypothesis's family."""
        found: dict[str, list[str]] = {}
        for hypothesis, own in self.subjects.items():
            if own.is_hypothesis:
                found[hypothesis] = [
                    label for label, subject in self.subjects.items()
                    if (self._owners[label] == hypothesis or _stands_alone(subject))
                    and (label == hypothesis or _is_rival(subject))
                ]  # fmt: skip
        return found

    def _having(self, score: str, hypothesis: str) -> dict[str, Mask]:
        masks = self._masks.get(score, {})
        return {label: masks[label] for label in self._families[hypothesis] if label in masks}

    def _mask(self, score: str, label: str) -> Mask | None:
        owner = self._owners.get(label)
        found = [] if owner is None else list(self._having(score, owner).values())
        if found:
            return np.asarray(np.logical_and.reduce(found))
        return self._masks.get(score, {}).get(label)


def _is_rival(subject: Subject) -> bool:
    entry = subject.table_entry
    return entry is not None and entry.is_rival and not subject.is_setting


def _stands_alone(subject: Subject) -> bool:
    entry = subject.table_entry
    return entry is not None and entry.stands_alone
