"""Ratios of mean facts over queries: how much of in-context learning's change is explained.

Each maps mean moments, "*batch moment" -> "*batch", of a NumPy array or a tensor: a ratio of means
over queries, not a mean of ratios. Reading a finished run needs no torch.
"""

from __future__ import annotations

from typing import Any, TypeVar

__all__ = ["kl_removed", "recovery_scale", "recovery_share", "recovery_unscaled"]

Moments = TypeVar("Moments")


def recovery_scale(moments: Moments) -> Moments:
    """The scale s for which s d_ft is nearest to d_icl over all queries: any real number.

    `moments`: mean `recovery_moments`, "*batch 3" -> "*batch". Negative if the intervention moves
    the labels the other way; NaN if it does not move them at all.
    """
    ft_icl, ft_ft, _ = _columns(moments, 3)
    return (ft_icl / ft_ft).squeeze(-1)


def recovery_share(moments: Moments) -> Moments:
    """Share of the ICL label-logit change that the best-scaled intervention explains, in [0, 1].

    `moments`: mean `recovery_moments`, "*batch 3" -> "*batch". The scale is not negative: a change
    in the opposite direction recovers nothing. Where it points the same way this is the squared
    (uncentred) correlation. NaN if either change is zero.
    """
    ft_icl, ft_ft, icl_icl = _columns(moments, 3)
    same_way = ft_icl.clip(0, None)
    return ((same_way / ft_ft) * (same_way / icl_icl)).clip(0, 1).squeeze(-1)


def recovery_unscaled(moments: Moments) -> Moments:
    """Share of the ICL label-logit change explained as it is: 1 - |d_icl - d_ft|^2 / |d_icl|^2.

    `moments`: mean `recovery_moments`, "*batch 3" -> "*batch". 1 is full recovery, 0 what doing
    nothing gives, negative is worse than nothing. NaN if ICL changes nothing.
    """
    ft_icl, ft_ft, icl_icl = _columns(moments, 3)
    return ((2 * ft_icl - ft_ft) / icl_icl).squeeze(-1)


def kl_removed(moments: Moments) -> Moments:
    """Share of ZS's KL divergence from ICL that the intervention removes: 1 - KL(ft) / KL(zs).

    `moments`: mean (KL of ft, KL of zs), "*batch 2" -> "*batch". 1 is ICL's own distribution, 0
    what doing nothing gives, negative is further away than ZS. NaN if ZS is ICL already.
    """
    ft, zs = _columns(moments, 2)
    return (1 - ft / zs).squeeze(-1)


def _columns(moments: Any, count: int) -> tuple[Any, ...]:
    """The moments one by one, each with a last axis of length 1."""
    return tuple(moments[..., place : place + 1] for place in range(count))
