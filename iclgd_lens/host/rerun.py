"""Runs blocks twice on the same input, so that what a first run changes reaches later blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host


@contextlib.contextmanager
def run_twice(host: Host, layers: Iterable[int]) -> Generator[None, None, None]:
    """Run the blocks of `layers` again, without gradients, and hand on what the second run gives.

    Hooks fire in both runs. Only for passes that keep no keys and values.
    """
    blocks: Any = cast(Any, host.model).blocks
    handles: list[Any] = []
    try:
        for layer in layers:
            handles.append(blocks[layer].register_forward_hook(_again, with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _again(
    module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor | tuple[Any, ...]
) -> Tensor | tuple[Any, ...]:
    with torch.no_grad():
        return module.forward(*args, **kwargs)
