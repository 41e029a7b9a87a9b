"""Effects of heads as arrays: what they are called, their statistics, sets of the first heads.

NumPy alone, without torch.

A curve is that of ZS, with the outputs of the first k heads at the readout token replaced by those
of in-context learning (or of an update):

    f(k) = (m_k - m_ZS) / (m_ICL - m_ZS)

a ratio of means over queries, 0 without heads. With all heads the readout token has everything that
in-context learning's has but its position: f is 1 on models with rotary positions. The ranking is
by signed necessity, largest first, found on other queries than those that the curve is measured on.
Two numbers sum a curve up: its area over the share of heads, which is large where a few heads carry
much, and the area between it and 1, which is also large where the curve overshoots. (Mueller et al.
2025, MIB: CPR and CMD.)

A prompt moves the margin towards some labels whatever the query says, most of all in networks that
learned nothing. Queries are therefore weighted so that every gold label counts alike (`balanced`):
over labels such a move adds up to nothing.

With two or more draws an interval is Student's t over draws (Fieller's for a ratio of means); with
one draw, a bootstrap over its queries. P-values are those of the largest |t| under sign flips
(`resampling.max_t`) over queries, each averaged over the draws that share it, and then they speak
of these demonstrations alone; from six draws on, which can give .05, the larger of that and the
same over draws. Draws alone are not enough: they ask the same queries, and what happens to fit
these fits them in every draw.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.results.aggregates import Resampling
from iclgd_lens.verdicts.ratio_intervals import ratio_t
from iclgd_lens.verdicts.resampling import bootstrap_mean, bootstrap_ratio, max_t
from iclgd_lens.verdicts.statistics import nanmean, t_interval

Array = NDArray[np.float32]
Floats = NDArray[np.float64]
ICL, ZS, BLIND = "ICL", "ZS", "blind"
SUFFICIENCY, NECESSITY, VISIBILITY, DIRECT = "sufficiency", "necessity", "visibility", "direct"
KEPT, SUBSTITUTION = "kept", "substitution"
ESTIMATED = {
    SUFFICIENCY: "sufficiency_attribution",
    NECESSITY: "necessity_attribution",
    KEPT: "kept_attribution",
}
"""What attribution estimates, by what is measured exactly."""
MEANINGS: Mapping[str, str] = {
    SUFFICIENCY: "gain of the label margin where ICL's output of the head is put into ZS",
    NECESSITY: "loss of the label margin where ZS's output of the head is put into ICL",
    VISIBILITY: "gain of the label margin where this head alone sees the demonstrations",
    DIRECT: "what ICL's change of the head's output adds to the margin on the straight way to the "
    "logits",
    KEPT: "what of the head's necessary effect is kept where the hypothesis's output is put into "
    "ICL, in nats",
    SUBSTITUTION: "the same as a share of the head's necessity: 1 does ICL's work, 0 does nothing",
    ESTIMATED[SUFFICIENCY]: "sufficiency to first order, from one pass back",
    ESTIMATED[NECESSITY]: "necessity to first order, from one pass back",
    ESTIMATED[KEPT]: "what is kept, to first order, from one pass back",
}


@dataclass(frozen=True, eq=False)
class DrawEffects:
    """Effects of one draw.

    Attributes:
        heads: By label ("ICL", or a hypothesis or control) and effect, [query layer head], in nats
            of label margin; NaN where undefined or not measured.
        margins: Label margin [query] by label; "blind" is ICL with no demonstration in sight.
        curves: Label margins [query size] by label, with the first heads of the ranking replaced.
        sizes: How many heads those are.
        curve_queries: Queries of the curves; the others ranked the heads.
        failures: Why something is undefined altogether.
    """

    heads: Mapping[str, Mapping[str, Array]]
    margins: Mapping[str, Array]
    curves: Mapping[str, Array]
    sizes: tuple[int, ...]
    curve_queries: tuple[int, ...]
    failures: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, eq=False)
class Curve:
    """Faithfulness against the number of heads.

    Attributes:
        label: Whose outputs are put in: "ICL", or a hypothesis.
        heads: How many heads.
        value: Faithfulness, NaN where in-context learning changes nothing.
    """

    label: str
    heads: tuple[int, ...]
    value: Floats

    @property
    def area(self) -> float:
        """Mean of the curve over the share of heads."""
        return _area(self.heads, self.value)

    @property
    def gap(self) -> float:
        """Mean distance of the curve from 1 over the share of heads."""
        return _area(self.heads, np.abs(1 - self.value))


def _area(heads: Sequence[int], value: Floats) -> float:
    share = np.asarray(heads, np.float64) / max(heads)
    return float((np.diff(share) * (value[1:] + value[:-1]) / 2).sum())


def set_sizes(count: int) -> tuple[int, ...]:
    """How many heads the sets of a curve have: 0, 1, 2, 3, 4, 6, 8, 12, ... and all."""
    found = {0, 1, 2, 3, count}
    size = 4
    while size < count:
        found |= {size, min(count, size * 3 // 2)}
        size *= 2
    return tuple(sorted(size for size in found if size <= count))


def ranking_of(effects: ArrayLike, gold: NDArray[np.int64]) -> list[int]:
    """Flat indices of heads by their mean effect, largest first; gold labels count alike.

    Args:
        effects: "query layer head"; where a head has none, it counts as nothing.
        gold: Gold label id of each query.
    """
    means = np.nan_to_num(balanced(effects, gold)).mean(0).ravel()
    return np.argsort(-means, kind="stable").tolist()


SIGNIFICANT = 0.05
"""Corrected p-values up to which an effect counts as shown."""
FEWEST_DRAWS = 6
"""Draws from which sign flips over draws can give .05."""
OVER_DRAWS, OVER_QUERIES = "draws and queries", "queries of these demonstrations"


@dataclass(frozen=True, eq=False)
class HeadMap:
    """A number per head with its interval; [layer head] each.

    Attributes:
        value: The mean over draws of each draw's mean over queries, or a ratio of such means.
        low: Lower bound of its interval.
        high: Upper bound.
        p: P-value of zero, corrected for the number of heads.
        n: Queries that it rests on.
        undefined: Queries on which it does not exist.
    """

    value: Floats
    low: Floats
    high: Floats
    p: Floats
    n: NDArray[np.int64]
    undefined: NDArray[np.int64]

    @property
    def above(self) -> NDArray[np.bool_]:
        """Where it is shown to be more than zero: by its corrected p, and by its interval.

        The two need not agree: with few draws p is over queries, the interval over draws.
        """
        with np.errstate(invalid="ignore"):
            return (self.p <= SIGNIFICANT) & (self.low > 0)

    @property
    def below(self) -> NDArray[np.bool_]:
        """Where it is shown to be less than zero."""
        with np.errstate(invalid="ignore"):
            return (self.p <= SIGNIFICANT) & (self.high < 0)


def unit_of(draws: int) -> str:
    """What p-values count."""
    return OVER_DRAWS if draws >= FEWEST_DRAWS else OVER_QUERIES


def balanced(effects: ArrayLike, gold: NDArray[np.int64]) -> Floats:
    """Effects weighted so that their mean over queries is that of the gold labels' means.

    A move towards some labels that is the same on every query has a mean of zero then.

    Args:
        effects: "query *head"; NaN where undefined, which changes the weights of the others.
        gold: Gold label id of each query.
    """
    array = np.asarray(effects, np.float64)
    known = np.isfinite(array)
    asked = [gold == label for label in np.unique(gold)]
    counts = np.stack([known[own].sum(0) for own in asked])
    fair = known.sum(0) / np.maximum((counts > 0).sum(0), 1)  # queries of each label that is there
    weighted = array.copy()
    for own, count in zip(asked, counts, strict=True):
        weighted[own] *= fair / np.maximum(count, 1)
    return weighted


def mean_map(draws: Sequence[Floats], how: Resampling) -> HeadMap:
    """Mean effect of each head.

    Args:
        draws: Effects [query layer head] of each draw.
        how: Coverage, resamples, seed.
    """
    if len(draws) > 1:
        value, low, high = t_interval(_means(draws), confidence=how.confidence)
    else:
        found = bootstrap_mean(draws[0], **how.as_dict())
        value, low, high = found.value, found.low, found.high
    n, undefined = _counts(draws)
    return HeadMap(value, low, high, _p(draws, how), n, undefined)


def ratio_map(
    numerators: Sequence[Floats], denominators: Sequence[Floats], defined: NDArray[np.bool_],
    how: Resampling,
) -> HeadMap:  # fmt: skip
    """Ratio of mean effects of each head, over draws and queries; the p-value is the numerator's.

    Args:
        numerators: Effects [query layer head] of each draw.
        denominators: The effects that they are a share of, likewise.
        defined: [layer head], where the ratio exists.
        how: Coverage, resamples, seed.
    """
    both = [np.isfinite(a) & np.isfinite(b) for a, b in zip(numerators, denominators, strict=True)]
    tops = [np.where(k, a, np.nan) for k, a in zip(both, numerators, strict=True)]
    bottoms = [np.where(k, b, np.nan) for k, b in zip(both, denominators, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        if len(tops) > 1:
            value, low, high = ratio_t(_means(tops), _means(bottoms), confidence=how.confidence)
        else:
            found = bootstrap_ratio(np.stack([tops[0], bottoms[0]], -1), _share, **how.as_dict())
            value, low, high = found.value, found.low, found.high
    value, low, high, p = (
        np.where(defined, each, np.nan) for each in (value, low, high, _p(tops, how))
    )
    n, undefined = _counts(tops)
    total = n + undefined
    n = np.where(defined, n, 0)
    return HeadMap(value, low, high, p, n, total - n)


def share_of_means(reached: Sequence[Floats] | Floats, gains: Sequence[float] | Floats) -> Floats:
    """Mean over draws of what is reached, as a share of the mean of in-context learning's gain.

    Args:
        reached: "draw *size", in nats.
        gains: "draw".
    """
    top = np.asarray(np.mean(np.asarray(reached, np.float64), axis=0))
    bottom = float(np.mean(gains))
    return np.asarray(top / bottom) if bottom else np.full_like(top, np.nan)


def _share(means: Floats) -> Floats:
    return means[..., 0] / means[..., 1]


def _means(draws: Sequence[Floats]) -> Floats:
    return np.stack([nanmean(each, 0) for each in draws])


def _counts(draws: Sequence[Floats]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    n = np.asarray(sum(np.isfinite(each).sum(0) for each in draws), np.int64)
    return n, sum(len(each) for each in draws) - n


def _p(draws: Sequence[Floats], how: Resampling) -> Floats:
    shared = len({len(each) for each in draws}) == 1
    queries = nanmean(np.stack(draws), 0) if shared else np.concatenate(draws)
    over_queries = max_t(queries, seed=how.seed)
    if len(draws) < FEWEST_DRAWS:
        return over_queries
    return np.maximum(over_queries, max_t(_means(draws), seed=how.seed))


@dataclass(frozen=True)
class Verification:
    """Attribution beside exact interventions, on the heads that were verified.

    Attributes:
        heads: Which heads: the first of the ranking by attribution, and some at random.
        sufficiency: Correlation over them of mean sufficiency, exact and attributed.
        necessity: The same for necessity.
    """

    heads: tuple[tuple[int, int], ...]
    sufficiency: float
    necessity: float

    @property
    def sentence(self) -> str:
        """How far attribution can be trusted here."""
        return (
            f"Attribution on {len(self.heads)} verified heads correlates {self.sufficiency:.2f} "
            f"(sufficiency) and {self.necessity:.2f} (necessity) with exact interventions."
        )


def spearman(a: Floats, b: Floats) -> float:
    """Rank correlation over heads where both exist; NaN where fewer than three do."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, a, b)


def pearson(a: Floats, b: Floats) -> float:
    """Correlation over heads where both exist; NaN where fewer than three do."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, a, b)


def _correlation(of: Callable[[Floats, Floats], Any], a: Floats, b: Floats) -> float:
    """A correlation where both are finite; NaN, without a warning, where one does not vary."""
    known = np.isfinite(a) & np.isfinite(b)
    x, y = a[known], b[known]
    if len(x) < 3 or not np.ptp(x) or not np.ptp(y):
        return float("nan")
    return float(of(x, y).statistic)


def jaccard(a: Floats, b: Floats, k: int) -> float:
    """Share of common heads among the k largest of two maps: |both| / |either|."""
    first, second = ({*np.argsort(-_low(each))[:k].tolist()} for each in (a, b))
    return len(first & second) / len(first | second) if first | second else float("nan")


def _low(values: Floats) -> Floats:
    return np.where(np.isfinite(values), values, -np.inf).ravel()
