"""Rotary positions whose frequencies depend on the length of the whole sequence.

`transformers` changes them in the course of a forward pass, in place, and a pass may find what an
earlier, longer one left. Each pass must begin as on a model that has read nothing, and the caller's
model must be left as it was found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Kinds of rotary scaling that look at the length."""

_FREQUENCIES, _ORIGINAL, _LONGEST = "inv_freq", "original_inv_freq", "max_seq_len_cached"
_ORIGINAL_LENGTH = "original_max_seq_len"


_State = tuple[dict[str, Any], dict[str, tuple[Tensor, Tensor]]]
"""A module's attributes, and its buffers with copies of their values."""


def depends_on_length(config: Any) -> bool:
    """Whether positions depend on the length of the whole sequence, by a configuration."""
    scaling = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    # One dictionary, or one for each kind of layer.
    return any(kind in str(scaling) for kind in LENGTH_DEPENDENT)


def rotary_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of some modules that hold such positions."""
    return [
        module
        for module in modules
        if _ORIGINAL_LENGTH in module.__dict__ and depends_on_length(module.config)
    ]


@contextlib.contextmanager
def unread(modules: Sequence[nn.Module]) -> Generator[None, None, None]:
    """Put rotary modules as they are before any pass, and back as they were on exit."""
    before = [_state(module) for module in modules]
    try:
        try:
            for module in modules:
                _begin(module)
            yield
        finally:
            _restore(modules, before)
    except BaseException:
        _restore(modules, before)  # again: what came may have come while restoring
        raise


def _restore(modules: Sequence[nn.Module], before: Sequence[_State]) -> None:
    for module, (attributes, buffers) in zip(modules, before, strict=True):
        for name in [name for name in module.__dict__ if name.endswith("long_inv_freq")]:
            if name not in attributes:
                del module.__dict__[name]
        module.__dict__.update(attributes)
        for name, (buffer, values) in buffers.items():
            buffer.copy_(values)
            module._buffers[name] = buffer  # pyright: ignore[reportPrivateUsage]


def _begin(module: Any) -> None:
    buffers: dict[str, Tensor] = module._buffers
    for name in [name for name in buffers if name.endswith(_FREQUENCIES)]:
        if not name.endswith(_ORIGINAL):
            original: Tensor = getattr(module, name.replace(_FREQUENCIES, _ORIGINAL))
            buffers[name] = original.clone()
    for name in [name for name in module.__dict__ if name.endswith(_LONGEST)]:
        module.__dict__[name] = module.original_max_seq_len


def _state(module: Any) -> _State:
    buffers: dict[str, Tensor] = module._buffers
    names = ("attention_scaling", _LONGEST, "long_inv_freq")
    attributes = {key: value for key, value in module.__dict__.items() if key.endswith(names)}
    return attributes, {name: (buffer, buffer.clone()) for name, buffer in buffers.items()}
