"""Hides some of a shared prefix from some heads or rows: what is hidden gets no attention."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.host import Hook, Host


def hide(host: Host, layer: int, hidden: Bool[Tensor, "row head key"]) -> Hook:
    """Return the hook that hides the first keys of a layer where `hidden` says so.

    Every token of the pass is kept from them. Keys after those of `hidden` stay as they are. In a
    pass that no such prefix stands before, nothing is hidden.

    Args:
        host: The model.
        layer: The layer.
        hidden: Which of the first keys; an axis of length 1 stands for all rows or all heads.

    Raises:
        HookError: This model's scores cannot be changed.
    """
    if getattr(host, "attention", "softmax") == "linear":
        # The pattern is the scores themselves, and a score of 0 is no attention.
        return f"blocks.{layer}.attn.hook_pattern", partial(_fill, hidden, 0.0)
    return host.score_hook(layer), partial(_fill, hidden, -math.inf)


def has_prefix(length: int, scores: Float[Tensor, "row head query key"]) -> bool:
    """Whether at least `length` keys stand before those of the pass's own tokens."""
    return scores.shape[-1] - scores.shape[-2] >= length


def _fill(hidden: Tensor, value: float, activation: Tensor, hook: Any) -> Tensor:
    if not has_prefix(hidden.shape[-1], activation):
        return activation
    changed = activation.clone()
    changed[..., : hidden.shape[-1]].masked_fill_(hidden[:, :, None], value)
    return changed
