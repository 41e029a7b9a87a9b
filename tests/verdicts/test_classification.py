"""How well label scores classify, against scikit-learn and by hand; draws and queries as chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from iclgd_lens.errors import LensError
from iclgd_lens.verdicts.classification import (
    MEASURES,
    accuracy,
    auc,
    calibrated_accuracy,
    calibrated_nll,
    compared,
    kl_from,
)

ALL = (auc, calibrated_accuracy, calibrated_nll, accuracy)


def answers(queries: int, labels: int, *, help_: float = 1.0, seed: int = 0):
    """Label scores that lean towards gold labels, and the gold labels."""
    generator = np.random.default_rng(seed)
    gold = np.arange(queries) % labels
    scores = generator.normal(size=(queries, labels)) + generator.normal(size=labels) * 3
    scores[np.arange(queries), gold] += help_
    return scores - np.log(np.exp(scores).sum(1, keepdims=True)), gold


def probabilities(scores: np.ndarray) -> np.ndarray:
    p = np.exp(scores)
    return p / p.sum(1, keepdims=True)


# -- one number ----------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [2, 3, 6])
@pytest.mark.parametrize("ties", [False, True])
def test_auc_equals_scikit_learn(labels: int, ties: bool) -> None:
    scores, gold = answers(60, labels, seed=labels)
    if ties:
        scores = np.round(scores * 2)
    p = probabilities(scores)
    theirs = (
        roc_auc_score(gold, scores[:, 1] - scores[:, 0])
        if labels == 2
        else roc_auc_score(gold, p, multi_class="ovr", average="macro")
    )
    assert auc(scores, gold) == pytest.approx(theirs, abs=1e-12)


def test_auc_by_hand() -> None:
    # Log-odds of label 1: 2, 1, 1, 0 with gold 1, 1, 0, 0: of four pairs three right, one tie.
    scores = np.array([[0.0, 2], [0, 1], [0, 1], [0, 0]])
    assert auc(scores, [1, 1, 0, 0]) == 3.5 / 4
    assert auc(scores, [0, 0, 1, 1]) == 0.5 / 4
    assert auc(np.zeros((4, 2)), [1, 1, 0, 0]) == 0.5


def test_auc_leaves_out_labels_that_no_query_has() -> None:
    scores, gold = answers(40, 2, seed=5)
    with_third = np.column_stack([scores, np.full(40, -50.0)])
    assert auc(with_third, gold) == pytest.approx(auc(scores, gold))
    assert np.isnan(auc(scores, np.zeros(40, int)))


def test_calibrated_measures_equal_scikit_learn() -> None:
    scores, gold = answers(50, 4, seed=1)
    calibrated = scores - scores.mean(0)
    assert calibrated_accuracy(scores, gold) == pytest.approx(
        accuracy_score(gold, calibrated.argmax(1))
    )
    assert calibrated_nll(scores, gold) == pytest.approx(
        log_loss(gold, probabilities(calibrated)), abs=1e-12
    )
    assert accuracy(scores, gold) == pytest.approx(accuracy_score(gold, scores.argmax(1)))


@pytest.mark.parametrize("measure", [auc, calibrated_accuracy, calibrated_nll])
def test_a_label_bias_changes_nothing(measure) -> None:
    scores, gold = answers(48, 2, seed=2)
    biased = scores + np.array([0.0, 7.5])
    assert measure(biased, gold) == pytest.approx(measure(scores, gold), abs=1e-9)
    assert accuracy(biased, gold) == pytest.approx(0.5)  # which sees nothing but the bias


@pytest.mark.parametrize("labels", [2, 5])
def test_constant_answers_are_at_chance_whatever_the_gold_labels(labels: int) -> None:
    gold = np.array([0] * 30 + list(range(labels)))
    scores = np.tile(np.linspace(-1.3, 0.2, labels), (len(gold), 1))
    assert auc(scores, gold) == 0.5
    assert calibrated_accuracy(scores, gold) == pytest.approx(1 / labels)
    assert calibrated_nll(scores, gold) == pytest.approx(np.log(labels))


@pytest.mark.parametrize("measure", ALL)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_finite_is_never_passed_over(measure, value: float) -> None:
    # The one query that is wrong diverges: without it all would be right.
    scores, gold = answers(20, 3, help_=20, seed=3)
    scores[4] = value
    assert np.isnan(measure(scores, gold))
    assert np.isnan(measure(scores[:0], gold[:0]))


def test_tensors_are_taken_too() -> None:
    scores, gold = answers(30, 3, seed=4)
    for measure in ALL:
        found = measure(torch.tensor(scores), torch.tensor(gold))
        assert found == pytest.approx(measure(scores, gold))


def test_shapes_that_do_not_fit_are_refused() -> None:
    scores, gold = answers(20, 3)
    with pytest.raises(LensError, match="different queries"):
        auc(scores, gold[:-1])
    with pytest.raises(LensError, match="label scores must be"):
        auc(scores[:, 0], gold)
    with pytest.raises(LensError, match="gold labels must be 0 to 2"):
        auc(scores, gold + 1)
    with pytest.raises(LensError, match="Did you mean 'accuracy'"):
        compared("acuracy", scores, None, gold)
    with pytest.raises(LensError, match="different queries"):
        compared("AUC", np.stack([scores] * 2), np.stack([scores] * 3), gold)


def test_divergence_equals_scipys() -> None:
    from scipy.stats import entropy

    a, b = answers(10, 4, seed=6)[0], answers(10, 4, seed=7)[0]
    assert kl_from(a, b) == pytest.approx(entropy(probabilities(a), probabilities(b), axis=1))
    assert (kl_from(a, a + 3) == 0).all() or kl_from(a, a + 3).max() < 1e-12


# -- with intervals ------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", list(MEASURES))
@pytest.mark.parametrize("labels", [2, 4])
def test_resampled_at_once_equals_one_resample_after_another(measure: str, labels: int) -> None:
    scores, gold = answers(24, labels, seed=8)
    weights = np.random.default_rng(0).multinomial(24, [1 / 24] * 24, size=30).astype(float)
    plain = {
        "AUC": auc,
        "calibrated_accuracy": calibrated_accuracy,
        "calibrated_NLL": calibrated_nll,
        "accuracy": accuracy,
    }[measure]
    drawn = [np.repeat(np.arange(24), each.astype(int)) for each in weights]
    expected = [plain(scores[rows], gold[rows]) for rows in drawn]
    found = MEASURES[measure].weighted(scores, gold, weights)
    assert found == pytest.approx(expected, abs=1e-12)


def test_pieces_equal_the_whole(monkeypatch) -> None:
    from iclgd_lens.verdicts import classification

    scores, gold = answers(24, 3, seed=9)
    whole = compared("calibrated_NLL", scores, None, gold)
    monkeypatch.setattr(classification, "_AT_ONCE", 24 * 3 * 7)
    assert compared("calibrated_NLL", scores, None, gold) == whole


def test_a_difference_of_one_draw_is_over_its_queries() -> None:
    zs, gold = answers(64, 2, help_=0.2, seed=10)
    icl, _ = answers(64, 2, help_=3.0, seed=11)
    found = compared("AUC", icl, zs, gold)
    assert found.value == pytest.approx(auc(icl, gold) - auc(zs, gold))
    assert found.above
    assert found.over == "queries of one draw"
    back = compared("AUC", zs, icl, gold)
    assert (back.value, back.low, back.high) == pytest.approx(
        (-found.value, -found.high, -found.low)
    )


def test_standard_error_over_queries_is_that_of_delong() -> None:
    # Of one AUC: variances of the placements (DeLong 1988), an independent formula.
    scores, gold = answers(200, 2, help_=1.0, seed=12)
    odds = scores[:, 1] - scores[:, 0]
    wins = (odds[gold == 1][:, None] > odds[gold == 0]).astype(float)
    error = (wins.mean(1).var(ddof=1) / 100 + wins.mean(0).var(ddof=1) / 100) ** 0.5
    found = compared("AUC", scores, None, gold, resamples=4000)
    assert (found.high - found.low) / 2 / 1.972 == pytest.approx(error, rel=0.05)


def test_both_sources_of_chance_count() -> None:
    zs, gold = answers(64, 2, help_=0.5, seed=13)
    steady = np.stack([answers(64, 2, help_=1.5, seed=14)[0]] * 5)
    one = compared("AUC", steady[0], zs, gold)
    same = compared("AUC", steady, zs, gold)
    # Five times the same draw: as wide as one draw.
    assert same.high - same.low == pytest.approx(one.high - one.low, rel=1e-6)
    varying = np.stack([answers(64, 2, help_=h, seed=14)[0] for h in (0.0, 0.7, 1.5, 2.3, 3.0)])
    wider = compared("AUC", varying, zs, gold)
    assert wider.over == "draws and queries"
    assert wider.high - wider.low > 1.3 * (same.high - same.low)


def never_learned(seed: int, draws: int = 5, queries: int = 48, labels: int = 2):
    """Answers that know nothing of gold labels: each setting has its own, alike in all draws."""
    generator = np.random.default_rng(seed)
    zs = generator.normal(size=(queries, labels))
    icl = generator.normal(size=(queries, labels))
    icl = icl + 0.3 * generator.normal(size=(draws, queries, labels))
    return zs, icl, generator.permutation(np.arange(queries) % labels)


@pytest.mark.parametrize("labels", [2, 4])
def test_answers_that_fit_the_queries_by_chance_are_not_called_learning(labels: int) -> None:
    trials, shown, over_draws_alone = 100, 0, 0
    for seed in range(trials):
        zs, icl, gold = never_learned(seed, labels=labels)
        shown += compared("AUC", icl, zs, gold, resamples=40).above
        changes = np.array([auc(each, gold) for each in icl]) - auc(zs, gold)
        error = changes.std(ddof=1) / 5**0.5
        over_draws_alone += bool(changes.mean() > 2.776 * error)
    assert shown / trials <= 0.05
    assert over_draws_alone / trials > 0.25  # what an interval over draws alone would say


@pytest.mark.parametrize("per_label", [2, 3])
def test_few_queries_that_are_all_right_by_chance_show_nothing(per_label: int) -> None:
    # A perfect ranking has no spread to see; of so few queries it is no rare chance.
    gold = np.repeat([0, 1], per_label)
    zs = np.zeros((2 * per_label, 2))
    icl = np.stack([-5.0 + 10 * (gold == 0), 5.0 - 10 * (gold == 0)], 1)
    icl = icl + 0.1 * np.random.default_rng(0).normal(size=(5, *icl.shape))
    assert compared("AUC", icl, zs, gold).value == 0.5
    assert not compared("AUC", icl, zs, gold).above
    many = np.repeat([0, 1], 24)
    sure = np.stack([-5.0 + 10 * (many == 0), 5.0 - 10 * (many == 0)], 1)
    assert compared("AUC", sure, np.zeros((48, 2)), many).above


def test_a_setting_against_itself_is_no_difference() -> None:
    scores, gold = answers(30, 3, seed=15)
    for measure in MEASURES:
        found = compared(measure, scores, scores, gold)
        assert (found.value, found.p) == (0.0, 1.0)
        assert not found.above
        assert not found.below


def test_one_draw_that_diverged_leaves_no_answer() -> None:
    zs, gold = answers(30, 2, help_=0, seed=16)
    icl = np.stack([answers(30, 2, help_=9, seed=seed)[0] for seed in range(5)])
    assert compared("AUC", icl, zs, gold).above
    icl[2, 7] = np.nan
    found = compared("AUC", icl, zs, gold)
    assert np.isnan([found.value, found.low, found.p]).all()
    assert not found.above
    assert found.as_dict() == {
        "value": None, "interval": None, "p": None, "over": "draws and queries"
    }  # fmt: skip


def test_queries_may_differ_between_draws() -> None:
    drawn = [answers(40, 2, help_=2, seed=seed) for seed in range(4)]
    scores = np.stack([each for each, _ in drawn])
    golds = np.stack([np.roll(gold, shift) for shift, (_, gold) in enumerate(drawn)])
    found = compared("AUC", scores, None, golds)
    expected = [auc(each, gold) for each, gold in zip(scores, golds, strict=True)]
    assert found.value == pytest.approx(np.mean(expected))


def test_the_same_seed_gives_the_same_bytes() -> None:
    scores, gold = answers(30, 3, seed=17)
    before = np.random.get_state()[1].tobytes()
    one, two = (compared("AUC", scores, None, gold, seed=3) for _ in range(2))
    assert one == two
    assert compared("AUC", scores, None, gold, seed=4) != one
    assert np.random.get_state()[1].tobytes() == before
