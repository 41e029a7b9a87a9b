"""Gradients of a Llama by `transformers` and torch alone, in its own precision and in fp64."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

Ids = tuple[int, ...]


def autograd(
    model: Any, ids: Ids, rule: str, layers: Iterable[int] | None = None
) -> dict[str, Tensor]:
    """Gradients of the summed loss on keys' and values' weights, by our names, as float64.

    Args:
        model: A `transformers` Llama, which stays as it is.
        ids: What it reads.
        rule: "gd", or "lcgd": each layer by the loss on its own output, nothing flows between.
        layers: Which layers; None for all.
    """
    model, tokens = copy.deepcopy(model).requires_grad_(False), torch.tensor([ids])
    blocks = list(model.model.layers)
    chosen = range(len(blocks)) if layers is None else set(layers)
    leaving: list[Tensor] = []
    weights: dict[str, Tensor] = {}
    for index, block in enumerate(blocks):
        if rule == "lcgd":
            block.register_forward_pre_hook(lambda module, args: (args[0].detach(), *args[1:]))
            if index in chosen:
                block.register_forward_hook(lambda module, args, output: leaving.append(output))
        for letter in "kv" if index in chosen else "":
            weight = block.self_attn.get_submodule(f"{letter}_proj").weight
            weights[f"blocks.{index}.attn.W_{letter.upper()}"] = weight.requires_grad_(True)
    if rule == "lcgd":
        model(tokens)
        leaving[:] = [model.model.norm(value) for value in leaving]
    else:
        leaving.append(model.model(tokens).last_hidden_state)
    losses = [
        torch.nn.functional.cross_entropy(model.lm_head(x)[0, :-1], tokens[0, 1:], reduction="sum")
        for x in leaving
    ]
    found = torch.autograd.grad(torch.stack(losses).sum(), list(weights.values()))
    return {name: value.T.double() for name, value in zip(weights, found, strict=True)}


def truth(
    model: Any, ids: Ids, rule: str, layers: Iterable[int] | None = None
) -> dict[str, Tensor]:
    """The same in fp64 throughout: `transformers` has norms, softmax and rotary tables in fp32."""
    config = model.config
    size = config.hidden_size // config.num_attention_heads
    turns = config.rope_parameters["rope_theta"] ** -(
        torch.arange(0, size, 2, dtype=torch.float64) / size
    )

    def norm(module: Any, x: Tensor) -> Tensor:
        return module.weight * x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt()

    def rotary(module: Any, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        angles = (position_ids[..., None] * turns).repeat(1, 1, 2)
        return angles.cos(), angles.sin()

    softmax = torch.nn.functional.softmax
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
        patch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", rotary)
        patch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: softmax(x, dim))
        return autograd(copy.deepcopy(model).double(), ids, rule, layers)
