"""What tables and sentences tell of the numbers beneath them."""

from __future__ import annotations

import numpy as np
import pytest

from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Part
from iclgd_lens.scores import KL_MOMENTS, LABEL_SCORES
from iclgd_lens.verdicts.classification import kl_from

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


def test_the_share_of_kl_in_words_is_that_of_the_table() -> None:
    """Draws whose KL differs much: a ratio of sums over draws would be another number."""
    parts: list[Part] = []
    for draw in range(4):
        zs, icl, gd = answers(0.0, 99), answers(1.0 + 4 * draw, draw), answers(2.0, 9 + draw)
        kl = [kl_from(icl[LABEL_SCORES], each[LABEL_SCORES]) for each in (gd, zs)]
        gd[KL_MOMENTS] = np.stack(kl, -1).astype(np.float32)
        parts.append(Part({"ZS": zs, "ICL": icl, "gd": gd}, GOLD, draw))
    found = Comparison(tuple(parts), {})
    frame = found.frame()
    (shown,) = frame[(frame["score"] == "KL_removed") & (frame["hypothesis"] == "gd")]["value"]
    (told,) = found.behaviour()
    assert told.kl_removed == pytest.approx(shown, rel=1e-5)


def test_intervals_end_where_their_scores_do() -> None:
    """Student's t over two draws would give an AUC of up to three."""
    parts = [
        Part({"ZS": answers(0.0, draw), "ICL": answers(1.5 * draw, draw)}, GOLD, draw)
        for draw in range(2)
    ]
    frame = Comparison(tuple(parts), {}).frame()
    bounded = frame[frame["score"].isin(["AUC", "accuracy"])]
    assert len(bounded) >= 2
    assert bounded["ci_low"].ge(0).all()
    assert bounded["ci_high"].le(1).all()
    assert (bounded["ci_high"] - bounded["ci_low"]).gt(0.9).any()
