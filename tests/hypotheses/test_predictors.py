"""Predictors: logits move by what was asked; kernels, neighbours and posteriors by other means."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.contexts import Contexts
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.attention_kernel import attention_kernel
from iclgd_lens.hypotheses.kernel_regression import (
    TAUS,
    kernel_regression,
    similarities,
    stream_hook,
    weights_of,
)
from iclgd_lens.hypotheses.label_bayes import label_bayes, posterior
from iclgd_lens.hypotheses.label_direction import LabelDirections, votes
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.readout.reader import Reader
from tests import checks, families

EPISODE = checks.episode(shots=6, labels=(5, 6, 9))
FAMILIES = checks.pairs("gpt2", "llama")
PARTS = ("attention_output", "z", "scores", "label_scores")


def streams(host: Host, count: int = 5) -> torch.Tensor:
    return host.run(host.tensor(families.tokens(7, batch=count).tolist())).residual[:, -1]


# -- the end of the residual stream ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "family"),
    [*FAMILIES, *(("bridge", name) for name in ("granite", "gemma2", "neox", "gptj", "qwen2"))],
)
def test_label_logits_move_by_what_was_asked_up_to_a_constant(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    with torch.no_grad():
        residual = streams(host)
        tokens = [5, 9, 40, 41]
        shift = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
        moved = LabelDirections(host, tokens).moved(residual, shift)
        before, after = (host.logits(each[:, None])[:, 0, tokens] for each in (residual, moved))
    change = after - before - shift
    spread = (change - change.mean(-1, keepdim=True)).abs().max()
    assert spread < 1e-4, f"{float(spread):.2g}"
    centre = residual.mean(-1) if family in ("gpt2", "neox", "gptj") else torch.zeros(5)
    lengths = [(each - centre[:, None]).norm(dim=-1) for each in (residual, moved)]
    torch.testing.assert_close(*lengths, rtol=1e-5, atol=0)


@pytest.mark.parametrize("kind", checks.kinds())
def test_what_is_asked_of_no_row_changes_no_bit(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    with torch.no_grad():
        residual = streams(host)
        shift = torch.zeros(5, 3)
        shift[2] = 1.5  # the same for all words
        assert torch.equal(LabelDirections(host, [5, 9, 40]).moved(residual, shift), residual)


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_change_that_the_norm_does_not_allow_keeps_its_direction(kind: str) -> None:
    host = checks.host(kind, "llama")
    with torch.no_grad():
        residual, huge = streams(host), torch.tensor([[1e4, 0.0, 0.0]] * 5)
        moved = LabelDirections(host, [5, 9, 40]).moved(residual, huge)
        logits = host.logits(moved[:, None])[:, 0, [5, 9, 40]]
    assert torch.isfinite(logits).all()
    assert (logits.argmax(-1) == 0).all()
    torch.testing.assert_close((logits[:, 1] - logits[:, 2]), torch.zeros(5), atol=2e-2, rtol=0)


# -- kernels ---------------------------------------------------------------------------------------


def points(n: int = 9, d: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(k, d, generator=generator) for k in (4, n))  # type: ignore[return-value]


def test_a_width_of_0_is_the_nearest_neighbour_of_scikit_learn() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    queries, known = points()
    gold = [0, 1, 2, 0, 1, 2, 2, 1, 0]
    for kernel, metric in (("cosine", "cosine"), ("rbf", "euclidean")):
        model = KNeighborsClassifier(1, metric=metric).fit(known.numpy(), gold)
        shares = votes(weights_of(similarities(queries, known, kernel), 0.0), gold, 3)
        np.testing.assert_array_equal(shares.argmax(-1).numpy(), model.predict(queries.numpy()))
        assert set(shares.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("tau", [0.3, 2.0])
def test_shares_are_nadaraya_watsons(tau: float) -> None:
    from scipy.spatial.distance import cdist, pdist

    queries, known = points()
    gold = np.array([0, 1, 2, 0, 1, 2, 2, 1, 0])
    q, x = queries.double().numpy(), known.double().numpy()
    cosine = 1 - cdist(q, x, "cosine")
    squared = cdist(q, x, "sqeuclidean") / pdist(x, "sqeuclidean").mean()
    covariance = np.cov(x.T, bias=True)
    shrunk = 0.9 * covariance + 0.1 * np.trace(covariance) / 5 * np.eye(5)
    inverse = np.linalg.inv(shrunk)
    mahalanobis = cdist(q, x, "mahalanobis", VI=inverse) ** 2
    mahalanobis /= (pdist(x, "mahalanobis", VI=inverse) ** 2).mean()
    kernels = {"cosine": cosine, "rbf": -squared, "mahalanobis": -mahalanobis}
    for name, a in kernels.items():
        weights = np.exp(a / tau)
        expected = np.stack([weights[:, gold == c].sum(-1) for c in range(3)], -1)
        expected /= weights.sum(-1, keepdims=True)
        found = votes(weights_of(similarities(queries, known, name), tau), gold.tolist(), 3)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("layer", [0, 2, families.N_LAYERS])
@pytest.mark.parametrize("labels", [(5, 6, 9), ((5, 7), (6, 8), (9, 8))])
def test_the_model_answers_with_the_kernels_probabilities(
    kind: str, family: str, layer: int, labels: Any
) -> None:
    host, episode = checks.host(kind, family), checks.episode(shots=6, labels=labels)
    floor = 0.01 if isinstance(labels[0], int) else 0.2  # twice the shift is all the norm allows
    rule = kernel_regression(host, episode, layer=layer, tau=0.2, floor=floor)
    found = Reader(host, episode).ftzs(rule).label_scores.softmax(-1)
    name = f"blocks.{layer}.hook_resid_pre"
    if layer == families.N_LAYERS:
        name = f"blocks.{layer - 1}.hook_resid_post"

    def stream(content: Any) -> np.ndarray:
        with torch.no_grad():
            _, cache = checks.model(kind, family).run_with_cache(
                torch.tensor([[families.BOS, *content]])
            )
        value = cache[name][0, -1].double().numpy()
        return value / np.linalg.norm(value)

    known = np.stack([stream(e.content) for e in episode.demonstrations.examples])
    gold = np.array([e.gold for e in episode.demonstrations.examples])
    for index, query in enumerate(episode.queries):
        weights = np.exp(known @ stream(query.content) / 0.2)
        shares = np.array([weights[gold == c].sum() for c in range(3)]) / weights.sum()
        np.testing.assert_allclose(
            found[index].numpy(), (1 - floor) * shares + floor / 3, rtol=2e-3
        )


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("labels", [((5, 7), (6, 8, 9)), ((5,), (6, 8, 9)), ((5,), (6, 8), (9,))])
def test_words_of_different_lengths_get_what_was_asked(kind: str, family: str, labels: Any) -> None:
    host, episode = checks.host(kind, family), checks.episode(shots=5, labels=labels)
    golds = [example.gold for example in episode.demonstrations.examples]
    shares = np.bincount(golds, minlength=len(labels)) / len(golds)
    floor = 0.3  # several times the shift is all that the norm allows
    rule = kernel_regression(host, episode, tau=float("inf"), floor=floor)
    found = Reader(host, episode).ftzs(rule).label_scores.softmax(-1)
    for row in found.numpy():
        np.testing.assert_allclose(row, (1 - floor) * shares + floor / len(labels), rtol=2e-3)
    # A sure prior renames nothing, whatever lengths are: to the bit.
    sure = Reader(host, episode).ftzs(label_bayes(host, episode, prior=float("inf")))
    assert torch.equal(sure.label_scores, Reader(host, episode).zs().label_scores)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")])
def test_an_infinite_width_answers_with_label_frequencies(kind: str, protocol: Any) -> None:
    host = checks.host(kind, "llama")
    episode = checks.episode(protocol, shots=5, labels=(5, 6, 9))
    rule = kernel_regression(host, episode, tau=float("inf"), floor=1e-9)
    found = Reader(host, episode).ftzs(rule).label_scores.softmax(-1)
    expected = torch.tensor([0.4, 0.4, 0.2]).expand_as(found)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_layer_and_width_are_those_of_the_best_left_out_likelihood() -> None:
    host = checks.host(checks.kinds()[-1], "gpt2")
    seen = Contexts(host, EPISODE, "test").alone(
        [stream_hook(host, layer) for layer in range(host.n_layers + 1)]
    )
    gold = np.array([e.gold for e in EPISODE.demonstrations.examples])
    losses: dict[tuple[int, float], float] = {}
    for layer, tau in itertools.product(range(host.n_layers + 1), TAUS):
        h = seen.values[stream_hook(host, layer)].double().numpy()
        h /= np.linalg.norm(h, axis=-1, keepdims=True)
        weights = np.exp(h @ h.T / tau) * (1 - np.eye(6))
        shares = np.stack([weights[:, gold == c].sum(-1) for c in range(3)], -1)
        shares = 0.999 * shares / weights.sum(-1, keepdims=True) + 0.001 / 3
        losses[layer, tau] = -np.log(shares[np.arange(6), gold]).sum()
    best = min(losses, key=losses.__getitem__)
    chosen = kernel_regression(host, EPISODE)
    named = kernel_regression(host, EPISODE, layer=best[0], tau=best[1])
    reader = Reader(host, EPISODE)
    assert torch.equal(reader.ftzs(chosen).label_scores, reader.ftzs(named).label_scores)
    only = kernel_regression(host, EPISODE, tau=best[1])
    assert torch.equal(reader.ftzs(chosen).label_scores, reader.ftzs(only).label_scores)


@pytest.mark.parametrize("kind", checks.kinds())
def test_attention_is_not_touched_and_strength_0_is_nothing(kind: str) -> None:
    host = checks.host(kind, "llama")
    reader, nothing = Reader(host, EPISODE), Reader(host, EPISODE).ftzs(Intervention())
    for rule in (kernel_regression, attention_kernel):
        found = reader.ftzs(rule(host, EPISODE))
        assert all(torch.equal(getattr(found, p), getattr(nothing, p)) for p in PARTS[:3])
        assert not torch.allclose(found.label_scores, nothing.label_scores, rtol=1e-2)
        none = reader.ftzs(rule(host, EPISODE, strength=0.0))
        assert torch.equal(none.label_scores, nothing.label_scores)


# -- the kernel that attention itself is -----------------------------------------------------------


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")])
def test_labels_get_the_attention_that_their_demonstrations_get(
    kind: str, family: str, protocol: Any
) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    episode = checks.episode(protocol, shots=6, labels=(5, 6, 9))
    found = {
        head: Reader(host, episode).ftzs(attention_kernel(host, episode, head=head, floor=1e-6))
        for head in ("1.2", "mean")
    }
    prompt, shown = episode.demonstrations.prompt(), episode.demonstrations.examples
    for index in range(len(episode.queries)):
        own = episode.readout_tokens(episode.queries[index])
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([[*prompt, *own]]))
        maps = [cache[f"blocks.{i}.attn.hook_pattern"][0, :, -1] for i in range(3)]
        every = torch.stack(maps)
        start, shares = 1, {name: torch.zeros(3) for name in found}
        for example in shown:
            end = start + len(example.tokens) + 1
            shares["1.2"][example.gold] += every[1, 2, start:end].sum()
            shares["mean"][example.gold] += every[:, :, start:end].sum()
            start = end
        for name, own_shares in shares.items():
            answer = found[name].label_scores[index].softmax(-1)
            expected = own_shares / own_shares.sum()
            torch.testing.assert_close(answer, expected, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("kind", checks.kinds())
def test_the_best_head_is_the_one_that_left_out_labels_like_best(kind: str) -> None:
    host = checks.host(kind, "llama")
    seen = Contexts(host, EPISODE, "test").after_others(attention=True)
    assert seen.attention is not None
    gold = np.array([e.gold for e in EPISODE.demonstrations.examples])
    losses: dict[str, float] = {}
    for layer, head in itertools.product(range(host.n_layers), range(host.n_heads)):
        w = seen.attention[:, layer, head].double().numpy()
        own = np.array([w[i, gold == gold[i]].sum() / w[i].sum() for i in range(6)])
        losses[f"{layer}.{head}"] = -np.log(0.999 * own + 0.001 / 3).sum()
    best = min(losses, key=losses.__getitem__)
    reader = Reader(host, EPISODE)
    one, two = (
        reader.ftzs(attention_kernel(host, EPISODE, head=head)).label_scores
        for head in ("best", best)
    )
    assert torch.equal(one, two)


# -- renamed labels --------------------------------------------------------------------------------


def test_a_head_whose_likelihood_is_undefined_is_not_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host, losses = checks.host(checks.kinds()[0], "llama"), torch.full((12,), 2.0)
    losses[[0, 7]], losses[5] = math.nan, 1.0
    monkeypatch.setattr("iclgd_lens.hypotheses.attention_kernel._losses", lambda *_: losses)
    found: Any = attention_kernel(host, checks.episode())
    assert found.weight.nonzero().tolist() == [[5 // host.n_heads, 5 % host.n_heads]]


def test_of_two_labels_the_posterior_is_the_closed_form() -> None:
    scores = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    gold = [0, 1, 1, 0, 1]
    for prior, temperature in ((0.0, 1.0), (0.7, 2.0)):
        evidence = sum(float(scores[i, y] - scores[i, 1 - y]) for i, y in enumerate(gold))
        keep = 1 / (1 + np.exp(-(2 * prior + evidence / temperature)))
        expected = [[keep, 1 - keep], [1 - keep, keep]]
        found = posterior(scores, gold, prior, temperature)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_of_three_labels_it_is_the_sum_over_all_renamings() -> None:
    scores = torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).double()
    p0, gold = scores.softmax(-1).numpy(), [2, 0, 1, 1]
    expected, total = np.zeros((3, 3)), 0.0
    for sigma in itertools.permutations(range(3)):
        weight = np.exp(0.4 * sum(c == w for c, w in enumerate(sigma)))
        for i, word in enumerate(gold):
            weight *= p0[i, sigma.index(word)]
        total += weight
        for own, word in enumerate(sigma):
            expected[own, word] += weight
    found = posterior(scores.float(), gold, 0.4, 1.0)
    np.testing.assert_allclose(found.numpy(), expected / total, rtol=1e-5)
    np.testing.assert_allclose(found.sum(0).numpy(), 1, rtol=1e-5)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("labels", [(5, 6, 9), ((5, 7), (6, 8), (9, 8))])
def test_the_model_answers_with_renamed_probabilities(kind: str, family: str, labels: Any) -> None:
    host, episode = checks.host(kind, family), checks.episode(shots=5, labels=labels)
    reader = Reader(host, episode)
    zs = reader.zs().label_scores.softmax(-1)
    contexts = Contexts(host, episode, "test")
    weights = posterior(contexts.alone().label_scores, contexts.gold, 0.5, 3.0)
    found = reader.ftzs(label_bayes(host, episode, prior=0.5, temperature=3.0)).label_scores
    torch.testing.assert_close(found.softmax(-1), zs @ weights, rtol=2e-3, atol=1e-6)
    assert not torch.allclose(found.softmax(-1), zs, rtol=1e-2)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_a_sure_prior_is_zs_to_the_bit(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    reader = Reader(host, EPISODE)
    found = reader.ftzs(label_bayes(host, EPISODE, prior=float("inf")))
    nothing = reader.ftzs(Intervention())
    assert all(torch.equal(getattr(found, part), getattr(nothing, part)) for part in PARTS)


def test_wrong_settings_are_refused() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    with pytest.raises(HypothesisError, match="Did you mean 'cosine'"):
        kernel_regression(host, EPISODE, kernel="cosin")
    with pytest.raises(HypothesisError, match="layer is 9; it must be 0 to 3"):
        kernel_regression(host, EPISODE, layer=9)
    with pytest.raises(HypothesisError, match="at least 2 demonstrations here"):
        kernel_regression(host, checks.episode(shots=1))
    with pytest.raises(HypothesisError, match="head is 'bset'"):
        attention_kernel(host, EPISODE, head="bset")
    with pytest.raises(HypothesisError, match=r"not 1\.7"):
        attention_kernel(host, EPISODE, head="1.7")
    with pytest.raises(HypothesisError, match="at most 9 of them, not 10"):
        label_bayes(host, checks.episode(labels=tuple(range(10, 20))))
    with pytest.raises(HypothesisError, match="temperature is 0"):
        label_bayes(host, EPISODE, temperature=0.0)


def test_in_worlds_the_kernel_learns_and_renaming_does_not() -> None:
    """Words are told apart in the stream of layer 0; without knowledge nothing can be renamed."""
    worlds = pytest.importorskip("iclgd_lens.worlds", reason="worlds are not in this checkout")
    model, episode = worlds.lcgd_world(0.0)
    reader = Reader(model, episode)
    icl, zs = reader.icl().label_scores, reader.zs().label_scores
    rule = kernel_regression(model, episode, layer=0, tau=0.0)
    found = reader.ftzs(rule).label_scores
    answer = found.argmax(-1, keepdim=True)  # where several labels were shown as often, one of them
    torch.testing.assert_close(icl.gather(1, answer)[:, 0], icl.amax(-1), rtol=1e-3, atol=1e-3)
    renamed = reader.ftzs(label_bayes(model, episode)).label_scores
    torch.testing.assert_close(renamed.softmax(-1), zs.softmax(-1), rtol=1e-4, atol=1e-6)
