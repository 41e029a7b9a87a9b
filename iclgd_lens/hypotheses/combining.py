"""One gradient made of several tasks' gradients, which may disagree."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import HypothesisError

Combine = Callable[[Float[Tensor, "task entry"]], Float[Tensor, " entry"]]
COMBINERS = ("sum", "pcgrad", "upgrad")


def combiner(rule: str, name: str) -> Combine | None:
    """What makes one gradient of several; None for the sum, which one back-propagation gives.

    Raises:
        HypothesisError: `torchjd` is not installed.
    """
    if name == "upgrad":
        optional(rule, "torchjd")
        return upgrad
    return pcgrad if name == "pcgrad" else None


def pcgrad(rows: Float[Tensor, "task entry"]) -> Float[Tensor, " entry"]:
    """Sum of gradients, each without its part along those that it disagrees with (PCGrad).

    g_t -= (g_t . g_s) / |g_s|^2 g_s where that product is negative, s in the tasks' order. The
    paper draws the order at random; here it is fixed.
    """
    found: list[Tensor] = []
    for t, row in enumerate(rows):
        for s, other in enumerate(rows):
            product = row @ other
            if s != t and product < 0:
                row = row - product / (other @ other) * other
        found.append(row)
    return torch.stack(found).sum(0)


def upgrad(rows: Float[Tensor, "task entry"]) -> Float[Tensor, " entry"]:
    """Sum of gradients, each projected onto the cone of what harms no task (UPGrad)."""
    from torchjd.aggregation import UPGrad
    from torchjd.linalg import DualConeProjector

    class Exact(DualConeProjector):
        """Solved by trying which tasks bind: exact, and no solver is needed for a few tasks."""

        def __call__(self, U: Tensor, G: Tensor) -> Tensor:
            return torch.stack([project(u, G) for u in U]).to(U)

    return UPGrad(torch.ones(len(rows), device=rows.device), Exact())(rows)


def project(u: Float[Tensor, " task"], gram: Float[Tensor, "task task"]) -> Float[Tensor, " task"]:
    """The v >= u of least v G v: weights of the projection of sum u_t g_t onto the dual cone.

    For each set of tasks that bind (v_t = u_t), the others solve G_ff v_f = -G_fb u_b. The solution
    is the feasible one of least value; binding all is always feasible.
    """
    u, gram = u.double(), gram.double()
    best, least = u, float(u @ gram @ u)
    for code in range(2 ** len(u) - 1):
        binds = torch.tensor([bool(code >> t & 1) for t in range(len(u))], device=u.device)
        v = u.clone()
        right = gram[~binds][:, binds] @ u[binds]
        v[~binds] = -torch.linalg.pinv(gram[~binds][:, ~binds], hermitian=True) @ right
        value = float(v @ gram @ v)
        if bool((v >= u).all()) and value < least:
            best, least = v, value
    return best


def optional(rule: str, library: str, extra: str = "search") -> None:
    """Raise `HypothesisError` unless an optional library can be imported.

    Args:
        rule: The hypothesis that needs it.
        library: The module's name.
        extra: The extra that installs it.
    """
    try:
        importlib.import_module(library)
    except ImportError as error:
        raise HypothesisError(
            f"{rule} needs {library}, which is not installed: pip install 'iclgd_lens[{extra}]'."
        ) from error
