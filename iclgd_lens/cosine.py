"""Cosines of changes, in slices small enough for the cache, exact where float32 cancels."""

import math
from collections.abc import Callable

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
    """`function` of slices of the first axis, joined in fp32."""
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
    """cos(x, y) over the last axis, and where its squares surely kept their digits."""
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
    """cos(icl - zs, ft - zs) over the last axis; with `factor`, of what it maps the three to."""

    def attempt(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        settings = [tensor.to(dtype) for tensor in (zs, icl, ft)]
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

    return _with_fallback(attempt, zs)


def head_change_cosine(zs: Tensor, icl: Tensor, ft: Tensor, *, factor: Tensor) -> Tensor:
    """`change_cosine` of (query head d_head) through every head's factor: (query head)."""
    by_head = [tensor.transpose(0, 1) for tensor in (zs, icl, ft)]
    return change_cosine(*by_head, normalize=True, factor=factor).transpose(0, 1)


def map_cosine(x: Tensor, y: Tensor) -> Tensor:
    """cos(x, y) over the last axis."""
    return _with_fallback(lambda dtype: _cosine(x.to(dtype), y.to(dtype)), x)
