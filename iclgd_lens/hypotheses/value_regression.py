"""The change of W_V that makes heads mix what they mixed in context, by ridge regression.

With the attention pattern as it is, a head's output is linear in W_V: at a readout token it changes
by u ΔW_V, u = Σ_t A_t x_t the pattern's mean of the inputs. One forward pass fits all layers in
turn: each is fitted on what the changed layers below it pass on. Where positions depend on the
length of what is read, rows of each length have passes of their own.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.delta import delta_hooks
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
    sites = sorted(
        (site for site in host.sites.values() if site.kind == "W_V" and site.layer in layers),
        key=lambda site: site.layer,
    )
    by_length: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(place)
    if len(by_length) > 1 and not host.can_pad:
        return _by_length(host, rows, list(by_length.values()), wanted, ridge, sites)
    ends = host.tensor([len(row) - 1 for row in rows])[0]
    fit = _Fit(host, ends, wanted, ridge)
    hooks = [hook for site in sites for hook in fit.hooks(site)]
    with frozen(host.model), torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor(continued(rows)))
    return fit.found


def _by_length(
    host: Host, rows: Sequence[Tokens], groups: Sequence[Sequence[int]],
    wanted: Float[Tensor, "row layer head d_head"], ridge: float, sites: Sequence[LinearSite],
) -> dict[str, Float[Tensor, "kv_head d_in d_head"]]:  # fmt: skip
    """The same where positions depend on the length: a pass per layer and length, none padded."""
    found: dict[str, Tensor] = {}
    for site in sites:
        parts: list[tuple[Tensor, Tensor]] = []
        for places in groups:
            tokens = host.tensor([rows[place] for place in places])
            ends = torch.full((len(places),), tokens.shape[1] - 1, device=tokens.device)
            fit = _Fit(host, ends, wanted[list(places)], ridge)
            with (
                frozen(host.model), torch.no_grad(),
                host.hooked(delta_hooks(host, found), forced=False),
                host.hooked(fit.hooks(site)),
            ):  # fmt: skip
                host.run(tokens)
            parts.append(fit.seen)
        mixed, gap = (torch.cat(each) for each in zip(*parts, strict=True))
        found[site.weight] = solved(mixed, gap, host.n_heads // host.n_key_value_heads, ridge)
    return found


class _Fit:
    """What passes in one layer, and the changes found so far."""

    def __init__(
        self,
        host: Host,
        ends: Int[Tensor, " row"],
        wanted: Float[Tensor, "row layer head d_head"],
        ridge: float,
    ) -> None:
        self.host, self.groups = host, host.n_heads // host.n_key_value_heads
        self.ends, self.wanted, self.ridge = ends, wanted, ridge
        self.inputs, self.pattern = torch.empty(0), torch.empty(0)
        self.found: dict[str, Tensor] = {}
        self.seen = (torch.empty(0), torch.empty(0))

    def hooks(self, site: LinearSite) -> list[Hook]:
        """Those that fit one layer and change it at once."""
        return [
            (site.input_hook, partial(self.read, site)),
            (f"blocks.{site.layer}.attn.hook_pattern", self.keep_pattern),
            (self.host.z_hook(site.layer), partial(self.change, site)),
        ]

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
        gap = self.wanted[:, site.layer] - activation[row, self.ends].float()
        self.seen = mixed, gap
        change = solved(mixed, gap, self.groups, self.ridge)
        self.found[site.weight] = change
        values = torch.einsum("rki,gid->rkgd", self.inputs, change)
        values = values.repeat_interleave(self.groups, dim=2)
        moved = torch.einsum("rhqk,rkhd->rqhd", self.pattern, values)
        return activation + moved.to(activation.dtype)


def solved(
    mixed: Float[Tensor, "row head d_in"], gap: Float[Tensor, "row head d_head"], group: int,
    ridge: float,
) -> Float[Tensor, "kv_head d_in d_head"]:  # fmt: skip
    """The change of each head of values, whose `group` query heads are fitted together."""
    return torch.stack(
        [
            ridge_solution(
                mixed[:, at : at + group].flatten(0, 1),
                gap[:, at : at + group].flatten(0, 1),
                ridge,
            )
            for at in range(0, mixed.shape[1], group)
        ]
    )


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
