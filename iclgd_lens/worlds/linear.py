"""Worlds of linear attention: in-context learning is gradient descent on a regression.

After von Oswald et al. 2023 (arXiv 2212.07677, section 3): a layer whose keys are the inputs x_i
and whose values are the residuals y_i - W x_i adds eta/K sum_i (x_i . x) (y_i - W x_i) to what is
predicted of x, one step of gradient descent on 1/(2K) sum_i |W x_i - y_i|^2. Here x_i are vectors
of words, y_i centred label words.

- One layer is one step, from W = 0. The label loss has the same gradient there (all labels are
  equally likely), so that `gd` and `lcgd` on the value weights are exact as well.
- M layers are M steps if the residuals of all demonstrations are updated in between, and so every
  demonstration must see all others. Under a causal mask the prompt tells them M times: layer t
  reads the t-th telling, and updates those after it. A word has one token for each telling.
- GD++ also moves the inputs in every layer, x <- x - gamma (sum_i x_i x_i^T) x.

Attention without a softmax needs hooks, which TransformerLens 3's HookedTransformer has.
`linearised_world` does one step with softmax heads alone, up to the square of a small number.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch

from iclgd_lens.errors import WorldError
from iclgd_lens.host.choose import host_class
from iclgd_lens.host.crafted import crafted_model
from iclgd_lens.worlds.regression import Regression, least_squares
from iclgd_lens.worlds.stream_parts import (
    CONSTANT,
    Block,
    Layout,
    previous,
    weights_of,
)
from iclgd_lens.worlds.world import World


def linear_world(
    steps: int = 1,
    *,
    gamma: float = 0.0,
    eta: float = 3.0,
    labels: int = 5,
    inputs: int = 6,
    shots: int = 10,
    queries: int = 8,
    seed: int = 0,
) -> World:
    """A model of linear attention whose in-context learning is `steps` steps of GD, or of GD++.

    The world's rule `least_squares` computes those steps from the demonstrations and must score 1
    in every learning layer. With one step of plain GD, `gd` and `lcgd` must do so, too.

    Args:
        steps: Steps of gradient descent, one layer each.
        gamma: How far GD++ moves the inputs in each step; 0 is plain GD.
        eta: Learning rate of the regression.
        labels: Number of label words, odd and at least 5.
        inputs: Dimensions of a word's vector.
        shots: Demonstrations, a multiple of `labels`: each label is shown equally often.
        queries: Query words; none of them is demonstrated.
        seed: Of words and demonstrations.

    Raises:
        WorldError: A number is out of range.
        UnsupportedModelError: TransformerLens has no HookedTransformer (version 4).
    """
    if not math.isfinite(gamma):
        raise WorldError(f"gamma is {gamma}; it must be finite.")
    task = Regression(steps, labels, inputs, shots, queries, eta)
    layout = task.layout()
    blocks = [_telling(task, layout)]
    blocks += [_step(task, layout, step, gamma) for step in range(1, steps + 1)]
    vectors = task.vectors(seed)
    weights = weights_of(task.embeddings(layout, vectors), blocks)
    draw = partial(task.draw, vectors, eta)
    model = crafted_model(weights, kind="hooked", attention="linear", name="linear_world")
    rules: dict[str, Any] = {
        "least_squares": partial(least_squares, task, layout, vectors, gamma=gamma)
    }
    if steps == 1:  # nothing reads inputs that move after the only step
        rules = {"gd": "gd", "lcgd": "lcgd"} | rules
    return World(
        name="linear" + (f", {steps} steps" if steps > 1 else "") + (", GD++" if gamma else ""),
        model=host_class(model)(model, attention="linear"),
        episode=draw(seed),
        training={"lr": eta, "layers": [1], "batch_size": shots},
        exact=dict.fromkeys(rules, 1.0),
        rules=rules,
        layers=tuple(range(1, steps + 1)),
        weights=weights,
        draw=draw,
    )


def linearised_world(
    scale: float = 0.03,
    *,
    eta: float = 3.0,
    labels: int = 5,
    inputs: int = 6,
    shots: int = 10,
    queries: int = 8,
    seed: int = 0,
    kind: str = "auto",
) -> World:
    """One step of GD by two softmax heads whose scores are small; no hook is needed.

    Heads of queries +scale x and -scale x, with values v/(2 scale) and -v/(2 scale), sum to the
    mean over tokens of s_j v_j, up to a share of order scale^2, where the values sum to zero
    (balanced labels). GD's own attention to one token deviates equally much.

    Args:
        scale: Factor on the scores; in fp32 .03 balances what is left out against rounding.
        eta: Learning rate of the regression.
        labels: Number of label words, odd and at least 5.
        inputs: Dimensions of a word's vector.
        shots: Demonstrations, a multiple of `labels`: each label is shown equally often.
        queries: Query words; none of them is demonstrated.
        seed: Of words and demonstrations.
        kind: "hooked", "bridge" or "auto"; see `host.crafted.crafted_model`.

    Raises:
        WorldError: A number is out of range.
        UnsupportedModelError: TransformerLens has no such model.
    """
    if not 0 < scale < math.inf:
        raise WorldError(f"scale is {scale}; it must be a positive number.")
    task = Regression(1, labels, inputs, shots, queries, eta)
    layout = task.layout()
    first = _telling(task, layout, heads=2, linear=False)
    learning = Block(layout.width, 2, task.d_head)
    amount = task.strength * (task.prompt + 1)  # a softmax takes means over all tokens
    for head, sign in enumerate((1.0, -1.0)):
        learning.W_Q[head, layout["word"], :inputs] = sign * scale * torch.eye(inputs)
        learning.W_K[head, layout["key1"], :inputs] = torch.eye(inputs)
        values = sign * amount / (2 * scale) * torch.eye(labels)
        learning.W_V[head, layout["left"], :labels] = values
        learning.W_O[head, :labels, layout["predicted"]] = torch.eye(labels)
        learning.b_V[head, labels] = CONSTANT / 2
        learning.W_O[head, labels, layout["one"]] = 1.0
    vectors = task.vectors(seed)
    weights = weights_of(task.embeddings(layout, vectors), [first, learning])
    rate = 2 * eta  # two heads give half of their attention each to the query's own token
    draw = partial(task.draw, vectors, rate)
    return World(
        name="linearised",
        model=crafted_model(weights, kind=kind, name="linearised_world"),
        episode=draw(seed),
        training={"lr": rate, "layers": [1], "batch_size": shots},
        exact={"gd": 1.0, "lcgd": 1.0},
        rules={"gd": "gd", "lcgd": "lcgd"},
        layers=(1,),
        weights=weights,
        draw=draw,
    )


def _telling(
    task: Regression, layout: Layout, heads: int | None = None, linear: bool = True
) -> Block:
    """Layer 0: every token receives the vector of the one before it, and a constant."""
    block = Block(layout.width, heads or task.steps, task.d_head)
    previous(block, layout["place"])
    if linear:
        block.W_Q /= block.W_Q.max()  # the score is the weight
    for telling in range(1, task.steps + 1):
        place = slice((telling - 1) * task.inputs, telling * task.inputs)
        block.W_V[0, layout[task.told(telling)], place] = torch.eye(task.inputs)
        block.W_O[0, place, layout[f"key{telling}"]] = torch.eye(task.inputs)
    block.b_O[layout["one"]] = 1.0
    return block


def _step(task: Regression, layout: Layout, step: int, gamma: float) -> Block:
    """One step: a head for each later telling's label tokens, the last one for content tokens.

    The last head also lets every content token attend to itself with weight 1, by its (odd)
    position; its own value is 0 until something is trained.
    """
    block = Block(layout.width, task.steps, task.d_head)
    labels, inputs = task.labels, task.inputs
    one = torch.eye(inputs)
    for head in range(step - 1, task.steps):
        final = head == task.steps - 1
        reader = layout["word" if final else f"key{head + 2}"]
        block.W_Q[head, reader, :inputs] = one
        block.W_K[head, layout[f"key{step}"], :inputs] = one
        block.W_V[head, layout["left"], :labels] = task.strength * torch.eye(labels)
        block.W_V[head, layout[f"key{step}"], labels : labels + inputs] = one
        into, sign = ("predicted", 1.0) if final else ("left", -1.0)
        block.W_O[head, :labels, layout[into]] = sign * torch.eye(labels)
        block.W_O[head, labels : labels + inputs, reader] = -gamma * one
    for position in range(task.n_ctx):
        row = layout["place"].start + position
        block.W_Q[-1, row, inputs + position] = float(position % 2)
        block.W_K[-1, row, inputs + position] = 1.0
    block.b_O[layout["one"]] = CONSTANT
    return block
