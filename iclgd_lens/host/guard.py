"""Keeps the caller's model as it was, whether it is frozen, laid out in memory or copied.

`frozen`: inside the context every module is in evaluation mode and no parameter asks for a
gradient, so that autograd keeps nothing for frozen weights. On exit, by success, exception or
interrupt, training flags, `requires_grad` and buffers are put back. Weights and `.grad` are never
touched at all.

`laid_out`: HookedTransformer turns the weights of attention and of gated MLPs around, copying them,
in every forward pass. Where the transposed weight already lies in memory that is a view: the same
values, no copy. The caller's own memory is never written; each parameter gets its own back on exit,
whatever happens.

`copied`: `copy.deepcopy` copies modules and methods, but no plain function: a `forward` that an
adapter replaced, or a hook, goes on reaching into the original through what it closes over, itself
or by a weak reference. Such functions are made anew, closed over the copy.
"""

from __future__ import annotations

import contextlib
import copy
import weakref
from collections.abc import Generator, Mapping, Sequence
from functools import partial
from types import CellType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from iclgd_lens.errors import UnsupportedModelError
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


@contextlib.contextmanager
def laid_out(
    parameters: Mapping[nn.Parameter, Sequence[int]],
) -> Generator[None, None, None]:
    """Hold each parameter in memory in the given order of its axes, slowest first.

    Parameters that already lie in this order are left alone, so contexts may be nested. The copies
    take the parameters' size in memory.
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


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def copied(model: nn.Module) -> nn.Module:
    """Return a deep copy of `model`, also after a forward pass that kept attention maps on it.

    Attention bridges keep the last pattern with its graph, which `copy.deepcopy` refuses. Hooks of
    the model become hooks of the copy.

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
    if type(value) in weakref.ProxyTypes:
        try:
            module: Any = value.modules.__self__  # what the proxy stands for
        except (AttributeError, ReferenceError):  # no module, or gone
            return value
        return weakref.proxy(of_twin[id(module)]) if id(module) in of_twin else value
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
