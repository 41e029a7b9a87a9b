"""An update whose best budget is no better has not learned; what speaks against it is said."""

from __future__ import annotations

import numpy as np
import pytest

from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Part
from iclgd_lens.scores import LABEL_SCORES

GOLD = np.arange(32) % 2
RULES = {"gd": {"kind": "explanation", "budget": {"settings": {"lr": 0.1}, "improves": False}}}


def answers(knows: float, seed: int) -> dict[str, np.ndarray]:
    scores = np.random.default_rng(seed).normal(size=(len(GOLD), 2))
    scores[np.arange(len(GOLD)), GOLD] += knows
    return {LABEL_SCORES: scores.astype(np.float32)}


@pytest.mark.parametrize("knows", [0.0, 4.0])
def test_what_the_queries_say_otherwise_is_told(knows: float) -> None:
    parts = [
        Part(
            {"ZS": answers(0.0, 99), "ICL": answers(4.0, draw), "gd": answers(knows, 9 + draw)},
            GOLD,
            draw,
            facts={"rules": RULES},
        )
        for draw in range(5)
    ]
    told = Comparison(tuple(parts), {}).conclusions.has_not_learned("gd")
    assert told is not None
    assert told.startswith("gd has not learned: on left-out demonstrations")
    assert "in 0 of 5 draws" in told
    assert ("Yet it classifies the queries better than ZS (AUC" in told) == bool(knows)
