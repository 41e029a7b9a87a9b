"""Worlds of linear attention: a regression's steps of gradient descent, restated in NumPy."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

import iclgd_lens as lens
from iclgd_lens import worlds
from iclgd_lens.errors import WorldError
from iclgd_lens.readout.reader import Reader
from iclgd_lens.worlds.world import World
from tests import checks, families
from tests.worlds.restated import centre

needs_hooked = pytest.mark.skipif(
    not families.has_hooked_transformer(),
    reason="linear attention takes hooks that TransformerLens 4's bridge does not honour",
)
ETA, GAMMA = 3.0, 0.1


@functools.cache
def linear(steps: int, gamma: float = 0.0) -> World:
    return worlds.linear_world(steps, gamma=gamma, eta=ETA)


def inputs(world: World, tokens: Any) -> np.ndarray[Any, Any]:
    """Vectors of content tokens, as the embedding holds them."""
    return world.weights["embed.W_E"][list(tokens), :6].double().numpy()


def von_oswald(world: World, steps: int, gamma: float) -> np.ndarray[Any, Any]:
    """Predictions by tokens e = (x, y) and matrices K, Q, V, P, every token seeing all others.

    The construction as published, in columns; the query's token is (x, 0) and its prediction is
    minus its y part. GD++ adds -gamma I to the upper block of V.
    """
    examples = world.episode.demonstrations.examples[:10]
    x = inputs(world, [example.content[0] for example in examples])
    y = centre(np.eye(5)[[example.gold for example in examples]])
    queries = inputs(world, [query.content[0] for query in world.episode.queries])
    d, shown = x.shape[1], len(x)
    keys = np.zeros((d + 5, d + 5))
    keys[:d, :d] = np.eye(d)
    values = np.zeros((d + 5, d + 5))
    values[d:, d:] = -np.eye(5) * ETA / shown
    values[:d, :d] = -np.eye(d) * gamma
    found: list[np.ndarray[Any, Any]] = []
    for query in queries:
        tokens = np.vstack([np.hstack([x, y]), np.hstack([query, np.zeros(5)])]).T
        for _ in range(steps):
            context = tokens[:, :-1]  # the query is no key
            tokens = tokens + values @ context @ (keys @ context).T @ (keys @ tokens)
        found.append(-tokens[d:, -1])
    return np.stack(found)


@needs_hooked
@pytest.mark.parametrize(("steps", "gamma"), [(1, 0.0), (3, 0.0), (3, GAMMA)])
def test_in_context_learning_is_the_published_construction(steps: int, gamma: float) -> None:
    world = linear(steps, gamma)
    scores = Reader(world.model, world.episode).icl().label_scores.double().numpy()
    expected = von_oswald(world, steps, gamma)
    assert np.abs(centre(scores) - centre(expected)).max() < 1e-5
    assert np.abs(expected).max() > 0.1
    if gamma:  # the inputs' moves show in the predictions
        assert np.abs(expected - von_oswald(world, steps, 0.0)).max() > 1e-3


def test_the_published_construction_is_gradient_descent() -> None:
    world = worlds.linearised_world(eta=ETA, kind=checks.kinds()[0])
    examples = world.episode.demonstrations.examples
    x = inputs(world, [example.content[0] for example in examples])
    y = centre(np.eye(5)[[example.gold for example in examples]])
    weight = np.zeros((6, 5))
    for _ in range(3):
        weight = weight - ETA / len(x) * x.T @ (x @ weight - y)
    queries = inputs(world, [query.content[0] for query in world.episode.queries])
    assert np.abs(queries @ weight - von_oswald(world, 3, 0.0)).max() < 1e-12


@needs_hooked
@pytest.mark.parametrize(("steps", "gamma"), [(1, 0.0), (3, 0.0), (3, GAMMA)])
def test_every_rule_of_a_linear_world_reads_one(steps: int, gamma: float) -> None:
    world = linear(steps, gamma)
    result = world.compare(tok2attn_queries=0)
    assert set(world.rules) == ({"gd", "lcgd"} if steps == 1 else set()) | {"least_squares"}
    for rule in world.rules:
        scores = result.tensor("SimAOU", rule)
        assert scores.shape[1] == steps + 1
        assert scores[:, 0].isnan().all()
        assert float((scores[:, 1:] - 1).abs().max()) < 1e-5
        assert float(result.tensor("KL_ICL", rule).max()) < 1e-6


@needs_hooked
def test_other_descents_read_less() -> None:
    world = linear(3, GAMMA)
    rule = world.rules["least_squares"]
    found = world.compare(
        {"plain": rule, "short": rule}, settings={"plain": {"gamma": 0.0}, "short": {"steps": 2}}
    )
    plain, short = found.tensor("SimAOU", "plain"), found.tensor("SimAOU", "short")
    assert float((plain[:, 1] - 1).abs().max()) < 1e-5, "the first step does not depend on gamma"
    assert float(plain[:, 2:].mean(0).max()) < 0.97
    assert short[:, 3].isnan().all() or float(short[:, 3].nanmean()) < 0.97
    assert float(found.tensor("KL_ICL", "short").max()) > 1e-5


@pytest.mark.parametrize("kind", checks.kinds())
def test_two_softmax_heads_are_linear_up_to_the_square_of_the_scale(kind: str) -> None:
    errors: list[float] = []
    for scale in (0.3, 0.1, 0.03):
        world = worlds.linearised_world(scale, eta=ETA, kind=kind)
        scores = Reader(world.model, world.episode).icl().label_scores.double().numpy()
        expected = centre(von_oswald(world, 1, 0.0))
        errors.append(np.abs(centre(scores) - expected).max() / np.abs(expected).max())
    assert errors[0] == pytest.approx(9 * errors[1], rel=0.2)
    assert errors[1] == pytest.approx(11.1 * errors[2], rel=0.2)
    assert errors[2] < 1e-3
    result = world.compare(tok2attn_queries=0)
    for rule in ("gd", "lcgd"):
        assert float((result.tensor("SimAOU", rule)[:, 1] - 1).abs().max()) < 1e-5
        assert float(result.tensor("KL_ICL", rule).max()) < 1e-6


@needs_hooked
def test_unbalanced_labels_teach_gradient_descent_their_frequencies() -> None:
    world = linear(1)
    biased = next(
        episode
        for episode in worlds.draws(world, 5, seed=1, balanced=False)
        if len({example.gold for example in episode.demonstrations.examples}) < 5
    )
    result = world.compare(["gd"], episodes=biased, tok2attn_queries=0)
    assert float(result.tensor("SimAOU", "gd")[:, 1].mean()) < 0.95


@needs_hooked
def test_a_linear_world_has_untrained_twins() -> None:
    world = linear(1)
    twin = lens.untrained(world.model, seed=0)
    assert isinstance(twin, lens.Host)
    assert twin.attention == "linear"
    assert twin.model is not world.model.model
    assert not torch.equal(
        twin.parameter("blocks.1.attn.W_V"), world.model.parameter("blocks.1.attn.W_V")
    )
    tokens = twin.tensor([0, 1, 2])
    with torch.no_grad():
        assert twin.run(tokens).residual.isfinite().all()


@needs_hooked
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"shots": 12}, "12 shots do not show each of 5 labels equally often"),
        ({"queries": 0}, "queries is 0"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldError, match=message):
        worlds.linear_world(**options)


def test_a_scale_that_is_not_positive_is_refused() -> None:
    with pytest.raises(WorldError, match="scale is 0"):
        worlds.linearised_world(0.0)
