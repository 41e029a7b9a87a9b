"""The whole method once more, from rows to scores, on `transformers` and `torch.optim` alone.

No hook point, no shared prefix, no batch, no delta: real weights move, every prompt runs whole.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

import iclgd_lens as lens
from iclgd_lens.embedded import embedded_model_folder, embedded_rows
from tests import checks

SHOTS, QUERIES, RATE, SEED = 4, 5, 0.1, 3
WORDS = ("Negative", "Positive")
RULES = ("gd", "lcgd")


@functools.cache
def pretrained() -> tuple[Any, Any]:
    folder = embedded_model_folder()
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", dtype=torch.float32
    )
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def ids(text: str) -> list[int]:
    return pretrained()[1](text, add_special_tokens=False)["input_ids"]


def added(before: str, whole: str) -> list[int]:
    return ids(whole)[len(ids(before)) :]


def prompt(row: Any) -> str:
    return f"Sentence: {row['sentence']} Label:"


def drawn(split: str, seed: int) -> list[Any]:
    rows = embedded_rows("sst2", split)
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))]


def outputs(layers: Any, kept: list[Tensor], *, detached: bool) -> list[Any]:
    """Keep every block's output; with `detached`, no gradient crosses into the block before."""

    def enter(module: Any, args: tuple[Tensor, ...]) -> Any:
        return (args[0].detach(), *args[1:]) if detached else None

    def leave(module: Any, args: Any, output: Any) -> None:
        kept.append(output[0] if isinstance(output, tuple) else output)

    handles = [layer.register_forward_pre_hook(enter) for layer in layers]
    return handles + [layer.register_forward_hook(leave) for layer in layers]


def updated(rule: str, sequences: Sequence[list[int]]) -> Any:
    """A copy whose key and value weights `torch.optim.SGD` has moved, one sequence a step."""
    model = copy.deepcopy(pretrained()[0])
    layers = model.model.layers
    moved = [getattr(x.self_attn, n).weight for x in layers for n in ("k_proj", "v_proj")]
    kept: list[Tensor] = []
    handles = outputs(layers, kept, detached=rule == "lcgd")
    optimiser = torch.optim.SGD(moved, lr=RATE)
    for sequence in sequences:
        tokens = torch.tensor([sequence])
        kept.clear()
        model(tokens)
        read = kept if rule == "lcgd" else kept[-1:]
        loss = sum(
            torch.nn.functional.cross_entropy(
                model.lm_head(model.model.norm(x))[0, :-1], tokens[0, 1:], reduction="sum"
            )
            for x in read
        )
        model.zero_grad()
        (loss / (len(sequence) - 1)).backward()
        optimiser.step()
    for handle in handles:
        handle.remove()
    return model


def read(model: Any, tokens: list[int], own: int) -> tuple[Tensor, Tensor, Tensor]:
    """Attention outputs [layer d_model], scores over the last `own` tokens, log-probabilities."""
    attention: list[Tensor] = []
    scores: list[Tensor] = []
    whole = torch.nn.functional.softmax

    def softmax(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.ndim == 4:
            scores.append(x[0, :, -1, -own:])
        return whole(x, *args, **kwargs)

    def keep(module: Any, args: Any, output: Tensor) -> None:
        attention.append(output[0, -1])

    handles = [x.self_attn.o_proj.register_forward_hook(keep) for x in model.model.layers]
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(torch.nn.functional, "softmax", softmax)
        log_p = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    for handle in handles:
        handle.remove()
    return torch.stack(attention).double(), torch.stack(scores).double(), log_p


def label_scores(model: Any, tokens: list[int], row: Any) -> Tensor:
    found: list[Tensor] = []
    for word in WORDS:
        label = added(prompt(row), f"{prompt(row)} {word}")
        log_p = read(model, tokens + label, 1)[2]
        steps = [log_p[len(tokens) - 1 + i, token] for i, token in enumerate(label)]
        found.append(torch.stack(steps).mean())
    return torch.stack(found)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1) / a.norm(dim=-1) / b.norm(dim=-1)


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


@functools.cache
def restated(protocol: str) -> dict[tuple[str, str], Tensor]:
    """(setting or rule, score) to values by query."""
    model, tokenizer = pretrained()
    bos, shown = [tokenizer.bos_token_id], drawn("train", SEED)[:SHOTS]
    is_reference = protocol == "reference"
    separator = [tokenizer.eos_token_id] if is_reference else added("x", "x\n")
    sequences = [
        bos + ids(prompt(row)) + added(prompt(row), f"{prompt(row)} {WORDS[row['label']]}")
        for row in shown
    ]
    context = bos + [token for each in sequences for token in each[1:] + separator]
    models: dict[str, Any] = {rule: updated(rule, sequences) for rule in RULES}
    found: dict[tuple[str, str], list[Tensor]] = {}

    def put(name: str, score: str, value: Tensor) -> None:
        found.setdefault((name, score), []).append(value)

    seen = set() if is_reference else {prompt(row) for row in shown}
    asked = [row for row in drawn("validation", 1) if prompt(row) not in seen][:QUERIES]
    for row in asked:
        content = ids(prompt(row))
        tail = added(prompt(row), f"{prompt(row)} {WORDS[0]}") if is_reference else []
        own = content + tail
        zs, icl = read(model, bos + own, len(own)), read(model, context + own, len(own))
        put("ZS", "label_scores", label_scores(model, bos + content, row))
        put("ICL", "label_scores", label_scores(model, context + content, row))
        for rule, changed in models.items():
            ft = read(changed, bos + own, len(own))
            put(rule, "SimAOU", cosine(unit(icl[0]) - unit(zs[0]), unit(ft[0]) - unit(zs[0])))
            put(rule, "SimAM", cosine(icl[1] - zs[1], ft[1] - zs[1]).mean(-1))
            put(rule, "label_scores", label_scores(changed, bos + content, row))
    return {key: torch.stack(values) for key, values in found.items()}


@functools.cache
def measured(kind: Any, protocol: str) -> Any:
    model = lens.load_model("embedded", host=kind, device="cpu")
    episode = lens.load_episode(
        "sst2", model, shots=SHOTS, queries=QUERIES, seed=SEED, protocol=protocol
    )
    return lens.compare(model, episode, RULES, lr=RATE, controls=(), resamples=5)


@pytest.mark.parametrize("protocol", ["default", "reference"])
@pytest.mark.parametrize("kind", checks.kinds())
def test_the_method_from_rows_to_scores(kind: str, protocol: str) -> None:
    result, expected = measured(kind, protocol), restated(protocol)
    for (name, score), theirs in expected.items():
        ours = result.values[name][score].double()
        if score == "SimAM":  # rotary positions are relative: nothing changes in layer 0
            assert ours[:, 0].isnan().all()
            ours, theirs = ours[:, 1:], theirs[:, 1:]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4, msg=f"{name} {score}")
    for rule in RULES:
        assert expected[rule, "SimAOU"].abs().max() > 0.05
    assert not torch.allclose(
        expected["gd", "SimAOU"], expected["lcgd", "SimAOU"], rtol=0, atol=0.02
    )
