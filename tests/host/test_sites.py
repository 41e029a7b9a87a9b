"""A linear site is the weight it names: gradients, deltas and hosts agree, family by family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.delta import ParameterDelta, delta_hooks
from iclgd_lens.errors import HookError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from tests import checks, families

ALL = checks.pairs(*families.FAMILIES)
GATED = ("llama", "qwen2", "qwen3", "mistral")
BIASES = {
    "gpt2": {"b_Q", "b_K", "b_V", "b_O", "b_in", "b_out"},
    "neox": {"b_Q", "b_K", "b_V", "b_O", "b_in", "b_out"},
    "gptj": {"b_in", "b_out"},
    "qwen2": {"b_Q", "b_K", "b_V"},
}
needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)


@pytest.mark.parametrize(("kind", "family"), ALL)
def test_every_layer_has_every_site_of_its_family(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    weights = {"W_Q", "W_K", "W_V", "W_O", "W_in", "W_out"} | (
        {"W_gate"} if family in GATED else set()
    )
    for layer in range(host.n_layers):
        sites = [site for site in host.sites.values() if site.layer == layer]
        assert {site.kind for site in sites} == weights
        biases = {site.bias.rsplit(".", 1)[1] for site in sites if site.bias}
        assert biases == BIASES.get(family, set())
        for site in sites:
            assert host.parameter(site.weight).shape == site.shape
            if site.kind in ("W_K", "W_V"):
                assert site.shape[0] == host.n_key_value_heads


@pytest.mark.parametrize(("kind", "family"), ALL)
def test_hook_gradients_equal_weight_gradients(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    tokens = tuple(families.tokens(10, seed=1)[0].tolist())
    targets = tuple(range(1, 10))

    delta = {
        name: torch.zeros_like(value).requires_grad_(True)
        for name, value in checks.random_delta(host).items()
    }
    with host.hooked(delta_hooks(host, delta)):
        loss = checks.mean_loss(host.model, tokens, targets)
    at_hooks = dict(zip(delta, torch.autograd.grad(loss, list(delta.values())), strict=True))

    twin = checks.twin(host.model)
    checks.mean_loss(twin, tokens, targets).backward()
    for name, gradient in at_hooks.items():
        expected = checks.real(twin, name).grad
        assert expected is not None, name
        # The bias of K has no gradient but rounding: softmax ignores a shift of the scores.
        weight = name.replace(".b_", ".W_")
        scale = float(at_hooks[weight].abs().max()) if name.endswith("b_K") else None
        checks.close(checks.in_own_layout(twin, name, gradient), expected, 1e-5, scale)


@pytest.mark.parametrize(("kind", "family"), ALL)
def test_hook_applied_deltas_equal_weight_applied_deltas(kind: str, family: str) -> None:
    host, tokens = checks.host(kind, family), families.tokens(10, batch=2)
    delta = ParameterDelta(checks.random_delta(host))
    with torch.no_grad():
        plain = checks.logits(host.model, tokens)
        with delta.applied(host.model):
            by_hooks = checks.logits(host.model, tokens)
        twin = Host(checks.twin(host.model))
        for name, change in delta.items():
            value = twin.parameter(name)
            assert value is not None
            twin.write_parameter(name, value + change)
        by_weights = checks.logits(twin.model, tokens)
    checks.close(by_hooks, by_weights, 1e-5)
    assert (by_hooks - plain).abs().max() > 0.1


@pytest.mark.parametrize(("kind", "family"), checks.pairs("neox", "qwen3"))
def test_each_weight_alone_moves_the_model_as_its_site_says(kind: str, family: str) -> None:
    host, tokens = checks.host(kind, family), families.tokens(8)
    everything = ParameterDelta(checks.random_delta(host))
    twin = Host(checks.twin(host.model))
    kinds = sorted({name.rsplit(".", 1)[1] for name in everything})
    with torch.no_grad():
        plain = host.run(tokens).residual
        for weight in kinds:
            delta = everything.select(layers=1, weights=weight)
            (name,) = list(delta)
            old = twin.parameter(name).clone()
            twin.write_parameter(name, old + delta[name])
            expected = twin.run(tokens).residual
            twin.write_parameter(name, old)
            with host.hooked(delta.hooks(host)):
                found = host.run(tokens).residual
            checks.close(found, expected, 1e-5)
            assert weight == "b_K" or (found - plain).abs().max() > 1e-3, weight


@needs_hooked
@pytest.mark.parametrize("family", families.FAMILIES)
def test_the_bridge_agrees_with_the_hooked_transformer(family: str) -> None:
    hooked, bridge = checks.host("hooked", family), checks.host("bridge", family)
    tokens, episode = families.tokens(9, batch=2), checks.episode()
    assert {name: site.shape for name, site in hooked.sites.items()} == {
        name: site.shape for name, site in bridge.sites.items()
    }
    assert [site.bias for site in hooked.sites.values()] == [
        bridge.sites[name].bias for name in hooked.sites
    ]
    with torch.no_grad():
        checks.close(bridge.run(tokens).residual, hooked.run(tokens).residual, 1e-5)
    for name in hooked.sites:
        assert torch.equal(bridge.parameter(name), hooked.parameter(name)), name
    for rule in (gd, lcgd):
        ours, theirs = rule(hooked, episode), rule(bridge, episode)
        assert list(ours) == list(theirs)
        for name, value in ours.items():
            scale = float(ours[name.replace(".b_", ".W_")].abs().max())
            checks.close(theirs[name], value, 5e-5, scale)  # rounding depends on the machine


@pytest.mark.parametrize(
    ("kind", "family"),
    ALL + [("bridge", name) for name in families.BRIDGE_FAMILIES if name not in families.FAMILIES],
)
def test_prefixes_are_what_the_full_sequence_is(kind: str, family: str) -> None:
    host, tokens = checks.host(kind, family), families.tokens(12, batch=3)
    with torch.no_grad():
        whole = host.run(tokens).residual
        head = host.run(tokens[:1, :1].expand(1, 1), keep=True).prefix
        assert head is not None
        assert head.length == 1
        split = host.run(tokens[:, :5], keep=True).prefix
        rest = host.run(tokens[:, 5:], split).residual
        checks.close(rest, whole[:, 5:], 1e-5)
        again = host.run(tokens[:, 5:], split)
        assert again.prefix is None
        assert torch.equal(again.residual, rest), "reading must not extend a frozen prefix"
        longer = host.run(tokens[:, 5:], split, keep=True).prefix
        assert longer.length == 12
        checks.close(host.run(tokens[:, 8:], longer.crop(8)).residual, whole[:, 8:], 1e-5)
        shared = host.run(tokens[:1, :5], keep=True).prefix.expand(3)
        one = host.run(torch.cat([tokens[:1, :5].expand(3, 5), tokens[:, 5:]], dim=1)).residual
        checks.close(host.run(tokens[:, 5:], shared).residual, one[:, 5:], 1e-5)
        assert split.expand(3) is split
        assert split.crop(5) is split


@pytest.mark.parametrize("kind", checks.kinds())
def test_unknown_weights_and_hooks_are_answered_with_the_nearest(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    with pytest.raises(HookError, match=r"Did you mean 'blocks\.0\.attn\.W_K'"):
        host.site("blocks.0.attn.W_KK")
    with pytest.raises(HookError, match=r"no hook point 'blocks\.0\.hook_resid_pr'\. Did you"):
        host.hook_point("blocks.0.hook_resid_pr")
    site = host.site("blocks.0.attn.b_K")
    assert site.weight == "blocks.0.attn.W_K"
    assert site.kind == "W_K"
    with pytest.raises(HookError, match="neither a weight nor a bias"):
        site.apply(torch.zeros(1, 1, 32), None, None, torch.zeros(1, 1, 4, 8))


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_hook_that_does_not_fire_is_an_error(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    fired: list[str] = []

    def hook(activation: torch.Tensor, hook: Any) -> None:
        fired.append(hook.name)

    before = checks.photograph(host.model)
    names = [host.block_input_hook(layer) for layer in range(3)]
    with pytest.raises(HookError, match=r"hook_resid_pre' did not fire .*\(nor did 2 more\)"):
        with host.hooked([(name, hook) for name in names]):
            pass
    with host.hooked([(name, hook) for name in names], forced=False):
        pass
    with pytest.raises(HookError, match=r"blocks\.7"):
        with host.hooked([(names[0], hook), ("blocks.7.hook_resid_pre", hook)]):
            pass
    assert not fired
    before.assert_same(host.model)
