"""What an update does to the answers: does the changed model classify better, is it nearer to ICL?

A cosine of changes in attention says neither. Both are asked of label scores alone, over draws and
queries at once, as the gate is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from iclgd_lens.phrases import number, plain
from iclgd_lens.verdicts.classification import (
    DECIDES,
    aligned,
    judged,
    kl_from,
    query_weights,
    resampled,
)
from iclgd_lens.verdicts.draws_and_queries import Compared, crossed

UNCHANGED = 1e-4
"""Nats by which label scores may differ where an update is said to do nothing."""
NEARER = 0.05
"""Share of ZS's KL to ICL whose removal counts as coming nearer."""
_ICL, _ZS = "ICL", "ZS"
Answer = Literal["yes", "no", "undecided"]


@dataclass(frozen=True)
class Behaviour:
    """What a changed model answers, beside ZS and ICL.

    Attributes:
        hypothesis: Its label.
        auc: AUC in ZS, in ICL and of the changed model, by name.
        auc_change: AUC of the changed model minus that of ZS.
        kl_change: KL of ZS from ICL minus that of the changed model, in nats: positive is nearer.
        removed: The same as a share of ZS's, the mean over draws of each one's: 1 is ICL's own
            distribution. The score KL_removed.
        unchanged: Whether its label scores are those of ZS.
    """

    hypothesis: str
    auc: Mapping[str, float]
    auc_change: Compared
    kl_change: Compared
    removed: Compared
    unchanged: bool

    @property
    def kl_removed(self) -> float:
        """The share of ZS's KL to ICL that is removed."""
        return self.removed.value

    @property
    def classifies_better(self) -> Answer:
        """Whether it classifies better than ZS; "no" if it is unchanged, or shown to be worse."""
        if self.unchanged or self.auc_change.below:
            return "no"
        return "yes" if self.auc_change.above else "undecided"

    @property
    def comes_nearer(self) -> Answer:
        """Whether it comes nearer to ICL; "no" where it moves away, or by next to nothing."""
        if self.unchanged or not self.kl_change.above:
            return "no" if self.unchanged or self.kl_change.below else "undecided"
        if self.kl_removed >= NEARER:
            return "yes"
        return "no" if self.removed.high < NEARER else "undecided"

    @property
    def sentence(self) -> str:
        """Both answers, with their numbers."""
        name = self.hypothesis
        if self.unchanged:
            return f"{name} changes nothing: its answers are those of ZS."
        if not np.isfinite(self.auc_change.value):
            return f"What {name} does to the answers is undefined: label scores are not finite."
        better = {
            "yes": "classifies better than ZS",
            "no": "classifies worse than ZS",
            "undecided": "is not shown to classify better than ZS",
        }[self.classifies_better]
        nearer = {
            "yes": "comes nearer to ICL",
            "no": "moves away from ICL" if self.kl_change.below else "comes no nearer to ICL",
            "undecided": "is not shown to come nearer to ICL",
        }[self.comes_nearer]
        return (
            f"{name} {better} (AUC {number(self.auc[name])}, ZS {number(self.auc[_ZS])}, ICL "
            f"{number(self.auc[_ICL])}; difference from ZS {self.auc_change}) and {nearer} (share "
            f"of ZS's KL to ICL removed {number(self.kl_removed)}; in nats {self.kl_change}), "
            f"intervals over {self.auc_change.over}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "hypothesis": self.hypothesis,
            "classifies_better": self.classifies_better,
            "comes_nearer": self.comes_nearer,
            "sentence": self.sentence,
            "auc": {name: plain(value) for name, value in self.auc.items()},
            "auc_change": self.auc_change.as_dict(),
            "kl_change": self.kl_change.as_dict(),
            "kl_removed": plain(self.kl_removed),
            "unchanged": self.unchanged,
        }


def behaves(
    hypothesis: str,
    changed: ArrayLike,
    zs: ArrayLike,
    icl: ArrayLike,
    gold: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> Behaviour:
    """Say whether a changed model classifies better than ZS, and whether it comes nearer to ICL.

    Args:
        hypothesis: Its label, for the sentence.
        changed: Its label scores, [query label] or [draw query label], in nats.
        zs: Those of ZS.
        icl: Those of ICL.
        gold: Label ids, [query] or [draw query].
        confidence: Coverage of the intervals.
        resamples: Bootstrap resamples of the queries.
        seed: Of the bootstrap.

    Raises:
        LensError: Shapes do not fit.
    """
    (ft, base, target), golds = aligned([changed, zs, icl], gold)
    weights = query_weights(golds.shape[1], resamples, seed)
    settings = {_ZS: base, _ICL: target, hypothesis: ft}
    areas = {name: resampled(DECIDES, each, golds, weights) for name, each in settings.items()}
    both = kl_from(target, base), kl_from(target, ft)  # [draw query], orders averaged
    away, left = (each.mean(1) if each.ndim == 3 else each for each in both)
    means = (weights / weights.sum(1, keepdims=True)).T
    far, rest = away @ means, left @ means  # [draw, 1 + resample]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = 1 - rest / far
    how = {"step": 0.0, "confidence": confidence, "freedom": float(golds.shape[1] - 1)}
    return Behaviour(
        hypothesis,
        {name: float(area[:, 0].mean()) for name, area in areas.items()},
        judged(DECIDES, areas[hypothesis] - areas[_ZS], golds, confidence=confidence),
        crossed((far - rest)[:, 0], (far - rest)[:, 1:], **how),
        crossed(share[:, 0], share[:, 1:], **how),
        bool(np.isfinite(ft).all() and np.abs(ft - base).max(initial=0.0) <= UNCHANGED),
    )
