"""What each hypothesis of the registry must equal, and what must change it: one line each.

`test_zoo.py` puts every explanation of the registry, and every fitted hypothesis, through the same
checks by this table. A hypothesis that is not in it fails there: add its line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.zero import zero

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Entry:
    """How one hypothesis is tested.

    Attributes:
        known: Builds what the neutral setting must equal to the bit, by the same signature.
        neutral: Settings at which the hypothesis is that known thing.
        changed: Settings, each of which must change what is built at `neutral`.
        quick: Settings that make it fast, added to all of the above.
        extra: Optional library that it needs.
        auxiliary: Whether the tests hand it demonstrations of another task.
    """

    known: Callable[..., Any]
    neutral: Settings
    changed: tuple[Settings, ...]
    quick: Settings = dataclasses.field(default_factory=dict[str, Any])
    extra: str = ""
    auxiliary: bool = False


def label_lcgd(host: Any, episode: Any) -> Any:
    """LCGD on the label alone."""
    return lcgd(host, episode, loss_on="label")


ZOO: dict[str, Entry] = {
    "gd": Entry(gd, {}, ({"lr": 0.1}, {"epochs": 2}, {"loss_on": "label"})),
    "lcgd": Entry(lcgd, {}, ({"lr": 0.1}, {"epochs": 2}, {"loss_on": "label"})),
    "constant_shift": Entry(zero, {"strength": 0.0}, ({"strength": 1.0},)),
    "lcgd_dynamic": Entry(
        lcgd,
        {"horizon": 0},
        (
            {"horizon": 1},
            {"sequential": True},
            {"rates": "norm"},
            {"rates": "rms"},
            {"rates": "hyper"},
            {"rates": "surprise"},
            {"feedback": 0.5},
        ),
    ),
    "lcgd_attention": Entry(
        lcgd,
        {"gamma": 0.0},
        ({"gamma": 1.0}, {"gamma": 1.0, "weighted_by": "recency"})
        + ({"gamma": 1.0, "weighted_by": "permuted", "seed": 1},),
    ),
    "lcgd_regularized": Entry(
        lcgd,
        {},
        (
            {"l2": 0.5},
            {"rank": 1},
            {"clip": 0.1},
            {"kl": 1.0},
            {"smoothing": 0.2},
            {"group": 0.1},
        ),
    ),
}
