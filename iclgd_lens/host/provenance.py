"""What a result records about the model behind it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from iclgd_lens.host.condition import attention_implementation, condition
from iclgd_lens.host.special import bos_in_words

_UNKNOWN = "unknown"

# Fields that name, place or dress a model without changing what it computes.
_INCIDENTAL = frozenset(
    {
        "architectures",
        "checkpoint_index",
        "checkpoint_label_type",
        "checkpoint_value",
        "default_prepend_bos",
        "device",
        "dtype",
        "from_checkpoint",
        "init_mode",
        "init_weights",
        "initializer_range",
        "model_name",
        "model_revision",
        "n_devices",
        "n_params",
        "network",
        "origin",
        "quantisation",
        "seed",
        "tokenizer_appends_eos",
        "tokenizer_name",
        "tokenizer_prepends_bos",
        "torch_dtype",
        "transformers_version",
        "trust_remote_code",
        "ungroup_grouped_query_attention",
        "use_attn_in",
        "use_attn_result",
        "use_cache",
        "use_hook_mlp_in",
        "use_hook_tokens",
        "use_split_qkv_input",
    }
)


def model_provenance(model: Any) -> dict[str, str]:
    """Name, revision, dtype, host class and configuration hash of a loaded model.

    Works for any HookedTransformer or TransformerBridge; what a model does not know of itself is
    "unknown". Neither weights nor device enter the hash. The hash tells configurations of one
    host apart: HookedTransformer and TransformerBridge describe the same model differently.

    Returns:
        `name`; `revision`, a Hub commit or, for a folder, "sha256:..." over its weight files;
        `dtype`, such as "float32"; `host`, the class; `bos`, what sequences begin with;
        `attention`, what computes it; `config_hash`, 16 hexadecimal digits. Where there is such:
        `network`, what drew weights that are not the trained ones, with its seed; `hooks`, where
        hooks of the user's act; `adapters`, LoRA that is not merged; `not_finite`, weights that
        hold NaN or infinity; `quantisation`, of a GGUF file's weights before they were dequantised.
    """
    cfg = model.cfg
    revision = getattr(cfg, "model_revision", None)
    revision = revision or getattr(_hf_config(model), "_commit_hash", None)
    network = getattr(cfg, "network", None)
    other = {} if network is None else {"network": str(network)}
    if getattr(cfg, "quantisation", None) is not None:
        other["quantisation"] = str(cfg.quantisation)
    return (
        other
        | condition(model)
        | {
            "name": str(getattr(cfg, "model_name", None) or _UNKNOWN),
            "revision": str(revision or _UNKNOWN),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "host": type(model).__name__,
            "attention": attention_implementation(model),
            "bos": bos_in_words(getattr(model, "tokenizer", None)),
            "config_hash": _config_hash(model),
        }
    )


def _hf_config(model: Any) -> Any | None:
    """The `transformers` configuration behind a TransformerBridge, None for HookedTransformer."""
    return getattr(getattr(model, "original_model", None), "config", None)


def _config_hash(model: Any) -> str:
    config = _hf_config(model)
    fields: dict[str, Any] = (config if config is not None else model.cfg).to_dict()
    kept = {
        name: value
        for name, value in fields.items()
        if name not in _INCIDENTAL and not name.startswith(("_", "output_")) and _is_data(value)
    }
    text = json.dumps(kept, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_data(value: Any) -> bool:
    """Whether a value reads the same in every process, as an object's default text does not."""
    if isinstance(value, dict):
        return all(_is_data(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_data(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))
