"""Where `transformers` keeps the weights of the families that become HookedTransformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Names:
    """Names of one `transformers` family; those of a layer follow its prefix `layer`.

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
        query_key_value_bias: Whether separate query, key and value maps have biases.
        output_bias: Whether the attention's output map has a bias.
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
    query_key_value_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    unembed_bias: bool = False


def _llama(*, norms: Mapping[str, str] | None = None, biased: bool = False) -> Names:
    own = {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"}
    return Names(
        embed="model.embed_tokens.weight",
        layer="model.layers.{}.",
        final_norm="model.norm",
        norms=own | dict(norms or {}),
        separate=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        output="self_attn.o_proj",
        mlp={"in": "mlp.up_proj", "gate": "mlp.gate_proj", "out": "mlp.down_proj"},
        query_key_value_bias=biased,
    )


NAMES: Mapping[str, Names] = {
    "GPT2LMHeadModel": Names(
        embed="transformer.wte.weight",
        positions="transformer.wpe.weight",
        layer="transformer.h.{}.",
        final_norm="transformer.ln_f",
        norms={"ln1": "ln_1", "ln2": "ln_2"},
        joint="attn.c_attn",
        output="attn.c_proj",
        mlp={"in": "mlp.c_fc", "out": "mlp.c_proj"},
        input_first=True,
        output_bias=True,
        mlp_bias=True,
    ),
    "GPTJForCausalLM": Names(
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
    ),
    "GPTNeoXForCausalLM": Names(
        embed="gpt_neox.embed_in.weight",
        layer="gpt_neox.layers.{}.",
        final_norm="gpt_neox.final_layer_norm",
        norms={"ln1": "input_layernorm", "ln2": "post_attention_layernorm"},
        joint="attention.query_key_value",
        interleaved=True,
        output="attention.dense",
        mlp={"in": "mlp.dense_h_to_4h", "out": "mlp.dense_4h_to_h"},
        output_bias=True,
        mlp_bias=True,
    ),
    "LlamaForCausalLM": _llama(),
    "MistralForCausalLM": _llama(),
    "Qwen2ForCausalLM": _llama(biased=True),
    "Qwen3ForCausalLM": _llama(
        norms={"attn.q_norm": "self_attn.q_norm", "attn.k_norm": "self_attn.k_norm"}
    ),
}
"""`transformers` architecture to its names."""


def unembedding_name(architecture: str) -> str:
    """The unembedding module's name, which `transformers` changed for GPT-NeoX."""
    if architecture != "GPTNeoXForCausalLM":
        return "lm_head"
    from transformers import GPTNeoXForCausalLM

    tied: Any = GPTNeoXForCausalLM._tied_weights_keys  # pyright: ignore[reportPrivateUsage]
    return next(iter(tied)).split(".")[0]
