"""One gradient made of several tasks' gradients, which may disagree."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import HypothesisError

Combine = Callable[[Float[Tensor, "task entry"]], Float[Tensor, " entry"]]
_Array = npt.NDArray[np.float64]
_EPS = float(np.finfo(np.float64).eps)
COMBINERS = ("sum", "pcgrad", "upgrad")


def combiner(rule: str, name: str) -> Combine | None:
    """What makes one gradient of several; None for the sum, which back-propagation itself gives.

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
    return _weighting(len(rows))(rows @ rows.T).to(rows) @ rows


@lru_cache(maxsize=8)
def _weighting(tasks: int) -> Callable[[Tensor], Tensor]:
    """The function from products of gradients to UPGrad's weights; made once for many steps."""
    from torchjd.aggregation import UPGradWeighting
    from torchjd.linalg import DualConeProjector

    class Exact(DualConeProjector):
        """Solved by trying which tasks bind: exact, and no solver is needed for a few tasks."""

        def __call__(self, U: Tensor, G: Tensor) -> Tensor:
            return torch.from_numpy(_projected(U.double().numpy(), G.double().numpy()))

    weighting = UPGradWeighting(torch.ones(tasks), Exact())
    return lambda gram: weighting(gram.cpu())


def project(u: Float[Tensor, " task"], gram: Float[Tensor, "task task"]) -> Float[Tensor, " task"]:
    """The v >= u of least v G v: weights of the projection of sum u_t g_t onto the dual cone.

    For each set of tasks that bind (v_t = u_t), the others solve G_ff v_f = -G_fb u_b. The solution
    is the feasible one of least value; binding all is always feasible.
    """
    found = _projected(u.double().cpu().numpy()[None], gram.double().cpu().numpy())
    return torch.from_numpy(found[0]).to(u.device)


def _projected(us: _Array, gram: _Array) -> _Array:
    """`project` of several u, one per row; in NumPy, since only the calls take time here."""
    tasks = len(gram)
    best, least = us.copy(), ((us @ gram) * us).sum(1)
    for code in range(2**tasks - 1):
        binds = np.array([bool(code >> t & 1) for t in range(tasks)])
        v, free = us.copy(), gram[~binds]
        inverse = np.linalg.pinv(free[:, ~binds], tasks * _EPS, hermitian=True)
        v[:, ~binds] = -us[:, binds] @ free[:, binds].T @ inverse
        value = ((v @ gram) * v).sum(1)
        better = (v >= us).all(1) & (value < least)
        best[better], least[better] = v[better], value[better]
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
