"""Power: from which angle on are two rules told apart, when draws of demonstrations are noisy?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from iclgd_lens.errors import WorldError
from iclgd_lens.measuring import first_queries
from iclgd_lens.statistics import t_interval
from iclgd_lens.worlds.softmax import Rule, gd_world, lcgd_world
from iclgd_lens.worlds.world import World, draws

WORLDS = {"gd": gd_world, "lcgd": lcgd_world}

ROUNDING = 1e-5
"""Scores of worlds are known to this; a smaller difference is none."""


@dataclass(frozen=True, eq=False)
class Power:
    """Scores of the right and the wrong rule, at each angle, on the same draws.

    Attributes:
        thetas: Angles between the rules, in degrees.
        right: SimAOU of the rule that is in-context learning.
        wrong: SimAOU of the other one.
    """

    thetas: tuple[float, ...]
    right: Float[np.ndarray, "theta draw"]
    wrong: Float[np.ndarray, "theta draw"]

    def first(self, n: int) -> Power:
        """What the first `n` draws alone say."""
        return Power(self.thetas, self.right[:, :n], self.wrong[:, :n])

    def told_apart(self, confidence: float = 0.95) -> tuple[bool, ...]:
        """At each angle, whether the t interval of right - wrong over draws lies above rounding."""
        _, low, _ = t_interval((self.right - self.wrong).T, confidence=confidence)
        return tuple(bool(bound > ROUNDING) for bound in low)

    def smallest(self, confidence: float = 0.95) -> float | None:
        """The smallest angle from which on all are told apart; None where the largest is not."""
        found: float | None = None
        for theta, apart in sorted(zip(self.thetas, self.told_apart(confidence), strict=True))[
            ::-1
        ]:
            if not apart:
                break
            found = theta
        return found


def power(
    thetas: Sequence[float] = (2.0, 5.0, 10.0, 15.0, 30.0, 60.0),
    *,
    n: int = 5,
    rule: Rule = "gd",
    balanced: bool = False,
    labels: int = 9,
    shows: int = 3,
    queries: int | None = None,
    seed: int = 0,
    kind: str = "auto",
) -> Power:
    """Measure both rules on `n` draws of demonstrations at each angle.

    Args:
        thetas: Angles between the rules, in degrees.
        n: Draws, at least two.
        rule: The rule that is in-context learning.
        balanced: Whether labels are shown equally often. They are not by default: with balanced
            labels nothing is noisy, and any angle is told apart.
        labels: Number of label words, odd and at least 5.
        shows: How often each content word is demonstrated.
        queries: Queries a draw; None for all content words.
        seed: Of the first draw.
        kind: "hooked", "bridge" or "auto".

    Raises:
        WorldError: A number is out of range.
    """
    if n < 2:
        raise WorldError(f"n is {n}; a spread over draws takes at least 2.")
    if rule not in WORLDS:
        raise WorldError(f"rule is {rule!r}; allowed: {', '.join(WORLDS)}.")
    wrong = "lcgd" if rule == "gd" else "gd"
    scores = {name: np.empty((len(thetas), n)) for name in WORLDS}
    for row, theta in enumerate(thetas):
        world = WORLDS[rule](theta, labels=labels, shows=shows, seed=seed, kind=kind)
        for name, values in scores_by_draw(
            world, n, seed, balanced=balanced, queries=queries
        ).items():
            scores[name][row] = values
    return Power(tuple(thetas), scores[rule], scores[wrong])


def scores_by_draw(
    world: World, n: int, seed: int = 0, *, balanced: bool = True, queries: int | None = None
) -> dict[str, Float[np.ndarray, " draw"]]:
    """SimAOU of each of a world's rules on `n` draws, in the layer that learns: means over queries.

    (What a small angle adds in the layer after it is, for some queries, below what counts as a
    change.)

    Args:
        world: The world.
        n: Draws.
        seed: Of the first draw.
        balanced: Whether labels are shown equally often; see `draws`.
        queries: Queries a draw; None for all.
    """
    found: dict[str, list[float]] = {name: [] for name in world.rules}
    for episode in draws(world, n, seed, balanced=balanced):
        result = world.compare(episodes=first_queries(episode, queries), tok2attn_queries=0)
        for name, values in found.items():
            values.append(float(result.tensor("SimAOU", name)[:, world.layers[0]].nanmean()))
    return {name: np.asarray(values) for name, values in found.items()}
