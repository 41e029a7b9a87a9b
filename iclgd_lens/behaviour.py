"""How well label scores classify, free of label bias (to be replaced)."""

from __future__ import annotations

from typing import Any

import numpy as np


def auc(label_scores: Any, gold: Any) -> float:
    """Macro one-vs-rest AUC of label log-odds."""
    p = np.exp(label_scores - label_scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    odds = np.log(p) - np.log1p(-np.clip(p, 0, 1 - 1e-16))
    found = []
    for label in range(p.shape[1]):
        pos, neg = odds[gold == label, label], odds[gold != label, label]
        if len(pos) and len(neg):
            d = pos[:, None] - neg[None]
            found.append(((d > 0) + 0.5 * (d == 0)).mean())
    return float(np.mean(found)) if found else float("nan")


def calibrated_accuracy(label_scores: Any, gold: Any) -> float:
    """Accuracy after label means are subtracted."""
    return float(((label_scores - label_scores.mean(0)).argmax(-1) == gold).mean())


def calibrated_nll(label_scores: Any, gold: Any) -> float:
    """NLL after label means are subtracted."""
    s = label_scores - label_scores.mean(0)
    s = s - s.max(-1, keepdims=True)
    log_p = s - np.log(np.exp(s).sum(-1, keepdims=True))
    return float(-log_p[np.arange(len(gold)), gold].mean())
