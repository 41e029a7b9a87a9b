"""What the demonstrations themselves see: the content of each, alone and after the others.

A hypothesis may learn from its demonstrations alone, so they have to stand in for queries. Each
one's content is read as a query is, up to the readout token, once by itself and once in a context
of the others. There are three such contexts; what they cost is counted in tokens of a prompt:

    exact   the K prompts of the K-1 others, in order. What stands before demonstration i in the
            prompt is read once for all; what stands after it is read again without it: about
            (K + 1) / 2 prompts. This is in-context learning of K-1 demonstrations.
    masked  the whole prompt once, then each content with demonstration i hidden from it: one
            prompt. Later demonstrations have seen i, and positions do not close up.
    causal  the demonstrations before it: one prompt. The first has none and is left out, and early
            ones see few. Contents are read as they stand in the prompt.

In "causal", what is read is in-context learning of i - 1 demonstrations. All three end in one pass
of each content after a prefix, so readout tokens and label words are those of queries, whatever
the protocol.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.cost import SHARED_BYTES, remembered
from iclgd_lens.episode import FOREIGN, Demonstrations, Episode, Query, Tokens
from iclgd_lens.errors import EpisodeError, HypothesisError, nearest
from iclgd_lens.host import Prefix, as_host, frozen
from iclgd_lens.intervention import Batch, Intervention
from iclgd_lens.readout.reader import Reader
from iclgd_lens.readout.taps import Hidden, Others, Recorder
from iclgd_lens.tokens import continued

LOO = ("exact", "masked", "causal")
"""The contexts of left-out demonstrations."""


def shown_of(demonstrations: Demonstrations | Episode) -> Demonstrations:
    """The demonstrations themselves, of an episode too."""
    if isinstance(demonstrations, Episode):
        return demonstrations.demonstrations
    return demonstrations


def spans(shown: Demonstrations) -> list[tuple[int, int]]:
    """Where each demonstration stands in the prompt, with the separator after it: [start, end)."""
    start, found = int(shown.bos is not None), list[tuple[int, int]]()
    for example in shown.examples:
        end = start + len(example.tokens) + len(shown.separator)
        found.append((start, end))
        start = end
    return found


@dataclass(frozen=True, eq=False)
class Seen:
    """What passed at the readout token of each content; fp32.

    Attributes:
        values: By hook point, "context *rest": one token's activation for each content.
        label_scores: Mean log-probability, in nats, of each label word's tokens.
        places: Which demonstrations these are, by place in the prompt.
        attention: Attention of the readout token to each demonstration of its context, its tokens
            and the separator after it together; 0 for what is not in it. Where asked for.
    """

    values: dict[str, Tensor]
    label_scores: Float[Tensor, "context label"]
    places: tuple[int, ...]
    attention: Float[Tensor, "context layer head demonstration"] | None = None


class Contexts:
    """Reads the demonstrations' contents, alone or after the others.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode, which brings its own label words.
        rule: Who asks, for error messages.

    Attributes:
        host: The model's host.
        shown: The demonstrations.
        words: The label words; for demonstrations alone, or of another task, those that are shown.
        gold: Each demonstration's own, by index.
    """

    def __init__(self, model: Any, demonstrations: Demonstrations | Episode, rule: str) -> None:
        self.host = as_host(model)
        self.shown = shown_of(demonstrations)
        self.rule = rule
        self.words, self.gold = label_words(demonstrations)

    def alone(
        self, names: Iterable[str] = (), *, change: Intervention | None = None
    ) -> Seen:  # fmt: skip
        """Each content by itself, after BOS.

        Args:
            names: Hook points whose values are kept.
            change: An intervention under which they are read; rows know their demonstration's
                place as `Batch.queries`. Values are kept after it has acted.
        """
        recorder = Recorder(len(self.shown), names, change=change)
        scores = self._read(recorder, range(len(self.shown)))
        return Seen(recorder.values, scores, tuple(range(len(self.shown))))

    def after_others(
        self,
        names: Iterable[str] = (),
        *,
        loo: str = "exact",
        attention: bool = False,
        labels: bool = True,
    ) -> Seen:
        """Each content after other demonstrations.

        Args:
            names: Hook points whose values are kept.
            loo: "exact", "masked" or "causal"; see the module.
            attention: Whether attention to each demonstration is kept.
            labels: Whether label words are scored; if not, their scores are empty (except in
                "masked").

        Raises:
            HypothesisError: Fewer than two demonstrations, or no such context.
            EpisodeError: A prompt is longer than the model reads.
            HookError: "masked" on a model whose scores cannot be changed.
        """
        if loo not in LOO:
            raise HypothesisError(
                f"{self.rule}: loo is {loo!r}; allowed: {', '.join(LOO)}." + nearest(loo, LOO)
            )
        if len(self.shown) < 2:
            raise HypothesisError(
                f"{self.rule} needs at least 2 demonstrations, not {len(self.shown)}: each is read "
                "after others."
            )
        names = tuple(names)
        if loo == "masked":
            return self._masked(names, attention)
        places, parts = list[int](), list[Recorder]()
        scores: list[Tensor] = []
        if not labels:
            self.shown.check_vocabulary(self.host)  # as readers of queries do
        # A model is looked through whenever it is frozen: without labels that is done once.
        once = contextlib.nullcontext() if labels else frozen(self.host.model)
        with once:
            for place, prefix, others in self.prefixes(loo, held=not labels):
                recorder = Recorder(1, names, prefix=prefix, others=others if attention else None)
                if labels:
                    scores.append(self._read(recorder, [place]))
                else:
                    self._pass(recorder, place, prefix)
                places.append(place)
                parts.append(recorder)
        weights = [part.attention(self.host, len(self.shown)) for part in parts]
        return Seen(
            {name: torch.cat([part.values[name] for part in parts]) for name in names},
            torch.cat(scores) if labels else torch.zeros(len(places), 0, device=self.host.device),
            tuple(places),
            torch.cat(weights) if attention else None,
        )

    def whole(self, names: Iterable[str] = ()) -> Seen:
        """Each demonstration with its label word, by itself; read at its last token.

        Its label scores mean nothing: they are read where the label word already stands.

        Raises:
            HypothesisError: There is no demonstration.
        """
        if not len(self.shown):
            raise HypothesisError(f"{self.rule} needs at least 1 demonstration.")
        last = self.shown.protocol.replace(readout="last_prompt_token")
        recorder = Recorder(len(self.shown), names)
        whole = dataclasses.replace(
            self.shown,
            protocol=last,
            examples=tuple(
                dataclasses.replace(example, content=example.tokens)
                for example in self.shown.examples
            ),
        )
        scores = self._read(recorder, range(len(self.shown)), whole)
        return Seen(recorder.values, scores, tuple(range(len(self.shown))))

    def rows(self) -> tuple[Int[Tensor, "demonstration pos"], Batch]:
        """All contents as the rows of one pass, as queries are read, and where they are read.

        Raises:
            HypothesisError: Their lengths differ, and this model cannot be padded.
        """
        after = self._after()
        head = () if self.shown.bos is None else (self.shown.bos,)
        rows = [(*head, *example.content, *after) for example in self.shown.examples]
        if len(set(map(len, rows))) > 1 and not self.host.can_pad:
            raise HypothesisError(
                f"{self.rule}: {self.host.name} cannot read contents of different lengths together."
            )
        tokens = self.host.tensor(continued(rows))
        lengths = self.host.tensor([len(row) for row in rows])[0]
        places = torch.arange(len(rows), device=lengths.device)
        return tokens, Batch(places, lengths, lengths - 1, True, tokens, lengths - 1 - len(after))

    def _after(self) -> Tokens:
        """What is read after a content: the readout token may be that of a label word."""
        return () if self.shown.protocol.readout == "last_prompt_token" else self.words[0]

    def prompt(self) -> Prefix:
        """Keys and values of the whole prompt."""
        with frozen(self.host.model):
            return self._prefix(self.shown.prompt(), None)

    def _prefix(self, tokens: Tokens, before: Prefix | None) -> Prefix:
        """Keys and values of some tokens, on a model that is frozen."""
        with torch.no_grad():
            return self.host.prefix(self.host.tensor(tokens), before)

    def _masked(self, names: tuple[str, ...], attention: bool) -> Seen:
        prefix, own = self.prompt(), spans(self.shown)
        hidden = torch.zeros(len(own), 1, prefix.length, dtype=torch.bool)
        for place, (start, end) in enumerate(own):
            hidden[place, :, start:end] = True
        recorder = Recorder(
            len(own),
            names,
            prefix=prefix,
            others=list(enumerate(own)) if attention else None,
            change=Hidden(hidden.to(self.host.device)),
        )
        scores = self._read(recorder, range(len(own)))
        weights = recorder.attention(self.host, len(own)) if attention else None
        return Seen(recorder.values, scores, tuple(range(len(own))), weights)

    def prefixes(self, loo: str, *, held: bool = False) -> Iterable[tuple[int, Prefix, Others]]:
        """Each demonstration's place, the prefix without it, and where the others stand in that.

        For "exact" and "causal", which differ from one demonstration to the next in their prefix.
        Where work is shared (`cost.sharing`), small ones are kept for the next caller.

        Args:
            loo: "exact" or "causal".
            held: Whether the caller holds the model frozen while it goes through them.
        """
        if self.host.memory is None or self._bytes() > SHARED_BYTES:
            return self._prefixes(loo, held)
        key = ("prefixes", self.shown.examples, self.shown.bos, self.shown.separator, loo)
        return remembered(self.host, key, lambda: list(self._prefixes(loo, held)))

    def _bytes(self) -> int:
        """Size of all prefixes together, roughly."""
        host, tokens = self.host, len(self.shown.prompt()) * len(self.shown)
        return 8 * tokens * host.n_layers * host.n_key_value_heads * host.d_head

    def _prefixes(self, loo: str, held: bool) -> Iterator[tuple[int, Prefix, Others]]:
        whole, prompt, own = self.prompt(), self.shown.prompt(), spans(self.shown)
        for place, (start, end) in enumerate(own):
            before = list(enumerate(own[:place]))
            head = whole.crop(start) if start else None
            if loo == "causal":
                if head is not None and place:
                    yield place, head, before
                continue
            later = [(i, (s - end + start, e - end + start)) for i, (s, e) in enumerate(own)]
            rest, prefix = prompt[end:], head
            if rest:
                with contextlib.nullcontext() if held else frozen(self.host.model):
                    prefix = self._prefix(rest, head)
            assert prefix is not None
            yield place, prefix, before + later[place + 1 :]

    def _pass(self, recorder: Recorder, place: int, prefix: Prefix) -> None:
        """Let a content pass after a prefix as a query does, on a model that is frozen."""
        host, content, after = self.host, self.shown.examples[place].content, self._after()
        if prefix.length + len(content) + max(map(len, self.words)) > host.n_ctx:
            raise EpisodeError(
                f"{self.rule}: a prefix of {prefix.length} tokens and one more content with its "
                f"label are longer than the {host.n_ctx} tokens that {host.name} reads; nothing is "
                "truncated."
            )
        tokens = host.tensor((*content, *after))
        length = host.tensor([tokens.shape[1]])[0]
        places = torch.zeros_like(length)
        batch = Batch(places, length, length - 1, True, tokens, length - 1 - len(after))
        with torch.no_grad(), host.hooked(recorder.hooks(host, batch)):
            host.run(tokens, prefix.expand(1), at=-1)

    def _read(
        self, recorder: Recorder, places: Iterable[int], shown: Demonstrations | None = None
    ) -> Float[Tensor, "context label"]:
        """Read some contents as queries; returns their label scores."""
        shown = self.shown if shown is None else shown
        nothing = dataclasses.replace(shown, examples=(), drawn=())
        queries = tuple(Query(shown.examples[place].content, self.gold[place]) for place in places)
        reader = Reader(self.host, Episode(nothing, queries, self.words))
        return reader.ftzs(recorder).label_scores


def label_words(demonstrations: Demonstrations | Episode) -> tuple[tuple[Tokens, ...], list[int]]:
    """The label words, and the index of each demonstration's own, in prompt order.

    Those of the episode; for demonstrations alone, or of another task, those that are shown.
    """
    shown = shown_of(demonstrations)
    if isinstance(demonstrations, Episode) and all(e.gold != FOREIGN for e in shown.examples):
        words = demonstrations.label_tokens
    else:
        words = tuple(sorted({example.label for example in shown.examples}))
    return words, [words.index(example.label) for example in shown.examples]


def mean_of_others(values: Float[Tensor, "context *rest"]) -> Float[Tensor, "context *rest"]:
    """For each context the mean over all others; 0 where there is only one."""
    n = values.shape[0]
    return (values.sum(0, keepdim=True) - values) / max(n - 1, 1)


def label_losses(seen: Seen, gold: Sequence[int]) -> Float[Tensor, " context"]:
    """Negative log-likelihood of each content's own label word, in nats per token."""
    own = torch.tensor([gold[place] for place in seen.places], device=seen.label_scores.device)
    return -seen.label_scores.gather(1, own[:, None])[:, 0]
