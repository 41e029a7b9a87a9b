"""A shared prefix as a `transformers` cache that is read by many queries and never copied whole."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from iclgd_lens.host.base import Prefix


class _FrozenLayer(DynamicLayer):
    """Keys and values that new tokens see but do not join."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self.keys, self.values
        assert keys is not None
        assert values is not None
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


def shared_cache(config: Any, prefix: Prefix | None, batch: int, keep: bool) -> DynamicCache:
    """A cache for `batch` sequences that begins with `prefix`; it grows only where `keep`.

    Every layer keeps all positions, also those that attend in a window: the mask does the rest.
    """
    cache = DynamicCache()
    if prefix is None:
        return cache
    shared = prefix.expand(batch)
    for keys, values in zip(shared.keys, shared.values, strict=True):
        layer = DynamicLayer() if keep else _FrozenLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def read_prefix(cache: DynamicCache, tokens: Int[Tensor, "batch pos"]) -> Prefix:
    """The keys and values that `cache` holds after reading `tokens`."""
    layers: list[Any] = list(cache.layers)
    return Prefix(
        tokens,
        tuple(layer.keys for layer in layers),
        tuple(layer.values for layer in layers),
        axis=2,
    )
