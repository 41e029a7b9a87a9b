"""Lays weights in memory as a model's forward pass reads them: for a while, or for good.

HookedTransformer turns the weights of attention and of gated MLPs around, copying them, in every
forward pass. Where the transposed weight already lies in memory that is a view: the same values, no
copy. Models that this package makes lie so from the beginning. Of others the attention weights are
laid out for a while; their own memory is never written, and they get it back on exit, whatever
happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_ATTENTION = {"W_Q": (0, 2, 1), "W_K": (0, 2, 1), "W_V": (0, 2, 1), "W_O": (2, 0, 1)}
_GATED = {"W_in": (1, 0), "W_gate": (1, 0), "W_out": (1, 0)}

Order = tuple[int, ...]
"""Axes of a weight in memory, slowest first."""


def attention_orders(blocks: Iterable[Any]) -> Iterator[tuple[nn.Parameter, Order]]:
    """Attention weights of a HookedTransformer's blocks, and the order in which they are read."""
    for block in blocks:
        own = dict(block.attn.named_parameters(recurse=False))
        for name, order in _ATTENTION.items():
            # Grouped key/value weights are stored once a key/value head.
            weight = own.get(f"_{name}", own.get(name))
            if weight is not None and weight.ndim == len(order):
                yield weight, order


def gated_orders(blocks: Iterable[Any]) -> Iterator[tuple[nn.Parameter, Order]]:
    """The same of gated MLPs; others read their weights as they lie."""
    for block in blocks:
        mlp: Any = getattr(block, "mlp", None)
        if type(mlp).__name__ == "GatedMLP":
            own = dict(mlp.named_parameters(recurse=False))
            yield from ((own[name], order) for name, order in _GATED.items())


def lay_out_unfilled(blocks: Iterable[Any]) -> None:
    """Give weights that hold nothing yet memory that is laid out; what they held is lost."""
    every = list(blocks)
    for weight, order in (*attention_orders(every), *gated_orders(every)):
        turned = torch.empty_like(
            weight.data.permute(*order), memory_format=torch.contiguous_format
        )
        weight.data = turned.permute(*_inverse(order))


def _inverse(order: Order) -> Order:
    return tuple(order.index(axis) for axis in range(len(order)))


@contextlib.contextmanager
def laid_out(
    parameters: Mapping[nn.Parameter, Order],
) -> Generator[None, None, None]:
    """Hold each parameter in memory in the given order of its axes, slowest first.

    Parameters that lie so already are left alone, so contexts may be nested. The copies take the
    parameters' size in memory.
    """
    originals: list[tuple[nn.Parameter, Tensor]] = []

    def restore() -> None:
        for parameter, original in originals:
            parameter.data = original

    try:
        try:
            # A parameter cannot hold a tensor made under the caller's inference mode.
            with torch.inference_mode(False):
                for parameter, order in parameters.items():
                    original = parameter.data
                    turned = original.permute(*order)
                    if turned.is_contiguous():
                        continue
                    copy = turned.contiguous().permute(*_inverse(order))
                    originals.append((parameter, original))
                    parameter.data = copy
            yield
        finally:
            restore()
    except BaseException:
        restore()  # again: what came may have come while restoring
        raise
