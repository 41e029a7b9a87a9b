"""How often something happened: a share with its interval, and what is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from iclgd_lens.errors import LensError


@dataclass(frozen=True)
class Rate:
    """How often something happened.

    Attributes:
        what: What was counted.
        count: How often it happened.
        trials: Of how many.
        expected: The lowest and highest share that is allowed; None if none is.
        clusters: Counts and trials of what asked several of them, such as networks, where the
            trials are not independent of one another.
    """

    what: str
    count: int
    trials: int
    expected: tuple[float, float] | None = None
    clusters: tuple[tuple[int, int], ...] = ()

    @property
    def share(self) -> float:
        """The share."""
        return self.count / self.trials if self.trials else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Its 95 % interval: exact, or for as many trials as the clusters' are worth."""
        if not self.trials:
            return float("nan"), float("nan")
        if self.clusters:
            counts, trials = np.array(self.clusters).T
            return clustered_interval(counts, trials)
        return binomial_interval(self.count, self.trials)

    @property
    def holds(self) -> bool | None:
        """Whether the share may be what is allowed, given how few trials there were."""
        if self.expected is None or not self.trials:
            return None
        (low, high), (least, most) = self.interval, self.expected
        return low <= most and high >= least

    @property
    def said(self) -> str:
        """The same in words, which claim no more than so many trials can show."""
        if self.holds is None or self.expected is None:
            return ""
        (low, high), (least, most) = self.interval, self.expected
        if not self.holds:
            return "does NOT hold"
        if least <= low and high <= most:
            return "holds"
        where = "within" if least <= self.share <= most else "outside, yet not excluded"
        return f"{where}: {self.trials:,} trials cannot tell"

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.what}: {self.share:.3f} [{low:.3f}, {high:.3f}] of {self.trials:,}"

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "what": self.what, "share": self.share, "interval": list(self.interval),
            "count": self.count, "trials": self.trials, "holds": self.holds,
            "expected": None if self.expected is None else list(self.expected),
        }  # fmt: skip


def binomial_interval(count: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact interval of a share (Clopper and Pearson 1934).

    Raises:
        LensError: There are no trials, or more counts than trials.
    """
    from scipy.stats import binomtest

    if not 0 <= count <= trials or trials < 1:
        raise LensError(f"{count} of {trials} is no share")
    found = binomtest(count, trials).proportion_ci(confidence, method="exact")
    return float(found.low), float(found.high)


def clustered_interval(
    counts: ArrayLike, trials: ArrayLike, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of a share whose trials come in clusters, such as the questions of one network.

    That of Clopper and Pearson for as many independent trials as these are worth: their number over
    the design effect, which is the share's variance between clusters over a binomial one (Korn and
    Graubard 1998), never below one, and less for the few clusters it is known from. Where nothing
    happened, or always, no such effect can be seen: a cluster then counts as one trial.

    Args:
        counts: [cluster]: how often it happened in each.
        trials: [cluster]: of how many.
        confidence: The interval's coverage.

    Raises:
        LensError: There are no trials, or more counts than trials.
    """
    from scipy.stats import beta, t

    y, n = np.asarray(counts, np.float64), np.asarray(trials, np.float64)
    if y.shape != n.shape or y.ndim != 1 or not n.sum() or (y > n).any() or (y < 0).any():
        raise LensError(f"counts {counts} of trials {trials} are no shares")
    total, clusters = n.sum(), int((n > 0).sum())
    share = y.sum() / total
    worth = float(clusters)
    if 0 < share < 1 and clusters > 1:
        between = clusters / (clusters - 1) * ((y - share * n) ** 2).sum() / total**2
        worth = total / max(between / (share * (1 - share) / (total - 1)), 1.0)
        few = t.ppf((1 + confidence) / 2, total - 1) / t.ppf((1 + confidence) / 2, clusters - 1)
        worth *= float(few) ** 2
    yes, no, tail = share * worth, (1 - share) * worth, (1 - confidence) / 2
    low = float(beta.ppf(tail, yes, no + 1)) if yes else 0.0
    high = float(beta.ppf(1 - tail, yes + 1, no)) if no else 1.0
    return low, high
