"""The change of W_V that makes heads mix what they mixed in context, by ridge regression.

With the attention pattern as it is, a head's output is linear in W_V: at a readout token it changes
by u ΔW_V, u = Σ_t A_t x_t the pattern's mean of the inputs. One forward pass fits all layers in
turn: each is fitted on what the changed layers below it pass on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import Tokens
from iclgd_lens.host import Hook, Host, LinearSite, frozen
from iclgd_lens.tokens import continued


def fit_values(
    host: Host,
    rows: Sequence[Tokens],
    wanted: Float[Tensor, "row layer head d_head"],
    ridge: float,
    layers: Collection[int],
) -> dict[str, Float[Tensor, "kv_head d_in d_head"]]:
    """Return changes of W_V under which each row's last token has the wanted mixed values.

    Args:
        host: The model; it is not changed.
        rows: Token ids, each read at its last token.
        wanted: Each head's mixed values there.
        ridge: Penalty, relative to the mean eigenvalue of the inputs' kernel; in fp64.
        layers: Layers that are fitted.
    """
    ends = host.tensor([len(row) - 1 for row in rows])[0]
    fit = _Fit(host, ends, wanted, ridge)
    hooks: list[Hook] = []
    for site in host.sites.values():
        if site.kind == "W_V" and site.layer in layers:
            hooks.append((site.input_hook, partial(fit.read, site)))
            hooks.append((f"blocks.{site.layer}.attn.hook_pattern", fit.keep_pattern))
            hooks.append((host.z_hook(site.layer), partial(fit.change, site)))
    with frozen(host.model), torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor(continued(rows)))
    return fit.found


class _Fit:
    """What passes in one layer, and the changes found so far."""

    def __init__(
        self,
        host: Host,
        ends: Int[Tensor, " row"],
        wanted: Float[Tensor, "row layer head d_head"],
        ridge: float,
    ) -> None:
        self.groups = host.n_heads // host.n_key_value_heads
        self.ends, self.wanted, self.ridge = ends, wanted, ridge
        self.inputs, self.pattern = torch.empty(0), torch.empty(0)
        self.found: dict[str, Tensor] = {}

    def read(self, site: LinearSite, activation: Tensor, hook: Any) -> None:
        """Keep a layer's inputs."""
        self.inputs = site.read(activation).float()

    def keep_pattern(self, pattern: Tensor, hook: Any) -> None:
        """Keep a layer's attention weights: not every model's are the softmax of its scores."""
        self.pattern = pattern.float()

    def change(self, site: LinearSite, activation: Tensor, hook: Any) -> Tensor:
        """Fit a layer, and return what its heads mix then."""
        row = torch.arange(len(self.ends), device=self.ends.device)
        at_end = self.pattern[row, :, self.ends]  # row head key
        mixed = torch.einsum("rhk,rki->rhi", at_end, self.inputs)
        heads = activation.shape[2]
        gap = self.wanted[:, site.layer] - activation[row, self.ends].float()
        solved = [
            ridge_solution(
                mixed[:, at : at + self.groups].flatten(0, 1),
                gap[:, at : at + self.groups].flatten(0, 1),
                self.ridge,
            )
            for at in range(0, heads, self.groups)
        ]
        change = torch.stack(solved)
        self.found[site.weight] = change
        values = torch.einsum("rki,gid->rkgd", self.inputs, change)
        values = values.repeat_interleave(self.groups, dim=2)
        moved = torch.einsum("rhqk,rkhd->rqhd", self.pattern, values)
        return activation + moved.to(activation.dtype)


def ridge_solution(
    inputs: Float[Tensor, "row d_in"], targets: Float[Tensor, "row d_out"], ridge: float
) -> Float[Tensor, "d_in d_out"]:
    """W of least |X W - Y|^2 + r |W|^2, r = ridge times the mean eigenvalue of X Xᵀ.

    By the kernel of rows: Xᵀ (X Xᵀ + r I)⁻¹ Y, in fp64. A ridge of 0 gives the least-norm solution,
    an infinite one no change.
    """
    x, y = inputs.double(), targets.double()
    kernel = x @ x.T
    if math.isinf(ridge):
        return torch.zeros(x.shape[1], y.shape[1], dtype=targets.dtype, device=targets.device)
    penalty = ridge * kernel.diagonal().mean()
    if float(penalty) == 0:
        return (torch.linalg.pinv(x) @ y).to(targets.dtype)
    unit = torch.eye(len(x), dtype=x.dtype, device=x.device)
    return (x.T @ torch.linalg.solve(kernel + penalty * unit, y)).to(targets.dtype)
