"""Weights that TransformerLens processed are refused by what they hold, in every dtype."""

from __future__ import annotations

from typing import Any

import pytest
import torch

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
