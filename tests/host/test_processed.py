"""Weights that TransformerLens processed are refused by what they hold, in every dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host import Host
from tests import checks, families

needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(), reason="TransformerLens 4 has no HookedTransformer"
)
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
NONE = {
    "fold_ln": False,
    "center_writing_weights": False,
    "center_unembed": False,
    "fold_value_biases": False,
}


def processed(family: str = "gpt2", **wanted: bool) -> Any:
    model = checks.fresh("hooked", family)
    model.load_and_process_state_dict(model.state_dict(), **(NONE | wanted))
    return model


def refused(model: Any, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        Host(model)
    assert "\n" not in str(caught.value)


@needs_hooked
@BY_DTYPE
def test_refactored_attention_is_refused(dtype: torch.dtype) -> None:
    model = processed(refactor_factored_attn_matrices=True).to(dtype)
    refused(model, r"attention of gpt2 is refactored .*from_pretrained_no_processing")


@needs_hooked
def test_orthogonal_weights_that_nobody_refactored_are_served() -> None:
    """As some draw them to begin with, or build circuits from them."""
    model = checks.fresh("hooked", "gpt2")
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in model.blocks:
            attention = block.attn
            attention.b_V.zero_()
            attention.b_O.zero_()
            for weight in (attention.W_Q, attention.W_K, attention.W_V, attention.W_O.mT):
                for head in weight:
                    torch.nn.init.orthogonal_(head)
    Host(model)


@needs_hooked
@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_folded_value_biases_are_refused(family: str) -> None:
    refused(processed(family, fold_value_biases=True), r"value biases of .* are folded into b_O")


@needs_hooked
@pytest.mark.parametrize("family", ["gpt2", "qwen2", "llama"])
def test_biases_of_zero_that_nobody_folded_are_served(family: str) -> None:
    """Before any training, or where the family has no value biases."""
    model = checks.fresh("hooked", family)
    with torch.no_grad():
        for block in model.blocks:
            for name, bias in block.attn.named_parameters():
                if name.lstrip("_") in ("b_V", "b_O"):
                    bias.zero_()
    Host(model)


@needs_hooked
@BY_DTYPE
@pytest.mark.parametrize("first", [True, False], ids=["then cast", "cast before"])
def test_centred_weights_are_refused_in_every_dtype(dtype: torch.dtype, first: bool) -> None:
    model = checks.fresh("hooked", "gpt2")
    model = model if first else model.to(dtype)
    model.load_and_process_state_dict(
        model.state_dict(), **(NONE | {"center_writing_weights": True})
    )
    refused(model.to(dtype), r"are centred, so they are processed .*from_pretrained_no_processing")


@BY_DTYPE
@pytest.mark.parametrize("kind", checks.kinds())
def test_a_centred_bridge_is_refused_in_every_dtype(kind: str, dtype: torch.dtype) -> None:
    model = checks.fresh(kind, "gpt2").to(dtype)
    with torch.no_grad():
        for weight in (model.embed.W_E, *(block.attn.W_O for block in model.blocks)):
            weight.sub_(weight.mean(-1, keepdim=True))
    refused(model, "are centred, so they are processed")


@BY_DTYPE
@pytest.mark.parametrize("seed", range(6))
def test_weights_that_nobody_centred_are_served_in_every_dtype(
    dtype: torch.dtype, seed: int
) -> None:
    """The narrower and shallower, the fewer rows must have a mean by chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            n_embd=8, n_layer=1, n_head=1, n_positions=16, vocab_size=12, n_inner=8
        )
        plain = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=dtype
        )
    Host(families.hosted("bridge", plain.eval()))


def test_writes_of_zero_are_not_centred() -> None:
    """Some begin training with output maps of 0."""
    model = checks.fresh("bridge", "gpt2")
    with torch.no_grad():
        for block in model.blocks:
            block.attn.o.original_component.weight.zero_()
        embedding = model.embed.original_component.weight
        embedding.sub_(embedding.mean(-1, keepdim=True))
    Host(model)
