"""What the instrument reads on worlds: the ruler, and the power to tell two rules apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from iclgd_lens.comparison_groups import first_queries
from iclgd_lens.errors import UnsupportedModelError, WorldError
from iclgd_lens.measures.similarity import recovery_unscaled
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.scores import RECOVERY_MOMENTS
from iclgd_lens.verdicts.statistics import t_interval
from iclgd_lens.worlds.linear import linear_world, linearised_world
from iclgd_lens.worlds.softmax import Rule, gd_world, heads_world, lcgd_world
from iclgd_lens.worlds.world import World, draws

THETAS = (0.0, 15.0, 30.0, 60.0, 90.0)


@dataclass(frozen=True)
class Mark:
    """One rule on one world.

    Attributes:
        world: The world's name.
        theta: Its angle in degrees, or None.
        rule: The rule; a head's number in brackets where the world has an angle per head.
        value: SimAOU as measured, mean over queries and the layers that ICL changes, where it is
            defined: a turn of a fraction of a degree changes the last layer by less than rounding.
        exact: SimAOU by construction.
        error: Largest difference from `exact` of any query and layer.
        kl: Largest KL from ICL's label distribution, in nats, of any query; NaN for a head.
        recovery: Share of ICL's change of label logits that the rule makes, unscaled; NaN for a
            head.
    """

    world: str
    theta: float | None
    rule: str
    value: float
    exact: float
    error: float
    kl: float
    recovery: float


def ruler(
    thetas: Sequence[float] = THETAS, *, labels: int = 9, seed: int = 0, kind: str = "auto"
) -> Iterator[Mark]:
    """Measure every world; worlds that the installed TransformerLens cannot hold are left out.

    Args:
        thetas: Angles of the GD- and LCGD-worlds, and of the heads, in degrees.
        labels: Number of label words, odd and at least 5.
        seed: Of the demonstrations.
        kind: "hooked", "bridge" or "auto"; see `host.crafted.crafted_model`.

    Raises:
        WorldError: A number is out of range.
        UnsupportedModelError: TransformerLens has no model of that kind.
    """
    for theta in thetas:
        for make in (gd_world, lcgd_world):
            yield from marks(make(theta, labels=labels, seed=seed, kind=kind))
    yield from marks(heads_world(thetas, labels=labels, seed=seed, kind=kind))
    yield from marks(linearised_world(seed=seed, kind=kind))
    linear: Sequence[Callable[[], World]] = (
        lambda: linear_world(seed=seed),
        lambda: linear_world(3, seed=seed),
        lambda: linear_world(3, gamma=0.1, seed=seed),
    )
    for make_linear in linear if kind != "bridge" else ():
        try:
            world = make_linear()
        except UnsupportedModelError:
            return
        yield from marks(world)


def marks(world: World) -> list[Mark]:
    """Measure every rule of one world."""
    result = world.compare(tok2attn_queries=0)
    return [_mark(world, result, rule) for rule in world.exact]


def _mark(world: World, result: Comparison, rule: str) -> Mark:
    name, _, head = rule.rstrip("]").partition("[")
    layers, exact = list(world.layers), world.exact[rule]
    if head:
        scores = result.tensor("SimAOU", name, by="head")[:, layers, int(head)]
        kl = recovery = math.nan
    else:
        scores = result.tensor("SimAOU", name)[:, layers]
        kl = float(result.tensor("KL_ICL", name).max())
        moments = result.values[name][RECOVERY_MOMENTS].mean(0)
        recovery = float(recovery_unscaled(moments))
    if not bool(scores[:, 0].isnan().any()):  # in the layer that learns no query may be without
        scores = scores[scores.isfinite()]
    return Mark(
        world.name, world.theta, rule, float(scores.mean()), exact,
        float((scores - exact).abs().max()), kl, recovery,
    )  # fmt: skip


WORLDS = {"gd": gd_world, "lcgd": lcgd_world}

ROUNDING = 1e-5
"""Scores of worlds are known to this accuracy; a smaller difference counts as none."""


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
        """The smallest angle from which on all are told apart; None if the largest is not."""
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
        queries: Queries per draw; None for all content words.
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
        queries: Queries per draw; None for all.
    """
    found: dict[str, list[float]] = {name: [] for name in world.rules}
    for episode in draws(world, n, seed, balanced=balanced):
        result = world.compare(episodes=first_queries(episode, queries), tok2attn_queries=0)
        for name, values in found.items():
            values.append(float(result.tensor("SimAOU", name)[:, world.layers[0]].nanmean()))
    return {name: np.asarray(values) for name, values in found.items()}
