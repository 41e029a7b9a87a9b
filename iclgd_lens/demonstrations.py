"""Demonstrations: labelled examples as token ids, as a prompt and as training sequences.

The same tokens are the prompt of in-context learning and the training sequences of an update, so
both settings see the same text, byte for byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import get_args

from jaxtyping import Int
from torch import Tensor

from iclgd_lens.errors import EpisodeError, ProtocolError, nearest
from iclgd_lens.host import Host
from iclgd_lens.phrases import html_table, one_line
from iclgd_lens.protocol import LossOn, Protocol
from iclgd_lens.tokens import Tokens, continued

FOREIGN = -1
"""Label id of a demonstration whose label word is not one of the episode's."""


@dataclass(frozen=True)
class Demonstration:
    """One labelled example: content and label word as token ids, without BOS and separator.

    Attributes:
        content: Token ids of the prompt up to the label word.
        label: Token ids of the label word.
        gold: The label id, or `FOREIGN` for an example of another task.
    """

    content: Tokens
    label: Tokens
    gold: int

    @property
    def tokens(self) -> Tokens:
        """Content followed by the label word."""
        return self.content + self.label


@dataclass(frozen=True)
class TrainingSequence:
    """What one training step reads: BOS, content, label word.

    Attributes:
        tokens: Token ids.
        targets: Positions whose token's negative log-likelihood is summed.
        label_start: Position of the label word's first token; the token before it is the last of
            the content, where a query is read.
        copies: How many rows of a batch read it, side by side.
        beside: Tokens of other sequences of the same shape that are read beside it, one row each.
        others: Sequences of any shape that are read in the same batch, each by its own rows; the
            shorter ones are continued at their end, which nothing before it sees.
    """

    tokens: Tokens
    targets: Tokens
    label_start: int
    copies: int = 1
    beside: tuple[Tokens, ...] = ()
    others: tuple[TrainingSequence, ...] = ()

    def by_row(self) -> list[tuple[Tokens, Tokens]]:
        """Tokens and targets of every row of the batch."""
        own = [(tokens, self.targets) for tokens in (self.tokens, *self.beside)]
        found = [each for each in own for _ in range(self.copies)]
        return found + [row for other in self.others for row in other.by_row()]

    @property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return max(len(tokens) for tokens, _ in self.by_row())

    def rows(self, host: Host) -> Int[Tensor, "row pos"]:
        """The tokens as a batch on the model's device: each sequence's copies in turn."""
        return host.tensor(continued([tokens for tokens, _ in self.by_row()]))

    @property
    def wanted(self) -> list[int]:
        """The target tokens of every row."""
        return [tokens[target] for tokens, targets in self.by_row() for target in targets]

    @property
    def places(self) -> tuple[list[int], list[int]]:
        """Row and position of every target, in the order of `wanted`."""
        rows = enumerate(self.by_row())
        found = [(row, target) for row, (_, targets) in rows for target in targets]
        return [row for row, _ in found], [target for _, target in found]

    @property
    def counts(self) -> list[int]:
        """How many targets each row has."""
        return [len(targets) for _, targets in self.by_row()]


@dataclass(frozen=True, repr=False)
class Demonstrations:
    """The labelled examples of an episode, in prompt order.

    Attributes:
        examples: The examples.
        bos: The beginning-of-sequence token, or None.
        separator: Tokens after each example in the prompt.
        protocol: How they are read and trained on.
        drawn: Indices that put `examples` back into the order in which they were drawn.
        learning_rate: The task's published learning rate, if it has one.
    """

    examples: tuple[Demonstration, ...]
    bos: int | None
    separator: Tokens
    protocol: Protocol
    drawn: Tokens = ()
    learning_rate: float | None = None

    def __len__(self) -> int:
        return len(self.examples)

    def __repr__(self) -> str:
        return one_line("Demonstrations", self._facts())

    def _repr_html_(self) -> str:
        return html_table("Demonstrations", self._facts())

    def _facts(self) -> dict[str, str]:
        return {
            "examples": f"{len(self)} of {dict(sorted(self.classes().items()))} by label id",
            "prompt": f"prompt of {len(self.prompt())} tokens",
            "separator": f"separator {list(self.separator)}",
            "BOS": f"BOS {self.bos}",
            "protocol": f"protocol {self.protocol.name!r}",
        }

    def classes(self) -> Counter[int]:
        """How many examples each label id has."""
        return Counter(example.gold for example in self.examples)

    @property
    def _head(self) -> Tokens:
        return () if self.bos is None else (self.bos,)

    def prompt(self) -> Tokens:
        """BOS, then each example and a separator: what in-context learning puts first."""
        ids = list(self._head)
        for example in self.examples:
            ids += example.tokens + self.separator
        return tuple(ids)

    def prompt_positions(self) -> Tokens:
        """Positions in `prompt()` of the examples' own tokens, without BOS and separators."""
        positions: list[int] = []
        start = len(self._head)
        for example in self.examples:
            positions += range(start, start + len(example.tokens))
            start += len(example.tokens) + len(self.separator)
        return tuple(positions)

    def prompt_parts(self) -> tuple[str, ...]:
        """What each token of `prompt()` is: "bos", "content", "label" or "separator"."""
        parts = ["bos"] * len(self._head)
        for example in self.examples:
            parts += ["content"] * len(example.content) + ["label"] * len(example.label)
            parts += ["separator"] * len(self.separator)
        return tuple(parts)

    def check_vocabulary(self, host: Host) -> None:
        """Raise `EpisodeError` if a token of the prompt is not one of `host`'s."""
        check_vocabulary(host, self.prompt())

    def sequences(self, loss_on: str | None = None) -> tuple[TrainingSequence, ...]:
        """Training sequences in training order (method: GD; no trailing separator).

        Args:
            loss_on: "all" or "label"; None takes the protocol's.

        Raises:
            EpisodeError: A sequence has no token to predict.
            ProtocolError: `loss_on` is neither.
        """
        loss_on = self.protocol.loss_on if loss_on is None else loss_on
        if loss_on not in get_args(LossOn):
            raise ProtocolError(
                f"loss_on is {loss_on!r}; allowed: {', '.join(get_args(LossOn))}."
                + nearest(str(loss_on), get_args(LossOn))
            )
        order = self.drawn if self.protocol.order == "drawn" and self.drawn else None
        examples = [self.examples[i] for i in order] if order else list(self.examples)
        found: list[TrainingSequence] = []
        for example in examples:
            tokens = self._head + example.tokens
            label_start = len(tokens) - len(example.label)
            first = label_start if loss_on == "label" else 1
            targets = tuple(range(max(first, 1), len(tokens)))
            if not targets:
                raise EpisodeError("A demonstration of one token, without BOS, predicts nothing.")
            found.append(TrainingSequence(tokens, targets, label_start))
        return tuple(found)


def part(shown: Demonstrations, places: Iterable[int]) -> Demonstrations:
    """Some of the demonstrations, by their places in the prompt, under the same protocol."""
    kept = sorted(set(places))
    drawn = [kept.index(place) for place in shown.drawn or range(len(shown)) if place in kept]
    examples = tuple(shown.examples[place] for place in kept)
    return replace(shown, examples=examples, drawn=tuple(drawn))


def check_vocabulary(host: Host, tokens: Tokens) -> None:
    """Raise `EpisodeError` if a token is outside the vocabulary of `host`."""
    for token in tokens:
        if not 0 <= token < host.d_vocab:
            raise EpisodeError(
                f"Token id {token} is outside {host.name}'s vocabulary of {host.d_vocab}: the "
                "episode was tokenised for another model."
            )
