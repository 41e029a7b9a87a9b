"""Search without gradients: natural evolution strategies, CMA-ES, and both on plain vectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

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
