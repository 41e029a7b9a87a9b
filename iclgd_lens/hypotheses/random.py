"""A random update: directions drawn from an isotropic Gaussian, norms matched head by head.

Would any update of this size do?

    ΔW_h = |ΔW_h(GD)| g / |g|,   g ~ N(0, 1) for each entry

Limits: its cosine with any fixed direction is 0 on average, with a spread of 1 / sqrt(dimensions).

Source: this package.
"""

from __future__ import annotations

from typing import Any

from iclgd_lens.delta import ParameterDelta, matched_random
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.hypotheses.companions import NOT_GIVEN
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.registry import hypothesis


@hypothesis(
    "random",
    description="random directions; each head's norm matched to a given delta",
    kind="control",
    only_with={
        "lr": {"like": NOT_GIVEN},
    },
)
def random(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    like: ParameterDelta | None = None,
    lr: float | None = None,
    seed: int = 0,
) -> ParameterDelta:
    """Return a delta of random direction whose norm equals `like`'s in every head of every weight.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: Used only where `like` is None: a GD delta on them is then matched.
        like: The delta whose norms are matched.
        lr: Learning rate of that GD delta.
        seed: Seed of the directions; the global random state is not touched.
    """
    matched = gd(model, demonstrations, lr=lr) if like is None else like
    return matched_random(matched, seed)
