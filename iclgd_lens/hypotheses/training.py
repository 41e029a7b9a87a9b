"""Deltas of several rows of one batch while they are trained, each added to its own activations.

Rows do not see one another, so each one's gradient is that of its own loss, and one pass forward
and one back serve all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.errors import HookError
from iclgd_lens.host import Hook, Host, LinearSite


class Training:
    """Deltas of several rows, "row *weight" each, while they are trained.

    Attributes:
        rates: Learning rate of each row.
    """

    def __init__(self, host: Host, names: Iterable[str], rates: Sequence[float]) -> None:
        self.host = host
        self.rates = list(rates)
        self.delta: dict[str, Tensor] = {}
        for name in names:
            site = host.site(name)
            shape = site.shape if name == site.weight else site.bias_shape
            # Made where gradients may be taken, whatever the caller's mode is.
            zeros = torch.zeros(len(rates), *shape, dtype=torch.float32, device=host.device)
            self._hold(name, zeros)

    @property
    def rows(self) -> int:
        """How many rows are left."""
        return len(self.rates)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each weight's change in one row."""
        return {name: tuple(value.shape[1:]) for name, value in self.delta.items()}

    def _hold(self, name: str, value: Tensor) -> None:
        """Take a change in, heads side by side in memory: no step copies it to read it."""
        if value.ndim == 4 and self.host.site(name).kind != "W_O":
            value = value.transpose(1, 2).contiguous().transpose(1, 2)
        self.delta[name] = value.requires_grad_(True)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with some of the rows alone."""
        self.rates = [self.rates[row] for row in rows]
        with torch.inference_mode(False), torch.no_grad():
            for name, value in self.delta.items():
                self._hold(name, value.detach()[list(rows)].clone())

    def take_in(self, other: Training, sets: int = 1) -> None:
        """Go on with another training's rows, too, of each set after one's own."""
        mine, theirs = self.rows // sets, other.rows // sets
        order = [
            row
            for each in range(sets)
            for row in (
                *range(each * mine, (each + 1) * mine),
                *range(self.rows + each * theirs, self.rows + (each + 1) * theirs),
            )
        ]
        self.rates = [[*self.rates, *other.rates][row] for row in order]
        with torch.inference_mode(False), torch.no_grad():
            for name, value in self.delta.items():
                both = torch.cat([value.detach(), other.delta[name].detach()])[order]
                self._hold(name, both)

    @classmethod
    def joined(cls, parts: Sequence[Training]) -> Training:
        """One training of all rows of several; they are without theirs until it is `parted`."""
        whole = cls(parts[0].host, (), ())
        whole.rates = [rate for part in parts for rate in part.rates]
        with torch.inference_mode(False), torch.no_grad():
            for name in parts[0].shapes:
                own = [part.delta.pop(name).detach() for part in parts]
                whole._hold(name, torch.cat(own))
        return whole

    def parted(self, parts: Sequence[Training]) -> None:
        """Give the rows back to those they are of."""
        sizes = [part.rows for part in parts]
        with torch.inference_mode(False), torch.no_grad():
            for name in list(self.delta):
                own = self.delta.pop(name).detach().split(sizes)
                for part, value in zip(parts, own, strict=True):
                    part._hold(name, value.clone())

    def hooks(self) -> list[Hook]:
        """Hooks that add each row's x ΔW + Δb at the sites that are trained.

        A batch may hold several sequences of each row, row by row.
        """
        host, found = self.host, list[Hook]()
        for weight in dict.fromkeys(host.site(name).weight for name in self.delta):
            site, seen = host.site(weight), list[Tensor]()
            bias = None if site.bias is None else self.delta.get(site.bias)
            value = self.delta.get(weight)
            if value is not None:
                found.append((site.input_hook, partial(_read, site, seen)))
            found.append((site.output_hook, partial(_add, site, value, bias, seen)))
        return found

    def learner(self, counts: Sequence[int]) -> Callable[[str, Tensor], None]:
        """Takes one step with gradients of each row's summed loss of so many predicted tokens."""
        steps = [rate / count for rate, count in zip(self.rates, counts, strict=True)]
        return partial(self._learn, torch.tensor(steps, device=self.host.device))

    def _learn(self, rates: Tensor, name: str, gradient: Tensor) -> None:
        with torch.no_grad():
            # The gradient is this step's own: in place, no second one as large is made.
            self.delta[name].sub_(gradient.mul_(rates.view(-1, *[1] * (gradient.ndim - 1))))


def _read(site: LinearSite, seen: list[Tensor], activation: Tensor, hook: Any) -> None:
    seen[:] = [site.read(activation)]


def _add(
    site: LinearSite,
    weight: Tensor | None,
    bias: Tensor | None,
    seen: list[Tensor],
    activation: Tensor,
    hook: Any,
) -> Tensor:
    total: Tensor | None = None
    if weight is not None:
        x = seen.pop().to(weight.dtype).flatten(2)
        total = x.reshape(len(weight), -1, x.shape[-1]) @ as_matrix(site, weight)
    if bias is not None:
        flat = bias.flatten(1)[:, None]
        total = flat if total is None else total + flat
    if total is None:
        raise HookError(f"{site.weight}: neither a weight nor a bias to apply.")
    # Several sequences of a row lie side by side in the batch.
    tokens = activation.shape[0] * activation.shape[1] // len(total)
    change = total.expand(-1, tokens, -1).reshape(activation.shape)
    return activation + change.to(activation.dtype)


def as_matrix(site: LinearSite, weight: Tensor) -> Tensor:
    """Each row's weight as "row d_in d_out", as one token's activations meet it."""
    if weight.ndim == 3:
        return weight
    if site.kind == "W_O":  # row head d_in d_out -> row (head d_in) d_out
        return weight.flatten(1, 2)
    return weight.transpose(1, 2).flatten(2)  # row head d_in d_head -> row d_in (head d_head)
