"""Keeps the caller's model as it was: whatever happens inside, nothing of it changes.

Inside the context every module is in evaluation mode and no parameter asks for a gradient, so that
autograd keeps nothing for frozen weights. On exit, by success, exception or interrupt, training
flags, `requires_grad` and buffers are put back. Weights and `.grad` are never touched at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Sequence
from typing import Any

import torch
from torch import nn

from iclgd_lens.host.rotary import rotary_modules, unread


def all_modules(model: nn.Module) -> list[nn.Module]:
    """Every module below `model`, and below the module that a bridge wraps."""
    found = list(model.modules())
    wrapped = model.__dict__.get("original_model")
    if isinstance(wrapped, nn.Module):
        seen = {id(module) for module in found}
        found += [module for module in wrapped.modules() if id(module) not in seen]
    return found


@contextlib.contextmanager
def own_precision() -> Generator[None, None, None]:
    """Compute in the dtypes that tensors have, whatever autocast the caller is in.

    Also a decorator. Autocast would round to half precision what results call fp32.
    """
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def frozen(model: nn.Module) -> Generator[None, None, None]:
    """Freeze `model` for the context and restore its flags and buffers on exit."""
    modules = all_modules(model)
    training = [module for module in modules if module.training]
    parameters = {
        id(parameter): parameter
        for module in modules
        for parameter in module._parameters.values()  # pyright: ignore[reportPrivateUsage]
        if parameter is not None and parameter.requires_grad
    }
    # A forward pass may grow buffers (rotary tables) or keep attention maps on its modules.
    buffers = [(module, dict(module._buffers)) for module in modules]  # pyright: ignore[reportPrivateUsage]
    kept: list[tuple[dict[str, Any], str, Any]] = [
        (module.__dict__, name, module.__dict__[name])
        for module in modules
        for name in ("_pattern", "_attn_scores")
        if name in module.__dict__
    ]
    rotary = rotary_modules(modules)
    state = (training, list(parameters.values()), buffers, kept)
    try:
        try:
            for module in training:
                module.__dict__["training"] = False
            for parameter in parameters.values():
                parameter.requires_grad_(False)
            with torch.inference_mode(False), own_precision(), unread(rotary):
                yield
        finally:
            _restore(*state)
    except BaseException:
        _restore(*state)  # again: what came may have come while restoring
        raise


def _restore(
    training: Sequence[nn.Module],
    parameters: Sequence[nn.Parameter],
    buffers: Sequence[tuple[nn.Module, dict[str, Any]]],
    kept: Sequence[tuple[dict[str, Any], str, Any]],
) -> None:
    for module in training:
        module.__dict__["training"] = True
    for parameter in parameters:
        parameter.requires_grad_(True)
    for module, original in buffers:
        module._buffers.clear()  # pyright: ignore[reportPrivateUsage]
        module._buffers.update(original)  # pyright: ignore[reportPrivateUsage]
    for attributes, name, value in kept:
        attributes[name] = value
