"""A bridge's norms, computed once where no hook looks inside them.

For two hook points, the scale and the normalised input, a bridge's norm computes both anew beside
the norm of `transformers`, whose result it returns where no hook has changed either. Without hooks
there that is work for nobody. For the time of a pass such norms are computed by `transformers`
alone: their results are the same to the bit.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

_FORWARD = "_hf_autograd_forward_with_hooks"
_INSIDE = ("hook_scale", "hook_normalized")


def watchable_norms(modules: Iterable[nn.Module]) -> list[Any]:
    """Norms that compute what their hook points show beside a norm of `transformers`."""
    from transformer_lens.model_bridge.generalized_components.normalization import (
        NormalizationBridge,
    )

    own = getattr(NormalizationBridge, _FORWARD, None)
    return [
        module
        for module in modules
        if isinstance(module, NormalizationBridge)
        and own is not None
        and getattr(type(module), _FORWARD) is own
        and module.use_native_layernorm_autograd  # others compute the norm itself anew, once
        and not isinstance(module.original_component, nn.Identity)
    ]


@contextlib.contextmanager
def computed_once(norms: Sequence[Any]) -> Generator[None, None, None]:
    """Let `transformers` alone compute those of `norms` inside which no hook looks."""
    # One that has a function of its own already belongs to a pass that this one runs within.
    changed = [norm for norm in norms if _FORWARD not in norm.__dict__]
    try:
        try:
            for norm in changed:
                norm.__dict__[_FORWARD] = partial(_once, norm)
            yield
        finally:
            _restore(changed)
    except BaseException:
        _restore(changed)  # again: what came may have come while restoring
        raise


def _once(norm: Any, x: Tensor) -> Tensor:
    if _is_watched(norm):
        return getattr(type(norm), _FORWARD)(norm, x)
    result: Tensor = norm.original_component(x)
    return result.to(x.dtype)  # as the bridge's own function ends


def _restore(norms: Sequence[Any]) -> None:
    for norm in norms:
        norm.__dict__.pop(_FORWARD, None)


_HOOKS = (
    "fwd_hooks", "bwd_hooks",
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
)  # fmt: skip
"""Where a hook point keeps its hooks: TransformerLens's own lists, and those of torch, which can
hold others."""


def _is_watched(norm: Any) -> bool:
    return any(getattr(getattr(norm, inside), kind) for inside in _INSIDE for kind in _HOOKS)
