"""Worlds of hard softmax attention in which in-context learning is one step of GD, or of LCGD.

Three attention layers, with no norm and no MLP. Layer 0 copies each content word onto the label
word after it. In layer 1 a query attends to the demonstrations of its own word; they answer with
their labels, centred: sum_i k(x_i, x) (y_i - 1/C), which is what one full-batch step of gradient
descent on W_V adds, since a query that attends to itself alone makes W_V a linear classifier.
Layer 2 turns what layer 1 wrote by an angle theta. The gradient that reaches layer 1 through layer
2 (GD) is turned back; that of layer 1's own readout (LCGD) is not: whichever of the two the values
of layer 1 were written for is in-context learning, and the other one scores cos(theta).
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from iclgd_lens.errors import WorldError
from iclgd_lens.host.crafted import crafted_model
from iclgd_lens.worlds.stream_parts import (
    CONSTANT,
    Block,
    Layout,
    centred,
    itself,
    previous,
    rotation,
    unembedding,
    weights_of,
)
from iclgd_lens.worlds.world import Words, World, check_labels

SHARP = 30.0
"""Score of a key that holds the query's word."""

COMMON = 0.4
"""What layer 0 writes into a part that all tokens have in common, as tokens of real models have.
Gradient descent learns label frequencies through it (balanced labels have none to learn), and a
loss on all tokens learns from BOS what no demonstration tells a query."""

CANCELLED = 1e-3
"""A sum of a group's directions below this is no direction: what is left of it is rounding."""

Rule = Literal["gd", "lcgd"]


def gd_world(
    theta: float = 60.0, *, labels: int = 9, shows: int = 3, seed: int = 0, kind: str = "auto"
) -> World:
    """A model whose in-context learning is one full-batch step of gradient descent.

    GD scores 1 at every layer that in-context learning changes, LCGD cos(theta).

    Args:
        theta: Angle between the two rules, in degrees.
        labels: Number of label words, odd and at least 5; as many content words.
        shows: How often each content word is demonstrated.
        seed: Of the demonstrations.
        kind: "hooked", "bridge" or "auto"; see `host.crafted.crafted_model`.

    Raises:
        WorldError: A number is out of range.
        UnsupportedModelError: TransformerLens has no such model.
    """
    return _world("gd", theta, labels, shows, seed, kind)


def lcgd_world(
    theta: float = 60.0, *, labels: int = 9, shows: int = 3, seed: int = 0, kind: str = "auto"
) -> World:
    """A model whose in-context learning is one full-batch step of layer-causal gradient descent.

    LCGD scores 1 at every layer that in-context learning changes, GD cos(theta). Arguments and
    errors are those of `gd_world`.
    """
    return _world("lcgd", theta, labels, shows, seed, kind)


def heads_world(
    thetas: Sequence[float] = (0.0, 30.0, 60.0, 90.0),
    *,
    inert: int = 1,
    group: int = 1,
    labels: int = 9,
    shows: int = 3,
    seed: int = 0,
    kind: str = "auto",
) -> World:
    """A model whose heads do the right thing, each turned by an angle of its own.

    Two layers; in the second every head attends to the query's word and writes the labels turned by
    its angle. Gradient descent moves every head along the same gradient, so that head h's SimAOU is
    cos(theta_h). Heads of a group share their values: their gradient is the sum over the group,
    and each of them reads cos(angle of the sum of the group's exp(i theta)). GD and LCGD are the
    same, the layer being the last. `World.exact` holds the values as "gd[h]"; inert heads, which
    write a constant, must be undefined.

    Args:
        thetas: Angle of each head, in degrees.
        inert: Groups of heads that in-context learning leaves as they are.
        group: Query heads that share a key and value head (grouped-query attention).
        labels: Number of label words, odd and at least 5; as many content words.
        shows: How often each content word is demonstrated.
        seed: Of the demonstrations.
        kind: "hooked", "bridge" (no groups) or "auto"; see `host.crafted.crafted_model`.

    Raises:
        WorldError: A number is out of range.
        UnsupportedModelError: TransformerLens has no such model.
    """
    if not thetas or group < 1 or inert < 0 or len(thetas) % group:
        raise WorldError(
            f"{len(thetas)} angles, groups of {group}, {inert} inert groups: angles must fill "
            "whole groups of at least one head, and there must be one angle at least."
        )
    cosines = _head_cosines(thetas, group)
    words, layout = _vocabulary(labels, shows)
    kv_heads = len(thetas) // group + inert
    heads = kv_heads * group
    first = _copying(words, layout, heads, kv_heads)
    learning = _block(words, layout, heads, kv_heads)
    for head, theta in enumerate([*thetas, *[0.0] * (inert * group)]):
        _attend_to_word(learning, layout, head, head // group)
        _write(learning, layout, head, rotation(labels, theta))
    learning.W_V[: len(thetas) // group, layout["shown"], :labels] = centred(labels)
    learning.b_V[:, labels] = CONSTANT
    weights = weights_of(_embeddings(words, layout), [first, learning])
    exact = {f"gd[{head}]": value for head, value in enumerate(cosines)}
    return _finish("heads", words, weights, exact, (1,), seed, kind)


def _head_cosines(thetas: Sequence[float], group: int) -> list[float]:
    found: list[float] = []
    for start in range(0, len(thetas), group):
        members = thetas[start : start + group]
        total = sum(cmath.exp(1j * math.radians(theta)) for theta in members)
        if abs(total) < CANCELLED:
            raise WorldError(
                f"The heads at {', '.join(f'{theta:g}' for theta in members)} degrees share their "
                "values and pull them to opposite sides: gradient descent changes nothing there, "
                "and there is nothing to read."
            )
        found += [math.cos(cmath.phase(total))] * group
    return found


def _world(rule: Rule, theta: float, labels: int, shows: int, seed: int, kind: str) -> World:
    words, layout = _vocabulary(labels, shows)
    turn = rotation(labels, theta)
    first, learning, turning = (
        _copying(words, layout, 1, 1),
        _block(words, layout, 1, 1),
        _block(words, layout, 1, 1),
    )
    _attend_to_word(learning, layout, 0, 0)
    back = turn.T if rule == "gd" else torch.eye(labels)
    learning.W_V[0, layout["shown"], :labels] = centred(labels) @ back
    _write(learning, layout, 0, torch.eye(labels))
    itself(turning, layout["place"])
    turning.W_V[0, layout["predicted"], :labels] = torch.eye(labels)
    _write(turning, layout, 0, turn - torch.eye(labels))
    for block in (learning, turning):
        block.b_V[0, labels] = CONSTANT
    weights = weights_of(_embeddings(words, layout), [first, learning, turning])
    cosine = math.cos(math.radians(theta))
    exact = {"gd": 1.0, "lcgd": cosine} if rule == "gd" else {"gd": cosine, "lcgd": 1.0}
    layers = (1, 2) if theta % 360 else (1,)
    return replace(_finish(rule, words, weights, exact, layers, seed, kind), theta=theta)


def _finish(
    name: str,
    words: Words,
    weights: dict[str, Tensor],
    exact: dict[str, float],
    layers: tuple[int, ...],
    seed: int,
    kind: str,
) -> World:
    # A query shares its attention among itself and, for each time its word is shown, content and
    # label; a step of this size on the mean loss of all demonstrations adds as much.
    rate = words.shots / (2 * words.shows + 1)
    draw = partial(words.draw, rate, f"{name}_world")
    return World(
        name=name,
        model=crafted_model(weights, kind=kind, name=f"{name}_world"),
        episode=draw(seed),
        training={"lr": rate, "layers": [1], "batch_size": words.shots},
        exact=exact,
        rules={"gd": "gd", "lcgd": "lcgd"},
        layers=layers,
        weights=weights,
        draw=draw,
    )


def _vocabulary(labels: int, shows: int) -> tuple[Words, Layout]:
    check_labels(labels)
    if shows < 1:
        raise WorldError(f"shows is {shows}; each word must be shown at least once.")
    words = Words(labels, shows)
    return words, Layout(
        word=words.contents,
        carried=words.contents,
        shown=labels,
        predicted=labels,
        place=words.n_ctx,
        one=1,
    )


def _embeddings(words: Words, layout: Layout) -> dict[str, Tensor]:
    embed = torch.zeros(words.vocabulary, layout.width)
    first = words.content(0)
    embed[first : first + words.contents, layout["word"]] = torch.eye(words.contents)
    labels = range(words.label(0), words.label(0) + words.labels)
    embed[labels.start : labels.stop, layout["shown"]] = torch.eye(words.labels)
    places = torch.zeros(words.n_ctx, layout.width)
    places[:, layout["place"]] = torch.eye(words.n_ctx)
    return {
        "embed.W_E": embed,
        "pos_embed.W_pos": places,
        "unembed.W_U": unembedding(layout, words.vocabulary, layout["predicted"], labels),
    }


def _block(words: Words, layout: Layout, heads: int, kv_heads: int) -> Block:
    return Block(layout.width, heads, max(words.n_ctx, words.labels + 1), kv_heads)


def _copying(words: Words, layout: Layout, heads: int, kv_heads: int) -> Block:
    """Each token receives the content of the one before it, and a constant that all have."""
    block = _block(words, layout, heads, kv_heads)
    previous(block, layout["place"])
    size = words.contents
    block.W_V[0, layout["word"], :size] = torch.eye(size)
    block.W_O[0, :size, layout["carried"]] = torch.eye(size)
    block.b_V[0, size] = COMMON
    block.W_O[0, size, layout["one"]] = 1.0
    return block


def _attend_to_word(block: Block, layout: Layout, head: int, kv_head: int) -> None:
    size = layout.size("word")
    block.W_Q[head, layout["word"], :size] = SHARP * torch.eye(size)
    for part in ("word", "carried"):
        block.W_K[kv_head, layout[part], :size] = torch.eye(size)


def _write(block: Block, layout: Layout, head: int, turn: Tensor) -> None:
    """A head's first values go to the label logits, its next one into the constant's part."""
    labels = layout.size("predicted")
    block.W_O[head, :labels, layout["predicted"]] = turn
    block.W_O[head, labels, layout["one"]] = 1.0
