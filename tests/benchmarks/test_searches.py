"""Searches are judged by what they have not seen."""

from __future__ import annotations

import pytest

import iclgd_lens as lens
from benchmarks.searches import asked, summary, tried
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.training.label_losses import label_losses
from tests import checks


def test_a_search_is_judged_by_the_queries() -> None:
    host, episode = checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=4, queries=4)
    search = {"grid": (0.01, 0.1), "epochs": (1,), "losses": ("label",), "folds": 1}
    other = {**search, "grid": (0.1, 0.3)}
    lines = tried(host, episode, "gd", {"one": search, "other": other})
    assert [line["search"] for line in lines] == ["one", "other"]
    for line in lines:
        delta = gd(host, episode, lr=line["lr"], epochs=1, loss_on="label")
        losses = label_losses(host, asked(episode), delta, per="word").tolist()
        assert line["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-5)
        assert line["counted"] > 0
    zero = label_losses(host, asked(episode), lens.Intervention(), per="word").tolist()
    assert lines[0]["unchanged"] == pytest.approx(sum(zero) / len(zero), rel=1e-5)


def test_queries_are_asked_with_their_own_labels() -> None:
    episode = checks.episode(shots=4, queries=6)
    examples = asked(episode).examples
    assert [each.gold for each in examples] == [query.gold for query in episode.queries]
    assert [each.label for each in examples] == [
        episode.label_tokens[query.gold] for query in episode.queries
    ]


def test_how_much_worse_is_by_draw() -> None:
    def line(search: str, loss: float, seconds: float) -> dict[str, object]:
        return {"rule": "gd", "search": search, "unchanged": 2.0, "loss": loss, "seconds": seconds,
                "training": 1.0, "counted": 3.0}  # fmt: skip

    lines = [line("a", 0.1, 2), line("b", 0.3, 1), line("a", 0.5, 4), line("b", 0.5, 1)]
    table = summary(lines).set_index("search")
    assert table.loc["b", "worse by"] == pytest.approx(0.1)
    assert table.loc["b", "error"] == pytest.approx(0.1)
    assert table.loc["a", "in trainings"] == 3
    assert table.loc["a", "worse by"] == 0
