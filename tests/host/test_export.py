"""Merged state dicts load where they say they load, and give the logits that the delta gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.errors import DeltaError
from iclgd_lens.host import Host
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
EVERY = checks.pairs(*families.FAMILIES) + [
    pytest.param("bridge", family, id=f"bridge-{family}")
    for family in families.BRIDGE_FAMILIES
    if family not in families.FAMILIES
]
needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)


def under(delta: ParameterDelta, host: Host, tokens: Tensor) -> Tensor:
    with torch.no_grad(), delta.applied(host):
        return checks.logits(host.model, tokens)


def transformers_model(family: str) -> Any:
    with torch.random.fork_rng(devices=[]):
        return transformers.AutoModelForCausalLM.from_config(
            families.BRIDGE_FAMILIES[family](), attn_implementation="eager"
        ).eval()


@pytest.mark.parametrize(("kind", "family"), EVERY)
def test_huggingface_names_load_in_transformers(kind: str, family: str) -> None:
    host, tokens = checks.host(kind, family), families.tokens(9, batch=2)
    delta = ParameterDelta(checks.random_delta(host))
    state = torch.random.get_rng_state()
    merged = delta.merged(host, "huggingface")
    assert torch.equal(torch.random.get_rng_state(), state)
    model = transformers_model(family)
    found = model.load_state_dict(merged, strict=False)
    persistent = set(model.state_dict())
    assert not found.unexpected_keys
    assert not set(found.missing_keys) & persistent
    with torch.no_grad():
        logits = model(tokens).logits
    torch.testing.assert_close(logits, under(delta, host, tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "qwen2"))
def test_own_names_load_in_the_model_itself(kind: str, family: str) -> None:
    host, tokens = checks.host(kind, family), families.tokens(9, batch=2)
    delta = ParameterDelta(checks.random_delta(host))
    merged, own = delta.merged(host), host.model.state_dict()
    assert list(merged) == list(own)
    assert all(value.dtype == own[name].dtype for name, value in merged.items())
    other = checks.twin(host.model)
    other.load_state_dict(merged, strict=False)
    with torch.no_grad():
        found = checks.logits(other, tokens)
    torch.testing.assert_close(found, under(delta, host, tokens), rtol=0, atol=1e-4)
    empty = ParameterDelta({}).merged(host)
    assert all(torch.equal(value, own[name]) for name, value in empty.items())


@pytest.mark.parametrize("kind", checks.kinds())
def test_joint_weights_change_in_keys_and_values_alone(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    delta = ParameterDelta(checks.random_delta(host, "W_K", "b_K", "W_V", "b_V"))
    plain, merged = (d.merged(host, "huggingface") for d in (ParameterDelta({}), delta))
    original = families.huggingface_model("gpt2").state_dict()
    for name, old in plain.items():
        assert torch.equal(old, original[name]), name
        if "c_attn" not in name:
            assert torch.equal(merged[name], old), name
            continue
        # Columns: queries, keys, values; head by head within each.
        q, k, v = (merged[name] - old).split(32, dim=-1)
        assert not q.any()
        layer, letter = int(name.split(".")[2]), "W" if name.endswith("weight") else "b"
        for part, kind_ in ((k, "K"), (v, "V")):
            change = delta[f"blocks.{layer}.attn.{letter}_{kind_}"]
            flat = torch.cat(list(change), dim=1) if letter == "W" else change.ravel()
            torch.testing.assert_close(part, flat, rtol=0, atol=1e-6)


@BY_KIND
def test_what_is_handed_out_is_a_copy(kind: str) -> None:
    model = checks.fresh(kind, "llama")
    host = Host(model)
    delta = ParameterDelta(checks.random_delta(host, "W_K"))
    before = checks.photograph(model)
    for layout in ("transformer_lens", "huggingface"):
        for value in delta.merged(host, layout).values():
            assert not value.requires_grad
            value.zero_()
    before.assert_same(model)


@BY_KIND
def test_half_precision_adds_in_full_precision(kind: str) -> None:
    model = checks.fresh(kind, "gpt2").to(torch.bfloat16)
    if kind == "hooked":
        model.cfg.dtype = torch.bfloat16
    host = Host(model)
    name = "blocks.0.attn.W_V"
    old = host.parameter(name)
    delta = ParameterDelta({name: torch.full(host.site(name).shape, 0.0123)})
    expected = (old.float() + 0.0123).to(torch.bfloat16)
    merged = delta.merged(host, "huggingface")
    columns = merged["transformer.h.0.attn.c_attn.weight"][:, 64:]
    assert columns.dtype == torch.bfloat16
    assert torch.equal(columns, torch.cat(list(expected), dim=1))
    own = checks.in_own_layout(model, name, expected)
    assert torch.equal(
        delta.merged(host)[name if kind == "hooked" else "blocks.0.attn.v.weight"], own
    )


@BY_KIND
def test_unknown_layouts_and_weights_are_refused(kind: str) -> None:
    host = checks.host(kind, "gpt2")
    with pytest.raises(DeltaError, match=r"'hugginface'; allowed: .* Did you mean 'huggingface'\?"):
        ParameterDelta({}).merged(host, "hugginface")
    with pytest.raises(DeltaError, match="belongs to another model"):
        ParameterDelta({"blocks.0.attn.W_K": torch.zeros(2, 3, 4)}).merged(host)
    with pytest.raises(DeltaError, match=r"blocks\.9\.attn\.W_K"):
        ParameterDelta({"blocks.9.attn.W_K": torch.zeros(4, 32, 8)}).merged(host)


@needs_hooked
def test_an_unknown_architecture_has_no_huggingface_names() -> None:
    model = checks.fresh("hooked", "gpt2")
    model.cfg.original_architecture = "StarCoderForCausalLM"
    delta = ParameterDelta({})
    with pytest.raises(
        DeltaError, match=r"'StarCoderForCausalLM'; written from .* GPT2LMHeadModel"
    ):
        delta.merged(model, "huggingface")
    assert delta.merged(model)


@needs_hooked
@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "attn.b_Q"), ("llama", "mlp.b_in"), ("gptj", "attn.b_O"), ("neox", "unembed.b_U")],
)
def test_a_bias_that_transformers_has_no_place_for_is_refused(family: str, name: str) -> None:
    model = checks.fresh("hooked", family)
    full = name if name.startswith("unembed") else f"blocks.1.{name}"
    with torch.no_grad():
        checks.real(model, full).fill_(0.3)
    with pytest.raises(DeltaError, match=rf"{full} of {family} is not zero, but the transformers"):
        ParameterDelta({}).merged(model, "huggingface")


def test_a_joint_weight_that_cannot_be_joined_again_is_refused() -> None:
    model = checks.fresh("bridge", "gpt2")
    model.blocks[1].attn._modules.pop("qkv")
    delta = ParameterDelta({})
    with pytest.raises(DeltaError, match=r"joins queries, keys and values of layer 1 in a way"):
        delta.merged(model, "huggingface")


def test_a_bridge_that_lost_a_weight_is_refused() -> None:
    model = checks.fresh("bridge", "llama")
    host = Host(model)
    model.original_model.config.vocab_size += 0
    model.original_model.config.num_hidden_layers += 1
    with pytest.raises(DeltaError, match=r"the bridge keeps no 'model\.layers\.3\."):
        ParameterDelta({}).merged(host, "huggingface")
