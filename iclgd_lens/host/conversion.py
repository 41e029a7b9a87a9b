"""HookedTransformer models built from `transformers` models of the common decoder families.

TransformerLens 3 builds HookedTransformer models from a list of official names only. Its weight
converters do not depend on those names, so this module derives the configuration from the
`transformers` configuration and lets TransformerLens convert the weights, without any processing.

A configuration that a converter would drop in silence (attention biases of a Llama model, a
rotary base, an unknown rotary scaling) raises `UnsupportedModelError`: a wrong model never loads.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from iclgd_lens.errors import UnsupportedModelError

Fields = dict[str, Any]

_ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu")
_SAME_ACTIVATION = {"swish": "silu"}


def hooked_from_huggingface(
    hf_model: Any,
    *,
    name: str,
    device: torch.device | str,
    tokenizer: Any = None,
) -> Any:
    """The HookedTransformer with the weights of a `transformers` causal language model.

    Args:
        hf_model: a loaded `transformers` model of one of the families in `FAMILIES`.
        name: what the model's configuration calls itself.
        device: where the HookedTransformer is put.
        tokenizer: a `transformers` tokenizer, or None for a model that takes token ids alone.

    Returns:
        The model in evaluation mode and in the dtype of `hf_model`; its logits equal those of
        `hf_model`. No weight is folded, centred or otherwise processed.

    Raises:
        UnsupportedModelError: the installed TransformerLens has no HookedTransformer, or no
            converter serves this model's family or configuration.
    """
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError as error:
        raise UnsupportedModelError(
            "the installed TransformerLens has no HookedTransformer (version 4 removed it)"
        ) from error
    # A model made in memory has no `architectures` in its configuration.
    architecture = type(hf_model).__name__
    fields = hooked_fields(hf_model.config, architecture)
    fields |= {
        "model_name": name,
        "original_architecture": architecture,
        "init_weights": False,
        # Not for these weights, which are trained: for those of untrained twins.
        "initializer_range": float(getattr(hf_model.config, "initializer_range", 0.02)),
        "dtype": hf_model.dtype,
        "device": str(device),
        "d_vocab": hf_model.config.vocab_size,
        "use_local_attn": bool(fields.get("attn_types")),
    }
    with warnings.catch_warnings():
        # Version 3 warns of HookedTransformer's removal at every construction.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(
            HookedTransformerConfig.from_dict(fields), tokenizer, move_to_device=False
        )
    with torch.no_grad():
        weights = _converter(architecture)(hf_model, model.cfg)
    _check_shapes(model, weights, name)
    model.load_and_process_state_dict(
        weights,
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
        refactor_factored_attn_matrices=False,
    )
    model.move_model_modules_to_device()
    return model.eval()


def architecture_of(config: Any) -> str:
    """The first entry of a `transformers` configuration's `architectures`, or `"unknown"`."""
    architectures: list[str] | None = getattr(config, "architectures", None)
    return architectures[0] if architectures else "unknown"


def hooked_fields(config: Any, architecture: str) -> Fields:
    """HookedTransformerConfig fields that a `transformers` configuration determines.

    Raises:
        UnsupportedModelError: no family of `FAMILIES`, or a setting its converter would drop.
    """
    family = FAMILIES.get(architecture)
    if family is None:
        raise UnsupportedModelError(
            f"no HookedTransformer converter for {architecture}; "
            f"converted from a folder: {', '.join(sorted(FAMILIES))}"
        )
    fields = family(config)
    activation = _SAME_ACTIVATION.get(fields["act_fn"], fields["act_fn"])
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(f"HookedTransformer has no activation {activation!r}")
    return fields | {"act_fn": activation}


def _gpt2(config: Any) -> Fields:
    _refuse(config.add_cross_attention, "cross-attention")
    return {
        "d_model": config.n_embd,
        "d_head": config.n_embd // config.n_head,
        "n_heads": config.n_head,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
    }


def _gptj(config: Any) -> Fields:
    d_head = config.n_embd // config.n_head
    return {
        "d_model": config.n_embd,
        "d_head": d_head,
        "n_heads": config.n_head,
        "n_layers": config.n_layer,
        "n_ctx": config.n_positions,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": config.rotary_dim or d_head,
        "rotary_adjacent_pairs": True,
        "normalization_type": "LN",
    }


def _neox(config: Any) -> Fields:
    _refuse(not config.attention_bias, "attention without biases")
    fields: Fields = _common(config, config.layer_norm_eps) | {
        "parallel_attn_mlp": config.use_parallel_residual,
        "normalization_type": "LN",
        "default_prepend_bos": False,
    }
    return fields | _rotary(config, fields["d_head"])


def _llama(config: Any) -> Fields:
    _refuse(getattr(config, "attention_bias", False), "attention biases (attention_bias=True)")
    _refuse(getattr(config, "mlp_bias", False), "MLP biases (mlp_bias=True)")
    return _gated(config)


def _qwen2(config: Any) -> Fields:
    # Its converter writes grouped keys and values always.
    return _gated(config) | {
        "n_key_value_heads": config.num_key_value_heads,
        "default_prepend_bos": False,
    }


def _qwen3(config: Any) -> Fields:
    _refuse(config.attention_bias, "attention biases (attention_bias=True)")
    return _gated(config) | {"use_qk_norm": True, "default_prepend_bos": False}


def _mistral(config: Any) -> Fields:
    return _gated(config) | {"n_key_value_heads": config.num_key_value_heads}


def _gated(config: Any) -> Fields:
    """RMSNorm, rotary positions, a gated MLP, grouped-query attention where the heads differ."""
    fields: Fields = _common(config, config.rms_norm_eps) | {
        "normalization_type": "RMS",
        "final_rms": True,
        "gated_mlp": True,
    }
    kv_heads = config.num_key_value_heads
    if kv_heads != config.num_attention_heads:
        fields["n_key_value_heads"] = kv_heads
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings:
        layers = getattr(config, "layer_types", None)
        # Models without layer types apply their window in every layer.
        kinds = layers or ["sliding_attention"] * config.num_hidden_layers
        if "sliding_attention" in kinds:
            fields |= {
                "window_size": window,
                "attn_types": ["local" if k == "sliding_attention" else "global" for k in kinds],
            }
    return fields | _rotary(config, fields["d_head"])


def _common(config: Any, eps: float) -> Fields:
    return {
        "d_model": config.hidden_size,
        "d_head": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        "n_heads": config.num_attention_heads,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_mlp": config.intermediate_size,
        "eps": eps,
        "act_fn": config.hidden_act,
    }


def _rotary(config: Any, d_head: int) -> Fields:
    """Rotary fields, from `rope_parameters` (transformers 5; it reads older spellings into it)."""
    rope: Fields = dict(getattr(config, "rope_parameters", None) or {})
    kind = rope.get("rope_type", "default")
    fields: Fields = {
        "positional_embedding_type": "rotary",
        "rotary_base": rope.get("rope_theta", 10000.0),
        "rotary_dim": int(d_head * rope.get("partial_rotary_factor", 1.0)),
        "rotary_adjacent_pairs": False,
    }
    if kind == "llama3":
        fields |= {
            "use_NTK_by_parts_rope": True,
            "NTK_original_ctx_len": rope["original_max_position_embeddings"],
            "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
            "NTK_by_parts_factor": rope["factor"],
        }
    elif kind != "default":
        raise UnsupportedModelError(f"no HookedTransformer converter for rotary scaling {kind!r}")
    return fields


def _refuse(condition: bool, what: str) -> None:
    if condition:
        raise UnsupportedModelError(f"the HookedTransformer converter has no place for {what}")


FAMILIES: dict[str, Callable[[Any], Fields]] = {
    "GPT2LMHeadModel": _gpt2,
    "GPTJForCausalLM": _gptj,
    "GPTNeoXForCausalLM": _neox,
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
}
"""`transformers` architectures with a HookedTransformer converter, and their field builders."""


def _converter(architecture: str) -> Callable[[Any, Any], dict[str, torch.Tensor]]:
    from transformer_lens.pretrained import weight_conversions

    convert: Any = (
        weight_conversions  # re-exports its converters without saying so to type checkers
    )
    return {
        "GPT2LMHeadModel": convert.convert_gpt2_weights,
        "GPTJForCausalLM": convert.convert_gptj_weights,
        "GPTNeoXForCausalLM": convert.convert_neox_weights,
        "LlamaForCausalLM": convert.convert_llama_weights,
        "MistralForCausalLM": convert.convert_mistral_weights,
        "Qwen2ForCausalLM": convert.convert_qwen2_weights,
        "Qwen3ForCausalLM": convert.convert_qwen3_weights,
    }[architecture]


def _check_shapes(model: Any, weights: dict[str, torch.Tensor], name: str) -> None:
    """Refuse a state dict that would not load whole: TransformerLens loads without `strict`."""
    expected: dict[str, torch.Tensor] = model.state_dict()
    wrong = [key for key in weights if key not in expected]
    wrong += [k for k, w in weights.items() if k in expected and w.shape != expected[k].shape]
    if wrong:
        raise UnsupportedModelError(
            f"the weights of {name} do not fit HookedTransformer: {', '.join(sorted(wrong)[:5])}"
        )
