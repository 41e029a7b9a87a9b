"""What plain similarity of changes cannot tell apart: label effects, common and specific parts.

A change from ZS to ICL mixes label learning with length, position and format. The *label contrast*
takes two runs that differ in the demonstrations' labels alone, gold and wrong ones, in in-context
learning and in the changed model, and asks whether the two differences point the same way: its null
is zero. A change also has a part that is the same for every query. `mismatched` tells how much of a
similarity that part explains, `common` compares it alone, `centred` compares what is left.

Pure functions on tensors, with the conventions of `iclgd_lens.measures.similarity`: one fp32 number
per query, NaN where it does not exist. Differences of nearly equal things are taken in fp64.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.measures.cosines_and_ranks import over_queries
from iclgd_lens.measures.similarity import head_factor

_NOTHING = 2.0**-44
"""Differences of unit vectors below this are float64's rounding."""


def label_contrast(
    icl: Float[Tensor, "query layer d_model"],
    icl_wrong: Float[Tensor, "query layer d_model"],
    ft: Float[Tensor, "query layer d_model"],
    ft_wrong: Float[Tensor, "query layer d_model"],
    *,
    normalize: bool = True,
) -> Float[Tensor, "query layer"]:
    """cos(a(icl) - a(icl_wrong), a(ft) - a(ft_wrong)), with a(x) = x / |x| unless told otherwise.

    Arguments are attention outputs at the readout token after demonstrations with gold and with
    wrong labels, and of the two models that these changed.
    """
    score = partial(_difference_cosine, normalize=normalize)
    return over_queries(score, icl, icl_wrong, ft, ft_wrong)


def label_contrast_heads(
    icl: Float[Tensor, "query layer head d_head"],
    icl_wrong: Float[Tensor, "query layer head d_head"],
    ft: Float[Tensor, "query layer head d_head"],
    ft_wrong: Float[Tensor, "query layer head d_head"],
    W_O: Float[Tensor, "layer head d_head d_model"],
) -> Float[Tensor, "query layer head"]:
    """The label contrast of every head's own output z W_O; `W_O` may be its `head_factor`."""
    layers: list[Tensor] = []
    for layer in range(icl.shape[1]):
        factor = head_factor(W_O[layer]).double()
        score = partial(_through, factor=factor)
        each = [part[:, layer] for part in (icl, icl_wrong, ft, ft_wrong)]
        layers.append(over_queries(score, *each))
    return torch.stack(layers, dim=1)


def raw_contrast(
    icl: Float[Tensor, "query layer head key"],
    icl_wrong: Float[Tensor, "query layer head key"],
    ft: Float[Tensor, "query layer head key"],
    ft_wrong: Float[Tensor, "query layer head key"],
) -> Float[Tensor, "query layer head"]:
    """cos(icl - icl_wrong, ft - ft_wrong): of attention scores over the query's own tokens."""
    score = partial(_difference_cosine, normalize=False)
    return over_queries(score, icl, icl_wrong, ft, ft_wrong)


def label_effect(
    right: Float[Tensor, "query layer d_model"],
    wrong: Float[Tensor, "query layer d_model"],
    *,
    normalize: bool = True,
) -> Float[Tensor, "query layer"]:
    """|a(right) - a(wrong)|: how much it matters to the attention output what the labels are."""
    return over_queries(partial(_distance, normalize), right, wrong)


def _distance(normalize: bool, one: Tensor, other: Tensor) -> Tensor:
    return (_unit(one, normalize) - _unit(other, normalize)).norm(dim=-1)


def changes(
    base: Float[Tensor, "query layer d_model"],
    changed: Float[Tensor, "query layer d_model"],
    *,
    normalize: bool = True,
) -> Float[Tensor, "query layer d_model"]:
    """a(changed) - a(base) in fp64."""
    return _unit(changed, normalize) - _unit(base, normalize)


def centred(
    one: Float[Tensor, "query layer item"],
    other: Float[Tensor, "query layer item"],
    groups: Int[Tensor, " query"] | None = None,
) -> Float[Tensor, "query layer"]:
    """Cosine of two changes of each query, each minus its mean over the queries of its group.

    Args:
        one: A change of every query, as `changes` gives it.
        other: Another.
        groups: Which queries belong together; None for all. A query alone in its group has no
            specific part, so its score is NaN. One that lacks either change has none, and is in no
            mean of either.
    """
    groups = (
        torch.zeros(len(one), dtype=torch.long, device=one.device) if groups is None else groups
    )
    score = one.new_full(one.shape[:2], math.nan, dtype=torch.float32)
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        x, y = _both(one[members], other[members])
        there = x.isfinite().all(-1)
        found = _cosine(x - x.nanmean(0), y - y.nanmean(0)).float()
        score[members] = torch.where(there & (there.sum(0) > 1), found, math.nan)
    return score


def common(
    one: Float[Tensor, "query layer item"], other: Float[Tensor, "query layer item"]
) -> Float[Tensor, "query layer"]:
    """Cosine of two changes, each averaged over the queries that have both, given to every one."""
    x, y = (each.nanmean(0) for each in _both(one, other))
    return _cosine(x, y).float().expand(len(one), -1).clone()


def _both(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two changes in fp64, NaN where a query lacks either in a layer."""
    there = (one.isfinite() & other.isfinite()).all(-1, keepdim=True)
    x, y = (torch.where(there, each.double(), math.nan) for each in (one, other))
    return x, y


def mismatched(
    one: Float[Tensor, "query layer item"], other: Float[Tensor, "query layer item"]
) -> Float[Tensor, "query layer"]:
    """Mean cosine of each query's change with another query's other change (the pairing null)."""
    x, y = (_direction(each.double()) for each in (one, other))
    there = y.isfinite().all(-1)
    y = torch.where(there[..., None], y, 0.0)
    # The sum over all other queries is the sum over all, minus the query's own.
    total = (x * (y.sum(0) - y)).sum(-1)
    count = there.sum(0) - there.long()
    return (total / torch.where(count > 0, count, math.nan)).float()


def _difference_cosine(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, normalize: bool
) -> Float[Tensor, "..."]:
    return _cosine(
        _unit(a, normalize) - _unit(b, normalize), _unit(c, normalize) - _unit(d, normalize)
    )


def _through(a: Tensor, b: Tensor, c: Tensor, d: Tensor, *, factor: Tensor) -> Tensor:
    """The same of [query head d_head] through every head's factor."""
    by_head = [each.double().transpose(0, 1) @ factor for each in (a, b, c, d)]
    return _difference_cosine(*by_head, normalize=True).transpose(0, 1)


def _unit(x: Tensor, normalize: bool) -> Tensor:
    x = x.detach().double()
    return x / x.norm(dim=-1, keepdim=True) if normalize else x


def _direction(x: Tensor) -> Tensor:
    norm = x.norm(dim=-1, keepdim=True)
    return x / torch.where(norm > _NOTHING, norm, math.nan)


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return (_direction(x) * _direction(y)).sum(-1).clamp(-1, 1)
