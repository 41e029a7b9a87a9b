"""Kendall's tau-b, vectorised: pairs are counted by sorting, never enumerated."""

import math

import torch
from torch import Tensor


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
