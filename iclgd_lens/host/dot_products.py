"""Whether what a bridge shows as queries and keys is what its attention multiplies.

The hooks at rotated queries and keys are those after the rotation. Where an architecture changes
them once more (HunYuan normalises them there), products of what passes there are not attention.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import HookError
from iclgd_lens.host.hooks import Hook, receiver, uncounted_hooks

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host

Parts = tuple[dict[int, Tensor], dict[int, Tensor]]
"""Queries and keys, by layer, of those layers where the hooks fired."""


@contextlib.contextmanager
def queries_and_keys(host: Host) -> Generator[Parts, None, None]:
    """Collect what passes as queries and keys, on a model that names hooks for them."""
    found: Parts = ({}, {})
    hooks: list[Hook] = []
    with contextlib.suppress(HookError):
        for layer in range(host.n_layers):
            for letter, seen in zip("qk", found, strict=True):
                name = host.query_key_hook(layer, letter)
                if host.has_hook_point(name):
                    hooks.append((name, receiver(partial(_put, seen), layer)))
    with uncounted_hooks(host, hooks):
        yield found


def _put(seen: dict[int, Tensor], layer: int, activation: Tensor) -> None:
    seen[layer] = activation


def give_scores(
    parts: Parts, scores: Mapping[int, Tensor], patterns: Mapping[int, Tensor], tolerance: float
) -> bool:
    """Whether each row of scores is an increasing function of its query's products with keys.

    It is not their multiple, where scores have a soft cap. Layers where no queries or keys passed
    say nothing.

    Args:
        parts: What `queries_and_keys` collected.
        scores: Scores by layer.
        patterns: Attention patterns by layer; keys without weight are masked.
        tolerance: What rounding may do to scores, as a share of 1 and the largest.
    """
    queries, keys = parts
    for layer in queries.keys() & keys.keys():
        q, k = queries[layer].float(), keys[layer].float()
        shown, weight = scores[layer].float(), patterns[layer]
        if q.ndim != 4 or k.ndim != 4 or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
            continue
        k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
        products = torch.einsum("bqhd,bkhd->bhqk", q, k)
        if products.shape == shown.shape and not _increasing(
            products, shown, weight > 0, tolerance
        ):
            return False
    return True


def _increasing(
    products: Float[Tensor, "batch head query key"],
    scores: Float[Tensor, "batch head query key"],
    shown: Tensor,
    tolerance: float,
) -> bool:
    """Whether no two keys of a row stand in one order by products and in the other by scores."""
    higher = products[..., :, None] > products[..., None, :]
    allowed = tolerance * (1 + scores.abs().where(shown, 0.0).amax())
    lower = scores[..., :, None] < scores[..., None, :] - allowed
    both = shown[..., :, None] & shown[..., None, :]
    return not bool((higher & lower & both).any())
