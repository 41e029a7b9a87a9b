"""An independent copy of a model: its own weights, and functions that are bound to itself.

`copy.deepcopy` copies modules and methods, but no plain function: a `forward` that an adapter
replaced, or a hook, goes on reaching into the original through what it closes over. Such functions
are made anew, closed over the copy.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from types import CellType, FunctionType
from typing import Any

import torch
from torch import nn

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host.guard import all_modules

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model`, also after a forward pass that kept attention maps on it.

    Attention bridges keep the last pattern with its graph, which `copy.deepcopy` refuses. Hooks of
    the model's are hooks of the copy's.

    Raises:
        UnsupportedModelError: The copy shares weights with the model.
    """
    memo: dict[int, Any] = {
        id(value): value.detach()
        for module in all_modules(model)
        for value in module.__dict__.values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    # Parameters made under a caller's inference mode could never be trained on.
    with torch.inference_mode(False):
        twin = copy.deepcopy(model, memo)
    _rebind(model, twin, memo)
    if _weights(twin) & _weights(model):
        raise UnsupportedModelError(
            f"A copy of this {type(model).__name__} shares weights with the original, which must "
            "not change."
        )
    return twin


def _weights(model: nn.Module) -> set[int]:
    """Addresses of the memory that holds the model's parameters."""
    return {
        parameter.untyped_storage().data_ptr()
        for module in all_modules(model)
        for parameter in module.parameters(recurse=False)
        if parameter.numel()
    }


def _rebind(model: nn.Module, twin: nn.Module, memo: dict[int, Any]) -> None:
    """Close functions of the copy's modules over the copy."""
    of_twin = {id(module): memo[id(module)] for module in all_modules(model) if id(module) in memo}
    bound: dict[int, Any] = {}
    for module in all_modules(twin):
        own = module.__dict__.get("forward")
        if isinstance(own, FunctionType):
            module.__dict__["forward"] = _bound(own, of_twin, bound)
        for kind in _HOOKS:
            hooks: dict[int, Any] = getattr(module, kind)
            for key, hook in hooks.items():
                hooks[key] = _bound(hook, of_twin, bound)


def _bound(value: Any, of_twin: Mapping[int, nn.Module], bound: dict[int, Any]) -> Any:
    """`value` with every module of the original in its reach replaced by the copy's."""
    if isinstance(value, nn.Module):
        return of_twin.get(id(value), value)
    if id(value) in bound:
        return bound[id(value)]
    if isinstance(value, partial):
        arguments = [_bound(each, of_twin, bound) for each in value.args]
        named = {key: _bound(each, of_twin, bound) for key, each in value.keywords.items()}
        return partial(_bound(value.func, of_twin, bound), *arguments, **named)
    if not isinstance(value, FunctionType) or not value.__closure__:
        return value
    cells = tuple(CellType() for _ in value.__closure__)
    made = FunctionType(
        value.__code__, value.__globals__, value.__name__, value.__defaults__, cells
    )
    made.__kwdefaults__ = value.__kwdefaults__
    made.__dict__.update(value.__dict__)
    bound[id(value)] = made  # before its cells: a function may close over itself
    for cell, old in zip(cells, value.__closure__, strict=True):
        try:
            cell.cell_contents = _bound(old.cell_contents, of_twin, bound)
        except ValueError:  # an empty cell
            continue
    return made
