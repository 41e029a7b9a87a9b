"""The fields of a HookedTransformer's configuration that a `transformers` configuration determines.

A setting that a converter would drop in silence (attention biases of a Llama model, an unknown
rotary scaling) raises `UnsupportedModelError`: a wrong model never loads.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from iclgd_lens.errors import UnsupportedModelError

Fields = dict[str, Any]

GPT_SIZES: Mapping[str, str] = MappingProxyType(
    {
        "d_model": "n_embd",
        "n_heads": "n_head",
        "n_layers": "n_layer",
        "n_ctx": "n_positions",
        "d_mlp": "n_inner",
        "d_vocab": "vocab_size",
    }
)
"""Sizes of a HookedTransformer and what GPT-2's and GPT-J's configurations call them."""

SIZES: Mapping[str, str] = MappingProxyType(
    {
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "n_layers": "num_hidden_layers",
        "n_ctx": "max_position_embeddings",
        "d_mlp": "intermediate_size",
        "d_vocab": "vocab_size",
    }
)
"""The same for most later architectures."""

GROUPED_SIZES: Mapping[str, str] = MappingProxyType(
    {**SIZES, "d_head": "head_dim", "n_key_value_heads": "num_key_value_heads"}
)
"""The same where heads have a size of their own and share keys and values."""


def gpt2(config: Any) -> Fields:
    """GPT-2's fields."""
    _refuse(config.add_cross_attention, "cross-attention")
    return _gpt(config) | {
        "use_attn_scale": config.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
    }


def gptj(config: Any) -> Fields:
    """GPT-J's fields."""
    fields = _gpt(config)
    return fields | {
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": config.rotary_dim or fields["d_head"],
        "rotary_adjacent_pairs": True,
    }


def neox(config: Any) -> Fields:
    """GPT-NeoX's and Pythia's fields."""
    _refuse(not config.attention_bias, "attention without biases")
    fields: Fields = _common(config, config.layer_norm_eps) | {
        "parallel_attn_mlp": config.use_parallel_residual,
        "normalization_type": "LN",
        "default_prepend_bos": False,
    }
    return fields | _rotary(config, fields["d_head"])


def llama(config: Any) -> Fields:
    """Llama's fields."""
    _refuse(getattr(config, "attention_bias", False), "attention biases (attention_bias=True)")
    _refuse(getattr(config, "mlp_bias", False), "MLP biases (mlp_bias=True)")
    return _gated(config)


def mistral(config: Any) -> Fields:
    """Mistral's fields; its converter always writes grouped keys and values."""
    return _gated(config) | {"n_key_value_heads": config.num_key_value_heads}


def qwen2(config: Any) -> Fields:
    """Qwen2's fields; its converter always writes grouped keys and values."""
    return mistral(config) | {"default_prepend_bos": False}


def qwen3(config: Any) -> Fields:
    """Qwen3's fields."""
    _refuse(config.attention_bias, "attention biases (attention_bias=True)")
    return _gated(config) | {"use_qk_norm": True, "default_prepend_bos": False}


def _gpt(config: Any) -> Fields:
    return _sizes(config, GPT_SIZES) | {
        "d_head": config.n_embd // config.n_head,
        "d_mlp": config.n_inner or 4 * config.n_embd,
        "eps": config.layer_norm_epsilon,
        "act_fn": config.activation_function,
        "normalization_type": "LN",
    }


def _common(config: Any, eps: float) -> Fields:
    return _sizes(config, SIZES) | {
        "d_head": getattr(config, "head_dim", None)
        or config.hidden_size // config.num_attention_heads,
        "eps": eps,
        "act_fn": config.hidden_act,
    }


def _sizes(config: Any, names: Mapping[str, str]) -> Fields:
    return {field: getattr(config, name) for field, name in names.items()}


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
    return fields | _window(config) | _rotary(config, fields["d_head"])


def _window(config: Any) -> Fields:
    window = getattr(config, "sliding_window", None)
    if window is None or window >= config.max_position_embeddings:
        return {}
    layers = getattr(config, "layer_types", None)
    # Models without layer types apply their window in every layer.
    kinds = layers or ["sliding_attention"] * config.num_hidden_layers
    if "sliding_attention" not in kinds:
        return {}
    return {
        "window_size": window,
        "attn_types": ["local" if k == "sliding_attention" else "global" for k in kinds],
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
