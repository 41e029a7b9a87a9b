"""Cosines of changes and rank correlations: the numerical kernels under the measures.

Cosines run in slices small enough for the cache and are exact where float32 cancels. Kendall's
tau-b counts pairs by sorting and never enumerates them.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

# Where float32 loses digits: squares leave its range, or unit vectors nearly cancel.
_SAFE_NORMS = (1e-15, 1e15)
_CANCELLED = 1e-5
# Unit vectors closer than this differ by the rounding of float64 alone: their difference is zero.
_COINCIDE = 2.0**-44


def working_dtype(tensor: Tensor) -> torch.dtype:
    """Return the tensor's dtype, or float32 where that is wider."""
    return torch.promote_types(tensor.dtype, torch.float32)


def over_queries(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """`function` applied to slices of the first axis, joined in fp32."""
    # 256 KB of fp32 stay in a core's cache, and leave little to split between threads, which is
    # slow on a busy machine. An accelerator wants fewer and larger launches.
    elements = 2**16 if tensors[0].device.type == "cpu" else 2**25
    rows = max(1, elements // max(1, math.prod(tensors[0].shape[1:])))
    slices = zip(*(tensor.detach().split(rows) for tensor in tensors), strict=True)
    return torch.cat([function(*each).float() for each in slices])


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1)


def _is_safe(norm: Tensor) -> Tensor:
    return (norm > _SAFE_NORMS[0]) & (norm < _SAFE_NORMS[1])


def _cosine(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """cos(x, y) over the last axis, and where its squares have certainly kept their digits."""
    x_norm, y_norm = _norm(x), _norm(y)
    # Divided one after the other: the product of two norms can overflow where they do not.
    cosine = ((x * y).sum(dim=-1) / x_norm / y_norm).clamp(-1, 1)
    return cosine, _is_safe(x_norm) & _is_safe(y_norm)


def _with_fallback(attempt: Callable[[torch.dtype], tuple[Tensor, Tensor]], like: Tensor) -> Tensor:
    """`attempt` in the working dtype, replaced by float64 where it does not trust itself.

    The second pass is the rare case and redoes a whole slice. It also makes 0/0 exact: rounding
    in float32 can give two equal settings a tiny difference, and so a meaningless cosine.
    """
    score, trusted = attempt(working_dtype(like))
    if bool(trusted.all()):
        return score
    return torch.where(trusted, score.double(), attempt(torch.float64)[0])


def change_cosine(
    zs: Tensor, icl: Tensor, ft: Tensor, *, normalize: bool, factor: Tensor | None = None
) -> Tensor:
    """cos(icl - zs, ft - zs) over the last axis; with `factor`, after it has mapped all three."""
    return _with_fallback(partial(_change_cosine, (zs, icl, ft), normalize, factor), zs)


def _change_cosine(
    settings: Sequence[Tensor], normalize: bool, factor: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    settings = [tensor.to(dtype) for tensor in settings]
    if factor is not None:
        settings = [tensor @ factor.to(dtype) for tensor in settings]
    norms = [_norm(tensor) for tensor in settings] if normalize else []
    if normalize:
        settings = [x / norm.unsqueeze(-1) for x, norm in zip(settings, norms, strict=True)]
    base, x, y = settings
    x, y = x - base, y - base
    cosine, trusted = _cosine(x, y)
    if normalize:
        shortest = torch.minimum(_norm(x), _norm(y))
        cosine = cosine.masked_fill(shortest <= _COINCIDE, math.nan)
        trusted = trusted & (shortest > _CANCELLED)
    for norm in norms:
        trusted = trusted & _is_safe(norm)
    return cosine, trusted


def head_change_cosine(zs: Tensor, icl: Tensor, ft: Tensor, *, factor: Tensor) -> Tensor:
    """`change_cosine` of (query head d_head) through every head's factor: (query head)."""
    by_head = [tensor.transpose(0, 1) for tensor in (zs, icl, ft)]
    return change_cosine(*by_head, normalize=True, factor=factor).transpose(0, 1)


def map_cosine(x: Tensor, y: Tensor) -> Tensor:
    """cos(x, y) over the last axis."""
    return _with_fallback(lambda dtype: _cosine(x.to(dtype), y.to(dtype)), x)


def kendall_rows(a: Tensor, b: Tensor) -> Tensor:
    """Tau-b of (row item) tensors."""
    undefined = (a.isnan() | b.isnan()).any(dim=-1)
    # By a, and by b among equals in a: pairs tied in a are then no inversions of b.
    order = b.argsort(dim=-1, stable=True)
    order = order.gather(-1, a.gather(-1, order).argsort(dim=-1, stable=True))
    a, b = a.gather(-1, order), b.gather(-1, order)
    by_b = b.argsort(dim=-1, stable=True)
    new_a, new_b = a[:, 1:] != a[:, :-1], b[:, 1:] != b[:, :-1]
    tied_a, tied_both = _tied_pairs(new_a), _tied_pairs(new_a | new_b)
    b = b.gather(-1, by_b)
    tied_b = _tied_pairs(b[:, 1:] != b[:, :-1])
    pairs = a.shape[-1] * (a.shape[-1] - 1) // 2
    balance = (pairs - tied_a - tied_b + tied_both - 2 * _inversions(by_b)).double()
    tau = balance / (pairs - tied_a).double().sqrt() / (pairs - tied_b).double().sqrt()
    return tau.clamp(-1, 1).masked_fill(undefined, math.nan)


def _tied_pairs(new_run: Tensor) -> Tensor:
    """Pairs within runs of equals; `new_run[:, i]`: item i + 1 of a sorted row starts a run."""
    place = torch.arange(1, new_run.shape[-1] + 1, device=new_run.device)
    start = torch.where(new_run, place, 0).cummax(dim=-1).values
    return (place - start).sum(dim=-1)


def _inversions(permutation: Tensor) -> Tensor:
    """Pairs of each row in falling order, by a radix partition from the highest bit down.

    In a group that holds 2 * half consecutive values, each value of the upper half stands in an
    inversion with every later one of the lower half. Then the halves become groups themselves.
    """
    rows, items = permutation.shape
    size = 1 << (items - 1).bit_length()
    # Values that close the last group stand where they belong and add no inversion.
    rest = torch.arange(items, size, device=permutation.device).expand(rows, -1)
    permutation = torch.cat([permutation, rest], dim=-1)
    total = torch.zeros(rows, dtype=torch.int64, device=permutation.device)
    half = size // 2
    while half:
        groups = permutation.unflatten(-1, (-1, 2 * half))
        upper = (groups & half) != 0
        uppers = upper.cumsum(dim=-1)
        total += (uppers * ~upper).sum(dim=(-2, -1))
        place = torch.arange(2 * half, device=permutation.device)
        target = torch.where(upper, half + uppers - 1, place - uppers)
        permutation = torch.empty_like(groups).scatter_(-1, target, groups).flatten(-2)
        half //= 2
    return total
