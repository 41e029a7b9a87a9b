"""HookedTransformer models built from `transformers` models of the families in the table.

TransformerLens 3 builds HookedTransformer models from a list of official names only. Its weight
converters do not depend on those names, so this module derives the configuration from the
`transformers` configuration and lets TransformerLens convert the weights, without any processing.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import torch

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host.families import FAMILIES, convertible, family_of
from iclgd_lens.host.fields import Fields

_ACTIVATIONS = ("relu", "gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "silu")
_SAME_ACTIVATION = {"swish": "silu"}


@dataclass(frozen=True)
class Origin:
    """The `transformers` model that a HookedTransformer was made of, kept on its configuration.

    Attributes:
        architecture: Name of its class.
        config: Its configuration.
    """

    architecture: str
    config: Any = field(repr=False)


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
        "dtype": hf_model.dtype,
        "device": str(device),
        "use_local_attn": bool(fields.get("attn_types")),
    }
    with warnings.catch_warnings():
        # Version 3 warns of HookedTransformer's removal at every construction.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(
            HookedTransformerConfig.from_dict(fields), tokenizer, move_to_device=False
        )
    with torch.no_grad():
        weights = FAMILIES[architecture].convert(hf_model, model.cfg)
    _check_shapes(model, weights, name)
    # Not `load_and_process_state_dict`: with nothing to process it loads one key at a time, each
    # through every module, and rounds float64 to float32 on the way.
    model.load_state_dict(model.fill_missing_keys(weights), strict=False)
    model.move_model_modules_to_device()
    keep_origin(model, hf_model)
    return model.eval()


def keep_origin(model: Any, hf_model: Any) -> None:
    """Keep on a HookedTransformer's configuration what it was made of."""
    model.cfg.origin = Origin(type(hf_model).__name__, hf_model.config)


def hooked_fields(config: Any, architecture: str) -> Fields:
    """HookedTransformerConfig fields that a `transformers` configuration determines.

    Raises:
        UnsupportedModelError: the family has no entry that makes them, or a setting its converter
            would drop.
    """
    family = family_of(architecture)
    if family is None or family.fields is None:
        raise UnsupportedModelError(
            f"no HookedTransformer converter for {architecture}; "
            f"converted from a folder: {', '.join(sorted(convertible()))}"
        )
    fields = family.fields(config)
    activation = _SAME_ACTIVATION.get(fields["act_fn"], fields["act_fn"])
    if activation not in _ACTIVATIONS:
        raise UnsupportedModelError(f"HookedTransformer has no activation {activation!r}")
    return fields | {"act_fn": activation}


def _check_shapes(model: Any, weights: dict[str, torch.Tensor], name: str) -> None:
    """Refuse a state dict that would not load whole: TransformerLens loads without `strict`."""
    expected: dict[str, torch.Tensor] = model.state_dict()
    wrong = [key for key in weights if key not in expected]
    wrong += [k for k, w in weights.items() if k in expected and w.shape != expected[k].shape]
    if wrong:
        raise UnsupportedModelError(
            f"the weights of {name} do not fit HookedTransformer: {', '.join(sorted(wrong)[:5])}"
        )
