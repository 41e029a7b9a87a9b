"""What an update does to the answers: known cases, and noise that must not pass."""

from __future__ import annotations

import json

import numpy as np
import pytest

from iclgd_lens.verdicts.behaviour import behaves
from iclgd_lens.verdicts.classification import auc, kl_from
from tests.verdicts.test_classification import answers, never_learned
from tests.verdicts.test_gate import GOLD, settings


def test_an_update_that_does_what_icl_does() -> None:
    zs, icl, _ = settings(0.3, 3.0, 0.0)
    near = icl + 0.1 * np.random.default_rng(2).normal(size=icl.shape)
    found = behaves("gd", near, zs, icl, GOLD, resamples=200)
    assert (found.classifies_better, found.comes_nearer) == ("yes", "yes")
    away, left = kl_from(icl, np.broadcast_to(zs, icl.shape)), kl_from(icl, near)
    assert found.kl_removed == pytest.approx(np.mean(1 - left.sum(1) / away.sum(1)))
    assert found.kl_change.value == pytest.approx((away - left).mean())
    assert found.sentence.startswith("gd classifies better than ZS (AUC ")
    assert "comes nearer to ICL" in found.sentence


def test_better_and_nearer_are_two_things() -> None:
    zs, icl, _ = settings(0.0, 0.0, 0.0)
    solved = 6 * np.eye(2)[GOLD] + 0 * icl
    found = behaves("oracle of labels", solved, zs, icl, GOLD, resamples=200)
    assert found.classifies_better == "yes"
    assert found.comes_nearer == "no"
    assert "moves away from ICL" in found.sentence


def test_an_update_that_does_nothing_is_said_to() -> None:
    zs, icl, _ = settings(0.3, 3.0, 0.0)
    found = behaves("gd", zs + 1e-6, zs, icl, GOLD)
    assert found.unchanged
    assert (found.classifies_better, found.comes_nearer) == ("no", "no")
    assert found.sentence == "gd changes nothing: its answers are those of ZS."


def test_a_step_too_small_to_matter_comes_no_nearer() -> None:
    # Always a little in the right direction: sure, and next to nothing.
    zs, icl, _ = settings(0.3, 3.0, 0.0)
    found = behaves("gd", zs + 0.005 * (icl - zs), zs, icl, GOLD)
    assert not found.unchanged
    assert found.kl_change.above
    assert found.comes_nearer == "no"
    assert "comes no nearer" in found.sentence


def test_noise_is_not_called_better_or_nearer() -> None:
    better = nearer = 0
    for seed in range(100):
        zs, icl, gold = never_learned(seed)
        noise = np.random.default_rng([seed, 1]).normal(size=icl.shape[1:])
        changed = np.broadcast_to(noise, icl.shape)
        found = behaves("noise", changed, zs, icl, gold, resamples=40)
        better += found.classifies_better == "yes"
        nearer += found.comes_nearer == "yes"
    assert better / 100 <= 0.05
    assert nearer / 100 <= 0.05


def test_an_update_that_diverged_is_undefined() -> None:
    zs, icl, _ = settings(0.3, 3.0, 0.0)
    changed = icl.copy()
    changed[0, 0, 0] = np.inf
    found = behaves("gd", changed, zs, icl, GOLD)
    assert (found.classifies_better, found.comes_nearer) == ("undecided", "undecided")
    assert "undefined" in found.sentence
    json.dumps(found.as_dict(), allow_nan=False)


def test_what_is_shown_is_what_is_measured() -> None:
    zs, gold = answers(30, 3, seed=1)
    icl, _ = answers(30, 3, help_=3, seed=2)
    found = behaves("lcgd", icl, zs, icl, gold)
    assert found.auc == pytest.approx(
        {"ZS": auc(zs, gold), "ICL": auc(icl, gold), "lcgd": auc(icl, gold)}
    )
    assert found.kl_removed == pytest.approx(1.0)
    assert "queries of one draw" in found.sentence
