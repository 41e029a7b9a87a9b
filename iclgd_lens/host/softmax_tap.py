"""Pre-softmax scores of attention that `transformers` runs itself, taken where the softmax reads.

Reads only: the mode sees each call to softmax inside an attention block and passes it on unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host

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
