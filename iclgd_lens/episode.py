"""An episode: demonstrations and queries as token ids, written under a protocol."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from iclgd_lens.demonstrations import FOREIGN as FOREIGN
from iclgd_lens.demonstrations import Demonstration as Demonstration
from iclgd_lens.demonstrations import Demonstrations as Demonstrations
from iclgd_lens.demonstrations import TrainingSequence as TrainingSequence
from iclgd_lens.demonstrations import check_vocabulary
from iclgd_lens.errors import EpisodeError
from iclgd_lens.host import Host
from iclgd_lens.phrases import html_table, one_label_asked, one_label_shown, one_line
from iclgd_lens.protocol import DEFAULT, Protocol, get_protocol
from iclgd_lens.tokens import TokenIds, members, one_or_more, same_tokens, token_ids, whole
from iclgd_lens.tokens import Tokens as Tokens

UNKNOWN = 0.1
"""Share of the queries' tokens that may be unknown to the tokenizer without a warning."""


class EpisodeWarning(UserWarning):
    """An episode can be measured, but what comes out may not mean what it seems to."""


@dataclass(frozen=True)
class Query:
    """One unlabelled example, its gold label kept for accuracy alone.

    Attributes:
        content: Token ids of the prompt up to the label word.
        gold: The label id.
    """

    content: Tokens
    gold: int


@dataclass(frozen=True, repr=False)
class Episode:
    """Demonstrations, queries and label words of one task, tokenised under one protocol.

    Attributes:
        demonstrations: The labelled examples.
        queries: The unlabelled ones.
        label_tokens: Token ids of each label word, by label id.
        provenance: Where the text came from: task, prompt hash, row hashes, seed, permutation.
        auxiliary: Demonstrations of other tasks, for hypotheses that learn from those too.
    """

    demonstrations: Demonstrations
    queries: tuple[Query, ...]
    label_tokens: tuple[Tokens, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    auxiliary: tuple[Demonstrations, ...] = ()

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
    def warnings(self) -> tuple[str, ...]:
        """What may mislead about this episode's results, one sentence each."""
        facts, found = self.provenance, list[str]()
        share, unknown = facts.get("unknown_share", 0.0), facts.get("unknown_labels", ())
        if share > UNKNOWN:
            found.append(
                f"{share:.0%} of the queries' tokens are unknown to this tokenizer: the model "
                "cannot read these rows."
            )
        if unknown:
            found.append(f"Label words unknown to this tokenizer: {', '.join(unknown)}.")
        classes = self.demonstrations.classes()
        if not self.demonstrations.examples:
            found.append("There are no demonstrations: nothing can be learned in context.")
        if len(classes) == 1 and FOREIGN not in classes:
            (label,) = classes
            found.append(one_label_shown(len(self.demonstrations), self.label_word(label)))
        if len(set(self.gold)) == 1:
            found.append(one_label_asked(len(self.queries), self.label_word(self.gold[0])))
        if not facts.get("common_queries", True):
            found.append(
                "Each draw has queries of its own: too few rows are left that repeat no "
                "demonstration of any draw."
            )
        return tuple(found)

    def label_word(self, label: int) -> str:
        """A label's word, or its tokens where the episode was made of tokens."""
        words: Sequence[str] = self.provenance.get("labels", ())
        return words[label] if label < len(words) else str(list(self.label_tokens[label]))

    def __repr__(self) -> str:
        return one_line("Episode", self._facts())

    def _repr_html_(self) -> str:
        return html_table("Episode", self._facts(), self.warnings)

    def _facts(self) -> dict[str, str]:
        shown, seed = self.demonstrations, self.provenance.get("seed")
        classes = {self.label_word(label): n for label, n in sorted(shown.classes().items())
                   if label != FOREIGN}  # fmt: skip
        counts = ", ".join(f"{n} {word}" for word, n in classes.items())
        warned = {"warnings": f"{len(self.warnings)} warnings"} if self.warnings else {}
        return {
            "task": f"task {self.task!r}",
            "demonstrations": f"{len(shown)} demonstrations" + (f" ({counts})" if counts else ""),
            "queries": f"{len(self.queries)} queries",
            "labels": f"{self.n_labels} labels",
            "prompt": f"prompt of {len(shown.prompt())} tokens",
            "protocol": f"protocol {self.protocol.name!r}",
            "draw": "no draw" if seed is None else f"seed {seed}",
            "hash": f"hash {self.hash}",
            **warned,
        }

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits over every token, label and protocol field."""
        facts = dataclasses.asdict(self)
        facts.pop("provenance")
        if not self.auxiliary:
            facts.pop("auxiliary")
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
            check_vocabulary(host, tokens)

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
        demonstrations: TokenIds,
        queries: TokenIds,
        label_tokens: TokenIds,
        gold: TokenIds,
        *,
        bos: TokenIds | None,
        separator: TokenIds = (),
        protocol: Protocol | str = DEFAULT,
        learning_rate: float | None = None,
        name: str = "custom",
    ) -> Episode:
        """Build an episode from token ids, for synthetic tasks.

        Token ids and labels are integers, in lists, NumPy arrays or torch tensors.

        Args:
            demonstrations: Content followed by the label word, without BOS and separator.
            queries: Content alone, without BOS, label and separator.
            label_tokens: The label words by label id, each one token or several.
            gold: The label id of each query.
            bos: The beginning-of-sequence token, which the protocol adds; None for no BOS.
            separator: Token or tokens between demonstrations.
            protocol: How the episode is read and trained on.
            learning_rate: Default learning rate of the updates.
            name: The task's name in results.

        Raises:
            EpisodeError: A demonstration ends in no label word, lengths or labels disagree, or
                something is not an integer.
        """
        protocol = get_protocol(protocol)
        labels = tuple(
            one_or_more(label, f"Label {i}")
            for i, label in enumerate(members(label_tokens, "Label tokens"))
        )
        _check_labels(labels)
        golds = token_ids(gold, "Gold labels")
        asked = [
            token_ids(tokens, f"Query {i}") for i, tokens in enumerate(members(queries, "Queries"))
        ]
        if len(asked) != len(golds):
            raise EpisodeError(f"{len(asked)} queries but {len(golds)} gold labels.")
        examples = tuple(
            _split_label(i, token_ids(tokens, f"Demonstration {i}"), labels)
            for i, tokens in enumerate(members(demonstrations, "Demonstrations"))
        )
        given = None if bos is None else whole(bos, "BOS")
        return cls(
            Demonstrations(
                examples=examples,
                bos=given if protocol.bos else None,
                separator=one_or_more(separator, "The separator"),
                protocol=protocol,
                drawn=tuple(range(len(examples))),
                learning_rate=learning_rate,
            ),
            tuple(Query(tokens, label) for tokens, label in zip(asked, golds, strict=True)),
            labels,
            {"task": name},
        )


def _split_label(index: int, tokens: Tokens, labels: Sequence[Tokens]) -> Demonstration:
    matches = [gold for gold, label in enumerate(labels) if tokens[-len(label) :] == label]
    if not matches:
        raise EpisodeError(
            f"Demonstration {index} ends in {list(tokens[-3:])}, which is not a label; labels are "
            f"{[list(label) for label in labels]}."
        )
    gold = max(matches, key=lambda match: len(labels[match]))
    return Demonstration(tokens[: -len(labels[gold])], labels[gold], gold)


def _check_labels(labels: Sequence[Tokens]) -> None:
    if len(labels) < 2 or any(not label for label in labels):
        raise EpisodeError("An episode needs at least two label words of at least one token each.")
    if same := same_tokens(labels):
        raise EpisodeError(
            f"Two label words have the same tokens: {[list(la) for la in labels]} (labels "
            f"{same[0]} and {same[1]})."
        )


def _check_gold(what: str, index: int, gold: int, n_labels: int) -> None:
    if not 0 <= gold < n_labels:
        raise EpisodeError(f"{what} {index} has label {gold}; labels are 0 to {n_labels - 1}.")
