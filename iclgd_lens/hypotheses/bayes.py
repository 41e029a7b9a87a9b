"""Bayesian optimisation by `optuna`: Sobol points, then a Gaussian process."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

Point = dict[str, Any]
STARTS = 5
"""Trials before the Gaussian process is asked, the first one given."""
_WORST = 1e6
"""What a trial that diverged counts; optuna takes no infinity into its model."""


def minimise(
    objective: Callable[[Mapping[str, Any]], float],
    space: Mapping[str, Any],
    first: Mapping[str, Any],
    trials: int,
    seed: int,
) -> tuple[Point, list[float]]:
    """The point of lowest value that was tried, and the lowest value after each trial.

    Args:
        objective: What is minimised; infinite where a point is impossible.
        space: By name, a pair of floats or of integers (a range) or a list (a choice).
        first: The point tried first; of equal values the earlier point is taken.
        trials: Points tried.
        seed: Seed of the search; the global random state is not touched.
    """
    import optuna

    def ask(trial: Any) -> Point:
        found: Point = {}
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
