"""Gradients of a deep model in fp32 are as exact as those of `transformers`' own autograd.

The truth is the same model in fp64, with its norms, softmax and rotary tables in fp64, too
(`transformers` computes them in fp32 whatever the model's dtype is).
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from tests import checks, families
from tests.exact import autograd, truth

LAYERS, WIDTH, HEADS, VOCABULARY, TOKENS, BASE = 16, 48, 4, 8_000, 16, 500.0
RULES = {"gd": gd, "lcgd": lcgd}
CERTAIN = "certain tokens"


@functools.cache
def deep(scale: float) -> Any:
    """A random Llama whose unembedding's entries are `scale` times as large as its embedding's."""
    config = transformers.LlamaConfig(
        hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=2, vocab_size=VOCABULARY,
        max_position_embeddings=64, rope_parameters={"rope_theta": BASE, "rope_type": "default"},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager", dtype=torch.float32
        )
    families.randomise(model, seed=0, std=WIDTH**-0.5)
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
        for layer in model.model.layers:  # as deep models begin: no layer drowns the others
            layer.self_attn.o_proj.weight.mul_((2 * LAYERS) ** -0.5)
            layer.mlp.down_proj.weight.mul_((2 * LAYERS) ** -0.5)
    return model.eval()


@functools.cache
def sequence(case: str) -> tuple[Any, tuple[int, ...]]:
    """A model and what it reads: random tokens, or those that it is nearly certain of itself."""
    if case != CERTAIN:
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randint(3, VOCABULARY, (TOKENS,), generator=generator)
        return deep(1.0), (families.BOS, *drawn.tolist()[1:])
    model, ids = deep(24.0), [families.BOS]
    with torch.no_grad():
        while len(ids) < TOKENS:
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return model, tuple(ids)


@functools.cache
def references(case: str, rule: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model, ids = sequence(case)
    return truth(model, ids, rule), autograd(model, ids, rule)


@functools.cache
def hosted(kind: str, case: str) -> Any:
    return families.hosted(kind, copy.deepcopy(sequence(case)[0]), "deep")


def ours(kind: str, case: str, rule: str) -> dict[str, Tensor]:
    _, ids = sequence(case)
    lensed = hosted(kind, case)
    episode = Episode.from_tokens(
        [list(ids)], [[8, 9]], [ids[-1], 2 if ids[-1] != 2 else 4], [0], bos=None
    )
    delta = RULES[rule](Host(lensed), episode, lr=1.0)
    steps = len(ids) - 1
    return {name: -steps * torch.cat(list(value), dim=1).double() for name, value in delta.items()}


def errors(found: Mapping[str, Tensor], exact: Mapping[str, Tensor]) -> Tensor:
    """Relative error of each layer's keys and values."""
    return torch.tensor(
        [float((found[name] - value).norm() / value.norm()) for name, value in exact.items()]
    )


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("case", ["random tokens", CERTAIN])
@pytest.mark.parametrize("rule", RULES)
def test_a_deep_models_gradients_keep_their_digits(kind: str, case: str, rule: str) -> None:
    exact, plain = references(case, rule)
    found = ours(kind, case, rule)
    assert set(found) == set(exact)
    mine, theirs = errors(found, exact), errors(plain, exact)
    if kind == "hooked":
        # Its norms divide by a root where the others multiply by its inverse: each layer rounds
        # for itself, so by luck a layer of theirs may be better than most.
        theirs = theirs.clamp(min=float(theirs.median()))
    assert bool((mine <= 2 * theirs).all())


def test_the_truth_is_one() -> None:
    """In fp64 `transformers` comes to it as far as its own fp32 parts allow, and no further."""
    model, ids = sequence("random tokens")
    exact, double = truth(model, ids, "gd"), autograd(copy.deepcopy(model).double(), ids, "gd")
    assert 1e-9 < float(errors(double, exact).max()) < 1e-4
