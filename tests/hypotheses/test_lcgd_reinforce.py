"""Policy gradients: weights by hand, gradients by autograd of the expected reward, draws by law."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from iclgd_lens.errors import HypothesisError
from iclgd_lens.hypotheses.lcgd_reinforce import _Weight, lcgd_reinforce
from tests import checks, families
from tests.hypotheses import oracles

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
LR = 0.05
LAST = families.N_LAYERS - 1
WORDS = (5, 6)


def objective(log_p: Tensor, gold: int, settings: dict[str, Any]) -> Tensor:
    """What is minimised, written without any constant weight where that is possible."""
    p = log_p.exp()
    estimator, power = settings.get("estimator", "exact"), settings.get("weight_power", 1.0)
    entropy = settings.get("entropy", 0.0) * (p * log_p).sum()
    if estimator == "group":
        with torch.no_grad():
            weight = (p[gold] / (1 - p[gold])).sqrt()
        return -weight * log_p[gold] + entropy
    if power == 0:
        return -log_p[gold] + entropy
    return -(p[gold] ** power) / power + entropy  # its gradient is -p^power d log p


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weight_power": 0.0},
        {"weight_power": 2.0},
        {"estimator": "group"},
        {"entropy": 0.3},
        {"causal": False},
    ],
)
def test_the_step_is_the_gradient_of_the_expected_reward(
    kind: str, family: str, settings: dict[str, Any]
) -> None:
    episode = checks.episode(shots=1)
    model, (tokens, start) = oracles.precise(kind, family), oracles.sequences(episode)[0]
    causal = settings.get("causal", True)
    logits = oracles.lens_logits(model, tokens, detach=causal)
    found = lcgd_reinforce(checks.model(kind, family), episode, lr=LR, **settings)
    for name in found:
        if name.endswith("b_K"):
            continue
        read = logits[int(name.split(".")[1]) if causal else LAST]
        log_p = read[start - 1, list(WORDS)].log_softmax(-1)
        step = oracles.gradient(model, name, objective(log_p, 0, settings))
        oracles.close(model, name, found[name], -LR * step, 1e-4)


@BY_KIND
@pytest.mark.parametrize("causal", [True, False])
def test_words_of_several_tokens_count_by_their_mean(kind: str, causal: bool) -> None:
    words = [(5, 9, 11), (6,), (7, 8)]
    episode = checks.episode(shots=1, labels=words)
    model, (tokens, start) = oracles.precise(kind, "llama"), oracles.sequences(episode)[0]
    scores: list[list[Tensor]] = []
    for word in words:
        own = (*tokens[:start], *word)
        logits = oracles.lens_logits(model, own, detach=causal)
        scores.append([-oracles.nll(each, own, start) / len(word) for each in logits])
    found = lcgd_reinforce(checks.model(kind, "llama"), episode, causal=causal, lr=LR)
    for name in found:
        read = int(name.split(".")[1]) if causal else LAST
        p = torch.stack([score[read] for score in scores]).softmax(-1)
        step = oracles.gradient(model, name, -p[0])
        oracles.close(model, name, found[name], -LR * step, 1e-4)


def test_sampling_tends_to_the_advantage_by_its_law() -> None:
    p = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    expected = p * (torch.tensor([0.0, 1.0, 0.0]) - p[:, 1:2])
    many = 40_000
    found = _Weight("sample", 1.0, many, seed=0)(p, 1)
    torch.testing.assert_close(found, expected, atol=5 / many**0.5, rtol=0)
    # Unbiased with few samples: the mean over draws is within its standard error.
    few = _Weight("sample", 1.0, 2, seed=1)
    draws = torch.stack([few(p, 1) for _ in range(4000)])
    error = draws.std(0) / len(draws) ** 0.5
    assert bool(((draws.mean(0) - expected).abs() < 4.5 * error).all())
    # As a gradient on logits it is the exact one: the softmax cannot see a common factor of p.
    exact = torch.zeros_like(p)
    exact[:, 1] = p[:, 1]
    on_logits = [weight - p * weight.sum(-1, keepdim=True) for weight in (exact, expected)]
    torch.testing.assert_close(*on_logits)


def test_one_sample_has_no_baseline() -> None:
    p = torch.tensor([[0.5, 0.5]])
    found = torch.stack([_Weight("sample", 1.0, 1, seed)(p, 0) for seed in range(50)])
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert not bool(found[..., 1].any())


def test_the_groups_weight_is_held_within_bounds() -> None:
    weight = _Weight("group", 1.0, 8, 0).of_right(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(
        weight, torch.tensor([0.001 / 0.999, 1.0, 999.0]).sqrt(), rtol=1e-4, atol=0
    )


@BY_KIND
def test_learning_stays_layer_causal_unless_the_model_is_rewarded(kind: str) -> None:
    other = checks.twin(checks.model(kind, "llama"))
    families.randomise(other.blocks[LAST], seed=100)
    for causal in (True, False):
        before = lcgd_reinforce(checks.host(kind, "llama"), checks.episode(), causal=causal)
        after = lcgd_reinforce(other, checks.episode(), causal=causal)
        same = {n for n in before if torch.equal(before[n], after[n])}
        assert {int(name.split(".")[1]) for name in same} == ({0, 1} if causal else set())


@BY_KIND
def test_demonstrations_of_another_task_are_learned_by_their_own_words(kind: str) -> None:
    host, other = checks.host(kind, "llama"), checks.episode(labels=(8, 9), seed=3)
    foreign = [
        type(example)(example.content, example.label, -1)
        for example in other.demonstrations.examples
    ]
    episode = checks.episode().with_demonstrations(foreign)
    found, expected = lcgd_reinforce(host, episode), lcgd_reinforce(host, other.demonstrations)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"estimator": "grup"}, r"allowed: exact, group, sample\. Did you mean 'group'\?"),
        ({"policy": "label"}, r"allowed: labels, vocabulary\. Did you mean 'labels'\?"),
        ({"samples": 0, "estimator": "sample"}, r"samples is 0; .* 1\. The nearest is 1\."),
        ({"entropy": -1.0}, "entropy is -1.0; it must be at least 0"),
        ({"weight_power": -0.5}, "weight_power is -0.5; it must be at least 0"),
        ({"policy": "vocabulary", "entropy": 0.1}, "beside policy='vocabulary': it needs"),
        ({"policy": "vocabulary", "estimator": "sample"}, 'needs estimator "exact" or "group"'),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HypothesisError, match=message):
        lcgd_reinforce(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)
