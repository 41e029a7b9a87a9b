"""Lays weights in memory as a model's forward pass reads them, for a while.

HookedTransformer turns every attention weight around, copying it, in every forward pass. Where the
transposed weight already lies in memory that is a view: the same values, no copy. The caller's own
memory is never written; each parameter gets its own back on exit, whatever happens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def laid_out(
    parameters: Mapping[nn.Parameter, Sequence[int]],
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
                    back = [order.index(axis) for axis in range(len(order))]
                    copy = turned.contiguous().permute(*back)
                    originals.append((parameter, original))
                    parameter.data = copy
            yield
        finally:
            restore()
    except BaseException:
        restore()  # again: what came may have come while restoring
        raise
