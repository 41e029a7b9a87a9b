"""A model in which the answer is known, its demonstrations, and what every rule must read on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.comparing import compare
from iclgd_lens.episode import Episode
from iclgd_lens.errors import WorldError
from iclgd_lens.protocol import Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from iclgd_lens.results.comparison import Comparison
    from iclgd_lens.rules import HypothesisLike

PROTOCOL = Protocol(
    name="world",
    loss_on="label",
    separator="",
    trained=("W_K", "W_V"),
    balanced=True,
)
"""How worlds are read and trained on: the loss is the label word's, and no bias is trained."""

FEWEST_LABELS = 5


@dataclass(frozen=True, eq=False)
class World:
    """An ordinary model and an episode, and what each rule scores on them by construction.

    Unpacked, a world is its model and its episode, so that `lens.compare(*world, world.rules,
    settings=world.settings)` measures it; `world.compare()` says the same.

    Attributes:
        name: What tables call it.
        model: A HookedTransformer or TransformerBridge; where attention is linear, its host.
        episode: Demonstrations of every word, and each word as a query.
        training: The settings with which the right rule is exact: rate, layers, batch size. The
            loss and the weights are the protocol's.
        exact: By rule, the SimAOU of every query at every layer where it is defined.
        rules: The rules of `exact`, as `compare` takes them.
        layers: Layers in which in-context learning changes something.
        weights: The weights by TransformerLens name, as they were built.
        draw: Draws other demonstrations: `(seed, balanced) -> Episode`.
        theta: The angle between GD and LCGD in degrees, where the world has one.
    """

    name: str
    model: Any
    episode: Episode
    training: Mapping[str, Any]
    exact: Mapping[str, float]
    rules: Mapping[str, HypothesisLike]
    layers: tuple[int, ...]
    weights: Mapping[str, Tensor]
    draw: Callable[[int, bool], Episode] = field(repr=False)
    theta: float | None = None

    def __iter__(self) -> Iterator[Any]:
        """Model, then episode."""
        yield self.model
        yield self.episode

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """The training settings of each rule that takes them, for `compare(settings=)`."""
        return {name: dict(self.training) for name in self.rules if name in ("gd", "lcgd")}

    def compare(self, hypotheses: Any = None, **options: Any) -> Comparison:
        """Compare `hypotheses` (the world's own rules by default) with in-context learning.

        Without controls, unless `controls=` names some; other options are those of
        `lens.compare`. Names "gd" and "lcgd" are trained with the world's settings.
        """
        asked = self.rules if hypotheses is None else hypotheses
        names = [asked] if isinstance(asked, str) else list(asked)
        options.setdefault("controls", ())
        options.setdefault("budget", "published")  # the rate is the world's: nothing is chosen
        options.setdefault(
            "settings", {name: own for name, own in self.settings.items() if name in names}
        )
        return compare(self.model, options.pop("episodes", self.episode), asked, **options)


def draws(world: World, n: int, seed: int = 0, *, balanced: bool = True) -> list[Episode]:
    """Return `n` episodes of one world that differ in their demonstrations.

    Args:
        world: The world.
        n: How many.
        seed: Of the first; draw d uses seed + d.
        balanced: Whether each label is shown as often as every other. Where it is not, gradient
            descent also learns which labels are frequent, through what all tokens have in common;
            the right rule then scores below 1, and differently on every draw.

    Raises:
        WorldError: `n` is below 1.
    """
    if n < 1:
        raise WorldError(f"n is {n}; it must be at least 1.")
    return [world.draw(seed + index, balanced) for index in range(n)]


def check_labels(labels: int) -> None:
    """Refuse a number of label words on which a cosine would say little.

    Raises:
        WorldError: It is even, or below five.
    """
    if labels < FEWEST_LABELS or labels % 2 == 0:
        raise WorldError(
            f"A world has an odd number of labels, {FEWEST_LABELS} at least, not {labels}: what "
            "labels have in common predicts nothing, so two labels leave one direction, in which "
            "every cosine is 1 or -1; an odd number leaves whole planes, in which an angle can be "
            "chosen."
        )


@dataclass(frozen=True)
class Words:
    """The vocabulary of a world: BOS, words that are content, words that are labels.

    Attributes:
        labels: Number of label words.
        shows: How often each content word is demonstrated.
    """

    labels: int
    shows: int

    @property
    def contents(self) -> int:
        """Number of content words, as many as labels."""
        return self.labels

    @property
    def shots(self) -> int:
        """Number of demonstrations."""
        return self.contents * self.shows

    @property
    def n_ctx(self) -> int:
        """Positions: BOS, demonstrations of two tokens, a query, its label."""
        return 1 + 2 * self.shots + 2

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return 1 + self.contents + self.labels

    def content(self, word: int) -> int:
        """Token of a content word."""
        return 1 + word

    def label(self, label: int) -> int:
        """Token of a label word."""
        return 1 + self.contents + label

    def draw(self, learning_rate: float, name: str, seed: int, balanced: bool = True) -> Episode:
        """Demonstrations in random order: word w has label w, except in a third of them.

        A third of the demonstrations exchange their labels at random, which keeps the labels
        balanced (or are given any label, where `balanced` is false), so that what is learned about
        a word is a mixture of labels. The gold label of word w is w.
        """
        generator = np.random.default_rng(seed)
        words = np.repeat(np.arange(self.contents), self.shows)
        labels = words.copy()
        some = generator.permutation(self.shots)[: self.shots // 3]
        labels[some] = (
            labels[generator.permutation(some)]
            if balanced
            else generator.integers(self.labels, size=len(some))
        )
        order = generator.permutation(self.shots)
        return Episode.from_tokens(
            [[self.content(int(words[i])), self.label(int(labels[i]))] for i in order],
            [[self.content(word)] for word in range(self.contents)],
            [self.label(label) for label in range(self.labels)],
            list(range(self.contents)),
            bos=0,
            protocol=PROTOCOL if balanced else replace(PROTOCOL, balanced=False),
            learning_rate=learning_rate,
            name=name,
        )
