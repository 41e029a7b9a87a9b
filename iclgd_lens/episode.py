"""An episode: demonstrations and queries as token ids, written under a protocol.

The same tokens are the prompt of in-context learning and the training sequences of an update, so
both settings see the same text, byte for byte.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from jaxtyping import Int
from torch import Tensor

from iclgd_lens.errors import EpisodeError, ProtocolError, nearest
from iclgd_lens.host import Host
from iclgd_lens.protocol import DEFAULT, LossOn, Protocol, get_protocol

Tokens = tuple[int, ...]

FOREIGN = -1
"""Label id of a demonstration whose label word is not one of the episode's."""

EMBEDDED = "iclgd-embedded"
"""How the names of the embedded models begin; their rows default to the embedded ones."""


@dataclass(frozen=True)
class Demonstration:
    """One labelled example: content and label word as token ids, without BOS and separator.

    `gold` is the label id, or `FOREIGN` for an example of another task.
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
        label_start: Position of the label word's first token; the one before it is the last of the
            content, where a query is read.
        copies: How many rows of a batch read it, side by side.
        beside: Tokens of other sequences of the same shape that are read beside it, a row each.
    """

    tokens: Tokens
    targets: Tokens
    label_start: int
    copies: int = 1
    beside: tuple[Tokens, ...] = ()

    def rows(self, host: Host) -> Int[Tensor, "row pos"]:
        """The tokens as a batch on the model's device: each sequence's copies in turn."""
        whole = host.tensor([self.tokens, *self.beside])
        return whole.repeat_interleave(self.copies, dim=0)

    @property
    def wanted(self) -> list[int]:
        """The target tokens of every row."""
        found: list[int] = []
        for tokens in (self.tokens, *self.beside):
            found += [tokens[target] for target in self.targets] * self.copies
        return found


@dataclass(frozen=True)
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

    def check_vocabulary(self, host: Host) -> None:
        """Raise `EpisodeError` if a token of the prompt is not one of `host`'s."""
        _check_vocabulary(host, self.prompt())

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


@dataclass(frozen=True)
class Query:
    """One unlabelled example, its gold label kept for accuracy alone."""

    content: Tokens
    gold: int


@dataclass(frozen=True)
class Episode:
    """Demonstrations, queries and label words of one task, tokenised under one protocol.

    Attributes:
        demonstrations: The labelled examples.
        queries: The unlabelled ones.
        label_tokens: Token ids of each label word, by label id.
        provenance: Where the text came from: task, prompt hash, row hashes, seed, permutation.
    """

    demonstrations: Demonstrations
    queries: tuple[Query, ...]
    label_tokens: tuple[Tokens, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        _check_labels(self.label_tokens)
        n_labels = len(self.label_tokens)
        for index, example in enumerate(self.demonstrations.examples):
            if not example.content or not example.label:
                raise EpisodeError(f"Demonstration {index} has no content or no label tokens.")
            if example.gold != FOREIGN:
                _check_gold("Demonstration", index, example.gold, n_labels)
        for index, query in enumerate(self.queries):
            if not query.content:
                raise EpisodeError(f"Query {index} has no tokens.")
            _check_gold("Query", index, query.gold, n_labels)
        if not self.queries:
            raise EpisodeError("An episode needs at least one query.")

    @property
    def protocol(self) -> Protocol:
        """The protocol under which this episode was written."""
        return self.demonstrations.protocol

    @property
    def n_labels(self) -> int:
        """Number of label words."""
        return len(self.label_tokens)

    @property
    def gold(self) -> tuple[int, ...]:
        """Gold label ids of the queries."""
        return tuple(query.gold for query in self.queries)

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.provenance.get("task", "custom"))

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over every token, label and protocol field."""
        facts = dataclasses.asdict(self)
        facts.pop("provenance")
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def readout_tokens(self, query: Query) -> Tokens:
        """A query's own tokens, up to and including the readout token."""
        if self.protocol.readout == "first_label_word":
            return query.content + self.label_tokens[0]
        return query.content

    def lengths(self) -> dict[int, list[int]]:
        """Query indices by the length of their readout tokens, shortest first."""
        groups: dict[int, list[int]] = {}
        for index, query in enumerate(self.queries):
            groups.setdefault(len(self.readout_tokens(query)), []).append(index)
        return dict(sorted(groups.items()))

    def check(self, host: Host) -> None:
        """Raise `EpisodeError` if `host` cannot read this episode whole.

        Nothing is ever truncated: a prompt longer than the context, or a token id outside the
        vocabulary, is named with its numbers.
        """
        prompt = len(self.demonstrations.prompt())
        longest = max(range(len(self.queries)), key=lambda i: len(self.queries[i].content))
        tail = len(self.queries[longest].content) + max(map(len, self.label_tokens))
        if prompt + tail > host.n_ctx:
            alone = tail + (self.demonstrations.bos is not None) > host.n_ctx
            remedy = "The query alone does not fit" if alone else "Use fewer shots"
            raise EpisodeError(
                f"{len(self.demonstrations)} demonstrations ({prompt} tokens) and query {longest} "
                f"with its label ({tail} tokens) make {prompt + tail} tokens, but {host.name} "
                f"reads {host.n_ctx}. {remedy}; nothing is truncated."
            )
        self.demonstrations.check_vocabulary(host)
        for tokens in (*(query.content for query in self.queries), *self.label_tokens):
            _check_vocabulary(host, tokens)

    def with_demonstrations(
        self, examples: Sequence[Demonstration], drawn: Sequence[int] | None = None
    ) -> Episode:
        """Return this episode with other examples, under the same protocol and queries.

        Args:
            examples: The examples, in prompt order.
            drawn: Indices that put them into the order in which they were drawn; None keeps this
                episode's where the number of examples is the same, else takes the prompt order.
        """
        if drawn is None:
            same = len(examples) == len(self.demonstrations)
            drawn = self.demonstrations.drawn if same else range(len(examples))
        demonstrations = dataclasses.replace(
            self.demonstrations, examples=tuple(examples), drawn=tuple(drawn)
        )
        return dataclasses.replace(self, demonstrations=demonstrations)

    @classmethod
    def from_tokens(
        cls,
        demonstrations: Sequence[Sequence[int]],
        queries: Sequence[Sequence[int]],
        label_tokens: Sequence[int] | Sequence[Sequence[int]],
        gold: Sequence[int],
        *,
        bos: int | None,
        separator: int | Sequence[int] = (),
        protocol: Protocol | str = DEFAULT,
        learning_rate: float | None = None,
        name: str = "custom",
    ) -> Episode:
        """Build an episode from token ids, for synthetic tasks.

        Args:
            demonstrations: Content followed by the label word, without BOS and separator.
            queries: Content alone, without BOS, label and separator.
            label_tokens: The label words by label id, one token or several each.
            gold: The label id of each query.
            bos: The beginning-of-sequence token, which the protocol adds; None for no BOS.
            separator: Token or tokens between demonstrations.
            protocol: How the episode is read and trained on.
            learning_rate: Default learning rate of the updates.
            name: The task's name in results.

        Raises:
            EpisodeError: A demonstration ends in no label word, or lengths or labels disagree.
        """
        protocol = get_protocol(protocol)
        labels = tuple(
            (label,) if isinstance(label, int) else tuple(map(int, label)) for label in label_tokens
        )
        _check_labels(labels)
        if len(queries) != len(gold):
            raise EpisodeError(f"{len(queries)} queries but {len(gold)} gold labels.")
        examples = tuple(
            _split_label(index, tuple(map(int, tokens)), labels)
            for index, tokens in enumerate(demonstrations)
        )
        return cls(
            Demonstrations(
                examples=examples,
                bos=bos if protocol.bos else None,
                separator=(
                    (separator,) if isinstance(separator, int) else tuple(map(int, separator))
                ),
                protocol=protocol,
                drawn=tuple(range(len(examples))),
                learning_rate=learning_rate,
            ),
            tuple(
                Query(tuple(map(int, tokens)), int(label))
                for tokens, label in zip(queries, gold, strict=True)
            ),
            labels,
            {"task": name},
        )


def _split_label(index: int, tokens: Tokens, labels: Sequence[Tokens]) -> Demonstration:
    matches = [gold for gold, label in enumerate(labels) if tokens[-len(label) :] == label]
    if not matches:
        raise EpisodeError(
            f"Demonstration {index} ends in {list(tokens[-3:])}, which is no label; labels are "
            f"{[list(label) for label in labels]}."
        )
    gold = max(matches, key=lambda match: len(labels[match]))
    return Demonstration(tokens[: -len(labels[gold])], labels[gold], gold)


def _check_vocabulary(host: Host, tokens: Tokens) -> None:
    for token in tokens:
        if not 0 <= token < host.d_vocab:
            raise EpisodeError(
                f"Token id {token} is outside {host.name}'s vocabulary of {host.d_vocab}: the "
                "episode was tokenised for another model."
            )


def _check_labels(labels: Sequence[Tokens]) -> None:
    if len(labels) < 2 or any(not label for label in labels):
        raise EpisodeError("An episode needs at least two label words of at least one token each.")
    if len(set(labels)) < len(labels):
        raise EpisodeError(f"Two label words have the same tokens: {[list(la) for la in labels]}.")


def _check_gold(what: str, index: int, gold: int, n_labels: int) -> None:
    if not 0 <= gold < n_labels:
        raise EpisodeError(f"{what} {index} has label {gold}; labels are 0 to {n_labels - 1}.")
