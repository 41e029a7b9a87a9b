"""The ruler: what the instrument reads on every world, beside what it must read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from iclgd_lens.comparison import Comparison
from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.measures import recovery_unscaled
from iclgd_lens.scores import RECOVERY_MOMENTS
from iclgd_lens.worlds.linear import linear_world, linearised_world
from iclgd_lens.worlds.softmax import gd_world, heads_world, lcgd_world
from iclgd_lens.worlds.world import World

THETAS = (0.0, 15.0, 30.0, 60.0, 90.0)


@dataclass(frozen=True)
class Mark:
    """One rule on one world.

    Attributes:
        world: The world's name.
        theta: Its angle in degrees, or None.
        rule: The rule; a head's number in brackets where the world has an angle a head.
        value: SimAOU as measured, mean over queries and the layers that ICL changes.
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
    return Mark(
        world.name, world.theta, rule, float(scores.mean()), exact,
        float((scores - exact).abs().max()), kl, recovery,
    )  # fmt: skip
