"""A random update: directions drawn from an isotropic Gaussian, norms matched head by head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.registry import hypothesis


@hypothesis(
    "random",
    description="random directions; each head's norm matched to a given delta",
    kind="control",
)
def random(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    like: ParameterDelta | None = None,
    lr: float | None = None,
    seed: int = 0,
) -> ParameterDelta:
    """Return a delta of random direction whose norm equals `like`'s in every head of every weight.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: Used only where `like` is None: a GD delta on them is then matched.
        like: The delta whose norms are matched.
        lr: Learning rate of that GD delta.
        seed: Seed of the directions; the global random state is not touched.
    """
    matched = gd(model, demonstrations, lr=lr) if like is None else like
    return matched_random(matched, seed)


# What is drawn is the same whatever the caller's default dtype and device are.
_DRAWN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def matched_random(like: ParameterDelta, seed: int) -> ParameterDelta:
    """Gaussian directions with `like`'s norm in every head of every weight."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name in sorted(like):  # whatever order a file or a sum gave the weights
        value = like[name]
        noise = torch.randn(value.shape, generator=generator, **_DRAWN).to(value.device)
        by_head = ".attn." in name and value.ndim > 1
        flat, target = (noise.flatten(1), value.flatten(1)) if by_head else (noise, value)
        dims = -1 if by_head else tuple(range(value.ndim))
        scale = target.norm(dim=dims, keepdim=True) / flat.norm(dim=dims, keepdim=True)
        tensors[name] = (flat * scale).view(value.shape)
    facts = {"rule": "random", "seed": seed, "like": like.metadata.get("rule", "delta")}
    return ParameterDelta(tensors, facts)
