"""Evolution: which heads learn is found by trial, not by gradients.

LCGD proposes a change for every key/value head; evolution strategies choose how much of each is
taken. One gate γ per layer, head and weight (keys or values; a bias goes with its weight), γ = 1 at
first; the change is Σ γ_h Δ_h, and its fitness is the mean log-likelihood of the demonstrations'
label words under it:

    F(γ) = mean_i log p(y_i | x_i; Σ_h γ_h Δ_h)

    nes   ĝ = 1 / (2 n σ) Σ_ε [F(γ + σε) - F(γ - σε)] ε, then γ moves along ĝ by `rate` per gate
          (root mean square). ĝ is exact in expectation where F is quadratic, else the gradient of F
          smoothed by a Gaussian (Salimans et al. 2017; Wierstra et al. 2014)
    cma   CMA-ES (Hansen 2016) by `cmaes`; the separable one above 200 gates

The best centre of all generations is taken, so the fitness is never below LCGD's. Limits:
generations = 0 is LCGD to the bit.

`evolution_weights` searches the weights themselves, from no change, with as many trials as LCGD has
block passes. With n trials in d dimensions the expected cosine with the gradient is
sqrt(n / (n + d + 1)), next to nothing: at this budget evolution is no more than a random control.

Source: this package; Salimans et al. 2017, Hansen 2016; on whole language models MeZO (Malladi et
al. 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.common import gradients, shown_of
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.gd import gd_step
from iclgd_lens.hypotheses.gradient_combination import optional
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.training.label_losses import label_losses
from iclgd_lens.training.sgd import learning_rate, trained_names, zeros

Vector = NDArray[np.float64]
Fitness = Callable[[Vector], float]
_FULL_COVARIANCE = 200
"""Dimensions up to which CMA-ES learns how they covary."""


def nes_gradient(
    fitness: Fitness, centre: Vector, pairs: int, sigma: float, draw: np.random.Generator
) -> Vector:
    """1 / (2 n sigma) sum of [F(c + sigma e) - F(c - sigma e)] e over n Gaussian directions e."""
    total = np.zeros_like(centre)
    for _ in range(pairs):
        direction = draw.standard_normal(len(centre))
        ahead, behind = fitness(centre + sigma * direction), fitness(centre - sigma * direction)
        total += (ahead - behind) * direction
    return total / (2 * pairs * sigma)


def nes(
    fitness: Fitness,
    centre: Vector,
    generations: int,
    population: int,
    sigma: float,
    rate: float,
    seed: int,
) -> tuple[Vector, list[float]]:
    """Climb along the estimated gradient, each round by `rate` (root mean square over entries).

    Returns:
        The best centre, and the fitness of each centre, the first one's first.
    """
    draw = np.random.default_rng(seed)
    best, curve = centre, [fitness(centre)]
    for _ in range(generations):
        gradient = nes_gradient(fitness, centre, max(1, population // 2), sigma, draw)
        length = float(np.sqrt((gradient**2).mean()))
        if not 0 < length < np.inf:
            break
        centre = centre + rate * gradient / length
        curve.append(fitness(centre))
        if curve[-1] > max(curve[:-1]):
            best = centre
    return best, curve


def cma(
    fitness: Fitness,
    centre: Vector,
    generations: int,
    population: int,
    sigma: float,
    seed: int,
) -> tuple[Vector, list[float]]:
    """CMA-ES by `cmaes`; the separable one in many dimensions.

    Returns:
        The best centre, and the fitness of each centre, the first one's first.
    """
    from cmaes import CMA, SepCMA

    kind: Any = CMA if len(centre) <= _FULL_COVARIANCE else SepCMA
    search = kind(mean=centre.copy(), sigma=sigma, population_size=population, seed=seed)
    best, curve = centre, [fitness(centre)]
    for _ in range(generations):
        trials = [search.ask() for _ in range(search.population_size)]
        search.tell([(trial, -fitness(trial)) for trial in trials])
        mean = np.array(search.mean)
        curve.append(fitness(mean))
        if curve[-1] > max(curve[:-1]):
            best = mean
    return best, curve


def antithetic(
    fitness: Callable[[Mapping[str, Tensor], float], float],
    like: Mapping[str, Tensor],
    pairs: int,
    sigma: float,
    seed: int,
) -> dict[str, Float[Tensor, "..."]]:
    """The same estimate at zero in the space of some tensors; each direction is drawn anew.

    Args:
        fitness: Takes a direction and how far to go along it.
        like: Tensors of the shapes searched.
        pairs: Directions, each tried both ways.
        sigma: How far.
        seed: Seed of the directions.
    """
    generator = torch.Generator().manual_seed(seed)
    total = {name: torch.zeros_like(value) for name, value in like.items()}
    for _ in range(pairs):
        direction = {
            # Drawn on the CPU, so that a seed means the same everywhere.
            name: torch.randn(
                value.shape, generator=generator, dtype=torch.float32, device="cpu"
            ).to(value.device)
            for name, value in like.items()
        }
        slope = (fitness(direction, sigma) - fitness(direction, -sigma)) / (2 * pairs * sigma)
        for name, value in direction.items():
            total[name] += slope * value
    return total


NAME = "evolution"


@hypothesis(
    NAME,
    description="LCGD's changes, each head's share chosen by evolution strategies",
    source="NES (Salimans et al. 2017) and CMA-ES (Hansen 2016) on LCGD's heads",
    budgeted_at={"generations": 0},
    only_with={
        **{
            name: {"generations": other_than(0)}
            for name in ("method", "population", "sigma", "seed")
        },
        "rate": {"generations": other_than(0), "method": "nes"},
    },
)
def evolution(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    method: str = "nes",
    generations: int = 8,
    population: int | None = None,
    sigma: float = 0.1,
    rate: float = 0.1,
    seed: int = 0,
    lr: float | None = None,
    epochs: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return LCGD's weight changes with each head's share chosen on the demonstrations' labels.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        method: "nes" or "cma" (needs the extra `search`).
        generations: Rounds of trials; 0 is LCGD.
        population: Trials per round (for "nes", half of them mirrored); None for 4 + 3 ln(gates).
        sigma: Spread of the trials around the centre, in gates.
        rate: For "nes": how far the centre moves per round.
        seed: Seed of the trials.
        lr: LCGD's learning rate; None takes the task's published one.
        epochs: LCGD's passes over the demonstrations.
        loss_on: LCGD's loss: "all" tokens or the "label"; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed, or `cmaes` is missing.
        DivergedError: LCGD's loss or delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    one_of(NAME, "method", method, ("nes", "cma"))
    between(NAME, "generations", generations, 0)
    between(NAME, "sigma", sigma, 0, above=True)
    between(NAME, "rate", rate, 0, above=True)
    if population is not None:
        between(NAME, "population", population, 2)
    if method == "cma":
        optional(NAME, "cmaes")
    delta = lcgd(host, shown, lr=lr, epochs=epochs, loss_on=loss_on, weights=weights, layers=layers)
    gated = Gated(host, shown, delta)
    trials = population or 4 + int(3 * math.log(gated.count))
    curve: list[float] = []
    if generations:
        centre = np.ones(gated.count)
        if method == "nes":
            best, curve = nes(gated.fitness, centre, generations, trials, sigma, rate, seed)
        else:
            best, curve = cma(gated.fitness, centre, generations, trials, sigma, seed)
        delta = gated.at(best)
    facts = {"rule": NAME, "method": method, "generations": generations, "population": trials}
    delta.metadata |= {**facts, "sigma": sigma, "rate": rate, "seed": seed, "fitness": curve}
    return delta


class Gated:
    """LCGD's change with a gate on each head's keys and values, and its fitness."""

    def __init__(self, host: Host, shown: Demonstrations, delta: ParameterDelta) -> None:
        self.host, self.shown, self.delta = host, shown, delta
        self.slots: dict[str, slice] = {}
        self.count = 0
        sizes: dict[str, int] = {}
        for name, value in delta.items():
            stem, _, kind = name.rpartition(".")
            by_head = ".attn." in name and kind != "b_O"
            sizes.setdefault(f"{stem}.{kind[1:]}", len(value) if by_head else 1)
        for group, size in sizes.items():
            self.slots[group] = slice(self.count, self.count + size)
            self.count += size
        self.changed = ParameterDelta({name: value.clone() for name, value in delta.items()})

    def at(self, gates: Float[np.ndarray, " gate"]) -> ParameterDelta:
        """The change at some gates: a new object each time, so that none is overwritten."""
        scaled = {name: value * self._factor(name, gates) for name, value in self.delta.items()}
        return ParameterDelta(scaled, self.delta.metadata)

    def _factor(self, name: str, gates: Float[np.ndarray, " gate"]) -> Tensor:
        stem, _, kind = name.rpartition(".")
        own = gates[self.slots[f"{stem}.{kind[1:]}"]]
        value = self.delta[name]
        factor = torch.from_numpy(own).to(value.device, torch.float32)
        return factor if len(own) == 1 else factor.view(-1, *[1] * (value.ndim - 1))

    def fitness(self, gates: Float[np.ndarray, " gate"]) -> float:
        """Mean log-likelihood of a label word, in nats per token."""
        for name, value in self.changed.items():
            torch.mul(self.delta[name], self._factor(name, gates), out=value)
        return -float(label_losses(self.host, self.shown, self.changed).mean())


@hypothesis(
    "evolution_weights",
    description="evolution strategies on all weights at LCGD's budget: a random direction",
    kind="control",
    source="Salimans et al. 2017; Malladi et al. 2023 (MeZO)",
    version="2",
)
def evolution_weights(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    trials: int | None = None,
    sigma: float = 1e-3,
    seed: int = 0,
    lr: float | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return one step along the gradient that random trials of all weights estimate.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What the trials are asked.
        trials: Mirrored pairs; None for as many as cost what LCGD costs (a backward pass counts
            double).
        sigma: Spread of the trials, in weights.
        seed: Seed of the trials.
        lr: Learning rate; the step is as long as those of GD's exact gradient in one pass would be,
            one per demonstration. None takes the task's published one, or 1.
        weights: What is changed, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are changed; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between("evolution_weights", "sigma", sigma, 0, above=True)
    pairs = 2 if trials is None else trials
    between("evolution_weights", "trials", pairs, 1)
    step = learning_rate(lr if lr is not None else shown.learning_rate or 1.0, shown)
    names = trained_names(host, shown.protocol.trained if weights is None else weights, layers)
    like = {name: zeros(host, name) for name in names}
    changed = ParameterDelta({name: value.clone() for name, value in like.items()})

    def fitness(direction: Mapping[str, Tensor], scale: float) -> float:
        for name, value in changed.items():
            value.copy_(direction[name] * scale)
        return -float(label_losses(host, shown, changed).mean())

    estimate = antithetic(fitness, like, pairs, sigma, seed)
    size = sum(value.numel() for value in like.values())
    exact = gradients(gd_step, host, like, shown.sequences("label"))
    # An estimate in so many dimensions is far longer than the gradient; only its direction is used.
    length = step * _norm(exact) / max(_norm(estimate), 1e-30)
    delta = ParameterDelta({name: length * value for name, value in estimate.items()})
    delta.metadata = {
        "rule": "evolution_weights", "trials": pairs, "sigma": sigma, "seed": seed, "lr": step,
        "dimensions": size, "expected_cosine": math.sqrt(pairs / (pairs + size + 1)),
        "cosine": -_cosine(estimate, exact), "model": host.name,
    }  # fmt: skip
    return delta


def _cosine(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    pairs = [(one[name].double().flatten(), other[name].double().flatten()) for name in one]
    dot = sum(float(a @ b) for a, b in pairs)
    norms = [sum(float(v[i] @ v[i]) for v in pairs) ** 0.5 for i in (0, 1)]
    return cast(float, dot / (norms[0] * norms[1])) if norms[0] * norms[1] > 0 else 0.0


def _norm(values: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float(value.double().square().sum()) for value in values.values()))
