"""Runs ZS, ICL and intervened passes and keeps only what the scores need, at the readout token.

The demonstrations run once: their keys and values are shared by all queries. Queries of unequal
length run together, the shorter ones continued at their end, which their own tokens do not see;
each pass tells the intervention where its rows' readout tokens are (`Batch`). The unembedding runs
at the predicting token alone, for many queries at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import Episode, EpisodeWarning
from iclgd_lens.errors import EpisodeError, HookError, LensError
from iclgd_lens.host import Host, Prefix, as_host, frozen
from iclgd_lens.intervention import Batch, Intervention, can_be_padded, hooks_of
from iclgd_lens.readout.batching import MemoryWarning as MemoryWarning
from iclgd_lens.readout.batching import PendingChunks, batches, memory_limited
from iclgd_lens.readout.label_words import add_first_tokens, later_anew, later_tokens
from iclgd_lens.readout.passes import named
from iclgd_lens.readout.taps import Taps
from iclgd_lens.tokens import continued

READ_TOKENS_AT_ONCE = {"cpu": 8192, "cuda": 65536}
"""Tokens of a batch at most, by device; the shared prefix counts for each query."""
PASS_TOKENS = {"cpu": 128, "cuda": 4096}
"""What a pass costs beside its tokens, in tokens; it decides how far `pad_queries` goes. With
GPT-2's weights on two cores, 64 and 128 are equally good; a GPU's is assumed: few tokens leave most
of it idle."""


@dataclass(frozen=True)
class Readout:
    """What one setting gives at the readout token of every query; fp32, on the model's device.

    Attributes:
        attention_output: Attention block output, before the residual sum.
        z: Each head's mixed values; z W_O is the head's output.
        scores: Scaled pre-softmax scores over the query's own tokens (no BOS, no demonstrations),
            right-padded with zeros; zero also where a sliding window hides a token in all settings.
        label_scores: Mean log-probability, in nats, of each label word's tokens.
        demonstration_scores: Scores over the demonstrations' tokens, for the first queries; NaN
            where a sliding window hides one.
        queries: Query vectors as they enter the dot product, for the first queries.
        passes: Which passes it was read in: two readouts of the same passes are equal to the bit
            where nothing changes them, others up to rounding. "" where that is not known (a stored
            readout, say) or demonstrations stood before the queries.
    """

    attention_output: Float[Tensor, "query layer d_model"]
    z: Float[Tensor, "query layer head d_head"]
    scores: Float[Tensor, "query layer head key"]
    label_scores: Float[Tensor, "query label"]
    demonstration_scores: Float[Tensor, "first layer head token"] | None = None
    queries: Float[Tensor, "first layer head d_head"] | None = None
    passes: str = ""

    @property
    def is_finite(self) -> bool:
        """Whether every number is finite."""
        return all(
            bool(torch.isfinite(part).all())
            for part in (self.attention_output, self.z, self.scores, self.label_scores)
        )


class Reader:
    """Reads one episode on one model, setting by setting.

    Args:
        model: The model, or its host.
        episode: What is read.
        batch_size: Queries run together at most; None fits it to the prompt length. Halved, with a
            warning, where memory does not suffice.
        pad_queries: Run queries of unequal length together, the shorter ones continued at their
            end. Faster, since fewer passes read the weights. Attention is causal, so a query's own
            tokens see nothing of it; numbers differ by rounding alone. Models whose positions
            depend on the length (`Host.can_pad`) are never padded, nor are interventions whose
            hooks are not told of their rows (`Intervention.hooks` of one argument).
        first: For how many queries attention to demonstrations is kept (Tok2Attn).

    Attributes:
        host: The model's host.

    Raises:
        EpisodeError: The model cannot read the episode whole.
    """

    def __init__(
        self,
        model: Host | object,
        episode: Episode,
        *,
        batch_size: int | None = None,
        pad_queries: bool = True,
        first: int = 0,
    ) -> None:
        self.host = as_host(model)
        self.episode = episode
        self.first = min(first, len(episode.queries))
        episode.check(self.host)
        if batch_size is not None and batch_size < 1:
            raise LensError(f"batch_size is {batch_size}; it must be at least 1.")
        self._batch_size = batch_size
        self._pad = pad_queries and self.host.can_pad
        self._prefix: Prefix | None = None
        self._told = False
        self._out_of_sight: list[int] = []

    def zs(self) -> Readout:
        """The frozen model, each query alone."""
        return self._read(Intervention(), None)

    def icl(self) -> Readout:
        """The frozen model, demonstrations before each query."""
        prefix = self._demonstrations()
        found = self._read(Intervention(), prefix)
        self._tell_windows(prefix)
        return found

    def ftzs(self, intervention: Intervention) -> Readout:
        """The intervened model, each query alone."""
        return self._read(intervention, intervention.prefix(self.host))

    def release(self) -> None:
        """Forget the demonstrations' keys and values, which otherwise live as long as the reader.

        At a long prompt they outweigh what an update needs; `icl` reads them again.
        """
        self._prefix = None

    def _demonstrations(self) -> Prefix | None:
        prompt = self.episode.demonstrations.prompt()
        if self._prefix is None and prompt:
            with frozen(self.host.model), torch.no_grad():
                self._prefix = self.host.prefix(self.host.tensor(prompt))
        return self._prefix

    def _read(self, intervention: Intervention, prefix: Prefix | None) -> Readout:
        positions = () if prefix is None else self._demonstration_positions(prefix)
        with frozen(self.host.model), torch.no_grad():
            # Made here: a caller's inference mode would make tensors that cannot be filled.
            taps = Taps(self.host, self.episode, self.first, positions)
            read: list[list[int]] = []
            predicting: list[Tensor] = []
            for indices, chunks in self._chunks(prefix, self._pad and can_be_padded(intervention)):
                with memory_limited() as outcome:
                    predicting.append(self._read_batch(taps, indices, prefix, intervention))
                    read.append(indices)
                if outcome.failed:
                    chunks.halve(indices)
            self._out_of_sight = taps.out_of_sight
            order = self.host.tensor([index for batch in read for index in batch])[0].argsort()
            add_first_tokens(
                self.host,
                self.episode.label_tokens,
                taps.label_scores,
                torch.cat(predicting)[order],
            )
        return Readout(
            taps.attention_output,
            taps.z,
            taps.scores,
            taps.label_scores,
            taps.demonstration_scores,
            taps.queries,
            "" if prefix is not None else named(read),
        )

    def _tell_windows(self, prefix: Prefix | None) -> None:
        """Warn, once, where sliding windows hide what the prefix just read holds."""
        head = int(self.episode.demonstrations.bos is not None)
        layers = [layer for layer, count in enumerate(self._out_of_sight) if count > head]
        if prefix is None or not layers or self._told:
            return
        self._told = True
        warnings.warn(
            f"Sliding windows hide demonstrations: in {len(layers)} of {self.host.n_layers} layers "
            f"of {self.host.name} (layer {layers[0]} first) queries see nothing of up to "
            f"{max(self._out_of_sight)} of the {prefix.length} tokens before them.",
            EpisodeWarning,
            stacklevel=4,
        )

    def _demonstration_positions(self, prefix: Prefix) -> Sequence[int]:
        """Where the demonstrations' tokens are in `prefix`; empty for one of other demonstrations.

        Raises:
            EpisodeError: Prefix, query and label together are longer than the context.
        """
        own = max(len(query.content) for query in self.episode.queries)
        own += max(map(len, self.episode.label_tokens))
        if prefix.length + own > self.host.n_ctx:
            raise EpisodeError(
                f"A prefix of {prefix.length} tokens and a query with its label ({own} tokens) are "
                f"longer than the {self.host.n_ctx} tokens that {self.host.name} reads; nothing is "
                "truncated."
            )
        shown = self.episode.demonstrations
        if not self.first or tuple(prefix.tokens[0].tolist()) != shown.prompt():
            return ()
        return shown.prompt_positions()

    def _chunks(
        self, prefix: Prefix | None, pad: bool
    ) -> Iterator[tuple[list[int], PendingChunks]]:
        lengths = [self._head(prefix) + len(own) for own in self._own_tokens()]
        shared = 0 if prefix is None else prefix.length
        chunks = PendingChunks(self._batches(lengths, shared=shared, pad=pad))
        while chunks.pending:
            yield chunks.pending.popleft(), chunks

    def _batches(self, lengths: Sequence[int], *, shared: int, pad: bool) -> list[list[int]]:
        device = self.host.device.type
        return batches(
            lengths,
            shared=shared,
            tokens_at_once=READ_TOKENS_AT_ONCE.get(device, READ_TOKENS_AT_ONCE["cpu"]),
            most=self._batch_size,
            pass_tokens=PASS_TOKENS.get(device, PASS_TOKENS["cpu"]) if pad else 0,
        )

    def _own_tokens(self) -> list[tuple[int, ...]]:
        return [self.episode.readout_tokens(query) for query in self.episode.queries]

    def _head(self, prefix: Prefix | None) -> int:
        """Tokens of a pass before a query's own: the BOS, where nothing is shared."""
        return int(prefix is None and self.episode.demonstrations.bos is not None)

    def _read_batch(
        self, taps: Taps, indices: list[int], prefix: Prefix | None, intervention: Intervention
    ) -> Float[Tensor, "batch d_model"]:
        """Fill `taps` for `indices`; its label scores then hold only the label words' later tokens.

        Returns the residual stream at the predicting tokens.
        """
        host, episode = self.host, self.episode
        queries = [episode.queries[index] for index in indices]
        own = [episode.readout_tokens(query) for query in queries]
        head = self._head(prefix)
        first = (episode.demonstrations.bos or 0,) * head
        long_labels = any(len(label) > 1 for label in episode.label_tokens)
        shared = None if prefix is None else prefix.expand(len(indices))
        lengths = host.tensor([head + len(ids) for ids in own])[0]
        # The predicting token is the last of the content, before any label word that was appended.
        places = host.tensor([head + len(query.content) - 1 for query in queries])[0]
        tokens = host.tensor(continued([(*first, *ids) for ids in own]))
        batch = Batch(
            host.tensor(indices)[0], lengths, lengths - 1, tokens=tokens, predicting=places
        )
        # The intervention acts before its effect is read.
        with (
            host.hooked(hooks_of(intervention, host, batch)),
            taps.attached(want_queries=bool(self.first)),
            taps.reading(indices, head, [len(ids) for ids in own]),
        ):
            run = host.run(tokens, shared, keep=long_labels and host.can_pad, at=places)
        for label, ids in enumerate(episode.label_tokens):
            later: Tensor | float = 0.0
            if len(ids) > 1 and not host.can_pad:
                later = later_anew(host, ids, batch, shared, intervention)
            elif len(ids) > 1 and run.prefix is not None:
                start = 0 if shared is None else shared.length
                later = later_tokens(
                    host, ids, run.prefix, start + places + 1, batch.queries, intervention
                )
            taps.label_scores[indices, label] = later
        return run.residual[:, 0]

    def training_keys(
        self, intervention: Intervention
    ) -> list[Float[Tensor, "token head d_head"]] | None:
        """Keys of the demonstrations' tokens, each demonstration read alone, a layer at a time.

        Tok2Attn's k_train: what the intervened model's queries attend to among the training tokens.
        None where the model does not expose them.
        """
        shown = self.episode.demonstrations
        head = () if shown.bos is None else (shown.bos,)
        lengths = [len(head) + len(example.tokens) for example in shown.examples]
        pad = self._pad and can_be_padded(intervention)
        layers: list[dict[int, Tensor]] = [{} for _ in range(self.host.n_layers)]
        reading = list[int]()

        def keep(layer: int, keys: Tensor) -> None:
            for index, own in zip(reading, keys, strict=True):
                layers[layer][index] = own[len(head) : lengths[index]].float()

        try:
            with frozen(self.host.model), torch.no_grad():
                for reading in self._batches(lengths, shared=0, pad=pad):
                    rows = [shown.examples[index] for index in reading]
                    tokens = self.host.tensor(continued([(*head, *row.tokens) for row in rows]))
                    contents = [len(head) + len(row.content) for row in rows]
                    own = [lengths[index] for index in reading]
                    batch = demonstration_batch(self.host, contents, tokens, own)
                    with (
                        self.host.hooked(hooks_of(intervention, self.host, batch)),
                        self.host.query_key_hooks(None, keep),
                    ):
                        self.host.run(tokens, at=-1)
        except HookError:
            return None
        # Some bridges have the hook and never run it.
        whole = range(len(shown.examples))
        return [torch.cat([k[i] for i in whole]) for k in layers] if all(layers) else None


def demonstration_batch(
    host: Host,
    contents: Sequence[int],
    tokens: Int[Tensor, "row pos"],
    lengths: Sequence[int] | None = None,
) -> Batch:
    """Rows of demonstrations read alone; their readout token is the last of their content.

    Args:
        host: The model.
        contents: Each row's tokens up to and including the last of the content, BOS included.
        tokens: The rows.
        lengths: Tokens of each row without padding; None where no row is padded.
    """
    rows = tokens.shape[0]
    return Batch(
        torch.full((rows,), -1, device=host.device),
        host.tensor([tokens.shape[1]] * rows if lengths is None else lengths)[0],
        host.tensor(contents)[0] - 1,
        tokens=tokens,
    )
