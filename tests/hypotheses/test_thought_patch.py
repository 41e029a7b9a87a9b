"""The patch of one pair is the exact one of rank 1; of several, scikit-learn's ridge regression."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.contexts import Contexts
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.thought_patch import ridge_factor, thought_patch
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.readout.reader import Reader
from tests import checks, families

EPISODE = checks.episode(shots=4)
FAMILIES = checks.pairs("gpt2", "llama")
SERVED = [
    *checks.pairs("neox", "qwen3"),
    ("bridge", "gptj"),
    ("bridge", "gemma2"),
    ("bridge", "granite"),
]


@pytest.mark.parametrize(("kind", "family"), [*FAMILIES, *SERVED])
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")])
def test_one_pair_without_ridge_is_the_exact_patch(kind: str, family: str, protocol: Any) -> None:
    """The demonstration that was patched answers alone as it does after the one before it."""
    host = checks.host(kind, family)
    two = checks.episode(protocol, shots=2)
    contexts = Contexts(host, two, "test")
    wanted = contexts.after_others([host.block_output_hook(2)], loo="causal")
    assert wanted.places == (1,)
    patch = thought_patch(host, two, ridge=1e-9, loo="causal")
    found = contexts.alone([host.block_output_hook(2)], change=patch)
    alone = contexts.alone()
    for name, value in found.values.items():
        checks.close(value[1], wanted.values[name][0], 1e-3)
    if protocol == DEFAULT:
        checks.close(found.label_scores[1], wanted.label_scores[0], 1e-3)
        assert not torch.allclose(alone.label_scores[1], wanted.label_scores[0], rtol=1e-2)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_the_first_layers_patch_is_ridge_regression(kind: str, family: str) -> None:
    from sklearn.linear_model import Ridge

    host = checks.host(kind, family)
    sites = {site.kind: site for site in host.sites.values() if site.layer == 0}
    site = sites["W_in"]
    contexts = Contexts(host, EPISODE, "test")
    entry, attention = host.block_input_hook(0), host.attention_output_hook(0)
    names = [site.input_hook, entry, attention]
    alone, after = contexts.alone(names).values, contexts.after_others(names).values
    u, target = (
        site.read(values[site.input_hook][:, None])[:, 0].detach().double().numpy()
        for values in (alone, after)
    )
    patch: Any = thought_patch(host, EPISODE, ridge=0.1)
    block = patch.blocks[0]
    alpha = 0.1 * np.trace(u.T @ u) / u.shape[1]
    for kind_ in ("W_in", "W_gate") if "W_gate" in sites else ("W_in",):
        weight = host.parameter(sites[kind_].weight)
        assert weight is not None
        wanted = (target - u) @ weight.double().numpy()
        model = Ridge(alpha, fit_intercept=False, solver="svd").fit(u, wanted)
        found = (block.left @ block.right[kind_]).numpy()
        np.testing.assert_allclose(found, model.coef_.T, rtol=1e-2, atol=1e-5)
    change = after[entry] + after[attention] - alone[entry] - alone[attention]
    checks.close(block.bias, change.mean(0), 1e-4)


def test_the_factor_is_that_of_least_squares() -> None:
    u = torch.randn(3, 7, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(ridge_factor(u, 0.0).numpy(), np.linalg.pinv(u.numpy()), atol=1e-5)
    one = u[:1]
    np.testing.assert_allclose(
        ridge_factor(one, 1e-12).numpy(), (one / one.square().sum()).T.numpy(), rtol=1e-5
    )
    rho = 0.5 * float(u.square().sum()) / 7
    x = u.double().numpy()
    expected = np.linalg.solve(x.T @ x + rho * np.eye(7), x.T)
    np.testing.assert_allclose(ridge_factor(u, 0.5).numpy(), expected, rtol=1e-4, atol=1e-6)
    assert not ridge_factor(0 * u, 0.5).any()


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_infinite_ridge_leaves_the_bias_and_without_it_nothing(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    reader = Reader(host, EPISODE)
    nothing = reader.ftzs(Intervention())
    none = reader.ftzs(thought_patch(host, EPISODE, ridge=math.inf, bias=False))
    for part in ("attention_output", "z", "scores", "label_scores"):
        assert torch.equal(getattr(none, part), getattr(nothing, part))
    only: Any = thought_patch(host, EPISODE, ridge=math.inf)
    assert all(block.left is None and block.bias is not None for block in only.blocks)
    assert not torch.allclose(reader.ftzs(only).label_scores, nothing.label_scores, rtol=1e-2)


@pytest.mark.parametrize("kind", checks.kinds())
def test_layers_that_are_not_patched_keep_their_weights(kind: str) -> None:
    host = checks.host(kind, "llama")
    patch: Any = thought_patch(host, EPISODE, layers=1)
    assert [block.layer for block in patch.blocks] == [1]
    reader = Reader(host, EPISODE)
    changed, nothing = reader.ftzs(patch), reader.ftzs(Intervention())
    assert torch.equal(changed.z[:, :2], nothing.z[:, :2]), "attention before the patch"
    assert not torch.allclose(changed.z[:, 2], nothing.z[:, 2], rtol=1e-2)
    whole: Any = thought_patch(host, EPISODE, layers=[2, 0, 1])
    assert [block.layer for block in whole.blocks] == [0, 1, 2]


def test_what_cannot_be_patched_is_refused() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    with pytest.raises(HypothesisError, match="layers is 3"):
        thought_patch(host, EPISODE, layers=[0, 3])
    with pytest.raises(HypothesisError, match="ridge is -1"):
        thought_patch(host, EPISODE, ridge=-1.0)
    with pytest.raises(HypothesisError, match="at least 2 demonstrations"):
        thought_patch(host, checks.episode(shots=1))
    with pytest.raises(HypothesisError, match=r"layer 0 of \w+ (is not the sum|has no MLP)"):
        thought_patch(checks.host("bridge", "bloom"), EPISODE)


@pytest.mark.skipif(not families.has_hooked_transformer(), reason="needs a HookedTransformer")
def test_a_model_without_mlps_is_refused() -> None:
    worlds = pytest.importorskip("iclgd_lens.worlds")
    model, episode = worlds.lcgd_world(0.0, kind="hooked")
    with pytest.raises(HypothesisError, match="has no MLP"):
        thought_patch(Host(model), episode)
