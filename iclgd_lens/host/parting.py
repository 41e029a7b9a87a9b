"""Where a bridge parts from the `transformers` model that it wraps: the first part that differs."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from iclgd_lens.host.probe import agree

_WRAPPER = "_original_component"


@contextlib.contextmanager
def outputs(model: nn.Module) -> Generator[dict[str, Tensor], None, None]:
    """Collect what each part of a `transformers` model gives, in the order in which parts end.

    A bridge's wrappers count as the parts that they wrap.
    """
    found: dict[str, Tensor] = {}
    handles: list[Any] = []
    try:
        for path, module in model.named_modules():
            name = ".".join(part for part in path.split(".") if part != _WRAPPER)
            if name:
                handles.append(module.register_forward_hook(partial(_keep, found, name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep(found: dict[str, Tensor], name: str, module: nn.Module, given: Any, output: Any) -> None:
    first = output[0] if isinstance(output, tuple) and output else output
    if isinstance(first, Tensor):
        found.setdefault(name, first.detach().cpu())


def first_difference(expected: Mapping[str, Tensor], bridge: Any, tokens: Tensor) -> str | None:
    """Name the first part whose output is not that of the unwrapped model.

    Args:
        expected: What `outputs` collected from the unwrapped model on `tokens`.
        bridge: The bridge.
        tokens: Token ids.
    """
    original: nn.Module = bridge.original_model
    with outputs(original) as found, torch.no_grad():
        bridge(tokens.to(next(original.parameters()).device), return_type="logits")
    for name, value in found.items():
        other = expected.get(name)
        if other is None or other.shape != value.shape or not value.is_floating_point():
            continue
        if not agree(value, other, other.dtype):
            return name
    return None
