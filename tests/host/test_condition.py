"""The condition in which a model is handed over: served, said, or refused in one line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import iclgd_lens as lens
from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host import Host
from iclgd_lens.host.condition import model_provenance
from iclgd_lens.host.loading import load_model
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.nulls import untrained
from iclgd_lens.readout.reader import Reader
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
EPISODE = checks.episode(shots=3, queries=4)


def refusal(model: Any) -> str:
    with pytest.raises(UnsupportedModelError) as error:
        Host(model)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- the caller's precision ------------------------------------------------------------------------


@BY_KIND
@pytest.mark.parametrize("rule", [gd, lcgd])
def test_autocast_of_the_caller_changes_no_bit(kind: str, rule: Callable[..., Any]) -> None:
    model = checks.model(kind, "llama")

    def measured() -> list[Tensor]:
        delta = rule(model, EPISODE, lr=0.1)
        readout = Reader(model, EPISODE).ftzs(delta)
        return [readout.label_scores, readout.scores, *(delta[name] for name in delta)]

    plain = measured()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = measured()
        assert torch.is_autocast_enabled("cpu")
    assert all(torch.equal(one, other) for one, other in zip(plain, inside, strict=True))


def test_a_comparison_under_autocast_is_the_same() -> None:
    model = checks.model("bridge", "gpt2")

    def compared() -> dict[str, Any]:
        result = lens.compare(model, EPISODE, ["gd"], lr=0.1, controls=(), resamples=5)
        return result.parts[0].values

    plain = compared()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = compared()
    for label, scores in plain.items():
        for name, value in scores.items():
            one, other = torch.as_tensor(value), torch.as_tensor(inside[label][name])
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)), (label, name)


# -- what acts on a model --------------------------------------------------------------------------


@BY_KIND
def test_hooks_of_the_user_are_in_the_provenance(kind: str) -> None:
    model = checks.fresh(kind, "gpt2")
    assert "hooks" not in model_provenance(model)
    model.add_hook("blocks.1.hook_resid_pre", lambda value, hook: value * 1.5)
    assert "blocks.1.hook_resid_pre" in model_provenance(model)["hooks"]
    result = lens.compare(model, EPISODE, {"none": lens.Intervention()}, controls=(), resamples=5)
    assert "blocks.1.hook_resid_pre" in result.provenance["model"]["hooks"]
    model.reset_hooks()
    assert "hooks" not in model_provenance(model)


@BY_KIND
def test_hooks_on_modules_are_seen_and_wiring_is_not(kind: str) -> None:
    model = checks.fresh(kind, "llama")
    with torch.no_grad():
        checks.logits(model, families.tokens(4))  # a bridge wires itself in its first pass
    assert "hooks" not in model_provenance(model)
    handle = model.blocks[0].register_forward_hook(lambda module, given, output: None)
    assert model_provenance(model)["hooks"] == "blocks.0"
    handle.remove()


@pytest.mark.parametrize("family", ["opt", "bloom"])
def test_what_a_bridge_passes_on_by_hooks_is_not_the_users(family: str) -> None:
    """A part without a forward of its own is fed by permanent hooks (OPT's MLP, in version 4)."""
    model = checks.fresh("bridge", family)
    assert "hooks" not in model_provenance(model)
    model.add_hook("blocks.1.mlp.in.hook_in", zeroed)
    assert "blocks.1" in model_provenance(model)["hooks"]
    model.reset_hooks()
    assert "hooks" not in model_provenance(model)


@BY_KIND
def test_deltas_and_permanent_hooks_of_the_user_are_in_the_provenance(kind: str) -> None:
    model = checks.fresh(kind, "gpt2")
    host = Host(model)
    with host.hooked([(host.z_hook(2), zeroed)], forced=False):
        assert "blocks.2" in model_provenance(model)["hooks"]
    host.hook_point(host.z_hook(1)).add_hook(zeroed, is_permanent=True)
    assert "blocks.1" in model_provenance(model)["hooks"]


def zeroed(value: Tensor, hook: Any) -> Tensor:
    return value * 0


@BY_KIND
@pytest.mark.parametrize("point", ["blocks.0.attn.hook_q", "blocks.1.attn.hook_z"])
def test_a_hook_that_hides_a_weight_is_named(kind: str, point: str) -> None:
    model = checks.fresh(kind, "gpt2")
    layer, part = point.split(".")[1], {"hook_q": "q.hook_out", "hook_z": "o.hook_out"}
    name = point if kind == "hooked" else f"blocks.{layer}.attn.{part[point.rsplit('.', 1)[1]]}"
    if kind == "hooked" and point.endswith("hook_z"):
        name = "blocks.1.hook_attn_out"
    model.add_hook(name, zeroed)
    told = refusal(model)
    known = model.hook_dict
    same = [other for other in known if known[other] is known[name]]
    assert any(f"hooks of your own act on it, at {each};" in told for each in same)
    assert "processed" not in told


@BY_KIND
def test_an_error_of_a_hook_is_the_users_own(kind: str) -> None:
    def broken(value: Tensor, hook: Any) -> Tensor:
        raise TypeError("no such thing")

    model = checks.fresh(kind, "llama")
    model.add_hook("blocks.2.hook_resid_post", broken)
    with pytest.raises(TypeError, match="no such thing"):
        Host(model)


@BY_KIND
@pytest.mark.parametrize("name", ["blocks.1.attn.W_K", "blocks.0.mlp.W_in"])
def test_one_nan_in_a_weight_is_named(kind: str, name: str) -> None:
    model = checks.fresh(kind, "llama")
    weight = checks.real(model, name)
    with torch.no_grad():
        weight.view(-1)[5] = torch.nan
    told = refusal(model)
    assert "not finite" in told
    assert "processed" not in told
    path = name if kind == "hooked" else {"K": "k_proj", "n": "up_proj"}[name[-1]]
    assert path.replace("W_K", "_W_K") in told or path in told
    assert model_provenance(model)["not_finite"] in told


class LoraLinear(nn.Module):
    """What adapter libraries put in a linear map's place: the map and two thin ones beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = nn.Linear(2, base.out_features, bias=False)

    @property
    def weight(self) -> Tensor:
        return self.base_layer.weight

    @property
    def bias(self) -> Tensor | None:
        return self.base_layer.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def test_an_adapter_that_is_not_merged_is_named() -> None:
    model = families.huggingface_model("llama")
    attention = model.model.layers[1].self_attn
    with torch.random.fork_rng(devices=[]):
        attention.v_proj = LoraLinear(attention.v_proj)
    bridge = families.hosted("bridge", model)
    told = refusal(bridge)
    assert "LoRA adapters that are not merged" in told
    assert "lora_A" in told
    assert "processed" not in told
    with torch.no_grad():  # a new adapter does nothing: measured as it is, and said
        next(p for n, p in bridge.named_parameters() if "lora_B" in n).zero_()
    assert Host(bridge)
    assert "lora_A" in model_provenance(bridge)["adapters"]


@BY_KIND
def test_the_attention_implementation_is_in_the_provenance(kind: str) -> None:
    told = model_provenance(checks.model(kind, "gpt2"))["attention"]
    assert told == ("eager" if kind == "bridge" else "HookedTransformer")


def test_another_attention_implementation_is_named() -> None:
    model = families.huggingface_model("llama")
    model.set_attn_implementation("sdpa")
    assert "'sdpa' attention" in refusal(families.hosted("bridge", model))


# -- where a model was loaded ----------------------------------------------------------------------


@BY_KIND
def test_a_model_loaded_under_inference_mode_is_refused_inside_and_outside(kind: str) -> None:
    with torch.inference_mode():
        model = checks.fresh(kind, "gpt2")
        assert "torch.inference_mode()" in refusal(model)
    assert "torch.inference_mode()" in refusal(model)


@BY_KIND
def test_load_model_leaves_the_callers_inference_mode(kind: Any, tmp_path: Path) -> None:
    families.save_folder("gpt2", tmp_path)
    with torch.inference_mode():
        model = load_model(tmp_path, device="cpu", host=kind)
        inside = gd(model, EPISODE, lr=0.1)
        twin = untrained(model)
        assert torch.is_inference_mode_enabled()
    assert not any(
        parameter.is_inference() for parameter in [*model.parameters(), *twin.parameters()]
    )
    outside = gd(model, EPISODE, lr=0.1)
    assert all(torch.equal(inside[name], outside[name]) for name in inside)


@BY_KIND
def test_a_model_on_several_devices_is_refused(kind: str) -> None:
    model = checks.fresh(kind, "llama")
    part = model.blocks[2].mlp if kind == "hooked" else model.original_model.model.layers[2]
    part.to("meta")
    assert re.search(r"spread over several devices.*\(cpu, meta\)", refusal(model))


# -- layers that compute in fp32 -------------------------------------------------------------------

_GROUPED: Any = families._GROUPED
_FP32_ROTATION: dict[str, Callable[[], Any]] = {
    "olmo": lambda: transformers.OlmoConfig(**_GROUPED),
    "olmo2": lambda: transformers.Olmo2Config(**_GROUPED),
    "olmo3": lambda: transformers.Olmo3Config(**_GROUPED),
}


@pytest.mark.parametrize("name", _FP32_ROTATION)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_that_rotate_in_fp32_are_measured(
    name: str, dtype: torch.dtype
) -> None:
    original = families.of_config(_FP32_ROTATION[name]())
    host = Host(families.hosted("bridge", original.to(dtype)))
    ids = families.tokens(9)
    exact = families.of_config(_FP32_ROTATION[name]())
    with torch.no_grad():
        expected = exact(ids).logits
        found = host.logits(host.run(ids).residual).float()
    scale = 0.06 if dtype == torch.bfloat16 else 0.01
    assert (found - expected).abs().max() < scale * (1 + expected.abs().max())
    readout = Reader(host, EPISODE).ftzs(gd(host, EPISODE, lr=0.1))
    assert readout.is_finite


# -- families --------------------------------------------------------------------------------------

_FALCON = {
    **families._COMMON, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "ffn_hidden_size": 64, "alibi": False,
}  # fmt: skip
_AWKWARD: dict[str, Callable[[], Any]] = {
    "falcon": lambda: transformers.FalconConfig(**_FALCON, multi_query=True),
    "falcon, new decoder": lambda: transformers.FalconConfig(
        **_FALCON, new_decoder_architecture=True, num_kv_heads=2
    ),
    "helium": lambda: transformers.HeliumConfig(**_GROUPED, head_dim=8),
    "neox without biases": lambda: transformers.GPTNeoXConfig(
        **families._LAYERS, **families._COMMON, attention_bias=False
    ),
    "cohere": lambda: transformers.CohereConfig(**_GROUPED, logit_scale=0.5),
    "granite": families.BRIDGE_FAMILIES["granite"],
}
_REASONS = {
    "falcon, new decoder": "FalconForCausalLM|self_attention",
    "helium": "no adapter for .*HeliumForCausalLM",
    "neox without biases": "attention without biases",
    "cohere": r"self_attn\.o_proj",
}


@pytest.mark.parametrize("name", _AWKWARD)
def test_an_awkward_family_is_served_right_or_says_what_is_not(name: str, tmp_path: Path) -> None:
    original = families.of_config(_AWKWARD[name]())
    folder = families.saved(original, tmp_path / "model")
    ids = families.tokens(12)
    refused: Exception | None = None
    try:
        model = load_model(folder, device="cpu", host="bridge")
    except UnsupportedModelError as error:
        refused = error
    if refused is not None:
        assert "\n" not in str(refused)
        assert re.search(_REASONS[name], str(refused))
        return
    host = Host(model)
    with torch.no_grad():
        expected = transformers.AutoModelForCausalLM.from_pretrained(folder)(ids).logits
        found = host.logits(host.run(ids).residual)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    assert Host(untrained(model))
