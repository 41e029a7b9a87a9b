"""The condition that a model is handed over in, and what a result records about it.

Some of it forbids measuring; the rest is measured as it is, said in results, and named where a
model turns out not to do what its weights say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host.guard import all_modules
from iclgd_lens.host.special_tokens import bos_in_words

_SHOWN = 3
# Hooks of these are wiring; whatever else is attached, the user attached.
_LIBRARIES = ("transformer_lens", "transformers", "torch", "accelerate", "iclgd_lens")
_KINDS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def refuse_condition(model: Any) -> None:
    """Refuse a model whose weights are in no state to be measured.

    Raises:
        UnsupportedModelError: They are spread over devices, nowhere, or made under inference mode.
    """
    name = getattr(model.cfg, "model_name", None) or type(model).__name__
    tensors = [tensor for _, tensor in _tensors(model)]
    devices = sorted({str(tensor.device) for tensor in tensors})
    if len(devices) > 1 or devices == ["meta"] or (getattr(model.cfg, "n_devices", 1) or 1) > 1:
        raise UnsupportedModelError(
            f"The weights of {name} are spread over several devices or not loaded "
            f"({', '.join(devices)}); load the whole model onto one device."
        )
    if any(tensor.is_inference() for tensor in tensors):
        raise UnsupportedModelError(
            f"{name} was loaded under torch.inference_mode(), so nothing can be differentiated "
            "through its weights; load it outside of that mode, or with iclgd_lens.load_model."
        )


def causes(model: Any) -> list[str]:
    """What about a model's condition may keep it from doing what its weights say, in words."""
    found: list[str] = []
    broken = not_finite(model)
    if broken:
        found.append(f"its weights hold values that are not finite ({_some(broken)})")
    adapters = unmerged_adapters(model)
    if adapters:
        found.append(
            f"it holds LoRA adapters that are not merged ({_some(adapters)}); call "
            "merge_and_unload() before it is wrapped"
        )
    hooks = own_hooks(model)
    if hooks:
        found.append(
            f"hooks of your own act on it, at {_some(hooks)}; remove them "
            "(model.reset_hooks()), or let them leave inputs and outputs as they are"
        )
    return found


def condition(model: Any) -> dict[str, str]:
    """What results record of a model's condition: nothing where there is nothing to say."""
    found = {
        "hooks": own_hooks(model),
        "adapters": unmerged_adapters(model),
        "not_finite": not_finite(model),
    }
    return {name: _some(items) for name, items in found.items() if items}


def attention_implementation(model: Any) -> str:
    """What computes a model's attention."""
    config: Any = getattr(getattr(model, "original_model", None), "config", None)
    if config is None:
        return type(model).__name__
    return str(getattr(config, "_attn_implementation", None) or "eager")


def own_hooks(model: Any) -> list[str]:
    """Hook points and modules where hooks of the user's are attached."""
    points: dict[str, Any] = dict(model.hook_dict)
    # The last of a hook point's names is TransformerLens's own, where a bridge has another, too.
    names = {
        id(point): name
        for name, point in points.items()
        if not all(_is_permanent_wiring(handle) for handle in (*point.fwd_hooks, *point.bwd_hooks))
    }
    found = list(names.values())
    known = {id(point) for point in points.values()}
    paths = {id(module): path for path, module in model.named_modules()}
    for module in all_modules(model):
        if id(module) in known or type(module).__name__ == "HookPoint":
            continue
        functions = [f for kind in _KINDS for f in getattr(module, kind).values()]
        if any(not _is_wiring(function) for function in functions):
            found.append(paths.get(id(module)) or type(module).__name__)
    return found


def unmerged_adapters(model: Any) -> list[str]:
    """Paths of LoRA adapters that act beside a model's weights."""
    names = {name for name, _ in _tensors(model) if "lora_" in name}
    return sorted(names)


def not_finite(model: Any) -> list[str]:
    """Weights that hold a value which is not finite."""
    return [
        name
        for name, value in _tensors(model)
        if value.is_floating_point()
        and not bool(value.sum().isfinite())  # reads once; an overflow of the sum is looked into
        and not bool(value.isfinite().all())
    ]


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, once, with its path below the model or below what a bridge wraps."""
    seen: set[int] = set()
    wrapped = model.__dict__.get("original_model")
    for root in (model, wrapped):
        if not isinstance(root, nn.Module):
            continue
        for path, module in root.named_modules():
            for name, value in module.named_parameters(recurse=False):
                if id(value) not in seen:
                    seen.add(id(value))
                    yield f"{path}.{name}".replace("_original_component.", ""), value.detach()


def _is_wiring(function: Any) -> bool:
    return _library(function) in _LIBRARIES


def _library(function: Any) -> str:
    """The package that defines a function."""
    while isinstance(function, partial):
        function = function.func
    module = str(getattr(function, "__module__", None) or type(function).__module__)
    return module.split(".")[0]


def _is_permanent_wiring(handle: Any) -> bool:
    """Whether a hook point's hook is how TransformerLens passes activations from part to part.

    Such hooks outlive `reset_hooks`. Others that a library made were attached at someone's wish:
    patches of TransformerLens's, or a delta or a linear attention of this package's.
    """
    function = getattr(handle, "user_hook", None)
    return bool(handle.is_permanent) and _library(function) == "transformer_lens"


def _some(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


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
