"""Attention that `transformers` runs itself: its scores before the softmax, shared prefixes.

Scores are only read: the mode sees each call to softmax inside an attention block and passes it on
unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers.cache_utils import DynamicCache, DynamicLayer

from iclgd_lens.host.base import Prefix

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host


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


_SOFTMAX = {torch.softmax, torch.nn.functional.softmax, Tensor.softmax}


class _Tap(TorchFunctionMode):
    def __init__(self, receive: Callable[[int, Tensor], None]) -> None:
        super().__init__()
        self.layer: int | None = None
        self._receive = receive

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if self.layer is not None and func in _SOFTMAX and args and args[0].ndim == 4:
            layer, self.layer = self.layer, None
            self._receive(layer, args[0])
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def softmax_tap(
    host: Host, layers: Sequence[int], receive: Callable[[int, Tensor], None]
) -> Generator[None, None, None]:
    """Call `receive(layer, scores)` at the softmax of each of `layers`' attention blocks."""
    tap = _Tap(receive)

    def enter(layer: int) -> Callable[..., None]:
        def hook(activation: Tensor, hook: Any) -> None:
            tap.layer = layer

        return hook

    hooks = [(f"blocks.{layer}.attn.hook_in", enter(layer)) for layer in layers]
    with host.hooked(hooks, forced=False), tap:
        yield
