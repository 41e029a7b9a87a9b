"""How well a model classifies, free of label bias: from label scores, on NumPy arrays alone.

A prompt makes some label words likelier whatever the query says. Raw accuracy holds that bias, and
so can fall where the model has learned. Three measures do not hold it:

- `auc`: does the log-odds of a label rank its queries above the others? Macro mean of one label
  against the rest, ties half.
- `calibrated_accuracy` and `calibrated_nll`: each label's mean log-probability over the queries is
  subtracted first (batch calibration).

*Label scores* are each label word's mean log-probability in nats, [query label]. `compared` holds
two settings against one another over two sources of chance at once, the draws of demonstrations
and the queries: the same queries are asked in every draw, so that an untrained model whose answers
happen to fit them does so in every draw, and draws alone would call that learning.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.errors import LensError, nearest
from iclgd_lens.verdicts.auc_error import auc_freedom, auc_step
from iclgd_lens.verdicts.draws_and_queries import Compared, crossed
from iclgd_lens.verdicts.resampling import resample_counts
from iclgd_lens.verdicts.statistics import nanmean

Floats = NDArray[np.float64]
Gold = NDArray[np.int64]
Weighted = Callable[[Floats, Gold, Floats], Floats]
"""(label scores "query label", gold "query", weights "resample query") -> "resample"."""

_AT_ONCE = 2**21  # numbers in memory at a time: 16 MB
_TIE = 1e-12  # of the largest score: what rounding may tell apart


def auc(label_scores: ArrayLike, gold: ArrayLike) -> float:
    """Macro one-vs-rest area under the ROC curve of label log-odds; .5 is chance.

    Args:
        label_scores: [query label], in nats.
        gold: Label ids [query].

    Returns:
        The mean over labels that are some but not all queries' gold label; ties count half. NaN if
        there is none, or if any score is not finite: what diverged answers nothing, and the
        queries that are left would flatter it.

    Raises:
        LensError: The shapes do not fit, or a gold label has no score.
    """
    return _plain(_auc, label_scores, gold)


def calibrated_accuracy(label_scores: ArrayLike, gold: ArrayLike) -> float:
    """Accuracy once each label's mean log-probability over the queries is subtracted.

    Labels that tie for the top share the credit, so that constant scores are at chance. Arguments,
    NaN and errors as in `auc`.
    """
    return _plain(_calibrated_accuracy, label_scores, gold)


def calibrated_nll(label_scores: ArrayLike, gold: ArrayLike) -> float:
    """Negative log-likelihood of the gold label, in nats, after the same subtraction.

    Unlike the other two it falls where answers only get less sure; it decides nothing by itself.
    Arguments, NaN and errors as in `auc`.
    """
    return _plain(_calibrated_nll, label_scores, gold)


def accuracy(label_scores: ArrayLike, gold: ArrayLike) -> float:
    """Share of queries whose gold label scores highest, the first of equals; holds label bias.

    Arguments, NaN and errors as in `auc`.
    """
    return _plain(_accuracy, label_scores, gold)


def kl_from(icl: ArrayLike, other: ArrayLike) -> Floats:
    """KL(ICL || other) over the labels, in nats, of label scores [*rest label]: [*rest].

    NaN where a score is not finite.
    """
    from scipy.special import log_softmax

    with np.errstate(invalid="ignore"):
        log_p, log_q = (log_softmax(np.asarray(each, np.float64), -1) for each in (icl, other))
        return np.maximum((np.exp(log_p) * (log_p - log_q)).sum(-1), 0.0)


# -- weighted, so that one formula serves every resample -----------------------------------------


def _auc(scores: Floats, gold: Gold, weights: Floats) -> Floats:
    found = [
        _area(_log_odds(scores, label), gold == label, weights)
        for label in range(scores.shape[1])
        if 0 < np.count_nonzero(gold == label) < len(gold)
    ]
    return nanmean(np.stack(found), 0) if found else np.full(len(weights), np.nan)


def _log_odds(scores: Floats, label: int) -> Floats:
    from scipy.special import logsumexp

    others = np.delete(scores, label, axis=1)
    if others.shape[1] == 1:
        return scores[:, label] - others[:, 0]
    return scores[:, label] - logsumexp(others, axis=1)


def _area(odds: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Weighted share of pairs (positive, negative) in the right order, from one sort."""
    order = np.argsort(odds, kind="stable")
    odds, positive, weights = odds[order], positive[order], weights[:, order]
    negatives = np.cumsum(np.where(positive, 0.0, weights), 1)
    negatives = np.concatenate([np.zeros((len(weights), 1)), negatives], 1)
    first, past = (np.searchsorted(odds, odds, side) for side in ("left", "right"))
    below = (negatives[:, first] + negatives[:, past]) / 2  # those that tie count half
    ours = np.where(positive, weights, 0.0)
    with np.errstate(invalid="ignore"):
        return (ours * below).sum(1) / (ours.sum(1) * negatives[:, -1])


def _calibrated_accuracy(scores: Floats, gold: Gold, weights: Floats) -> Floats:
    tie = _TIE * np.abs(scores).max(initial=1.0)
    return _of_calibrated(partial(_credit, gold, tie), scores, weights)


def _credit(gold: Gold, tie: float, calibrated: Floats) -> Floats:
    top = calibrated >= calibrated.max(-1, keepdims=True) - tie
    return top[:, np.arange(len(gold)), gold] / top.sum(-1)


def _calibrated_nll(scores: Floats, gold: Gold, weights: Floats) -> Floats:
    return _of_calibrated(partial(_loss, gold), scores, weights)


def _loss(gold: Gold, calibrated: Floats) -> Floats:
    from scipy.special import log_softmax

    return -log_softmax(calibrated, -1)[:, np.arange(len(gold)), gold]


def _accuracy(scores: Floats, gold: Gold, weights: Floats) -> Floats:
    return weights @ (scores.argmax(1) == gold) / weights.sum(1)


def _of_calibrated(
    per_query: Callable[[Floats], Floats], scores: Floats, weights: Floats
) -> Floats:
    """Weighted mean over queries of a function of scores calibrated on the same resample."""
    found = np.empty(len(weights))
    step = max(1, _AT_ONCE // max(1, scores.size))
    for start in range(0, len(weights), step):
        drawn = weights[start : start + step]
        shares = drawn / drawn.sum(1, keepdims=True)
        calibrated = scores - (shares @ scores)[:, None]
        found[start : start + step] = (shares * per_query(calibrated)).sum(1)
    return found


# -- measures by name ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """One way to say how well a model classifies.

    Attributes:
        weighted: The formula.
        better: +1 where higher is better, -1 where lower is.
        steps: Smallest standard error over queries that is believed, given how many queries each
            label has: a measure at its best value shows no spread, however few were asked.
        freedom: Degrees of freedom of its standard error over queries, given the same.
    """

    weighted: Weighted
    better: int = 1
    steps: Callable[[Floats], float] = lambda counts: 0.0
    freedom: Callable[[Floats], float] = lambda counts: float(counts.sum() - 1)


MEASURES = {
    "AUC": Measure(_auc, steps=auc_step, freedom=auc_freedom),
    "calibrated_accuracy": Measure(_calibrated_accuracy, steps=lambda counts: 1 / counts.sum()),
    "calibrated_NLL": Measure(_calibrated_nll, better=-1),
    "accuracy": Measure(_accuracy, steps=lambda counts: 1 / counts.sum()),
}
"""By the names that results use. `DECIDES` decides; the others are shown beside it."""
DECIDES = "AUC"
_SHARES = ("AUC", "calibrated_accuracy", "accuracy")  # whose differences lie between -1 and 1


def compared(
    measure: str,
    setting: ArrayLike,
    baseline: ArrayLike | None,
    gold: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 500,
    seed: int = 0,
) -> Compared:
    """A measure of one setting, or how far it is above another's on the same queries.

    Over draws and queries at once; see `iclgd_lens.verdicts.draws_and_queries`.

    Args:
        measure: A name of `MEASURES`.
        setting: Label scores [query label] or [draw query label].
        baseline: The same of what it is held against; None for the value itself.
        gold: Label ids, [query] or [draw query].
        confidence: The interval's coverage.
        resamples: Bootstrap resamples of the queries.
        seed: Of the bootstrap.

    Returns:
        The difference, setting minus baseline; NaN where a score of either is not finite.

    Raises:
        LensError: The measure is unknown, or shapes do not fit.
    """
    settings = [setting] if baseline is None else [setting, baseline]
    stacked, golds = aligned(settings, gold)
    weights = query_weights(golds.shape[1], resamples, seed)
    by_draw = [resampled(measure, each, golds, weights) for each in stacked]
    change = by_draw[0] if baseline is None else by_draw[0] - by_draw[1]
    return judged(measure, change, golds, confidence=confidence)


def query_weights(queries: int, resamples: int, seed: int) -> Floats:
    """How often each query counts: once in the first row, then as drawn: [1 + resample query]."""
    drawn = resample_counts(queries, resamples, np.random.default_rng(seed))
    return np.concatenate([np.ones((1, queries)), drawn])


def resampled(measure: str, scores: Floats, golds: Gold, weights: Floats) -> Floats:
    """A measure of each draw under weights of queries: [draw row].

    Args:
        measure: A name of `MEASURES`.
        scores: Label scores [draw query label], of `aligned`.
        golds: Label ids [draw query], of `aligned`.
        weights: [row query], of `query_weights`.

    Raises:
        LensError: The measure is unknown.
    """
    if measure not in MEASURES:
        known = ", ".join(MEASURES)
        raise LensError(f"no measure {measure!r}; there are {known}." + nearest(measure, MEASURES))
    return _by_draw(MEASURES[measure].weighted, scores, golds, weights)


def judged(measure: str, change: Floats, golds: Gold, *, confidence: float) -> Compared:
    """A measure, or the difference of two, with its interval.

    Args:
        measure: A name of `MEASURES`.
        change: [draw row] of `resampled`, or the difference of two of them.
        golds: Label ids [draw query].
        confidence: The interval's coverage.
    """
    labels, counts = np.unique(golds[:1], return_counts=True)
    used, sizes = MEASURES[measure], counts.astype(np.float64)
    step, freedom = 0.0, float(golds.shape[1] - 1)
    if len(labels) > 1:
        step, freedom = used.steps(sizes), used.freedom(sizes)
    found = crossed(change[:, 0], change[:, 1:], step=step, confidence=confidence, freedom=freedom)
    if measure not in _SHARES:
        return found
    return replace(found, low=max(found.low, -1.0), high=min(found.high, 1.0))


# -- shapes --------------------------------------------------------------------------------------


def _plain(weighted: Weighted, label_scores: ArrayLike, gold: ArrayLike) -> float:
    (scores,), golds = aligned([label_scores], gold)
    return float(np.mean(_by_draw(weighted, scores, golds, np.ones((1, golds.shape[1])))))


def _by_draw(weighted: Weighted, scores: Floats, golds: Gold, weights: Floats) -> Floats:
    """The measure of each draw: [draw row]; NaN where any of its scores is not finite."""
    if scores.strides[0] == golds.strides[0] == 0 and len(scores) > 1:  # one draw, shared by all
        once = _by_draw(weighted, scores[:1], golds[:1], weights)
        return np.broadcast_to(once, (len(scores), len(weights)))
    return np.stack(
        [
            np.mean([weighted(order, gold, weights) for order in _orders(each)], 0)
            if gold.size and np.isfinite(each).all()
            else np.full(len(weights), np.nan)
            for each, gold in zip(scores, golds, strict=True)
        ]
    )


def _orders(scores: Floats) -> Floats:
    """Label scores of one draw, [order query label]."""
    return scores if scores.ndim == 3 else scores[None]


def aligned(settings: list[ArrayLike], gold: ArrayLike) -> tuple[list[Floats], Gold]:
    """Settings as [draw query label] and gold labels as [draw query], the same draws for all.

    Where a setting has orders, [draw order query label], all have that axis.

    Raises:
        LensError: They are of different queries or labels, or a gold label has no score.
    """
    arrays = [np.asarray(each, np.float64) for each in settings]
    golds = np.asarray(gold, np.int64)
    if any(each.ndim not in (2, 3, 4) or each.shape[-1] < 2 for each in arrays):
        shapes = ", ".join(str(each.shape) for each in arrays)
        raise LensError(f"label scores must be [query label] or [draw query label], not {shapes}")
    draws = max([len(each) for each in arrays if each.ndim > 2] or [1])
    if any(each.ndim == 4 for each in arrays):
        arrays = [each[:, None] if each.ndim == 3 else each for each in arrays]
    draws = max(draws, len(golds)) if golds.ndim == 2 else draws
    try:
        golds = np.broadcast_to(golds, (draws, arrays[0].shape[-2]))
        orders = max(each.shape[1:-2] for each in arrays)
        whole = (draws, *orders, golds.shape[1], arrays[0].shape[-1])
        arrays = [np.broadcast_to(each, whole) for each in arrays]
    except ValueError:
        shapes = ", ".join(str(np.shape(each)) for each in (*settings, gold))
        raise LensError(f"settings and gold labels are of different queries: {shapes}") from None
    if golds.size and not (golds.min() >= 0 and golds.max() < arrays[0].shape[-1]):
        raise LensError(f"gold labels must be 0 to {arrays[0].shape[-1] - 1}")
    return arrays, golds
