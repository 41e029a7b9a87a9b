"""Each regulariser against its closed form, NumPy's SVD, or autograd on real weights."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.errors import HypothesisError
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.lcgd_regularized import (
    cut_rank,
    decayed_and_clipped,
    lcgd_regularized,
    shrink_heads,
)
from iclgd_lens.intervention import Intervention
from iclgd_lens.training.folds import folds_in_turn
from iclgd_lens.training.label_losses import label_losses
from tests import checks, families
from tests.hypotheses import oracles

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
NAME = "blocks.0.attn.W_K"
LR = 0.05


def matrix(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_decay_pulls_a_constant_gradient_to_its_fixed_point() -> None:
    gradient, change = matrix(2, 3, 4), torch.zeros(2, 3, 4)
    for _ in range(2000):
        step = decayed_and_clipped(0.5, math.inf, NAME, gradient * 7, change, 7)
        change = change - 0.1 / 7 * step
    torch.testing.assert_close(change, -gradient / 0.5)


def test_a_clipped_heads_gradient_is_as_long_as_allowed() -> None:
    gradient = torch.stack([matrix(3, 4), 1e-3 * matrix(3, 4)])
    found = decayed_and_clipped(0.0, 0.5, NAME, gradient * 7, torch.zeros(2, 3, 4), 7) / 7
    assert float(found[0].norm()) == pytest.approx(0.5)
    torch.testing.assert_close(found[0] / found[0].norm(), gradient[0] / gradient[0].norm())
    torch.testing.assert_close(found[1], gradient[1])


def test_group_lasso_is_the_proximal_step_of_the_sum_of_norms() -> None:
    before = torch.stack([matrix(3, 4), 0.01 * matrix(3, 4)])
    found = {NAME: before.clone()}
    shrink_heads(found, 0.5)
    assert torch.equal(found[NAME][1], torch.zeros(3, 4))
    # x minimises |x - b|^2 / 2 + t |x| where x - b + t x / |x| = 0.
    x = found[NAME][0]
    torch.testing.assert_close(x - before[0] + 0.5 * x / x.norm(), torch.zeros(3, 4))


def test_rank_is_numpys_svd_cut() -> None:
    before = matrix(2, 6, 4)
    found = {NAME: before.clone(), "blocks.0.attn.b_K": matrix(2, 4)}
    cut_rank(found, 2)
    for head in range(2):
        u, s, v = np.linalg.svd(before[head].double().numpy(), full_matrices=False)
        expected = u[:, :2] * s[:2] @ v[:2]
        np.testing.assert_allclose(found[NAME][head].numpy(), expected, atol=1e-5)
    assert torch.equal(found["blocks.0.attn.b_K"], matrix(2, 4))
    whole = {NAME: before.clone()}
    cut_rank(whole, 4)
    assert torch.equal(whole[NAME], before)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
@pytest.mark.parametrize("setting", ["smoothing", "kl"])
def test_losses_are_autograds_on_real_weights(kind: str, family: str, setting: str) -> None:
    episode, share = checks.episode(shots=2), 0.3
    model = oracles.precise(kind, family)
    names = [n for n in oracles.trained(checks.model(kind, family)) if not n.endswith("b_K")]
    before = {name: checks.real(model, name).detach().clone() for name in names}
    unchanged = oracles.precise(kind, family)
    for tokens, _ in oracles.sequences(episode):
        with torch.no_grad():
            base = oracles.lens_logits(unchanged, tokens, detach=True)
        steps: dict[str, torch.Tensor] = {}
        for layer, logits in enumerate(oracles.lens_logits(model, tokens, detach=True)):
            wanted = torch.tensor(tokens[1:])
            smooth = share if setting == "smoothing" else 0.0
            loss = torch.nn.functional.cross_entropy(
                logits[:-1], wanted, label_smoothing=smooth, reduction="sum"
            )
            if setting == "kl":
                p, q = base[layer][:-1].log_softmax(-1), logits[:-1].log_softmax(-1)
                loss = loss + share * (p.exp() * (p - q)).sum()
            for name in names:
                if name.startswith(f"blocks.{layer}."):
                    steps[name] = oracles.gradient(model, name, loss / len(wanted))
        with torch.no_grad():
            for name, step in steps.items():
                checks.real(model, name).sub_(step, alpha=LR)
    settings: dict[str, Any] = {setting: share}
    found = lcgd_regularized(checks.model(kind, family), episode, lr=LR, **settings)
    for name in names:
        change = checks.real(model, name).detach() - before[name]
        oracles.close(model, name, found[name], change, 1e-4)


def test_smoothing_reads_capped_logits_too() -> None:
    episode, model = checks.episode(shots=1), checks.model("bridge", "gemma2")
    found = lcgd_regularized(model, episode, smoothing=0.2, weights="W_V", layers=2)
    other = lcgd_regularized(model, episode, smoothing=0.4, weights="W_V", layers=2)
    plain = lcgd(model, episode, weights="W_V", layers=2)
    name = "blocks.2.attn.W_V"
    # One step's change is linear in the target.
    checks.close(other[name] - plain[name], 2 * (found[name] - plain[name]), 1e-4)
    assert not torch.allclose(found[name], plain[name], rtol=1e-2)


@BY_KIND
@pytest.mark.parametrize("settings", [{"l2": 0.5}, {"kl": 2.0}])
def test_the_first_step_is_lcgds(kind: str, settings: dict[str, Any]) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=1)
    found, plain = lcgd_regularized(host, episode, **settings), lcgd(host, episode)
    for name in plain:
        checks.close(found[name], plain[name], 1e-5)
    later = lcgd_regularized(host, episode, epochs=2, **settings)
    assert not torch.allclose(later[NAME], lcgd(host, episode, epochs=2)[NAME], rtol=1e-3)


@BY_KIND
def test_every_head_has_the_rank_asked_for(kind: str) -> None:
    found = lcgd_regularized(checks.host(kind, "llama"), checks.episode(), rank=1, epochs=2)
    for value in found._tensors.values():
        sizes = torch.linalg.svdvals(value)
        assert bool((sizes[:, 1] < 1e-5 * sizes[:, 0]).all())


@BY_KIND
def test_early_stop_takes_the_epoch_that_left_out_demonstrations_prefer(kind: str) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(shots=6)
    expected = []
    for epochs in (1, 2, 3):
        losses: list[float] = []
        for rest, left_out in folds_in_turn("x", episode.demonstrations, 4):
            delta = lcgd(host, rest, epochs=epochs)
            losses.append(float(label_losses(host, left_out, delta).mean()))
        expected.append(sum(losses) / len(losses))
    found = lcgd_regularized(host, episode, early_stop=True, epochs=3)
    assert found.metadata["left_out_loss"] == pytest.approx(expected, rel=1e-5)
    best = 1 + int(np.argmin(expected))
    assert found.metadata["epochs"] == best
    plain = lcgd(host, episode, epochs=best)
    assert all(torch.equal(found[name], plain[name]) for name in plain)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_label_losses_are_the_models_own(kind: str, family: str) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    episode = checks.episode(shots=5, labels=[[5, 9], [6]])
    found = label_losses(host, episode.demonstrations, Intervention())
    for place, (tokens, start) in enumerate(oracles.sequences(episode)):
        with torch.no_grad():
            loss = oracles.nll(checks.logits(model, torch.tensor([tokens]))[0], tokens, start)
        assert float(found[place]) == pytest.approx(float(loss) / (len(tokens) - start), rel=1e-5)
    delta = lcgd(host, episode)
    with delta.applied(model), torch.no_grad():
        tokens, start = oracles.sequences(episode)[0]
        loss = oracles.nll(checks.logits(model, torch.tensor([tokens]))[0], tokens, start)
    changed = label_losses(host, episode.demonstrations, delta)[0]
    assert float(changed) == pytest.approx(float(loss) / (len(tokens) - start), rel=1e-5)


def test_each_demonstration_is_left_out_once_whatever_its_place() -> None:
    episode = checks.episode(shots=7)
    pairs = folds_in_turn("x", episode.demonstrations, 4)
    out = [example for _, left_out in pairs for example in left_out.examples]
    assert sorted(map(hash, out)) == sorted(map(hash, episode.demonstrations.examples))
    assert all(len(rest) + len(left_out) == 7 for rest, left_out in pairs)
    examples = episode.demonstrations.examples
    moved = episode.with_demonstrations(examples[::-1], drawn=range(6, -1, -1))
    for (_, one), (_, other) in zip(
        pairs, folds_in_turn("x", moved.demonstrations, 4), strict=True
    ):
        assert set(one.examples) == set(other.examples)
    with pytest.raises(HypothesisError, match="at least 2 of them and 2 folds, not 1 and 4"):
        folds_in_turn("x", checks.episode(shots=1).demonstrations, 4)


@BY_KIND
def test_learning_stays_layer_causal(kind: str) -> None:
    settings: dict[str, Any] = {
        "l2": 0.1, "rank": 2, "clip": 0.5, "kl": 0.2, "smoothing": 0.1, "group": 0.01,
    }  # fmt: skip
    other = checks.twin(checks.model(kind, "llama"))
    families.randomise(other.blocks[2], seed=100)
    before = lcgd_regularized(checks.host(kind, "llama"), checks.episode(), **settings)
    after = lcgd_regularized(other, checks.episode(), **settings)
    for name in before:
        assert torch.equal(before[name], after[name]) == (int(name.split(".")[1]) < 2), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l2": -0.1}, r"l2 is -0\.1; it must be at least 0\. The nearest is 0\."),
        ({"rank": 0}, r"rank is 0; it must be at least 1\. The nearest is 1\."),
        ({"clip": 0.0}, r"clip is 0\.0; it must be above 0"),
        ({"kl": float("nan")}, "kl is nan; it must be at least 0"),
        ({"smoothing": 2.0}, r"smoothing is 2\.0; it must be 0 to 1\. The nearest is 1\."),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    call = partial(lcgd_regularized, checks.host(checks.kinds()[0], "gpt2"), checks.episode())
    with pytest.raises(HypothesisError, match=message):
        call(**settings)
