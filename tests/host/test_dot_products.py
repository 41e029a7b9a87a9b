"""What is shown as queries and keys is what attention multiplies, or is not shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from iclgd_lens.errors import HookError
from iclgd_lens.host import Host
from iclgd_lens.host.dot_products import give_scores
from tests import families

_GROUPED: dict[str, Any] = families._GROUPED
_EXPOSED: dict[str, Callable[[], Any]] = {
    "grouped keys": families.BRIDGE_FAMILIES["llama"],
    "norm before the rotation": families.BRIDGE_FAMILIES["qwen3"],
    "soft cap": lambda: transformers.Gemma2Config(
        **_GROUPED, head_dim=12, query_pre_attn_scalar=7, attn_logit_softcapping=3.0
    ),
    "window": lambda: transformers.MistralConfig(**_GROUPED, head_dim=12, sliding_window=2),
}


@pytest.mark.parametrize("name", _EXPOSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_scores_that_grow_with_products_are_shown(name: str, dtype: torch.dtype) -> None:
    host = Host(families.hosted("bridge", families.of_config(_EXPOSED[name]()).to(dtype)))
    assert host.query_key_hook(0, "k") == "blocks.0.attn.hook_rot_k"


@pytest.mark.skipif(
    families.has_hooked_transformer(), reason="TransformerLens 3 leaves the norms out"
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_queries_that_are_normalised_after_the_rotation_are_not_shown(dtype: torch.dtype) -> None:
    config = transformers.HunYuanDenseV1Config(**_GROUPED, head_dim=8)
    host = Host(families.hosted("bridge", families.of_config(config).to(dtype)))
    with pytest.raises(HookError, match="does not expose queries and keys"):
        host.query_key_hook(0, "q")


def test_one_row_in_another_order_tells() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 5, 4, 8, generator=generator)
    k = torch.randn(1, 5, 2, 8, generator=generator)
    products = torch.einsum("bqhd,bkhd->bhqk", q, k.repeat_interleave(2, 2))
    hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)

    def told(scores: torch.Tensor) -> bool:
        scores = scores.masked_fill(hidden, -torch.inf)
        patterns = {0: scores.softmax(-1)}
        return give_scores(({0: q, 1: q}, {0: k}), {0: scores}, patterns, 1e-3)

    assert told(products)
    assert told(3 * torch.tanh(products / 3))
    other = products.clone()
    other[0, 3, 4, [1, 2]] = other[0, 3, 4, [2, 1]]
    assert not told(other)
    assert not told(products.roll(1, 1))  # of another head
