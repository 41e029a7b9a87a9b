"""What effects are called, and those of one draw of demonstrations. NumPy alone, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
ICL, ZS, BLIND = "ICL", "ZS", "blind"
SUFFICIENCY, NECESSITY, VISIBILITY, DIRECT = "sufficiency", "necessity", "visibility", "direct"
KEPT, SUBSTITUTION = "kept", "substitution"
ESTIMATED = {
    SUFFICIENCY: "sufficiency_attribution",
    NECESSITY: "necessity_attribution",
    KEPT: "kept_attribution",
}
"""What attribution estimates, by what is measured exactly."""
MEANINGS: Mapping[str, str] = {
    SUFFICIENCY: "gain of the label margin where ICL's output of the head is put into ZS",
    NECESSITY: "loss of the label margin where ZS's output of the head is put into ICL",
    VISIBILITY: "gain of the label margin where this head alone sees the demonstrations",
    DIRECT: "what ICL's change of the head's output adds to the margin on the straight way to the "
    "logits",
    KEPT: "what of the head's necessary effect is kept where the hypothesis's output is put into "
    "ICL, in nats",
    SUBSTITUTION: "the same as a share of the head's necessity: 1 does ICL's work, 0 does nothing",
    ESTIMATED[SUFFICIENCY]: "sufficiency to first order, from one pass back",
    ESTIMATED[NECESSITY]: "necessity to first order, from one pass back",
    ESTIMATED[KEPT]: "what is kept, to first order, from one pass back",
}


@dataclass(frozen=True, eq=False)
class DrawEffects:
    """Effects of one draw.

    Attributes:
        heads: By label ("ICL", or a hypothesis or control) and effect, [query layer head], in nats
            of label margin; NaN where undefined or not measured.
        margins: Label margin [query] by label; "blind" is ICL with no demonstration in sight.
        curves: Label margins [query size] by label, with the first heads of the ranking replaced.
        sizes: How many heads those are.
        curve_queries: Queries of the curves; the others ranked the heads.
        failures: Why something is undefined altogether.
    """

    heads: Mapping[str, Mapping[str, Array]]
    margins: Mapping[str, Array]
    curves: Mapping[str, Array]
    sizes: tuple[int, ...]
    curve_queries: tuple[int, ...]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
