"""What the package promises, on a pretrained model that learns in context."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama import modeling_llama

import iclgd_lens as lens
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from tests import checks

TEXT = "In-context learning reads a few worked examples, and answers the next question alike."
LAYERS = (0, 9, 20, 29)
RULES = {"gd": gd, "lcgd": lcgd}
SHOTS, QUERIES = 16, 48
FOUND: dict[str, Any] = {}
"""Numbers of the host that was measured first, for the other to be compared with."""


def ids_of(model: Any) -> tuple[int, ...]:
    bos = model.tokenizer.bos_token_id
    return (bos, *model.tokenizer(TEXT, add_special_tokens=False)["input_ids"])


def test_logits_are_those_of_transformers(model: Any, plain: Any) -> None:
    tokens = torch.tensor([ids_of(model)])
    with torch.no_grad():
        torch.testing.assert_close(
            checks.logits(model, tokens), plain(tokens).logits, atol=1e-4, rtol=1e-5
        )


def autograd(plain: Any, ids: tuple[int, ...], rule: str) -> dict[str, Tensor]:
    """Gradients of the summed loss by `transformers` and torch alone, in fp64, by our names."""
    plain, tokens = copy.deepcopy(plain).requires_grad_(False), torch.tensor([ids])
    leaving: list[Tensor] = []
    weights: dict[str, Tensor] = {}
    for index, layer in enumerate(plain.model.layers):
        if rule == "lcgd":
            layer.register_forward_pre_hook(lambda module, args: (args[0].detach(), *args[1:]))
            if index in LAYERS:
                layer.register_forward_hook(lambda module, args, out: leaving.append(out))
        for letter in "kv" if index in LAYERS else "":
            weight = layer.self_attn.get_submodule(f"{letter}_proj").weight
            weights[f"blocks.{index}.attn.W_{letter.upper()}"] = weight.requires_grad_(True)
    if rule == "lcgd":
        plain(tokens)
        leaving[:] = [plain.model.norm(value) for value in leaving]
    else:
        leaving.append(plain.model(tokens).last_hidden_state)
    losses = [
        torch.nn.functional.cross_entropy(plain.lm_head(x)[0, :-1], tokens[0, 1:], reduction="sum")
        for x in leaving
    ]
    found = torch.autograd.grad(torch.stack(losses).sum(), list(weights.values()))
    return {name: value.T.double() for name, value in zip(weights, found, strict=True)}


def truth(plain: Any, ids: tuple[int, ...], rule: str) -> dict[str, Tensor]:
    """The same with fp64 norms, softmax and rotary tables, which `transformers` keeps in fp32."""
    config = plain.config
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
        return autograd(copy.deepcopy(plain).double(), ids, rule)


def references(plain: Any, ids: tuple[int, ...], rule: str) -> tuple[dict[str, Tensor], ...]:
    if rule not in FOUND:
        FOUND[rule] = truth(plain, ids, rule), autograd(plain, ids, rule)
    return FOUND[rule]


@pytest.mark.parametrize("rule", RULES)
def test_gradients_are_as_exact_as_autograd(model: Any, plain: Any, rule: str) -> None:
    ids = ids_of(model)
    exact, theirs = references(plain, ids, rule)
    last = [ids[-1], 2 if ids[-1] != 2 else 4]
    episode = lens.Episode.from_tokens([list(ids)], [[8, 9]], last, [0], bos=None)
    delta = RULES[rule](model, episode, lr=1.0, weights=("W_K", "W_V"), layers=LAYERS)
    assert set(delta) == set(exact)
    ratios = {}
    for name, value in exact.items():
        mine = -(len(ids) - 1) * torch.cat(list(delta[name]), dim=1).double()
        ratios[name] = float((mine - value).norm() / (theirs[name] - value).norm())
    print(json.dumps({rule: ratios}))
    assert max(ratios.values()) <= 2, ratios


@pytest.fixture(scope="module", params=["sst2", "subj"])
def compared(request: pytest.FixtureRequest, model: Any, rows: dict[str, Any]) -> Any:
    task = request.param
    episode = lens.load_episode(task, model, shots=SHOTS, queries=QUERIES, data=rows[task])
    before = checks.photograph(model)
    result = lens.compare(
        model, episode, ["oracle"], controls=["zero"], lr=0.01, tok2attn_queries=0, resamples=20
    )
    before.assert_same(model)
    return result, task


def whole(result: Any, score: str) -> Any:
    """Values over all layers and heads, by hypothesis or setting."""
    table = result.frame()
    chosen = table[(table["level"] == "all") & (table["score"] == score)]
    return chosen.set_index("hypothesis")["value"]


def test_demonstrations_help_it(compared: Any) -> None:
    result, task = compared
    areas = whole(result, "AUC")
    print(json.dumps({task: {setting: round(areas[setting], 3) for setting in ("ZS", "ICL")}}))
    assert areas["ICL"] > areas["ZS"]


def test_oracle_is_one_and_zero_is_undefined(compared: Any) -> None:
    similarities = whole(compared[0], "SimAOU")
    assert similarities["oracle"] == pytest.approx(1, abs=1e-5)
    assert math.isnan(similarities["zero"])
