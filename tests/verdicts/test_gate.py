"""The gate: known cases, and noise that must not pass."""

from __future__ import annotations

import json

import numpy as np
import pytest

from iclgd_lens.verdicts.classification import auc
from iclgd_lens.verdicts.gate import Gate
from tests.verdicts.test_classification import never_learned

GOLD = np.arange(48) % 2


def settings(zs: float, icl: float, shuffled: float, draws: int = 5, seed: int = 0):
    """Label scores of ZS, ICL and ICL with shuffled labels, by how much each knows."""
    generator = np.random.default_rng(seed)

    def one(knows: float, shape: tuple[int, ...]) -> np.ndarray:
        scores = generator.normal(size=(*shape, 48, 2))
        scores[..., np.arange(48), GOLD] += knows
        return scores

    return one(zs, ()), one(icl, (draws,)), one(shuffled, (draws,))


def test_a_model_that_learns_from_labels_passes() -> None:
    zs, icl, shuffled = settings(0.3, 3.0, 0.3)
    gate = Gate.of(zs, icl, GOLD, shuffled, resamples=200)
    assert (gate.learns, gate.uses_labels, gate.uses_format) == (True, True, False)
    assert gate.reason is None
    assert gate.reason_for(labels=True) is None
    assert gate.settings["ICL"]["AUC"].value == pytest.approx(
        np.mean([auc(each, GOLD) for each in icl])
    )
    assert gate.sentence.startswith("The model learns in context: AUC ")
    assert "over 5 draws and 48 queries" in gate.sentence
    assert "It uses the labels: " in gate.sentence
    assert "format" not in gate.sentence
    assert "Raw accuracy" in gate.sentences[-1]


def test_a_model_that_learns_the_format_alone_is_told_so() -> None:
    zs, icl, shuffled = settings(0.0, 3.0, 3.0)
    gate = Gate.of(zs, icl, GOLD, shuffled, resamples=200)
    assert (gate.learns, gate.uses_labels, gate.uses_format) == (True, False, True)
    assert "not shown to use the labels" in gate.sentence
    assert "part of it is format" in gate.sentence
    assert gate.reason is None
    assert "not shown to use the labels" in str(gate.reason_for(labels=True))
    assert gate.reason_for(labels=False) is None


def test_learning_behind_a_label_bias_is_seen_and_raw_accuracy_only_shown() -> None:
    # As on a real model: accuracy falls to chance while the ranking of labels gets better.
    zs, icl, _ = settings(1.0, 3.0, 0.0)
    icl = icl + np.array([0.0, 9.0])
    gate = Gate.of(zs, icl, GOLD, resamples=200)
    assert gate.learns
    assert gate.differences["ICL", "ZS"]["accuracy"].value < -0.1
    assert gate.uses_labels is None
    assert gate.uses_format is None


def test_the_other_way_round_is_said() -> None:
    zs, icl, _ = settings(3.0, 0.0, 0.0)
    gate = Gate.of(zs, icl, GOLD, resamples=200)
    assert not gate.learns
    assert str(gate.reason).startswith("Demonstrations make the answers worse")


def test_what_zs_solves_leaves_nothing_to_learn() -> None:
    zs, icl, _ = settings(30.0, 30.0, 0.0)
    gate = Gate.of(zs, icl, GOLD, resamples=200)
    assert str(gate.reason).startswith("ZS answers these queries already")


@pytest.mark.parametrize("draws", [1, 5])
def test_never_trained_models_do_not_pass(draws: int) -> None:
    passed = 0
    for seed in range(80):
        zs, icl, gold = never_learned(seed, draws=draws)
        passed += Gate.of(zs, icl, gold, resamples=40).learns
    assert passed / 80 <= 0.05


def test_answers_that_only_get_less_sure_are_no_learning() -> None:
    # ZS is sure and wrong half of the time, ICL says nothing: the NLL falls, and that is all.
    generator = np.random.default_rng(1)
    zs = 6 * generator.normal(size=(48, 2))
    icl = 0.01 * generator.normal(size=(5, 48, 2))
    gate = Gate.of(zs, icl, GOLD, resamples=200)
    assert gate.differences["ICL", "ZS"]["calibrated_NLL"].below
    assert not gate.learns


def test_answers_that_are_not_finite_do_not_pass() -> None:
    zs, icl, _ = settings(0.0, 5.0, 0.0)
    icl[1, 3, 0] = np.nan
    gate = Gate.of(zs, icl, GOLD, resamples=50)
    assert not gate.learns
    assert gate.reason == (
        "In-context learning cannot be judged: label scores of ICL are not finite."
    )
    json.dumps(gate.as_dict(), allow_nan=False)


def test_queries_of_one_label_cannot_be_judged() -> None:
    zs, icl, _ = settings(0.0, 5.0, 0.0)
    gate = Gate.of(zs, icl, np.zeros(48, int), resamples=50)
    assert not gate.learns
    assert "of too few labels" in str(gate.reason)


def test_one_draw_is_named() -> None:
    zs, icl, _ = settings(0.0, 4.0, 0.0, draws=1)
    gate = Gate.of(zs, icl[0], GOLD, resamples=200)
    assert gate.learns
    assert "48 queries of one draw" in gate.sentence
    assert gate.as_dict()["differences"]["ICL - ZS"]["AUC"]["over"] == "queries of one draw"


def test_the_gate_as_json() -> None:
    zs, icl, shuffled = settings(0.3, 3.0, 0.3)
    found = json.loads(json.dumps(Gate.of(zs, icl, GOLD, shuffled, resamples=50).as_dict()))
    assert set(found) == {
        "learns", "uses_labels", "uses_format", "sentence", "draws", "queries", "settings",
        "differences",
    }  # fmt: skip
    assert set(found["settings"]) == {"ZS", "ICL", "ICL_shuffled"}
    assert set(found["settings"]["ICL"]) == {
        "AUC", "calibrated_accuracy", "calibrated_NLL", "accuracy"
    }  # fmt: skip
    assert found["draws"] == 5


def test_a_gain_that_is_not_shown_is_ruled_out_only_where_it_is() -> None:
    zs, icl, _ = settings(0.5, 0.5, 0.0, draws=2)
    unknown = Gate.of(zs, icl, GOLD, resamples=200)
    assert str(unknown.reason).startswith("No in-context learning is shown, nor ruled out")
    assert (unknown.learns, unknown.ruled_out) == (False, False)
    broken = Gate.of(zs, np.full_like(icl, np.nan), GOLD, resamples=50)
    assert (broken.learns, broken.ruled_out) == (False, False)
    gold = np.arange(200) % 2
    generator = np.random.default_rng(0)
    zs = generator.normal(size=(200, 2)) + 1.5 * np.eye(2)[gold]
    same = zs + 1e-3 * generator.normal(size=(9, 200, 2))
    nothing = Gate.of(zs, same, gold, resamples=200)
    assert str(nothing.reason).startswith("There is next to no in-context learning")
    assert (nothing.learns, nothing.ruled_out) == (False, True)
    worse = Gate.of(zs, same - 3 * np.eye(2)[gold], gold, resamples=200)
    assert str(worse.reason).startswith("Demonstrations make the answers worse")
    assert (worse.learns, worse.ruled_out) == (False, True)
    solved = 9 * np.eye(2)[gold]
    full = Gate.of(solved, solved + 1e-3 * generator.normal(size=(9, 200, 2)), gold, resamples=200)
    assert str(full.reason).startswith("ZS answers these queries already")
    assert (full.learns, full.ruled_out) == (False, False)


def test_a_difference_of_two_shares_is_at_most_one() -> None:
    """Student's t over two draws would give it an interval of up to three."""
    zs, icl, _ = settings(0.0, 9.0, 0.0, draws=2)
    icl[0] = zs
    found = Gate.of(zs, icl, GOLD, resamples=200).differences["ICL", "ZS"]
    for measure in ("AUC", "accuracy"):
        assert (found[measure].low, found[measure].high) == (-1, 1), measure
