"""The table of model families that become HookedTransformers, and the models built from it.

A family is a `transformers` class. To add one is to add one entry here; a family without an entry
is served by TransformerBridge alone.

TransformerLens 3 builds HookedTransformer models from a list of official names only. Its weight
converters do not depend on those names, so this module derives the configuration from the
`transformers` configuration and lets TransformerLens convert the weights, without any processing.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host import config_fields as fields_of
from iclgd_lens.host.config_fields import GPT_SIZES, GROUPED_SIZES, SIZES, Fields


@dataclass(frozen=True)
class WeightNames:
    """What a `transformers` class calls its weights; names of a layer follow its prefix `layer`.

    Attributes:
        embed: The token embedding.
        layer: Prefix of a layer's names, with a place for its index.
        final_norm: The final norm.
        norms: TransformerLens norm to its name.
        output: The attention's output map.
        mlp: "in", "gate", "out" to their maps.
        positions: Learned position embedding, or None.
        joint: The joint query-key-value map, or None.
        separate: Query, key and value maps where there is no joint one.
        interleaved: The joint map's outputs go head by head, each head's query, key and value.
        input_first: Weights are [d_in, d_out] (Conv1D) instead of [d_out, d_in].
        mlp_bias: Whether the MLP's maps have biases.
        unembed_bias: Whether the unembedding has one.
    """

    embed: str
    layer: str
    final_norm: str
    norms: Mapping[str, str]
    output: str
    mlp: Mapping[str, str]
    positions: str | None = None
    joint: str | None = None
    separate: tuple[str, ...] = ()
    interleaved: bool = False
    input_first: bool = False
    mlp_bias: bool = False
    unembed_bias: bool = False


@dataclass(frozen=True)
class Family:
    """What is known of one `transformers` class.

    Attributes:
        architecture: The class's name.
        converter: TransformerLens's weight converter, a function of
            `transformer_lens.pretrained.weight_conversions`.
        biases: Which of the attention's maps have biases, of "QKVO". (HookedTransformer gives every
            layer bias tensors, zero where the architecture has none.)
        sizes: TransformerLens's sizes to what the `transformers` configuration calls them.
        fields: HookedTransformer's configuration from that of `transformers`; None where only
            TransformerLens's own list of official names makes one.
        names: Where `transformers` keeps the weights; None where they cannot be written back.
        norm_after_attention: The norm follows attention, which HookedTransformer's hooks do not
            separate from it: such a family is served by TransformerBridge alone.
    """

    architecture: str
    converter: str
    biases: str = ""
    sizes: Mapping[str, str] = field(default_factory=lambda: SIZES)
    fields: Callable[[Any], Fields] | None = None
    names: WeightNames | None = None
    norm_after_attention: bool = False

    def convert(self, hf_model: Any, cfg: Any) -> dict[str, Any]:
        """A `transformers` model's weights under TransformerLens's names (TransformerLens 3)."""
        from transformer_lens.pretrained import weight_conversions

        return getattr(weight_conversions, self.converter)(hf_model, cfg)

    def config(self, cfg: Any) -> Any:
        """A `transformers` configuration of the same sizes as a HookedTransformer's.

        All else is the class's default: enough to know how the class draws its weights.
        """
        import transformers

        sizes = {name: getattr(cfg, field) for field, name in self.sizes.items()}
        if sizes.get("num_key_value_heads", 0) is None:
            sizes["num_key_value_heads"] = cfg.n_heads
        cls: Any = getattr(transformers, self.architecture)
        return cls.config_class(**sizes)


def _llama(norms: Mapping[str, str] | None = None) -> WeightNames:
    own = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
    return WeightNames(
        embed="model.embed_tokens.weight",
        layer="model.layers.{}.",
        final_norm="model.norm",
        norms=own | dict(norms or {}),
        separate=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.o_proj",
        mlp={"in": "mlp.up_proj", "gate": "mlp.gate_proj", "out": "mlp.down_proj"},
    )


_GPT2 = WeightNames(
    embed="transformer.wte.weight",
    positions="transformer.wpe.weight",
    layer="transformer.h.{}.",
    final_norm="transformer.ln_f",
    norms={"ln1": "ln_1", "ln2": "ln_2"},
    joint="attn.c_attn",
    output="attn.c_proj",
    mlp={"in": "mlp.c_fc", "out": "mlp.c_proj"},
    input_first=True,
    mlp_bias=True,
)
_GPTJ = WeightNames(
    embed="transformer.wte.weight",
    layer="transformer.h.{}.",
    final_norm="transformer.ln_f",
    # The second norm that HookedTransformer keeps is the first one again.
    norms={"ln1": "ln_1"},
    separate=("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    output="attn.out_proj",
    mlp={"in": "mlp.fc_in", "out": "mlp.fc_out"},
    mlp_bias=True,
    unembed_bias=True,
)
_NEOX = WeightNames(
    embed="gpt_neox.embed_in.weight",
    layer="gpt_neox.layers.{}.",
    final_norm="gpt_neox.final_layer_norm",
    norms={"ln1": "input_layernorm", "ln2": "post_attention_layernorm"},
    joint="attention.query_key_value",
    interleaved=True,
    output="attention.dense",
    mlp={"in": "mlp.dense_h_to_4h", "out": "mlp.dense_4h_to_h"},
    mlp_bias=True,
)
_QWEN3 = _llama({"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"})
_OPT_SIZES = {**SIZES, "d_mlp": "ffn_dim"}
_BLOOM_SIZES = {"d_model": "hidden_size", "n_heads": "n_head", "n_layers": "n_layer",
                "d_vocab": "vocab_size"}  # fmt: skip
_NEO_SIZES = {**SIZES, "n_layers": "num_layers", "n_heads": "num_heads"}

_ENTRIES = (
    # Made from any folder, and written back as one.
    Family("GPT2LMHeadModel", "convert_gpt2_weights", "QKVO", GPT_SIZES, fields_of.gpt2, _GPT2),
    Family("GPTJForCausalLM", "convert_gptj_weights", "", GPT_SIZES, fields_of.gptj, _GPTJ),
    Family("GPTNeoXForCausalLM", "convert_neox_weights", "QKVO", SIZES, fields_of.neox, _NEOX),
    Family("LlamaForCausalLM", "convert_llama_weights", "", GROUPED_SIZES, fields_of.llama,
           _llama()),
    Family("MistralForCausalLM", "convert_mistral_weights", "", GROUPED_SIZES, fields_of.mistral,
           _llama()),
    Family("Qwen2ForCausalLM", "convert_qwen2_weights", "QKV", GROUPED_SIZES, fields_of.qwen2,
           _llama()),
    Family("Qwen3ForCausalLM", "convert_qwen3_weights", "", GROUPED_SIZES, fields_of.qwen3, _QWEN3),
    # Made by TransformerLens, for its official names.
    Family("BloomForCausalLM", "convert_bloom_weights", "QKVO", _BLOOM_SIZES),
    Family("Gemma2ForCausalLM", "convert_gemma_weights", "", GROUPED_SIZES),
    Family("Gemma3ForCausalLM", "convert_gemma_weights", "", GROUPED_SIZES),
    Family("GemmaForCausalLM", "convert_gemma_weights", "", GROUPED_SIZES),
    Family("GPTNeoForCausalLM", "convert_neo_weights", "", _NEO_SIZES),
    Family("OlmoForCausalLM", "convert_olmo_weights", "", GROUPED_SIZES),
    Family("Olmo2ForCausalLM", "convert_olmo2_weights", norm_after_attention=True),
    Family("Olmo3ForCausalLM", "convert_olmo3_weights", norm_after_attention=True),
    Family("OPTForCausalLM", "convert_opt_weights", "QKVO", _OPT_SIZES),
    Family("Phi3ForCausalLM", "convert_phi3_weights", "", GROUPED_SIZES),
    Family("PhiForCausalLM", "convert_phi_weights", "QKVO"),
)  # fmt: skip

FAMILIES: Mapping[str, Family] = MappingProxyType({each.architecture: each for each in _ENTRIES})
"""Every family with an entry, by the name of its `transformers` class."""


def family_of(architecture: str | None) -> Family | None:
    """The entry of a `transformers` class, or None."""
    return None if architecture is None else FAMILIES.get(architecture)


def convertible() -> dict[str, Family]:
    """Families that become a HookedTransformer from any folder, by class name."""
    return {name: family for name, family in FAMILIES.items() if family.fields is not None}


def writable() -> dict[str, Family]:
    """Families whose HookedTransformers are written in `transformers` names, by class name."""
    return {name: family for name, family in FAMILIES.items() if family.names is not None}


def unembedding_name(family: Family) -> str:
    """The unembedding module's name, which `transformers` changed for GPT-NeoX."""
    if family.names is not _NEOX:
        return "lm_head"
    import transformers

    cls: Any = getattr(transformers, family.architecture)
    return next(iter(cls._tied_weights_keys)).split(".")[0]


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
        hf_model: A loaded `transformers` model of one of the families in `FAMILIES`.
        name: What the model's configuration calls itself.
        device: Where the HookedTransformer is put.
        tokenizer: A `transformers` tokenizer, or None for a model that takes token ids alone.

    Returns:
        The model in evaluation mode and in the dtype of `hf_model`; its logits equal those of
        `hf_model`. No weight is folded, centred or otherwise processed.

    Raises:
        UnsupportedModelError: The installed TransformerLens has no HookedTransformer, or no
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
        UnsupportedModelError: The family has no entry that makes them, or a setting its converter
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
