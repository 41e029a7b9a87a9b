r"""LCGD with rates learned from the demonstrations: each layer learns as fast as it helps.

Meta-SGD (Li et al. 2017) on rates α_l, one per layer (or per layer and weight), which start at the
learning rate. The demonstrations are cut into folds; for fold f, learn from the rest in one batch
step and ask the left-out ones:

    Δ_l = -α_l g_l,    g_l = Σ_(i not in f) ∇_Δl mean loss_i  at Δ = 0
    dL_f / dα_l = -<∇_Δl L_f(Δ), g_l>    exact: Δ is linear in α, so no second derivative appears
    log α <- log α - meta_lr d / max|d|,   d_l = mean_f α_l dL_f / dα_l

clipped to a tenth to ten times the learning rate, `steps` times. The update is then LCGD in
sequence, at the rates found. L_f is the label's loss of the left-out demonstrations: that of layer
l's own output for α_l ("layer"), or the model's ("final"). The maximum is over all rates; with
"layer" over those of layers up to l, so that no later layer plays a part and the whole stays
layer-causal.

Limits: steps = 0 is LCGD to the bit. A layer that L_f does not depend on keeps its rate.

`lcgd_initial` learns where to start instead: a change Δ_0 that other tasks' LCGD pulls towards
itself (Reptile, Nichol et al. 2018, the first-order form of MAML): Δ_0 <- Δ_0 + rate (mean over
tasks of LCGD from Δ_0 - Δ_0), `steps` times; the update is LCGD from Δ_0. Steps = 0 is LCGD.

Source: Li et al. 2017 (Meta-SGD), Finn et al. 2017 (MAML), Nichol et al. 2018 (Reptile).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host, as_host, layer_of
from iclgd_lens.hypotheses.common import auxiliary_of, gradients, shown_of
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.horizon import horizon_step
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.training.folds import folds_in_turn
from iclgd_lens.training.sgd import train, trained_names, zeros

NAME = "lcgd_meta"
_SPAN = math.log(10)


@hypothesis(
    NAME,
    description="LCGD with each layer's rate learned on left-out demonstrations (Meta-SGD)",
    source="Meta-SGD (Li et al. 2017) on LCGD",
    budgeted_at={"steps": 0},
    only_with={
        name: {"steps": other_than(0)} for name in ("fold_count", "meta_lr", "per", "validate")
    },
)
def lcgd_meta(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    steps: int = 5,
    fold_count: int = 4,
    meta_lr: float = 0.3,
    per: str = "layer",
    validate: str = "layer",
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of LCGD at rates that left-out demonstrations ask for.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from, at least two unless steps is 0.
        steps: Steps on the rates; 0 is LCGD.
        fold_count: Parts that the demonstrations are cut into; each is left out once.
        meta_lr: How far the fastest rate moves per step, in its logarithm.
        per: What has a rate of its own: "layer", or "weight" (a layer's keys and values
            separately).
        validate: "layer": a rate is asked for by its own layer's output. "final": by the model's.
        lr: Learning rate that all begin with; None takes the task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences per step of the final pass.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "steps", steps, 0)
    between(NAME, "meta_lr", meta_lr, 0, above=True)
    one_of(NAME, "per", per, ("layer", "weight"))
    one_of(NAME, "validate", validate, ("layer", "final"))
    rate = lr if lr is not None else shown.learning_rate
    names = trained_names(host, shown.protocol.trained if weights is None else weights, layers)
    factors = dict.fromkeys(names, 1.0)
    if steps and rate and rate > 0:
        meta = MetaRates(host, shown, names, per, validate, loss_on, fold_count)
        factors = meta.learned(rate, steps, meta_lr)

    def scaled(name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        return gradient * factors[name]

    delta = train(
        layer_step,
        NAME,
        host,
        shown,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        loss_on=loss_on,
        weights=weights,
        layers=layers,
        transform=scaled,
    )
    delta.metadata |= {"steps": steps, "per": per, "validate": validate, "rates": factors}
    return delta


class MetaRates:
    """The folds' gradients at no change, and the derivative of their losses by the rates.

    Gradients at no change do not depend on the rates, so they are taken once.
    """

    def __init__(
        self, host: Host, shown: Demonstrations, names: Sequence[str], per: str, validate: str,
        loss_on: str | None, fold_count: int,
    ) -> None:  # fmt: skip
        self.host, self.names = host, list(names)
        self.group = {name: str(layer_of(name)) for name in names}
        if per == "weight":
            self.group = {n: f"{g} {n.rsplit('_', 1)[1]}" for n, g in self.group.items()}
        last = partial(horizon_step, horizon=host.n_layers - 1)
        self.causal = validate == "layer"
        self.rule = layer_step if self.causal else last
        start = {name: zeros(host, name) for name in names}
        pairs = folds_in_turn(NAME, shown, fold_count)
        self.left_out = [left_out for _, left_out in pairs]
        own = [gradients(layer_step, host, start, f.sequences(loss_on)) for f in self.left_out]
        # What fold f learns from is the sum of the other folds' gradients.
        self.learned_from = [
            {name: torch.stack([g[name] for i, g in enumerate(own) if i != f]).sum(0)
             for name in names}
            for f in range(len(own))
        ]  # fmt: skip

    def learned(self, rate: float, steps: int, meta_lr: float) -> dict[str, float]:
        """Factors on the rate, by weight, after some steps."""
        logs = dict.fromkeys(self.group.values(), 0.0)
        for _ in range(steps):
            slopes = self.slopes({key: rate * math.exp(value) for key, value in logs.items()})
            for key, slope in slopes.items():
                largest = max(abs(slopes[other]) for other in self._scaled_with(key))
                if 0 < largest < math.inf:
                    moved = logs[key] - meta_lr * slope / largest
                    logs[key] = min(max(moved, -_SPAN), _SPAN)
        return {name: math.exp(logs[group]) for name, group in self.group.items()}

    def _scaled_with(self, key: str) -> list[str]:
        """The rates among which the steepest moves by `meta_lr`, when this one moves."""
        keys = list(dict.fromkeys(self.group.values()))
        return [each for each in keys if not self.causal or _layer(each) <= _layer(key)]

    def slopes(self, rates: Mapping[str, float]) -> dict[str, float]:
        """Mean over folds of the left-out loss's derivative by the logarithm of each rate."""
        found = dict.fromkeys(rates, 0.0)
        for step, left_out in zip(self.learned_from, self.left_out, strict=True):
            delta = {name: -rates[self.group[name]] * step[name] for name in self.names}
            asked = gradients(self.rule, self.host, delta, left_out.sequences("label"))
            for name, gradient in asked.items():
                share = float((gradient * step[name]).sum()) / len(left_out) / len(self.left_out)
                found[self.group[name]] -= rates[self.group[name]] * share
        return found


def _layer(group: str) -> int:
    return int(group.split()[0])


@hypothesis(
    "lcgd_initial",
    description="LCGD from a change that other tasks' LCGD has in common (Reptile)",
    needs=("demonstrations", "auxiliary"),
    source="Reptile (Nichol et al. 2018), first-order MAML (Finn et al. 2017), on LCGD",
    only_with={
        "auxiliary": {"steps": other_than(0)},
        "rate": {"steps": other_than(0)},
    },
)
def lcgd_initial(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    auxiliary: Sequence[Demonstrations | Episode] = (),
    steps: int = 1,
    rate: float = 1.0,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of LCGD that starts from what other tasks share.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        auxiliary: Demonstrations of other tasks, one entry per task; none takes the episode's own.
            Needed unless steps is 0.
        steps: Steps on the start; 0 is LCGD.
        rate: How far a step goes towards the mean of what the other tasks learn, at most 1.
        lr: Learning rate, of every task; None takes this task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences per step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed, or no other task is given.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between("lcgd_initial", "steps", steps, 0)
    between("lcgd_initial", "rate", rate, 0, 1, above=True)
    auxiliary = auxiliary_of(demonstrations, auxiliary)
    if steps and not auxiliary:
        raise HypothesisError(
            "lcgd_initial needs demonstrations of other tasks: load_episodes(..., auxiliary=), "
            "`auxiliary:` in a plan, --auxiliary TASK; or steps=0."
        )
    settings: dict[str, Any] = {
        "lr": lr if lr is not None else shown.learning_rate, "epochs": epochs,
        "batch_size": batch_size, "loss_on": loss_on, "weights": weights, "layers": layers,
    }  # fmt: skip
    learn = partial(train, layer_step, "lcgd_initial", host)
    start: ParameterDelta | None = None
    for _ in range(steps):
        begun = None if start is None else dict(start.items())
        total: ParameterDelta | None = None
        for other in auxiliary:
            learned = learn(shown_of(other), start=begun, **settings)
            total = learned if total is None else total + learned
        assert total is not None
        mean = total * (1 / len(auxiliary))
        start = rate * mean if start is None else start * (1 - rate) + rate * mean
    delta = learn(shown, start=None if start is None else dict(start.items()), **settings)
    delta.metadata |= {"steps": steps, "rate": rate, "tasks": len(auxiliary)}
    return delta
