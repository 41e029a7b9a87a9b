"""The regression that linear worlds solve, and gradient descent on it from demonstrations alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import WorldError
from iclgd_lens.worlds.stream_parts import Layout, centred, unembedding
from iclgd_lens.worlds.world import PROTOCOL, check_labels


@dataclass(frozen=True)
class Regression:
    """Words with vectors, labels by a hidden linear map, and the numbers that follow from them."""

    steps: int
    labels: int
    inputs: int
    shots: int
    queries: int
    eta: float

    def __post_init__(self) -> None:
        check_labels(self.labels)
        for name in ("steps", "inputs", "shots", "queries"):
            if getattr(self, name) < 1:
                raise WorldError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not 0 < self.eta < math.inf:
            raise WorldError(f"eta is {self.eta}; it must be a positive number.")
        if self.shots % self.labels:
            raise WorldError(
                f"{self.shots} shots do not show each of {self.labels} labels equally often: give "
                "a multiple. Gradient descent also learns how frequent labels are, which this "
                "in-context learning does not."
            )

    @property
    def strength(self) -> float:
        """What a demonstration of inner product 1 with the query adds: eta/K."""
        return self.eta / self.shots

    @property
    def words(self) -> int:
        """Content words: those that are demonstrated, then the queries."""
        return self.shots + self.queries

    @property
    def prompt(self) -> int:
        """Tokens before a query."""
        return 1 + 2 * self.shots * self.steps

    @property
    def n_ctx(self) -> int:
        """Positions: the prompt, a query, its label."""
        return self.prompt + 2

    @property
    def d_head(self) -> int:
        """Room for the inputs of every telling, for inputs and positions, for labels and inputs."""
        return max(
            self.inputs * self.steps, self.inputs + self.n_ctx, self.labels + self.inputs + 1
        )

    def token(self, word: int, telling: int = 1) -> int:
        """Token of a content word in one telling of the demonstrations, counted from 1."""
        return 1 + (telling - 1) * self.words + word

    def label(self, label: int) -> int:
        """Token of a label word."""
        return 1 + self.steps * self.words + label

    def layout(self) -> Layout:
        """Parts of the residual stream.

        word: a content token's own vector, as a query reads it. own1, own2, ...: the same, by
        telling, where there are several. key1, key2, ...: the vector as the label token after it
        carries it, by telling. left: on label tokens, what is left of y - W x. predicted: on
        content tokens, W x.
        """
        tellings = range(1, self.steps + 1)
        return Layout(
            word=self.inputs,
            **({f"own{t}": self.inputs for t in tellings} if self.steps > 1 else {}),
            **{f"key{t}": self.inputs for t in tellings},
            left=self.labels,
            predicted=self.labels,
            place=self.n_ctx,
            one=1,
        )

    def told(self, telling: int) -> str:
        """The part that label tokens of one telling take their vectors from."""
        return f"own{telling}" if self.steps > 1 else "word"

    def vectors(self, seed: int) -> Float[Tensor, "word input"]:
        """Vectors of unit length on average, one per content word."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(self.words, self.inputs, generator=generator) / self.inputs**0.5

    def embeddings(self, layout: Layout, vectors: Float[Tensor, "word input"]) -> dict[str, Tensor]:
        """Embeddings of tokens and positions, and the unembedding."""
        labels = range(self.label(0), self.label(0) + self.labels)
        embed = torch.zeros(labels.stop, layout.width)
        for telling in range(1, self.steps + 1):
            first = self.token(0, telling)
            for part in ("word", self.told(telling)):
                embed[first : first + self.words, layout[part]] = vectors
        embed[labels.start : labels.stop, layout["left"]] = centred(self.labels)
        places = torch.zeros(self.n_ctx, layout.width)
        places[:, layout["place"]] = torch.eye(self.n_ctx)
        return {
            "embed.W_E": embed,
            "pos_embed.W_pos": places,
            "unembed.W_U": unembedding(layout, labels.stop, layout["predicted"], labels),
        }

    def draw(
        self,
        vectors: Float[Tensor, "word input"],
        learning_rate: float,
        seed: int,
        balanced: bool = True,
    ) -> Episode:
        """Demonstrations in random order, told `steps` times; labels by a random linear map.

        Each label is given to the words that score highest on it, equally many words per label;
        where `balanced` is false, each word has the label that it scores highest on.
        """
        generator = np.random.default_rng(seed)
        scores = vectors.numpy() @ generator.standard_normal((self.inputs, self.labels))
        labels = equal_shares(scores[: self.shots]) if balanced else scores.argmax(1)
        order = generator.permutation(self.shots)
        return Episode.from_tokens(
            [
                [self.token(int(word), telling), self.label(int(labels[word]))]
                for telling in range(1, self.steps + 1)
                for word in order
            ],
            [[self.token(self.shots + query)] for query in range(self.queries)],
            [self.label(label) for label in range(self.labels)],
            scores[self.shots :].argmax(1).tolist(),
            bos=0,
            protocol=PROTOCOL if balanced else replace(PROTOCOL, balanced=False),
            learning_rate=learning_rate,
            name="linear_world",
        )


def equal_shares(scores: Float[np.ndarray, "word label"]) -> Int[np.ndarray, " word"]:
    """Labels by falling score; no label goes to more words than its share."""
    words, labels = scores.shape
    found = np.full(words, -1)
    for place in np.argsort(-scores, axis=None):
        word, label = divmod(int(place), labels)
        if found[word] < 0 and (found == label).sum() < words // labels:
            found[word] = label
    return found


def least_squares(
    task: Regression,
    layout: Layout,
    vectors: Float[Tensor, "word input"],
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    steps: int | None = None,
    gamma: float = 0.0,
) -> ParameterDelta:
    """Gradient descent on the squared error of a linear map, each step put into its own layer.

    Args:
        task: The world's numbers.
        layout: The parts of its residual stream.
        vectors: The vectors of its words.
        model: The model (not read).
        demonstrations: The demonstrations, told once or several times.
        steps: Steps that are taken; None takes all of the world's.
        gamma: How far GD++ moves the inputs.
    """
    shown = demonstrations.demonstrations if isinstance(demonstrations, Episode) else demonstrations
    told = shown.examples[: task.shots]
    x = torch.stack([vectors[example.content[0] - 1] for example in told]).double()
    left = centred(task.labels).double()[[example.gold for example in told]]
    found: dict[str, Tensor] = {}
    labels, inputs = task.labels, task.inputs
    for step in range(1, (task.steps if steps is None else steps) + 1):
        change = torch.zeros(task.steps, layout.width, task.d_head)
        learned, moved = task.strength * x.T @ left, x.T @ x
        change[-1, layout["word"], :labels] = learned.float()
        change[-1, layout["word"], labels : labels + inputs] = moved.float()
        found[f"blocks.{step}.attn.W_V"] = change
        left = left - x @ learned
        x = x - gamma * x @ moved
    return ParameterDelta(found, {"rule": "least_squares", "gamma": gamma})
