"""A model that cannot be measured faithfully is refused with one line that says what to do."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
import transformers

from iclgd_lens.errors import HookError, UnsupportedModelError
from iclgd_lens.host import Host, as_host
from iclgd_lens.host.bridge import BridgeHost
from iclgd_lens.host.checkpoint import ModelWarning
from iclgd_lens.hypotheses.gd import gd
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)


def refused(model: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        Host(model)
    assert "\n" not in str(caught.value)


def wrapped(model: Any, name: str | None = None) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    with torch.random.fork_rng(devices=[]):
        return build_bridge_from_module(
            model.eval(), type(model).__name__, hf_config=model.config, model_name=name or "tiny"
        ).eval()


@pytest.mark.parametrize(("kind", "family"), checks.pairs(*families.FAMILIES))
def test_hosts_know_their_model(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    assert host.kind == {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[kind]
    assert (host.n_layers, host.n_heads, host.d_model) == (3, 4, 32)
    assert host.n_key_value_heads == (2 if family in ("llama", "qwen2", "qwen3", "mistral") else 4)
    assert host.d_head == (12 if family in ("qwen3", "mistral") else 8)
    assert (host.d_vocab, host.n_ctx) == (families.VOCAB_SIZE, families.N_CTX)
    assert host.embedding.shape == (families.VOCAB_SIZE, 32)
    assert (host.name, host.tokenizer, host.dtype) == (family, None, torch.float32)
    assert as_host(host) is host


@pytest.mark.parametrize("family", ["gemma2", "granite", "opt", "bloom"])
def test_the_bridge_serves_other_families(family: str) -> None:
    host = checks.host("bridge", family)
    assert "blocks.2.attn.W_K" in host.sites
    seen: list[tuple[int, ...]] = []
    with torch.no_grad(), host.score_hooks(lambda layer, value: seen.append(value.shape)):
        host.run(families.tokens(6, batch=2))
    assert seen == [(2, 4, 6, 6)] * 3


@BY_KIND
@pytest.mark.parametrize("padding", [0, 2, 4])
def test_a_tokenizer_that_pads_on_the_left_changes_nothing(kind: str, padding: int) -> None:
    model, tokens = checks.fresh(kind, "gpt2"), families.tokens(7, batch=2)
    tokens[:, 3] = padding
    with torch.no_grad():
        expected = checks.host(kind, "gpt2").run(tokens).residual
        model.tokenizer = families.word_tokenizer()
        model.tokenizer.pad_token = model.tokenizer.convert_ids_to_tokens(padding)
        model.tokenizer.padding_side = "left"
        assert torch.equal(Host(model).run(tokens).residual, expected)


@pytest.mark.parametrize("thing", [None, "gpt2", object(), 3])
def test_what_is_no_model_is_refused(thing: Any) -> None:
    refused(
        thing, f"Expected a HookedTransformer or a TransformerBridge, got {type(thing).__name__}"
    )


def test_a_plain_torch_model_is_refused_with_a_hint() -> None:
    refused(
        families.huggingface_model("gpt2"), r"got GPT2LMHeadModel\. Wrap it with TransformerLens"
    )


@pytest.mark.parametrize("name", ["HookedEncoder", "HookedEncoderDecoder"])
def test_encoders_are_refused_by_name(name: str) -> None:
    refused(type(name, (torch.nn.Module,), {})(), f"{name} is not a causal decoder")


# -- HookedTransformer -----------------------------------------------------------------------------


@needs_hooked
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_folded_hooked_transformer_is_refused(family: str) -> None:
    model = checks.fresh("hooked", family)
    model.process_weights_()
    refused(model, r"norms of this .* are folded into .*from_pretrained_no_processing")


@needs_hooked
@pytest.mark.parametrize("norm", ["LNPre", "RMSPre"])
def test_a_model_built_without_gains_is_measured_with_a_warning(norm: str) -> None:
    """Toy models are often built and trained so; nothing was folded."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=2, d_model=32, n_ctx=64, d_head=8, n_heads=4, d_mlp=48, act_fn="gelu",
        d_vocab=families.VOCAB_SIZE, normalization_type=norm, seed=0,
    )  # fmt: skip
    model = HookedTransformer(config)
    with pytest.warns(ModelWarning, match=f"norms have no gain .{norm}"):
        host = Host(model)
    shown = checks.episode(shots=1, queries=1)
    delta = gd(host, shown, lr=0.1, loss_on="all")
    (sequence,) = shown.demonstrations.sequences("all")
    loss = checks.mean_loss(model, sequence.tokens, sequence.targets)
    for name in (each for each in delta if ".W_" in each):  # the softmax takes b_K from scores
        value = delta[name]
        (gradient,) = torch.autograd.grad(loss, checks.real(model, name), retain_graph=True)
        along = torch.cosine_similarity(value.flatten(), -gradient.flatten(), dim=0)
        assert along > 1 - 1e-5, name


@needs_hooked
def test_a_centred_hooked_transformer_is_refused() -> None:
    model = checks.fresh("hooked", "gpt2")
    model.load_and_process_state_dict(
        model.state_dict(), fold_ln=False, center_unembed=False, fold_value_biases=False
    )
    refused(model, r"are centred, so they are processed .*from_pretrained_no_processing")


@needs_hooked
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"normalization_type": "LNPost"}, "Normalisation 'LNPost' is not served"),
        ({"attention_dir": "bidirectional"}, "attends in both directions"),
        ({"positional_embedding_type": "shortformer"}, "Shortformer positions"),
        ({"original_architecture": "Olmo2ForCausalLM"}, r"host=\"bridge\""),
        ({"use_attn_in": True}, r"cfg\.use_attn_in is on .* call model\.set_use_attn_in\(False\)"),
        ({"use_split_qkv_input": True}, r"model\.set_use_split_qkv_input\(False\)"),
        ({"use_hook_mlp_in": True}, r"model\.set_use_hook_mlp_in\(False\)"),
        ({"ungroup_grouped_query_attention": True}, "set_ungroup_grouped_query_attention"),
        ({"load_in_4bit": True}, "4-bit weights cannot be differentiated"),
    ],
)
def test_settings_of_a_hooked_transformer_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    model = checks.fresh("hooked", "gpt2")
    for name, value in changes.items():
        setattr(model.cfg, name, value)
    refused(model, message)


@needs_hooked
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {"attn_only": True},
        {"normalization_type": None},
        {"normalization_type": "RMS", "gated_mlp": True},
        {"positional_embedding_type": "rotary", "rotary_dim": 8, "parallel_attn_mlp": True},
        {"positional_embedding_type": "alibi"},
        {"act_fn": "solu_ln", "normalization_type": "LN"},
        {"attn_only": True, "normalization_type": None, "n_layers": 2},
        {"use_attn_result": True},
        {"n_key_value_heads": 2},
        {"output_logits_soft_cap": 2.0},
    ],
    ids=lambda changes: ",".join(map(str, changes.values())),
)
def test_configurations_made_by_hand_are_served(changes: dict[str, Any]) -> None:
    """Gradients at hooks equal weight gradients on what researchers build themselves."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    from iclgd_lens.delta import delta_hooks

    fields = {
        "n_layers": 2, "d_model": 32, "n_heads": 4, "d_head": 8, "n_ctx": 32, "d_vocab": 50,
        "d_mlp": 40, "act_fn": "gelu", "normalization_type": "LN", "init_weights": False,
    }  # fmt: skip
    model = HookedTransformer(HookedTransformerConfig(**(fields | changes)))
    families.randomise(model, seed=3)
    host = Host(model)
    tokens, targets = (1, 9, 3, 7, 5, 2), tuple(range(1, 6))
    delta = {k: torch.zeros_like(v).requires_grad_() for k, v in checks.random_delta(host).items()}
    with host.hooked(delta_hooks(host, delta)):
        loss = checks.mean_loss(model, tokens, targets)
    found = torch.autograd.grad(loss, list(delta.values()))
    expected = torch.autograd.grad(
        checks.mean_loss(model, tokens, targets), [checks.real(model, name) for name in delta]
    )
    for name, ours, theirs in zip(delta, found, expected, strict=True):
        scale = float(expected[0].abs().max()) if name.endswith("b_K") else None
        checks.close(ours, theirs, 1e-5, scale)
    assert bool(changes.get("attn_only")) != any(".mlp.W_in" in name for name in delta) or (
        changes.get("act_fn") == "solu_ln"
    )


# -- TransformerBridge -----------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_processed_bridge_is_refused_and_an_unprocessed_one_served(family: str) -> None:
    processed = checks.fresh("bridge", family)
    processed.enable_compatibility_mode()
    refused(processed, r"are processed .* enable_compatibility_mode\(no_processing=True\)")
    plain = checks.fresh("bridge", family)
    plain.enable_compatibility_mode(no_processing=True)
    host, tokens = Host(plain), families.tokens(7)
    with torch.no_grad():
        found = host.logits(host.run(tokens).residual)
        other = checks.host("bridge", family)
        assert torch.equal(found, other.logits(other.run(tokens).residual))


def test_a_centred_bridge_is_refused_without_its_flag() -> None:
    model = checks.fresh("bridge", "gpt2")
    model.enable_compatibility_mode()
    model._weights_processed = False
    refused(model, "are centred, so they are processed")


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_attention_without_scores_is_refused(family: str) -> None:
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForCausalLM.from_config(
            families.FAMILIES[family](), attn_implementation="sdpa"
        )
    refused(wrapped(model), r"runs 'sdpa' attention, .* attn_implementation=\"eager\"")


@pytest.mark.parametrize(
    "switch", ["use_attn_in", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_result"]
)
def test_switches_of_a_bridge_are_refused(switch: str) -> None:
    model = checks.fresh("bridge", "gpt2")
    getattr(model, f"set_{switch}")(True)
    refused(model, rf"cfg\.{switch} is on .* call model\.set_{switch}\(False\)")
    getattr(model, f"set_{switch}")(False)
    Host(model)


def test_models_that_are_no_causal_decoders_are_refused() -> None:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16}
    with torch.random.fork_rng(devices=[]):
        bert = transformers.BertForMaskedLM._from_config(
            transformers.BertConfig(vocab_size=50, intermediate_size=20, **sizes),
            attn_implementation="eager",
        )
        t5 = transformers.T5ForConditionalGeneration(
            transformers.T5Config(
                vocab_size=50, d_model=16, num_layers=2, num_heads=2, d_ff=20, d_kv=8
            )
        )
        mamba = transformers.MambaForCausalLM(
            transformers.MambaConfig(
                vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4
            )
        )
    families.randomise(bert, seed=0)
    refused(wrapped(bert), "does not attend causally")
    refused(wrapped(t5), "is not a causal decoder")
    refused(wrapped(mamba), "has no separate query, key, value and output maps")


def test_a_model_without_a_final_norm_is_refused() -> None:
    config = families.BRIDGE_FAMILIES["opt"]()
    config.do_layer_norm_before = False
    with torch.random.fork_rng(devices=[]):
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    refused(wrapped(model), "has no final norm before its unembedding")


def test_a_state_space_beside_attention_is_refused() -> None:
    config = transformers.FalconH1Config(**families._GROUPED)
    refused(wrapped(families.of_config(config)), "Layer 0 of tiny has a state space beside its")


def test_a_bridge_over_something_else_is_refused() -> None:
    stub = types.SimpleNamespace(
        original_model=types.SimpleNamespace(), cfg=types.SimpleNamespace()
    )
    message = "is not a transformers model behind the bridge"
    with checks.untyped(), pytest.raises(UnsupportedModelError, match=message):
        BridgeHost(stub)


# -- what the probe finds --------------------------------------------------------------------------


def interfering(kind: str, name: str, family: str = "gpt2", scale: float = 1.5) -> Any:
    """A model whose owner's hook changes what passes at a hook point."""
    model = checks.fresh(kind, family)
    model.hook_dict[name].add_hook(lambda value, hook: scale * value)
    return model


@BY_KIND
def test_a_map_that_is_not_its_weight_is_refused(kind: str) -> None:
    name = "blocks.1.attn.hook_k" if kind == "hooked" else "blocks.1.attn.k.hook_out"
    refused(interfering(kind, name), r"is not blocks\.1\.attn\.W_K applied to what passes at")


@BY_KIND
def test_scores_that_the_softmax_does_not_see_are_refused(kind: str) -> None:
    model = checks.fresh(kind, "gpt2")
    sharpen = lambda value, hook: value**2 / (value**2).sum(-1, keepdim=True)  # noqa: E731
    model.hook_dict["blocks.2.attn.hook_pattern"].add_hook(sharpen)
    refused(model, "layer 2's score hook is not its attention pattern")


@BY_KIND
def test_a_model_that_looks_ahead_is_refused(kind: str) -> None:
    model = checks.fresh(kind, "gpt2")
    point = model.hook_dict["blocks.0.hook_resid_post"]
    point.add_hook(lambda value, hook: value + value.mean(1, keepdim=True))
    refused(model, "does not attend causally")


@BY_KIND
def test_logits_that_are_not_the_last_blocks_are_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = checks.fresh(kind, "gpt2")
    host = checks.host(kind, "gpt2")
    whole = type(host).unembed
    monkeypatch.setattr(type(host), "unembed", lambda self, x: 2 * whole(self, x))
    refused(model, "logits are not its final norm and unembedding")


@BY_KIND
def test_a_model_that_forgets_cached_keys_is_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, host = checks.fresh(kind, "gpt2"), checks.host(kind, "gpt2")
    whole = type(host).run

    def forgetful(
        self: Any, tokens: Any, prefix: Any = None, keep: bool = False, at: Any = None
    ) -> Any:
        return whole(self, tokens, None, keep, at)

    monkeypatch.setattr(type(host), "run", forgetful)
    refused(model, "reads tokens differently after cached keys and values")


@BY_KIND
@pytest.mark.parametrize("part", ["W_Q", "W_in", "W_out"])
def test_every_map_is_held_against_its_weight(
    kind: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, host = checks.fresh(kind, "gpt2"), checks.host(kind, "gpt2")
    whole = type(host).parameter

    def other(self: Any, name: str) -> Any:
        value = whole(self, name)
        return 2 * value if name.endswith(f"1.attn.{part}") or f"1.mlp.{part}" in name else value

    monkeypatch.setattr(type(host), "parameter", other)
    refused(model, rf"is not blocks\.1\.\w+\.{part} applied to what passes at")


@BY_KIND
def test_a_layer_that_is_skipped_is_refused(kind: str) -> None:
    model = checks.fresh(kind, "gpt2")
    model.blocks[1].forward = lambda residual, *args, **kwargs: residual
    refused(model, r"cannot be measured on a .* did not fire during a forward pass")


@BY_KIND
def test_weights_of_another_type_or_shape_are_refused(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, host = checks.fresh(kind, "gpt2"), checks.host(kind, "gpt2")
    whole = type(host).parameter

    def quantised(self: Any, name: str) -> Any:
        value = whole(self, name)
        return value.to(torch.int8) if name.endswith("W_K") else value

    monkeypatch.setattr(type(host), "parameter", quantised)
    refused(model, r"W_K of gpt2 should be a floating-point weight .* quantised and latent")


@BY_KIND
def test_scores_that_never_come_are_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    model, host = checks.fresh(kind, "gpt2"), checks.host(kind, "gpt2")
    monkeypatch.setattr(type(host), "score_hooks", lambda *_: contextlib.nullcontext())
    refused(model, r"exposes no pre-softmax attention scores at layer 0; .* \"eager\"|=\"eager\"")


def test_positions_inside_the_scores_give_no_queries() -> None:
    host = checks.host("bridge", "bloom")
    with pytest.raises(HookError, match="Tok2Attn is undefined"):
        with host.query_key_hooks(lambda *_: None, None):
            pass
