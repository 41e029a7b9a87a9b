"""Bayesian optimisation on a function with a known minimum, and on left-out demonstrations."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from iclgd_lens.errors import DivergedError, HypothesisError
from iclgd_lens.hypotheses.bayes_lcgd import LeftOut, bayes_lcgd, minimise, settings_of, space
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.lcgd_regularized import lcgd_regularized
from iclgd_lens.training.folds import folds_in_turn
from iclgd_lens.training.label_losses import label_losses
from tests import checks

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
POINT = {"lr": math.log10(0.02), "first": 2, "last": 1, "rank": 1, "loss_on": "label", "epochs": 2}


def branin(point: Mapping[str, Any]) -> float:
    x, y = point["x"], point["y"]
    inner = y - 5.1 / (4 * math.pi**2) * x**2 + 5 / math.pi * x - 6
    return inner**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


def search(trials: int, seed: int = 0) -> tuple[dict[str, Any], list[float]]:
    pytest.importorskip("optuna")
    ranges = {"x": (-5.0, 10.0), "y": (0.0, 15.0)}
    return minimise(branin, ranges, {"x": 0.0, "y": 0.0}, trials, seed)


@pytest.mark.slow
def test_branins_minimum_is_found_in_forty_trials() -> None:
    best, trace = search(40)
    assert trace[-1] == pytest.approx(0.3979, abs=0.05)
    assert trace[-1] == branin(best)
    assert trace == sorted(trace, reverse=True)
    assert trace[0] == branin({"x": 0.0, "y": 0.0})


def test_one_seed_gives_one_trace() -> None:
    assert search(7) == search(7)
    assert search(7)[1] != search(7, seed=1)[1]


def test_a_domain_of_one_point_and_equal_values_leave_the_first() -> None:
    pytest.importorskip("optuna")
    only = {"x": [3], "n": (2, 2), "y": (1.5, 1.5)}
    best, trace = minimise(lambda point: 1.0, only, {"x": 3, "n": 2, "y": 1.5}, 3, 0)
    assert best == {"x": 3, "n": 2, "y": 1.5}
    assert trace == [1.0] * 3


def test_points_that_diverge_are_passed_over() -> None:
    pytest.importorskip("optuna")
    best, trace = minimise(
        lambda p: math.inf if p["x"] > 0.5 else p["x"], {"x": (0.0, 1.0)}, {"x": 0.9}, 8, 0
    )
    assert best["x"] < 0.5
    assert trace[0] == math.inf
    assert math.isfinite(trace[-1])


@BY_KIND
def test_the_objective_is_the_loss_of_left_out_demonstrations(kind: str) -> None:
    host, shown = checks.host(kind, "llama"), checks.episode(shots=5).demonstrations

    def build(rest: Any, **settings: Any) -> Any:
        return lcgd_regularized(host, rest, **settings)

    settings = {"lr": 0.02, "layers": [1, 2], "rank": 1, "loss_on": "label", "epochs": 2}
    asked = settings_of(host, POINT)
    assert asked.pop("lr") == pytest.approx(settings.pop("lr"))
    assert asked == settings
    losses: list[float] = []
    for rest, left_out in folds_in_turn("x", shown, 2):
        delta = lcgd_regularized(
            host, rest, lr=0.02, layers=[1, 2], rank=1, loss_on="label", epochs=2
        )
        losses += label_losses(host, left_out, delta).tolist()
    expected = sum(losses) / len(losses)
    assert LeftOut(host, shown, build, 2)(POINT) == pytest.approx(expected, rel=1e-5)

    def diverging(rest: Any, **settings: Any) -> Any:
        raise DivergedError("no")

    assert LeftOut(host, shown, diverging, 2)(POINT) == math.inf


@BY_KIND
def test_what_is_chosen_is_trained_on_all_demonstrations(kind: str) -> None:
    pytest.importorskip("optuna")
    host, episode = checks.host(kind, "llama"), checks.episode(shots=5)
    found = bayes_lcgd(host, episode, trials=5, fold_count=2, seed=2)
    chosen, trace = found.metadata["chosen"], found.metadata["left_out_loss"]
    assert len(trace) == 5
    assert trace == sorted(trace, reverse=True)
    assert trace[-1] < trace[0], "another seed, so that something is found"
    expected = lcgd_regularized(host, episode, **chosen)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@BY_KIND
def test_where_nothing_is_better_it_is_lcgd_to_the_bit(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("optuna")
    monkeypatch.setattr(LeftOut, "__call__", lambda self, point: 1.0)
    host, episode = checks.host(kind, "llama"), checks.episode(lr=0.3)
    found, plain = bayes_lcgd(host, episode, trials=4), lcgd(host, episode)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


def test_a_matched_budget_reads_a_quarter_in_at_most_eight_trials(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("optuna")
    asked: list[int] = []

    def count(self: LeftOut, point: Any) -> float:
        asked.append(sum(len(left_out) for _, left_out in self.pairs))
        return 1.0

    monkeypatch.setattr(LeftOut, "__call__", count)
    episode = checks.episode(shots=12)
    bayes_lcgd(checks.host(checks.kinds()[0], "gpt2"), episode, trials=20, budget="matched")
    assert asked == [3] * 8


def test_the_rate_is_searched_around_the_one_given() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    assert space(host, 1e-3)["lr"] == pytest.approx((-4.0, 0.5))
    assert space(host, 1.0)["lr"] == pytest.approx((-4.0, 0.5))
    assert space(host, 10.0)["lr"] == pytest.approx((-4.0, 1.0))
    assert space(host, 1.0)["epochs"] == [1, 2, 4]
    assert space(host, 1.0, 8)["epochs"] == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trials": 0}, r"trials is 0; it must be at least 1\. The nearest is 1\."),
        ({"budget": "match"}, r"allowed: full, matched\. Did you mean 'matched'\?"),
        ({"epochs": 0}, r"epochs is 0; it must be at least 1\. The nearest is 1\."),
        ({"fold_count": 1}, "2 folds, not 4 and 1"),
        ({"weights": "W_KK"}, "no trainable weight 'W_KK'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HypothesisError, match=message):
        bayes_lcgd(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(HypothesisError, match=r"needs optuna, .* 'iclgd_lens\[search\]'"):
        bayes_lcgd(host, checks.episode(), trials=2)
    bayes_lcgd(host, dataclasses.replace(checks.episode(), provenance={}), trials=1)
