"""What heads write to the residual stream, and whether it joins as it is."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import HookError
from iclgd_lens.host.base import Host
from iclgd_lens.host.hooks import Hook, uncounted_hooks


def head_values(
    activation: Float[Tensor, "row pos *rest"], heads: int
) -> Float[Tensor, "row pos head d_head"]:
    """What passes at a z hook by head; some bridges hand heads over side by side."""
    return activation.reshape(*activation.shape[:2], heads, -1)


def writes_add_up(host: Host, tokens: tuple[int, ...]) -> bool:
    """Whether heads' outputs z W_O join the residual stream as they are.

    They do not where a norm or a factor stands between (Gemma 2, Granite): the direct effect of a
    head is then not known. The model is asked: do the writes of all blocks add up to its last
    residual stream, and those of a layer's heads to its attention output?
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str, activation: Tensor, hook: Any) -> None:
        seen[name] = activation.detach().float()

    names = [host.block_input_hook(0)]
    for layer in range(host.n_layers):
        names += [host.attention_output_hook(layer), host.z_hook(layer)]
        names += [name for name in (host.mlp_output_hook(layer),) if _has(host, name)]
    hooks: list[Hook] = [(name, partial(keep, name)) for name in names]
    # A block without an MLP may have a hook point for one: nothing ever passes there.
    with torch.no_grad(), uncounted_hooks(host, hooks):
        last = host.run(host.tensor(tokens)).residual.float()
    written = sum(value for name, value in seen.items() if not name.endswith("z"))
    eps = torch.finfo(host.dtype).eps  # sums of many writes are rounded many times
    near: dict[str, Any] = {
        "rtol": max(1e-2, 8 * eps), "atol": max(1e-3, 8 * eps) * float(last.abs().max()),
    }  # fmt: skip
    if not torch.allclose(torch.as_tensor(written), last, **near):
        return False
    for layer in range(host.n_layers):
        weight = host.parameter(f"blocks.{layer}.attn.W_O")
        if weight is None:
            return False
        z = head_values(seen[host.z_hook(layer)], host.n_heads)
        made = einsum(
            z, weight.float(), "row pos head d_head, head d_head d_model -> row pos d_model"
        )
        offset = host.parameter(f"blocks.{layer}.attn.b_O")
        made = made if offset is None else made + offset.float()
        if not torch.allclose(made, seen[host.attention_output_hook(layer)], **near):
            return False
    return True


def _has(host: Host, name: str) -> bool:
    try:
        host.hook_point(name)
    except HookError:
        return False
    return True
