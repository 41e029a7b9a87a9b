"""How alike two changes of a model are: in-context learning's and an intervention's.

Pure functions on tensors. Most compare three settings of the same queries:

- ``zs``: the frozen model, the query alone;
- ``icl``: the frozen model, demonstrations before the query;
- ``ft``: the intervened model, the query alone (FTZS).

Conventions. A score is one fp32 number per query (first axis), computed in fp32 or better whatever
the inputs' dtype. +1 means that the intervention moves the model the way the demonstrations do, -1
the opposite way. A score that does not exist (0/0, a zero or non-finite vector) is NaN; averaging
over the defined queries and counting the others is left to `iclgd_lens.verdicts.statistics`. No
gradient flows through a score.

Memory. Work goes through slices of queries small enough for the processor's cache: temporaries
are a few MB and nothing of the size of the inputs is copied.

Shapes that disagree raise `LensError`; nothing is broadcast.
"""

import math
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from iclgd_lens.errors import LensError
from iclgd_lens.measures.cosines_and_ranks import (
    change_cosine,
    head_change_cosine,
    kendall_rows,
    map_cosine,
    over_queries,
    working_dtype,
)
from iclgd_lens.ratios import (
    kl_removed,
    recovery_scale,
    recovery_share,
    recovery_unscaled,
)

__all__ = [
    "accuracy",
    "f2t",
    "head_factor",
    "kendall_tau",
    "kl_removed",
    "label_kl",
    "label_prediction",
    "rec2ftp",
    "recovery_moments",
    "recovery_scale",
    "recovery_share",
    "recovery_unscaled",
    "sim_am",
    "sim_aou",
    "sim_aou_heads",
    "tok2attn",
    "unchanged",
]


def sim_aou(
    zs: Float[Tensor, "query layer d_model"],
    icl: Float[Tensor, "query layer d_model"],
    ft: Float[Tensor, "query layer d_model"],
    *,
    normalize: bool = True,
) -> Float[Tensor, "query layer"]:
    """SimAOU: do demonstrations and intervention turn the attention output the same way?

    cos(a(icl) - a(zs), a(ft) - a(zs)) in [-1, 1], with a(x) = x / |x| over d_model. Arguments are
    attention outputs (after W_O and b_O, before the residual sum) at the readout token.

    `normalize=False` compares the differences of the raw outputs instead.

    Examples:
        >>> zs, icl = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> sim_aou(zs, icl, ft=icl)  # the same change
        tensor([[1.]])
        >>> sim_aou(zs, icl, ft=zs)  # no change: undefined
        tensor([[nan]])

    Source: Dai et al. 2023, section 4.3 (attention output updates); Deutch et al. 2024.
    """
    _check(3, "query layer d_model", zs=zs, icl=icl, ft=ft)
    return over_queries(partial(change_cosine, normalize=normalize), zs, icl, ft)


def sim_aou_heads(
    zs: Float[Tensor, "query layer head d_head"],
    icl: Float[Tensor, "query layer head d_head"],
    ft: Float[Tensor, "query layer head d_head"],
    W_O: Float[Tensor, "layer head d_head d_model"],
) -> Float[Tensor, "query layer head"]:
    """SimAOU of every head's own contribution z W_O to the attention output, in [-1, 1].

    Arguments are the heads' outputs before W_O. z W_O is never formed: the score only depends on
    lengths and angles, which `head_factor(W_O)` keeps in d_head dimensions. Callers that score
    several interventions of one model can pass `head_factor(W_O)` in place of W_O.
    """
    _check(4, "query layer head d_head", zs=zs, icl=icl, ft=ft)
    if W_O.ndim != 4 or W_O.shape[:3] != zs.shape[1:]:
        raise LensError(
            f"W_O has shape {tuple(W_O.shape)}; heads of shape {tuple(zs.shape)} (query layer head "
            f"d_head) need (layer head d_head d_model) = ({', '.join(map(str, zs.shape[1:]))}, *)"
        )
    layers: list[Tensor] = []
    for layer in range(zs.shape[1]):
        factor = head_factor(W_O[layer])
        score = partial(head_change_cosine, factor=factor)
        layers.append(over_queries(score, zs[:, layer], icl[:, layer], ft[:, layer]))
    return torch.stack(layers, dim=1) if layers else zs.new_zeros(zs.shape[:3]).float()


def head_factor(
    W_O: Float[Tensor, "*head d_head d_model"],
) -> Float[Tensor, "*head d_head rank"]:
    """A narrow stand-in F for W_O: |z F| = |z W_O| and (y F) . (z F) = (y W_O) . (z W_O).

    With W_O^T = Q R, F is R^T: Q has orthonormal columns whatever the rank of W_O, so dropping it
    keeps every length and angle. rank = min(d_head, d_model); W_O itself is returned (in fp32 or
    better) where it is not wider than high.
    """
    weight = W_O.detach().to(working_dtype(W_O))
    if weight.shape[-1] <= weight.shape[-2]:
        return weight
    return torch.linalg.qr(weight.mT, mode="r").R.mT


def sim_am(
    zs: Float[Tensor, "query layer head key"],
    icl: Float[Tensor, "query layer head key"],
    ft: Float[Tensor, "query layer head key"],
    *,
    raw: bool = False,
) -> Float[Tensor, "query layer head"]:
    """SimAM: do demonstrations and intervention redirect attention the same way?

    cos(icl - zs, ft - zs) in [-1, 1], per head. Arguments are scaled pre-softmax attention scores
    of the readout token over the query's own tokens (no demonstrations, no BOS). Queries of
    different lengths share a tensor when the keys past a query's own are 0 in all three.

    `raw=True` compares the maps themselves, cos(icl, ft), as Dai et al. first did.

    Source: Deutch et al. 2024; `raw`: Dai et al. 2023, section 4.3 (attention maps).
    """
    _check(4, "query layer head key", zs=zs, icl=icl, ft=ft)
    if raw:
        return over_queries(map_cosine, icl, ft)
    return over_queries(partial(change_cosine, normalize=False), zs, icl, ft)


def unchanged(
    zs: Float[Tensor, "*batch item"], icl: Float[Tensor, "*batch item"], dtype: torch.dtype
) -> Bool[Tensor, "*batch"]:
    """Where two settings differ by no more than the rounding of a forward pass in `dtype`.

    In layer 0 of a rotary model, demonstrations change no score between a query's own tokens: what
    is left of icl - zs is rounding, and a cosine with it means nothing. The floor is 8 machine
    epsilons (2e-5 at least) of the longer vector; observed rounding stays below a third of it.
    """
    _check(zs.ndim, "*batch item", zs=zs, icl=icl)
    floor = max(8 * torch.finfo(dtype).eps, 2e-5)
    zs, icl = zs.detach().float(), icl.detach().float()
    change, *lengths = (x.norm(dim=-1) for x in (icl - zs, icl, zs))
    return change <= floor * torch.maximum(*lengths)


def rec2ftp(
    zs_right: Bool[Tensor, " query"],
    icl_right: Bool[Tensor, " query"],
    ft_right: Bool[Tensor, " query"],
) -> Float[Tensor, " query"]:
    """Recall to fine-tuning predictions: 1 where ICL also fixes what the intervention fixes.

    Defined on queries that ZS gets wrong and FTZS gets right: 1 if ICL is right, 0 if not. NaN on
    every other query, so the mean over defined queries is the share in [0, 1].

    Source: Dai et al. 2023, section 4.3.
    """
    _check(1, "query", zs_right=zs_right, icl_right=icl_right, ft_right=ft_right)
    fixed = ~zs_right & ft_right
    return torch.where(fixed, icl_right.float(), math.nan)


def f2t(
    zs_right: Bool[Tensor, " query"],
    icl_right: Bool[Tensor, " query"],
    ft_right: Bool[Tensor, " query"],
) -> Bool[Tensor, " query"]:
    """The false-to-true subset: ZS wrong, ICL right and FTZS right. Source: Deutch et al. 2024."""
    _check(1, "query", zs_right=zs_right, icl_right=icl_right, ft_right=ft_right)
    return ~zs_right & icl_right & ft_right


def kendall_tau(
    a: Float[Tensor, "*batch item"], b: Float[Tensor, "*batch item"]
) -> Float[Tensor, "*batch"]:
    """Kendall's tau-b (ties corrected) of each row of `a` with the same row of `b`, in [-1, 1].

    NaN where a row is constant, has fewer than two items or contains NaN. Takes O(n log n) per row:
    discordant pairs are inversions of a permutation, counted bit by bit.

    Source: Kendall 1945; Knight 1966 for the counting of discordant pairs by sorting.
    """
    if a.ndim < 1:
        raise LensError("kendall_tau needs at least one axis (*batch item), but got a scalar")
    _check(a.ndim, "*batch item", a=a, b=b)
    batch, items = a.shape[:-1], a.shape[-1]
    if items < 2 or not a.numel():
        return a.new_full(batch, math.nan, dtype=torch.float32)
    return over_queries(kendall_rows, a.reshape(-1, items), b.reshape(-1, items)).reshape(batch)


def tok2attn(
    icl: Float[Tensor, "query layer head token"],
    ft: Float[Tensor, "query layer head token"],
) -> Float[Tensor, "query layer head"]:
    """Tok2Attn: do ICL attention and the fine-tuned model rank demonstration tokens alike?

    Kendall's tau-b in [-1, 1] over demonstration tokens. `icl`: attention of the readout token to
    each of them; `ft`: the fine-tuned model's, q_FTZS . k_train. Only order matters, so pre-softmax
    scores do, and are better than probabilities, which underflow into ties. Tokens that are NaN for
    every head of one of the two (a sliding window hides them) take no part.

    Source: Dai et al. 2023, section 4.3 (attention to training tokens).
    """
    _check(4, "query layer head token", icl=icl, ft=ft)
    hidden = icl.isnan().all(dim=2) | ft.isnan().all(dim=2)
    if not hidden.any():
        return kendall_tau(icl, ft)
    tau = torch.full(icl.shape[:3], math.nan, dtype=torch.float32, device=icl.device)
    for seen in torch.unique(~hidden.flatten(0, 1), dim=0):
        if seen.any():
            rows = (hidden == ~seen).all(-1)
            tau[rows] = kendall_tau(icl[rows][..., seen], ft[rows][..., seen])
    return tau


def label_prediction(label_scores: Float[Tensor, "query label"]) -> Int[Tensor, " query"]:
    """The label with the highest score (the first of equals); -1 where a score is not finite."""
    _check(2, "query label", label_scores=label_scores)
    if label_scores.shape[1] == 0:
        raise LensError("label_prediction needs at least one label, but got none")
    finite = label_scores.isfinite().all(dim=-1)
    return torch.where(finite, label_scores.argmax(dim=-1), -1)


def label_margin(
    label_scores: Float[Tensor, "query label"], gold: Int[Tensor, " query"]
) -> Float[Tensor, " query"]:
    """The gold label's score minus the mean of the others'."""
    right = label_scores.gather(-1, gold[:, None])[:, 0]
    return right - (label_scores.sum(-1) - right) / (label_scores.shape[-1] - 1)


def accuracy(
    prediction: Int[Tensor, " query"], gold: Int[Tensor, " query"]
) -> Float[Tensor, " query"]:
    """1 where the prediction is the gold label, 0 where it is not, NaN where there is none (-1)."""
    _check(1, "query", prediction=prediction, gold=gold)
    return torch.where(prediction == -1, math.nan, (prediction == gold).float())


def label_kl(
    p_scores: Float[Tensor, "query label"], q_scores: Float[Tensor, "query label"]
) -> Float[Tensor, " query"]:
    """KL(softmax(p) || softmax(q)) over the labels, in nats, >= 0; NaN where not finite.

    Arguments are label scores (logits or log-probabilities); a shift common to a query's labels
    changes nothing.
    """
    _check(2, "query label", p_scores=p_scores, q_scores=q_scores)
    log_p, log_q = (x.detach().double().log_softmax(dim=-1) for x in (p_scores, q_scores))
    kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1).clamp(min=0)
    finite = (p_scores.isfinite() & q_scores.isfinite()).all(dim=-1)
    return torch.where(finite & (p_scores.shape[1] > 0), kl, math.nan).float()


def recovery_moments(
    zs: Float[Tensor, "query label"],
    icl: Float[Tensor, "query label"],
    ft: Float[Tensor, "query label"],
) -> Float[Tensor, "query moment=3"]:
    """What label-logit recovery needs of each query: (ft . icl, ft . ft, icl . icl).

    The dot products are of label-score changes d_icl = icl - zs and d_ft = ft - zs, centred over
    the labels: a shift common to all labels predicts nothing. Units: squared logits. NaN where
    a score is not finite.

    `recovery_scale`, `recovery_share` and `recovery_unscaled` are functions of the MEAN of these
    over queries (a ratio of means, not a mean of ratios); `bootstrap_ratio` gives their intervals.
    """
    _check(2, "query label", zs=zs, icl=icl, ft=ft)
    changes = (x.detach().double() - zs.detach().double() for x in (icl, ft))
    d_icl, d_ft = (change - change.mean(dim=-1, keepdim=True) for change in changes)
    products = ((d_ft, d_icl), (d_ft, d_ft), (d_icl, d_icl))
    return torch.stack([(x * y).sum(dim=-1) for x, y in products], dim=-1).float()


def _check(axes: int, names: str, **tensors: Tensor) -> None:
    """Refuse tensors that are not all of one shape with `axes` axes."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != axes for shape in shapes.values()):
        given = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise LensError(f"Need one shape ({names}), but got {given}")
