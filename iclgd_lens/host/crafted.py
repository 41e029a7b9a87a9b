"""Models whose every weight is given: built, not trained, and known to the last number.

The weights are those of attention blocks alone, without norms, by their TransformerLens names. A
HookedTransformer holds them as they are. A TransformerBridge needs a `transformers` model, so the
same blocks are also written as a GPT-2 whose parts are made idle: its MLPs are zero, its LayerNorms
divide by a constant. The model computes the same function in rotated coordinates, and since the
rotation keeps inner products, gradient descent on it is the same gradient descent.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import UnsupportedModelError, nearest
from iclgd_lens.host.base import Attention
from iclgd_lens.host.loading import has_hooked_transformer
from iclgd_lens.host.sites_and_passes import layer_of

Weights = Mapping[str, Tensor]
"""Tensors by TransformerLens name, as "blocks.0.attn.W_Q" [head d_model d_head]; scores are q.k,
without a scale. Biases that are left out are zero."""

KINDS = ("auto", "hooked", "bridge")

_FLAT = 1e6
"""What idle LayerNorms divide and multiply by: beside its square a variance is lost in rounding."""


def crafted_model(
    weights: Weights,
    *,
    kind: str = "auto",
    attention: Attention = "softmax",
    name: str = "crafted",
) -> Any:
    """Return a model of attention blocks with the given weights.

    Args:
        weights: "embed.W_E" [token d_model], "pos_embed.W_pos" [pos d_model], "unembed.W_U"
            [d_model token], and for each block W_Q, W_K, W_V [head d_model d_head], W_O [head
            d_head d_model]; of biases, b_V [head d_head] and b_O [d_model]. Fewer heads in W_K and
            W_V than in W_Q are shared by groups of query heads.
        kind: "hooked", "bridge" or "auto": the first where TransformerLens has it.
        attention: "softmax", or "linear": permanent hooks replace the softmax by the masked scores.
        name: What the model's configuration calls itself.

    Raises:
        UnsupportedModelError: The kind does not exist here, or cannot hold such a model.
    """
    if kind not in KINDS:
        raise UnsupportedModelError(
            f"kind is {kind!r}; allowed: {', '.join(KINDS)}." + nearest(kind, KINDS)
        )
    if kind == "hooked" or (kind == "auto" and has_hooked_transformer()):
        model = _hooked(weights, name)
        if attention == "linear":
            linearise(model)
        return model
    if attention == "linear":
        raise UnsupportedModelError(
            "Linear attention takes hooks that replace the softmax, which a TransformerBridge does "
            "not honour; use a HookedTransformer (TransformerLens 3), or the two-head softmax form."
        )
    return _bridge(weights, name)


def n_layers(weights: Weights) -> int:
    """Number of blocks that the weights name."""
    return 1 + max(layer_of(key) for key in weights if key.startswith("blocks."))


# -- HookedTransformer -----------------------------------------------------------------------------


def _hooked(weights: Weights, name: str) -> Any:
    try:
        from transformer_lens import HookedTransformer, HookedTransformerConfig
    except ImportError as error:
        raise UnsupportedModelError(
            "The installed TransformerLens has no HookedTransformer (version 4 removed it)."
        ) from error
    heads, d_model, d_head = weights["blocks.0.attn.W_Q"].shape
    shared = weights["blocks.0.attn.W_K"].shape[0]
    fields: dict[str, Any] = {
        "n_layers": n_layers(weights),
        "d_model": d_model,
        "n_ctx": len(weights["pos_embed.W_pos"]),
        "d_head": d_head,
        "n_heads": heads,
        "n_key_value_heads": None if shared == heads else shared,
        "d_vocab": len(weights["embed.W_E"]),
        "attn_only": True,
        "normalization_type": None,
        "use_attn_scale": False,
        "init_weights": False,
        "device": "cpu",
        "model_name": name,
        "dtype": weights["embed.W_E"].dtype,
    }
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # Version 3 warns of HookedTransformer's removal at every construction.
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(HookedTransformerConfig.from_dict(fields))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            given = weights.get(key.replace("._", "."))
            parameter.copy_(torch.zeros_like(parameter) if given is None else given)
    return model.eval()


def linearise(model: Any) -> None:
    """Replace a HookedTransformer's softmax by the masked scores themselves, for good.

    Permanent hooks keep each block's scores, with 0 where the causal mask hides a key, and give
    them back in place of the pattern. `Host(model, attention="linear")` takes such a model.
    """
    for layer in range(int(model.cfg.n_layers)):
        kept: list[Tensor] = []
        stem = f"blocks.{layer}.attn"
        model.add_perma_hook(f"{stem}.hook_attn_scores", partial(_keep, kept))
        model.add_perma_hook(f"{stem}.hook_pattern", partial(_give, kept))


def _keep(kept: list[Tensor], scores: Tensor, hook: Any) -> None:
    kept[:] = [scores.masked_fill(scores.isinf(), 0.0)]


def _give(kept: list[Tensor], pattern: Tensor, hook: Any) -> Tensor:
    return kept.pop().to(pattern.dtype)


# -- TransformerBridge over a GPT-2 whose norms and MLPs are idle ----------------------------------


def _bridge(weights: Weights, name: str) -> Any:
    import transformers
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    heads, d_model, d_head = weights["blocks.0.attn.W_Q"].shape
    if weights["blocks.0.attn.W_K"].shape[0] != heads:
        raise UnsupportedModelError(
            "GPT-2, which a crafted TransformerBridge stands on, has no grouped key and value "
            'heads; use kind="hooked" (TransformerLens 3).'
        )
    # One head dimension that nothing is written to; and a residual stream wide enough for all.
    d_head = max(d_head + 1, -(-(d_model + 1) // heads))
    width = heads * d_head
    config = transformers.GPT2Config(
        vocab_size=len(weights["embed.W_E"]),
        n_positions=len(weights["pos_embed.W_pos"]),
        n_embd=width,
        n_layer=n_layers(weights),
        n_head=heads,
        n_inner=1,
        layer_norm_epsilon=_FLAT**2,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
        _fill_gpt2(model, weights, _isometry(d_model, width), d_head)
        return build_bridge_from_module(
            model.eval(), type(model).__name__, hf_config=config, model_name=name
        ).eval()


def _fill_gpt2(
    model: Any, weights: Weights, turn: Float[Tensor, "d_model width"], d_head: int
) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        gpt2 = model.transformer
        gpt2.wte.weight.copy_(_turned(weights["embed.W_E"], turn))
        gpt2.wpe.weight.copy_(_turned(weights["pos_embed.W_pos"], turn))
        model.lm_head.weight.copy_(_turned(weights["unembed.W_U"].T, turn))
        for layer, block in enumerate(gpt2.h):
            for norm in (block.ln_1, block.ln_2):
                norm.weight.fill_(_FLAT)
            _fill_attention(block.attn, partial(_named, weights, layer), turn, d_head)
            # Writes that are all centred would be taken for those of a processed model. This one
            # is not, and never happens: nothing reads into the head's last dimension.
            block.attn.c_proj.weight[d_head - 1].fill_(1.0)
        gpt2.ln_f.weight.fill_(_FLAT)


def _fill_attention(
    attention: Any,
    own: Callable[[str], Tensor | None],
    turn: Float[Tensor, "d_model width"],
    d_head: int,
) -> None:
    columns: list[Tensor] = []
    biases: list[Tensor] = []
    for letter in "QKV":
        weight, bias = own(f"W_{letter}"), own(f"b_{letter}")
        assert weight is not None
        scale = d_head**0.5 if letter == "Q" else 1.0  # GPT-2 divides scores by it
        wide = torch.nn.functional.pad(
            torch.einsum("hde,dw->hwe", weight.double(), turn) * scale,
            (0, d_head - weight.shape[2]),
        )
        columns.append(torch.cat(list(wide), dim=1))
        given = torch.zeros(len(weight), weight.shape[2]) if bias is None else bias * scale
        biases.append(torch.nn.functional.pad(given, (0, d_head - weight.shape[2])).flatten())
    attention.c_attn.weight.copy_(torch.cat(columns, dim=1))
    attention.c_attn.bias.copy_(torch.cat(biases))
    out, offset = own("W_O"), own("b_O")
    assert out is not None
    rows = torch.nn.functional.pad(_turned(out, turn), (0, 0, 0, d_head - out.shape[1]))
    attention.c_proj.weight.copy_(rows.flatten(0, 1))
    if offset is not None:
        attention.c_proj.bias.copy_(_turned(offset, turn))


def _named(weights: Weights, layer: int, kind: str) -> Tensor | None:
    return weights.get(f"blocks.{layer}.attn.{kind}")


def _turned(
    rows: Float[Tensor, "*rest d_model"], turn: Float[Tensor, "d_model width"]
) -> Float[Tensor, "*rest width"]:
    return rows.double() @ turn


def _isometry(d_model: int, width: int) -> Float[Tensor, "d_model width"]:
    """Rows that are orthonormal and sum to zero: Helmert's, so that a LayerNorm's centring is idle.

    fp64; row i has i + 1 equal entries and one that makes up for them.
    """
    found = torch.zeros(d_model, width, dtype=torch.float64)
    for row in range(d_model):
        found[row, : row + 1] = 1.0
        found[row, row + 1] = -float(row + 1)
    return found / found.norm(dim=1, keepdim=True)
