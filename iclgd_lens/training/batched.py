"""Rows of one batch with weights of their own: deltas while they are trained, several networks.

Rows do not see one another, so each one's gradient is that of its own loss, and one pass forward
and one back serve all of them.

Untrained twins of a model differ from one another in the weights and biases of their blocks' linear
maps alone. So a batch on the first of them serves all, where the output of every such map is put
there anew, x W + b with the row's own W and b. Whether networks are that alike is not concluded
from their names but tried: each network reads the training sequences itself, and as rows on the
first one; where the two differ by more than rounding, that network is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.demonstrations import TrainingSequence
from iclgd_lens.errors import HookError
from iclgd_lens.host import Hook, Host, LinearSite, frozen
from iclgd_lens.tokens import continued


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
        """Go on with only some of the rows."""
        self.rates = [self.rates[row] for row in rows]
        with torch.inference_mode(False), torch.no_grad():
            for name, value in self.delta.items():
                self._hold(name, value.detach()[list(rows)].clone())

    def take_in(self, other: Training, sets: int = 1) -> None:
        """Go on with another training's rows, too; in each set they follow this one's."""
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
        """One training of all rows of several, which hold no rows until this one is `parted`."""
        whole = cls(parts[0].host, (), ())
        whole.rates = [rate for part in parts for rate in part.rates]
        with torch.inference_mode(False), torch.no_grad():
            for name in parts[0].shapes:
                own = [part.delta.pop(name).detach() for part in parts]
                whole._hold(name, torch.cat(own))
        return whole

    def parted(self, parts: Sequence[Training]) -> None:
        """Give the rows back to the trainings that they came from."""
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


ROUNDING = 1e-4
"""Share of the largest entry by which two ways to compute the same may differ."""

Span = tuple[Host, int]
"""A network, and how many rows of a batch belong to it."""


Maps = dict[str, tuple[Tensor, Tensor]]
"""W and b of all linear maps with the same input, side by side, by the input's hook point."""


class Networks:
    """Networks whose rows can share a batch on the first of them.

    Their weights are held a second time, as a batch reads them.

    Args:
        hosts: The networks.
        shown: The sequences that they are trained on.
    """

    def __init__(self, hosts: Sequence[Host], shown: Sequence[TrainingSequence]) -> None:
        self._maps: dict[int, Maps] = {}
        self._stacks: dict[tuple[int, ...], Maps] = {}
        first = hosts[0]
        for host in hosts:
            if not (host.can_pad and host.dtype == torch.float32 and host.sites == first.sites):
                continue
            self._maps[id(host)] = {
                point: (
                    torch.cat([_matrix(host, site) for site in sites], dim=1),
                    torch.cat([_bias(host, site) for site in sites]),
                )
                for point, sites in _by_input(host).items()
            }
            if host is not first and not self._serves(first, host, shown):
                del self._maps[id(host)]

    def serve(self, one: Host, other: Host) -> bool:
        """Whether rows of the two can share a batch."""
        return one is other or {id(one), id(other)} <= self._maps.keys()

    def hooks(self, spans: Sequence[Span]) -> list[Hook]:
        """Hooks that compute each row's linear maps by its own network's weights.

        Args:
            spans: Networks, in the order of their rows; nothing is done where there is only one.
        """
        if all(host is spans[0][0] for host, _ in spans):
            return []
        merged: list[Span] = []
        for host, rows in spans:
            if merged and merged[-1][0] is host:
                rows += merged.pop()[1]
            merged.append((host, rows))
        return self._own_maps(spans[0][0], merged)

    def _own_maps(self, on: Host, spans: Sequence[Span]) -> list[Hook]:
        maps, rows = self._stacked([host for host, _ in spans]), [rows for _, rows in spans]
        found: list[Hook] = []
        for point, sites in _by_input(on).items():
            made: dict[str, Tensor] = {}
            found.append((point, partial(_make, sites, *maps[point], rows, made)))
            found += [(site.output_hook, partial(_put, site, made)) for site in sites]
        return found

    def _stacked(self, hosts: Sequence[Host]) -> Maps:
        """Weights of several networks, one after the other; the last ones are kept."""
        key = tuple(map(id, hosts))
        if key not in self._stacks:
            every = [self._maps[each] for each in key]
            self._stacks = {
                key: {
                    point: (
                        torch.stack([own[point][0] for own in every]),
                        torch.stack([own[point][1] for own in every])[:, None],
                    )
                    for point in every[0]
                }
            }
        return self._stacks[key]

    def _serves(self, first: Host, host: Host, shown: Sequence[TrainingSequence]) -> bool:
        """Whether rows on the first network compute what a network itself does."""
        tokens = host.tensor(continued([each.tokens for each in shown]))
        with torch.no_grad():
            with frozen(host.model):
                own = host.run(tokens).residual
                logits = host.logits(own)
            with frozen(first.model):
                with first.hooked(self._own_maps(first, [(host, len(tokens))]), forced=False):
                    there = first.run(tokens).residual
                return _same(own, there) and _same(logits, first.logits(own))


def _by_input(host: Host) -> dict[str, list[LinearSite]]:
    found: dict[str, list[LinearSite]] = {}
    for site in host.sites.values():
        found.setdefault(site.input_hook, []).append(site)
    return found


def _matrix(host: Host, site: LinearSite) -> Tensor:
    weight = host.parameter(site.weight)
    assert weight is not None, site.weight
    return as_matrix(site, weight[None])[0]


def _bias(host: Host, site: LinearSite) -> Tensor:
    bias = None if site.bias is None else host.parameter(site.bias)
    if bias is None:
        return torch.zeros(math.prod(site.bias_shape), device=host.device)
    return bias.flatten()


def _same(one: Tensor, other: Tensor) -> bool:
    return bool((one - other).abs().amax() <= ROUNDING * one.abs().amax())


def _make(
    sites: Sequence[LinearSite],
    weights: Float[Tensor, "network d_in d_out"],
    biases: Float[Tensor, "network one d_out"],
    rows: Sequence[int],
    made: dict[str, Tensor],
    activation: Tensor,
    hook: Any,
) -> None:
    """Compute the maps that read `activation`, each network's for its own rows."""
    x = sites[0].read(activation).flatten(2)
    if len(set(rows)) == 1:
        whole = torch.baddbmm(biases, x.reshape(len(rows), -1, x.shape[-1]), weights)
    else:
        parts = zip(x.split(list(rows)), weights, biases, strict=True)
        whole = torch.cat([torch.addmm(b, part.flatten(0, 1), w) for part, w, b in parts])
    widths = [math.prod(site.bias_shape) for site in sites]
    parts = whole.reshape(*x.shape[:2], -1).split(widths, dim=-1)
    made.update(zip((site.weight for site in sites), parts, strict=True))


def _put(site: LinearSite, made: dict[str, Tensor], activation: Tensor, hook: Any) -> Tensor:
    return made.pop(site.weight).reshape(activation.shape)
