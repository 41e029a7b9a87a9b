"""Bayesian optimisation of LCGD's settings: demonstrations choose how they are learned from.

What is searched is not the weights but how LCGD moves them:

    log10 lr     from -4 to 0.5, and the starting rate
    layers       the first and the last that learn
    rank         1, 2, 4 or as it is, of each head's change
    loss_on      all tokens or the label
    epochs       1, 2 or 4

The objective is the label loss of left-out demonstrations, mean over folds; queries are never read.
The first trial is the setting that was given; Sobol points and then a Gaussian process (`optuna`)
propose the others. The best is trained on all demonstrations.

Limits: trials = 1 is LCGD to the bit. The best loss so far never rises.

`budget="matched"` searches on a quarter of the demonstrations, at most 8 trials, for a cost a few
times LCGD's; "full" costs some sixty times LCGD's.

Source: Snoek et al. 2012; by `optuna` (Akiba et al. 2019).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.demonstrations import part
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import DivergedError
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.common import shown_of
from iclgd_lens.hypotheses.companions import Where, above
from iclgd_lens.hypotheses.gradient_combination import optional
from iclgd_lens.hypotheses.lcgd_regularized import lcgd_regularized
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.training.folds import folds_in_turn
from iclgd_lens.training.label_losses import label_losses
from iclgd_lens.training.sgd import trained_names

TriedSettings = dict[str, Any]
STARTS = 5
"""Trials before the Gaussian process is asked; the first of them is the given setting."""
_WORST = 1e6
"""The value that a diverged trial counts as; optuna takes no infinity into its model."""


def minimise(
    objective: Callable[[Mapping[str, Any]], float],
    space: Mapping[str, Any],
    first: Mapping[str, Any],
    trials: int,
    seed: int,
) -> tuple[TriedSettings, list[float]]:
    """The point of lowest value that was tried, and the lowest value after each trial.

    Args:
        objective: What is minimised; infinite where a point is impossible.
        space: By name, a pair of floats or of integers (a range) or a list (a choice).
        first: The point tried first; of equal values the earlier point is taken.
        trials: Points tried.
        seed: Seed of the search; the global random state is not touched.
    """
    import optuna

    def ask(trial: Any) -> TriedSettings:
        found: TriedSettings = {}
        for name, allowed in space.items():
            if isinstance(allowed, list):
                found[name] = trial.suggest_categorical(name, allowed)
            elif isinstance(allowed[0], int):
                found[name] = trial.suggest_int(name, *allowed)
            else:
                found[name] = trial.suggest_float(name, *allowed)
        return found

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Samplers that optuna counts as experimental, and choices in a Sobol sequence.
            warnings.simplefilter("ignore")
            starts: Any = optuna.samplers.QMCSampler(
                qmc_type="sobol", scramble=True, seed=seed, warn_independent_sampling=False
            )
            sampler = optuna.samplers.GPSampler(
                seed=seed,
                n_startup_trials=STARTS,
                independent_sampler=starts,
                deterministic_objective=True,
                warn_independent_sampling=False,
            )
            study = optuna.create_study(sampler=sampler)
            study.enqueue_trial(dict(first))
            best, lowest, trace = dict(first), math.inf, list[float]()
            for index in range(trials):
                trial = study.ask()
                # The first point itself: what optuna stores of a float may differ in its last bit.
                point = dict(first) if index == 0 else ask(trial)
                if index == 0:
                    ask(trial)
                value = objective(point)
                study.tell(trial, min(value, _WORST) if value == value else _WORST)
                if value < lowest:
                    best, lowest = point, value
                trace.append(lowest)
    finally:
        optuna.logging.set_verbosity(before)
    return best, trace


NAME = "bayes_lcgd"
_LOWEST, _HIGHEST = -4.0, 0.5
WHOLE = 0
"""Stands for no limit on the rank."""
MATCHED_TRIALS = 8
"""Trials at most of a matched budget."""


def _within(trials: int, budget: str) -> bool:
    return trials <= MATCHED_TRIALS or budget != "matched"


AT_MOST = Where(f"trials of at most {MATCHED_TRIALS}, or budget='full'", _within)


@hypothesis(
    NAME,
    description="LCGD with rate, layers, rank, loss and epochs chosen by Bayesian optimisation",
    source="Snoek et al. 2012, with a Gaussian process by optuna",
    chooses=("lr", "epochs", "loss_on"),
    only_with={
        **{name: {"trials": above(1)} for name in ("fold_count", "budget", "seed")},
        "trials": {("trials", "budget"): AT_MOST},
    },
)
def bayes_lcgd(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    trials: int = 20,
    fold_count: int = 4,
    budget: str = "full",
    seed: int = 0,
    lr: float | None = None,
    epochs: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
) -> ParameterDelta:
    """Return the weight changes of LCGD at the settings that left-out demonstrations prefer.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from, at least two unless trials is 1.
        trials: Settings tried; 1 is LCGD as given.
        fold_count: Parts that the demonstrations are cut into; each is left out once.
        budget: "full", or "matched": a quarter of the demonstrations and at most 8 trials.
        seed: Seed of the search.
        lr: Learning rate tried first; None takes the task's published one.
        epochs: Passes tried first; 1, 2 and 4 are searched, too.
        loss_on: Loss tried first: "all" or "label"; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.

    Raises:
        HypothesisError: A setting is not allowed, or `optuna` is missing.
        DivergedError: The loss or the delta is not finite, at every setting tried.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "trials", trials, 1)
    one_of(NAME, "budget", budget, ("full", "matched"))
    between(NAME, "epochs", epochs, 1)
    rate = lr if lr is not None else shown.learning_rate
    kept = weights if weights is None or isinstance(weights, str) else tuple(weights)
    trained_names(host, shown.protocol.trained if kept is None else kept)
    build = partial(lcgd_regularized, host, weights=kept)
    chosen: dict[str, Any] = {"lr": rate, "epochs": epochs, "loss_on": loss_on}
    trace: list[float] = []
    if budget == "matched":
        trials = min(trials, MATCHED_TRIALS)
    if trials > 1 and rate is not None and 0 < rate < math.inf:
        optional(NAME, "optuna")
        few = part(shown, (shown.drawn or range(len(shown)))[: max(2, len(shown) // 4)])
        objective = LeftOut(host, few if budget == "matched" else shown, build, fold_count)
        first = {
            "lr": math.log10(rate), "first": 0, "last": host.n_layers - 1, "rank": WHOLE,
            "loss_on": loss_on or shown.protocol.loss_on, "epochs": epochs,
        }  # fmt: skip
        best, trace = minimise(objective, space(host, rate, epochs), first, trials, seed)
        # The given rate itself, not what its logarithm gives back.
        chosen = chosen if best == first else settings_of(host, best)
    delta = build(shown, **chosen)
    kinds = {"rule": NAME, "trials": trials, "fold_count": fold_count, "budget": budget}
    delta.metadata |= {**kinds, "seed": seed, "chosen": chosen, "left_out_loss": trace}
    return delta


def space(host: Host, rate: float, epochs: int = 1) -> dict[str, Any]:
    """What is searched: a pair of floats or of integers is a range, a list a choice."""
    middle = math.log10(rate)
    deepest = host.n_layers - 1
    return {
        "lr": (min(middle, _LOWEST), max(middle, _HIGHEST)),
        "first": (0, deepest),
        "last": (0, deepest),
        "rank": [1, 2, 4, WHOLE],
        "loss_on": ["all", "label"],
        "epochs": sorted({1, 2, 4, epochs}),
    }


def settings_of(host: Host, point: Mapping[str, Any]) -> dict[str, Any]:
    """LCGD's settings at a point of the space; the layers' two ends may stand in any order."""
    ends = sorted((int(point["first"]), int(point["last"])))
    layers = range(ends[0], ends[1] + 1)
    return {
        "lr": 10 ** float(point["lr"]),
        "layers": None if len(layers) == host.n_layers else list(layers),
        "rank": int(point["rank"]) or None,
        "loss_on": point["loss_on"],
        "epochs": int(point["epochs"]),
    }


class LeftOut:
    """Label loss of left-out demonstrations at a point of the space; infinite if it diverges."""

    def __init__(self, host: Host, shown: Demonstrations, build: Any, fold_count: int) -> None:
        self.host, self.build = host, build
        self.pairs = folds_in_turn(NAME, shown, fold_count)

    def __call__(self, point: Mapping[str, Any]) -> float:
        """Mean over left-out demonstrations, in nats per token."""
        losses: list[float] = []
        for rest, left_out in self.pairs:
            try:
                delta = self.build(rest, **settings_of(self.host, point))
                losses += label_losses(self.host, left_out, delta).tolist()
            except DivergedError:
                return math.inf
        return sum(losses) / len(losses)
