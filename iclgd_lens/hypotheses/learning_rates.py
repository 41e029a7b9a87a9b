"""Learning rates that change with what is learned: what a gradient is multiplied by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclgd_lens.host import Host, layer_of
from iclgd_lens.training.sgd import Transform

RATES = ("constant", "norm", "rms", "hyper", "surprise")
"""How fast each weight learns; "surprise" acts on a demonstration, the others on a step."""


def head_norms(name: str, value: Tensor) -> Tensor:
    """Norm of each head's part of a weight, or of the whole where it has no heads.

    Shaped so that it multiplies the weight.
    """
    if ".attn." in name and value.ndim > 1:
        return value.flatten(1).norm(dim=1).view(-1, *[1] * (value.ndim - 1))
    return value.norm()


def transform_of(host: Host, kind: str, trust: float, beta: float) -> Transform | None:
    """The gradient transform of one of `RATES`; None where steps follow the gradient itself."""
    makers: dict[str, Any] = {
        "norm": lambda: Norm(host, trust),
        "rms": Rms,
        "hyper": lambda: Hyper(beta),
    }
    return makers[kind]() if kind in makers else None


class Norm:
    """LARS: each head's step is as long, relative to its weights, as every other's.

    The rate is eta trust |W_h| / |g_h|. Biases keep the plain rate.
    """

    def __init__(self, host: Host, trust: float) -> None:
        self.host, self.trust = host, trust
        self.norms: dict[str, Tensor] = {}

    def __call__(self, name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        """See `sgd.Transform`."""
        if not name.rsplit(".", 1)[1].startswith("W"):
            return gradient
        if name not in self.norms:
            weight = self.host.parameter(name)
            self.norms[name] = head_norms(name, (change if weight is None else weight).float())
        length = head_norms(name, gradient) / count
        factor = self.trust * self.norms[name] / length
        return gradient * torch.where(length > 0, factor, 0.0)


class Rms:
    """RMSProp: g / (sqrt(running mean of g^2) + 1e-8), with a memory of .99 per step."""

    def __init__(self) -> None:
        self.squares: dict[str, Tensor] = {}

    def __call__(self, name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        """See `sgd.Transform`."""
        mean = gradient / count
        squares = self.squares.setdefault(name, torch.zeros_like(mean))
        squares.mul_(0.99).addcmul_(mean, mean, value=0.01)
        return count * mean / (squares.sqrt() + 1e-8)


class Hyper:
    """A layer's rate grows while its gradients agree: times 1 + beta cos(g_t, g_(t-1)) per step."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.factors: dict[int, float] = {}
        self.previous: dict[str, Tensor] = {}
        self.products: dict[int, list[Tensor]] = {}
        self.seen: dict[int, set[str]] = {}

    def __call__(self, name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        """See `sgd.Transform`."""
        layer = layer_of(name)
        seen = self.seen.setdefault(layer, set())
        if name in seen:  # the layer's first weight of a new step
            self._end_step(layer)
            seen.clear()
        seen.add(name)
        mean = gradient / count
        before = self.previous.get(name)
        if before is not None:
            parts = torch.stack([(mean * before).sum(), (mean**2).sum(), (before**2).sum()])
            self.products.setdefault(layer, []).append(parts)
        self.previous[name] = mean.clone()
        return gradient * self.factors.get(layer, 1.0)

    def _end_step(self, layer: int) -> None:
        parts = self.products.pop(layer, [])
        if not parts:
            return
        dot, one, other = torch.stack(parts).sum(0).tolist()
        cosine = dot / (one * other) ** 0.5 if one * other > 0 else 0.0
        self.factors[layer] = self.factors.get(layer, 1.0) * (1 + self.beta * cosine)
