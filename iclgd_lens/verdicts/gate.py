"""The gate: is there in-context learning at all?

Where demonstrations do not help a model, there is nothing that gradient descent could be like, and
a verdict has no object. `Gate.of` asks it free of label bias, by the AUC of label log-odds: ICL
against ZS (does it learn?), ICL against the same prompt with shuffled labels (does it use the
labels?), and that prompt against ZS (does the format help by itself?). Calibrated accuracy,
calibrated NLL and raw accuracy are shown beside and decide nothing: the NLL also falls where
answers only get less sure, and raw accuracy holds the prompt's label bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iclgd_lens.phrases import count, number
from iclgd_lens.verdicts.classification import (
    DECIDES,
    MEASURES,
    aligned,
    judged,
    query_weights,
    resampled,
)
from iclgd_lens.verdicts.draws_and_queries import Compared

SOLVED = 0.99
"""AUC of ZS from which there is nothing left to learn."""
SMALL_GAIN = 0.05
"""Gain of AUC below which demonstrations add next to nothing."""
_ICL, _ZS, _SHUFFLED = "ICL", "ZS", "ICL_shuffled"
_LEARNS, _LABELS, _FORMAT = (_ICL, _ZS), (_ICL, _SHUFFLED), (_SHUFFLED, _ZS)


@dataclass(frozen=True)
class Gate:
    """What demonstrations do to the answers of the unchanged model.

    Attributes:
        settings: Setting (ZS, ICL, ICL_shuffled) to measure to its value with interval.
        differences: (setting, baseline) to measure to the difference with interval.
        draws: Draws of demonstrations.
        queries: Queries of each.
    """

    settings: Mapping[str, Mapping[str, Compared]]
    differences: Mapping[tuple[str, str], Mapping[str, Compared]]
    draws: int
    queries: int

    @classmethod
    def of(
        cls,
        zs: ArrayLike,
        icl: ArrayLike,
        gold: ArrayLike,
        icl_shuffled: ArrayLike | None = None,
        *,
        confidence: float = 0.95,
        resamples: int = 500,
        seed: int = 0,
    ) -> Gate:
        """Ask the gate's questions of label scores.

        Args:
            zs: Label scores in ZS, in nats: [query label], or after [draw] or [draw order].
            icl: With demonstrations, the same; the last axes are equal.
            gold: Label ids, [query] or [draw query].
            icl_shuffled: With the same demonstrations under shuffled labels; None if not measured.
            confidence: Coverage of the intervals.
            resamples: Bootstrap resamples of the queries.
            seed: Of the bootstrap.

        Raises:
            LensError: Shapes do not fit.
        """
        given: dict[str, ArrayLike] = {_ZS: zs, _ICL: icl}
        if icl_shuffled is not None:
            given[_SHUFFLED] = icl_shuffled
        arrays, golds = aligned(list(given.values()), gold)
        weights = query_weights(golds.shape[1], resamples, seed)
        values = {
            (setting, measure): resampled(measure, scores, golds, weights)
            for setting, scores in zip(given, arrays, strict=True)
            for measure in MEASURES
        }

        def each(setting: str, baseline: str | None = None) -> dict[str, Compared]:
            found: dict[str, Compared] = {}
            for measure in MEASURES:
                change = values[setting, measure]
                if baseline is not None:
                    change = change - values[baseline, measure]
                found[measure] = judged(measure, change, golds, confidence=confidence)
            return found

        pairs = [pair for pair in (_LEARNS, _LABELS, _FORMAT) if set(pair) <= set(given)]
        return cls(
            {setting: each(setting) for setting in given},
            {pair: each(*pair) for pair in pairs},
            *golds.shape,
        )

    # -- answers ---------------------------------------------------------------------------------

    @property
    def learns(self) -> bool:
        """Whether ICL is shown to classify better than ZS."""
        return self.differences[_LEARNS][DECIDES].above

    @property
    def ruled_out(self) -> bool:
        """Whether ICL is shown to gain next to nothing over ZS (less than .05 AUC), or to lose.

        Where neither this nor `learns` is true it is not known; nor where ZS answers everything.
        """
        change = self.differences[_LEARNS][DECIDES]
        solved = self.settings[_ZS][DECIDES].value >= SOLVED
        return change.below or (change.high < SMALL_GAIN and not solved)

    @property
    def uses_labels(self) -> bool | None:
        """Whether ICL is shown to be above shuffled labels; None if that was not measured."""
        found = self.differences.get(_LABELS)
        return None if found is None else found[DECIDES].above

    @property
    def uses_format(self) -> bool | None:
        """Whether shuffled labels are shown to be above ZS; None if that was not measured."""
        found = self.differences.get(_FORMAT)
        return None if found is None else found[DECIDES].above

    @property
    def reason(self) -> str | None:
        """Why verdicts do not apply; None where the model learns in context."""
        return None if self.learns else self._about_learning

    def reason_for(self, *, labels: bool) -> str | None:
        """`reason` of one score; with `labels`, of one that compares right with wrong labels."""
        if self.learns and labels and self.uses_labels is False:
            return self._about_labels
        return self.reason

    @property
    def sentences(self) -> list[str]:
        """What was found, the answer to the gate's question first."""
        found = [self._about_learning]
        if _LABELS in self.differences and np.isfinite(self.differences[_LABELS][DECIDES].low):
            found.append(self._about_labels)
        if self.uses_format:
            found.append(f"Shuffled labels help too ({self._of(_FORMAT)}): part of it is format.")
        raw = {setting: measures["accuracy"].value for setting, measures in self.settings.items()}
        found.append(
            f"Raw accuracy, which holds the prompt's label bias, is {number(raw[_ZS])} in ZS and "
            f"{number(raw[_ICL])} in ICL."
        )
        return found

    @property
    def sentence(self) -> str:
        """`sentences` in one."""
        return " ".join(self.sentences)

    @property
    def _about_learning(self) -> str:
        change = self.differences[_LEARNS][DECIDES]
        if not np.isfinite(change.low):
            return f"In-context learning cannot be judged: {self._why_not()}."
        if change.above:
            return f"The model learns in context: {self._of(_LEARNS)}."
        if change.below:
            return f"Demonstrations make the answers worse: {self._of(_LEARNS)}."
        if self.settings[_ZS][DECIDES].value >= SOLVED:
            return f"ZS answers these queries already, so no gain can show: {self._of(_LEARNS)}."
        if self.ruled_out:
            return f"There is next to no in-context learning: {self._of(_LEARNS)}."
        return f"No in-context learning is shown, nor ruled out: {self._of(_LEARNS)}."

    @property
    def _about_labels(self) -> str:
        change = self.differences[_LABELS][DECIDES]
        if change.above:
            return f"It uses the labels: {self._of(_LABELS)}."
        if change.below:
            return f"It does better with shuffled labels: {self._of(_LABELS)}."
        return f"It is not shown to use the labels: {self._of(_LABELS)}."

    def _of(self, pair: tuple[str, str]) -> str:
        """Both values and their difference, with what the interval is over."""
        (setting, baseline), change = pair, self.differences[pair][DECIDES]
        values = [self.settings[name][DECIDES].value for name in pair]
        where = f"{count(self.draws, 'draw')} and {count(self.queries, 'query')}"
        over = where if self.draws > 1 else f"{count(self.queries, 'query')} of one draw"
        return (
            f"AUC {number(values[0])} in {setting} and {number(values[1])} in {baseline}, "
            f"difference {change} over {over}"
        )

    def _why_not(self) -> str:
        values = {name: found["accuracy"].value for name, found in self.settings.items()}
        lost = [name for name, value in values.items() if not np.isfinite(value)]
        if lost:
            return f"label scores of {', '.join(lost)} are not finite"
        return f"{count(self.queries, 'query')} of too few labels"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: the answers, the sentence, and every number with its interval."""
        return {
            "learns": self.learns,
            "uses_labels": self.uses_labels,
            "uses_format": self.uses_format,
            "sentence": self.sentence,
            "draws": self.draws,
            "queries": self.queries,
            "settings": {name: _plain(found) for name, found in self.settings.items()},
            "differences": {
                f"{setting} - {baseline}": _plain(found)
                for (setting, baseline), found in self.differences.items()
            },
        }


def _plain(measures: Mapping[str, Compared]) -> dict[str, Any]:
    return {name: found.as_dict() for name, found in measures.items()}
