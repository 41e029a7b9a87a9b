"""The last block's MLP, run at the one token of each row whose residual stream is asked for.

After the last block's attention no token sees another, so nothing reads what its MLP gives
elsewhere. Its input is cut down to the token asked for; the sum with the residual stream then
spreads the MLP's output over all tokens of the row, which is right at that token and unread
elsewhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host

At = Int[Tensor, " batch"] | int
"""One token of each row: its position in each row, or one position for all."""

# Parts of a block that come after its MLP; a hook on one of them is to see every token.
_AFTER_MLP = ("hook_mlp_out", "ln2_post", "hook_resid_post", "hook_out")


def tokens_at(
    activation: Float[Tensor, "batch pos d_model"], at: At
) -> Float[Tensor, "batch 1 d_model"]:
    """Each row's token at `at`."""
    rows = torch.arange(activation.shape[0], device=activation.device)
    return activation[rows, at][:, None]


@contextlib.contextmanager
def last_mlp_at(host: Host, shape: torch.Size, at: At | None) -> Generator[None, None, None]:
    """Run the last block's MLP at the tokens `at` alone, unless a hook looks at what it gives.

    Args:
        host: The model; it says whether it can (`Host.cuts_last_mlp`).
        shape: Shape of the tokens that the pass is given, "batch pos".
        at: Where its residual stream is read; None for every token.
    """
    mlp = cast(Any, host.model).blocks[-1]._modules.get("mlp")
    if at is None or mlp is None or not host.cuts_last_mlp or _is_seen(host.model, mlp):
        yield
        return
    hooks = mlp._forward_pre_hooks
    others = set(hooks)

    def remove() -> None:
        for key in set(hooks) - others:
            del hooks[key]

    try:
        try:
            mlp.register_forward_pre_hook(partial(_cut, shape, at))
            yield
        finally:
            remove()
    except BaseException:
        remove()  # again: what came may have come while removing
        raise


def _cut(
    shape: torch.Size, at: At, module: nn.Module, given: tuple[Any, ...]
) -> tuple[Any, ...] | None:
    first = given[0] if given else None
    if not isinstance(first, Tensor) or first.ndim != 3 or first.shape[:2] != shape:
        return None  # an MLP that is called in another way runs at every token
    return (tokens_at(first, at), *given[1:])


def _is_seen(model: Any, mlp: nn.Module) -> bool:
    """Whether a hook sees what the MLP does or gives, up to the final norm."""
    block = model.blocks[-1]
    parts = [
        mlp,
        *(block._modules.get(name) for name in _AFTER_MLP),
        model._modules.get("ln_final"),
    ]
    modules: list[Any] = [block]
    for part in parts:
        modules += [] if part is None else part.modules()
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)
