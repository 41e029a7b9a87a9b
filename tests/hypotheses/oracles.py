"""Hypotheses restated on real weights with plain autograd, for tests: no delta, no host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclgd_lens.host import Host
from tests import checks, families


def precise(kind: str, family: str, seed: int = 0) -> Any:
    """A copy of the test model in double precision, whose weights ask for gradients."""
    twin = checks.twin(checks.model(kind, family, seed)).double()
    if kind == "hooked":
        twin.cfg.dtype = torch.float64
    return twin


def lens_logits(model: Any, tokens: tuple[int, ...], *, detach: bool) -> list[Tensor]:
    """Logits [pos, vocabulary] read after each block, on real weights, with their graph."""
    leaving: list[Tensor] = []
    hooks: list[Any] = []
    for layer in range(families.N_LAYERS):
        if detach:
            hooks.append((f"blocks.{layer}.hook_resid_pre", lambda value, hook: value.detach()))
        hooks.append((f"blocks.{layer}.hook_resid_post", lambda value, hook: leaving.append(value)))
    model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks)
    return [model.unembed(model.ln_final(value))[0] for value in leaving]


def isolated(model: Any, tokens: tuple[int, ...]) -> tuple[list[Tensor], list[Tensor]]:
    """Attention outputs [pos, d_model] and lens logits of each block, run on a constant input."""
    outputs: list[Tensor] = []
    hooks: list[Any] = []
    for layer in range(families.N_LAYERS):
        name = f"blocks.{layer}.hook_attn_out"
        name = name if name in model.hook_dict else f"blocks.{layer}.attn.hook_out"
        hooks.append((name, lambda value, hook: outputs.append(value[0])))
    with model.hooks(fwd_hooks=hooks):
        logits = lens_logits(model, tokens, detach=True)
    return outputs, logits


def nll(logits: Tensor, tokens: tuple[int, ...], first: int = 1) -> Tensor:
    """Summed negative log-likelihood of the tokens from position `first` on."""
    wanted = torch.tensor(tokens[first:])
    return torch.nn.functional.cross_entropy(logits[first - 1 : -1], wanted, reduction="sum")


def sequences(episode: Any) -> list[tuple[tuple[int, ...], int]]:
    """Token ids of each demonstration after a BOS, and where its label begins."""
    return [
        ((families.BOS, *example.tokens), 1 + len(example.content))
        for example in episode.demonstrations.examples
    ]


def trained(model: Any, *kinds: str) -> list[str]:
    """Names of the weights of some kinds that a model has; keys and values by default."""
    wanted = kinds or ("W_K", "b_K", "W_V", "b_V")
    single = checks.twin(model) if next(model.parameters()).dtype != torch.float32 else model
    if single is not model:
        single.float()
        single.cfg.dtype = torch.float32
    return [n for n in checks.random_delta(Host(single)) if n.rsplit(".", 1)[1] in wanted]


def gradient(model: Any, name: str, loss: Tensor) -> Tensor:
    """Gradient of a real weight, in the model's own layout; the graph is kept."""
    (found,) = torch.autograd.grad(loss, checks.real(model, name), retain_graph=True)
    return found


def close(model: Any, name: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compare a change in TransformerLens layout with one in the model's own layout."""
    own = checks.in_own_layout(model, name, found).double()
    scale = float(expected.abs().max())
    assert float((own - expected).abs().max()) <= tolerance * max(scale, 1e-12), name
