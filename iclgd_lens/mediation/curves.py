"""Sets of heads: how much of in-context learning the first k heads of a ranking carry.

ZS, with the outputs of the first k heads at the readout token replaced by those of in-context
learning (or of an update):

    f(k) = (m_k - m_ZS) / (m_ICL - m_ZS)

a ratio of means over queries, 0 without heads. With all heads the readout token has everything that
in-context learning's has but its position: f is 1 on models with rotary positions. The ranking is
by signed necessity, largest first, found on other queries than those that the curve is measured on.
Two numbers sum a curve up: its area over the share of heads, which a few heads that carry much make
large, and the area between it and 1, which a curve that overshoots makes large, too. (Mueller et
al. 2025, MIB: CPR and CMD.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness against the number of heads.

    Attributes:
        label: Whose outputs are put in: "ICL", or a hypothesis.
        heads: How many heads.
        value: Faithfulness, NaN where in-context learning changes nothing.
    """

    label: str
    heads: tuple[int, ...]
    value: Floats

    @property
    def area(self) -> float:
        """Mean of the curve over the share of heads."""
        return _area(self.heads, self.value)

    @property
    def gap(self) -> float:
        """Mean distance of the curve from 1 over the share of heads."""
        return _area(self.heads, np.abs(1 - self.value))


def _area(heads: Sequence[int], value: Floats) -> float:
    share = np.asarray(heads, np.float64) / max(heads)
    return float((np.diff(share) * (value[1:] + value[:-1]) / 2).sum())


def set_sizes(count: int) -> tuple[int, ...]:
    """How many heads the sets of a curve have: 0, 1, 2, 3, 4, 6, 8, 12, ... and all."""
    found = {0, 1, 2, 3, count}
    size = 4
    while size < count:
        found |= {size, min(count, size * 3 // 2)}
        size *= 2
    return tuple(sorted(size for size in found if size <= count))


def ranking_of(effects: Floats) -> list[int]:
    """Flat indices of heads by their effect, largest first; undefined ones last."""
    flat = np.where(np.isfinite(effects), effects, -np.inf).ravel()
    return np.argsort(-flat, kind="stable").tolist()
