"""What each hypothesis of the registry must equal, and what must change it: one line each.

`test_zoo.py` puts every explanation of the registry, and every fitted hypothesis, through the same
checks by this table. A hypothesis that is not in it fails there: add its line.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.host import as_host
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.hypotheses.zero import zero
from tests import checks

Settings = Mapping[str, Any]

OTHER_TASK = checks.episode(shots=3, labels=(8, 9), seed=5)
OTHERS: Settings = {"auxiliary": (OTHER_TASK,)}


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


def no_values(host: Any, episode: Any) -> Any:
    """No change of any W_V."""
    sites = [site for site in as_host(host).sites.values() if site.kind == "W_V"]
    return ParameterDelta({site.weight: torch.zeros(site.shape) for site in sites})


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
        (
            {"gamma": 1.0},
            {"gamma": 1.0, "weighted_by": "recency"},
            {"gamma": 1.0, "weighted_by": "permuted", "seed": 1},
        ),
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
    "lcgd_multitask": Entry(
        label_lcgd,
        {"content": 0.0},
        (
            {"content": 1.0},
            {"contrast": 1.0},
            {"content": 1.0, "combine": "pcgrad"},
            {"content": 1.0, "per": "tokens"},
        ),
    ),
    "lcgd_shared": Entry(
        lcgd, {"auxiliary": ()}, (OTHERS, {**OTHERS, "part": "shared"}), auxiliary=True
    ),
    "lcgd_meta": Entry(
        lcgd,
        {"steps": 0},
        ({"steps": 2}, {"steps": 2, "per": "weight"}, {"steps": 2, "validate": "final"}),
        quick={"fold_count": 2, "steps": 1},
    ),
    "lcgd_initial": Entry(
        lcgd, {"steps": 0}, ({"steps": 1}, {"steps": 2, "rate": 0.5}), auxiliary=True
    ),
    "lcgd_reinforce": Entry(
        label_lcgd,
        {"policy": "vocabulary", "weight_power": 0.0},
        (
            {"weight_power": 1.0},
            {"policy": "labels"},
            {"estimator": "group"},
            {"policy": "labels", "estimator": "sample"},
            {"policy": "labels", "entropy": 0.5},
            {"causal": False},
        ),
    ),
    "evolution": Entry(
        lcgd,
        {"generations": 0},
        ({"generations": 2}, {"generations": 2, "method": "cma"}),
        quick={"generations": 1},
        extra="cmaes",
    ),
    "bayes_lcgd": Entry(
        lcgd, {"trials": 1}, ({"trials": 7},), quick={"trials": 2, "fold_count": 2}, extra="optuna"
    ),
    "newton": Entry(lcgd, {"damping": math.inf}, ({"damping": 1.0}, {"causal": False})),
    "gd_plus_plus": Entry(gd, {"gamma": 0.0}, ({"gamma": 0.5},)),
    "distilled": Entry(lcgd, {"fit": "sgd", "mu": 0.0}, ({"mu": 1.0}, {"mu": 0.5})),
    "ceiling": Entry(no_values, {"ridge": math.inf}, ({"ridge": 1e-3},)),
    "dual_linear": Entry(
        zero,
        {"scale": 0.0},
        (
            {"scale": 1.0},
            {"scale": "matched"},
            {"scale": "lstsq"},
            {"scale": "gate"},
            {"scale": 1.0, "center": False, "rank": 1, "rope": "none", "frozen": True},
        ),
    ),
    "dual_momentum": Entry(zero, {"strength": 0.0}, ({"strength": 1.0},)),
    "ladder": Entry(oracle, {"rung": 0}, tuple({"rung": rung} for rung in range(1, 6))),
    "function_vector": Entry(zero, {"strength": 0.0}, ({"strength": 1.0},), quick={"trials": 2}),
    "task_vector": Entry(zero, {"strength": 0.0}, ({"strength": 1.0}, {"strength": 0.3})),
    "state_vector": Entry(
        zero, {"strength": 0.0}, ({"strength": 1.0}, {"strength": 1.0, "momentum": 1.0})
    ),
    "context_vector": Entry(
        zero, {"strength": 0.0}, ({"strength": 0.1}, {"keep": 0.9}, {"epochs": 2})
    ),
    "learned_vector": Entry(zero, {"steps": 0}, ({"steps": 4}, {"steps": 0, "start": 0.1})),
    "thought_patch": Entry(
        zero, {"ridge": math.inf, "bias": False}, ({"ridge": 1e-3}, {"bias": True})
    ),
    "kernel_regression": Entry(
        zero, {"strength": 0.0}, ({"strength": 1.0}, {"strength": 1.0, "kernel": "mahalanobis"})
    ),
    "attention_kernel": Entry(zero, {"strength": 0.0}, ({"strength": 1.0},)),
    "label_bayes": Entry(zero, {"prior": math.inf}, ({"prior": 1.0}, {"prior": 0.0})),
}
