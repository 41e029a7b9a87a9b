"""Runs ZS, ICL and intervened passes and keeps only what the scores need, at the readout token.

The demonstrations run once: their keys and values are shared by all queries. Queries of unequal
length run together, the shorter ones continued at their end, which their own tokens do not see;
each pass tells the intervention where its rows' readout tokens are (`Batch`). The unembedding runs
at the predicting token alone, for many queries at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.batching import Budget, batches, memory_limited
from iclgd_lens.batching import MemoryWarning as MemoryWarning
from iclgd_lens.episode import Episode
from iclgd_lens.errors import EpisodeError, HookError, LensError
from iclgd_lens.host import Host, Prefix, as_host, frozen
from iclgd_lens.intervention import Batch, Intervention, can_be_padded, hooks_of
from iclgd_lens.taps import Taps

TOKENS_AT_ONCE = {"cpu": 8192, "cuda": 65536}
"""Tokens of a batch at most, by device; the shared prefix counts for each query."""
PASS_TOKENS = {"cpu": 128, "cuda": 4096}
"""What a pass costs beside its tokens, in tokens: how far `pad_queries` goes. With GPT-2's
weights on two cores, 64 and 128 do alike; a GPU's is assumed: few tokens leave most of it idle."""
_LOGITS_AT_ONCE = 1 << 22
"""Logits in memory together (16 MB): enough rows that the unembedding's weights are read seldom."""


@dataclass(frozen=True)
class Readout:
    """What one setting leaves at the readout token of every query; fp32, on the model's device.

    Attributes:
        attention_output: Attention block output, before the residual sum.
        z: Each head's mixed values; z W_O is the head's output.
        scores: Scaled pre-softmax scores over the query's own tokens (no BOS, no demonstrations),
            right-padded with zeros.
        label_scores: Mean log-probability, in nats, of each label word's tokens.
        demonstration_scores: Scores over the demonstrations' tokens, for the first queries.
        queries: Query vectors as they enter the dot product, for the first queries.
    """

    attention_output: Float[Tensor, "query layer d_model"]
    z: Float[Tensor, "query layer head d_head"]
    scores: Float[Tensor, "query layer head key"]
    label_scores: Float[Tensor, "query label"]
    demonstration_scores: Float[Tensor, "first layer head token"] | None = None
    queries: Float[Tensor, "first layer head d_head"] | None = None

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

    def zs(self) -> Readout:
        """The frozen model, each query alone."""
        return self._read(Intervention(), None)

    def icl(self) -> Readout:
        """The frozen model, demonstrations before each query."""
        return self._read(Intervention(), self._demonstrations())

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
                self._prefix = self.host.run(self.host.tensor(prompt), keep=True).prefix
        return self._prefix

    def _read(self, intervention: Intervention, prefix: Prefix | None) -> Readout:
        positions = () if prefix is None else self._demonstration_positions(prefix)
        with frozen(self.host.model), torch.no_grad():
            # Made here: a caller's inference mode would make tensors that cannot be filled.
            taps = Taps(self.host, self.episode, self.first, positions)
            read: list[int] = []
            predicting: list[Tensor] = []
            for indices, most in self._chunks(prefix, self._pad and can_be_padded(intervention)):
                with memory_limited() as outcome:
                    predicting.append(self._read_batch(taps, indices, prefix, intervention))
                    read += indices
                if outcome.failed:
                    most.halve(indices)
            order = self.host.tensor(read)[0].argsort()
            self._add_first_tokens(taps.label_scores, torch.cat(predicting)[order])
        return Readout(
            taps.attention_output,
            taps.z,
            taps.scores,
            taps.label_scores,
            taps.demonstration_scores,
            taps.queries,
        )

    def _demonstration_positions(self, prefix: Prefix) -> Sequence[int]:
        """Where the demonstrations' tokens are in `prefix`; none in that of other demonstrations.

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

    def _chunks(self, prefix: Prefix | None, pad: bool) -> Iterator[tuple[list[int], Budget]]:
        device = self.host.device.type
        budget = Budget(self._batch_size)
        budget.pending.extend(
            batches(
                [self._head(prefix) + len(own) for own in self._own_tokens()],
                shared=0 if prefix is None else prefix.length,
                tokens_at_once=TOKENS_AT_ONCE.get(device, TOKENS_AT_ONCE["cpu"]),
                most=self._batch_size,
                pass_tokens=PASS_TOKENS.get(device, PASS_TOKENS["cpu"]) if pad else 0,
            )
        )
        while budget.pending:
            yield budget.pending.popleft(), budget

    def _own_tokens(self) -> list[tuple[int, ...]]:
        return [self.episode.readout_tokens(query) for query in self.episode.queries]

    def _head(self, prefix: Prefix | None) -> int:
        """Tokens of a pass before a query's own: the BOS, where nothing is shared."""
        return int(prefix is None and self.episode.demonstrations.bos is not None)

    def _read_batch(
        self, taps: Taps, indices: list[int], prefix: Prefix | None, intervention: Intervention
    ) -> Float[Tensor, "batch d_model"]:
        """Fill `taps` for `indices`, with label words' later tokens alone in its label scores.

        Returns the residual stream at the predicting tokens.
        """
        host, episode = self.host, self.episode
        queries = [episode.queries[index] for index in indices]
        own = [episode.readout_tokens(query) for query in queries]
        head = self._head(prefix)
        longest = max(map(len, own))
        # What is appended is read by no query; its last token is one that the model knows.
        rows = [[*ids, *ids[-1:] * (longest - len(ids))] for ids in own]
        if head:
            rows = [[episode.demonstrations.bos or 0, *row] for row in rows]
        long_labels = any(len(label) > 1 for label in episode.label_tokens)
        shared = None if prefix is None else prefix.expand(len(indices))
        lengths = host.tensor([head + len(ids) for ids in own])[0]
        # The predicting token is the last of the content, before any label word that was appended.
        places = host.tensor([head + len(query.content) - 1 for query in queries])[0]
        tokens = host.tensor(rows)
        batch = Batch(
            host.tensor(indices)[0], lengths, lengths - 1, tokens=tokens, predicting=places
        )
        # What the intervention does comes before what is read of it.
        with (
            host.hooked(hooks_of(intervention, host, batch)),
            taps.attached(want_queries=bool(self.first)),
            taps.reading(indices, head, [len(ids) for ids in own]),
        ):
            run = host.run(tokens, shared, keep=long_labels and host.can_pad)
        for label, ids in enumerate(episode.label_tokens):
            later: Tensor | float = 0.0
            if len(ids) > 1 and not host.can_pad:
                later = self._later_anew(ids, tokens, batch, shared, intervention)
            elif len(ids) > 1 and run.prefix is not None:
                start = 0 if shared is None else shared.length
                later = self._later(
                    ids, run.prefix, start + places + 1, intervention, batch.queries
                )
            taps.label_scores[indices, label] = later
        return run.residual[torch.arange(len(indices), device=host.device), places]

    def _add_first_tokens(
        self, label_scores: Float[Tensor, "query label"], predicting: Float[Tensor, "query d_model"]
    ) -> None:
        """Add log-probabilities of the label words' first tokens, and take means over tokens."""
        labels = self.episode.label_tokens
        first = self.host.tensor([tokens[0] for tokens in labels])[0]
        lengths = self.host.tensor([len(tokens) for tokens in labels])[0]
        rows = max(1, _LOGITS_AT_ONCE // self.host.d_vocab)
        for scores, residual in zip(label_scores.split(rows), predicting.split(rows), strict=True):
            logits = self.host.logits(residual).float()
            log_p = logits[:, first] - logits.logsumexp(-1, keepdim=True)
            scores.add_(log_p).div_(lengths)

    def _later(
        self,
        label: tuple[int, ...],
        read: Prefix,
        lengths: Int[Tensor, " batch"],
        intervention: Intervention,
        queries: Int[Tensor, " batch"] | None,
    ) -> Float[Tensor, " batch"]:
        """Log-probability of a label word's tokens after the first, each row read to its length."""
        total = torch.zeros(len(lengths), dtype=torch.float32, device=self.host.device)
        wanted = self.host.tensor(label[1:])[0]
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            before = (read if len(rows) == len(lengths) else read.rows(rows)).crop(length)
            tokens = self.host.tensor([label[:-1]] * len(rows))
            batch = Batch(
                None if queries is None else queries[rows],
                torch.full_like(rows, tokens.shape[1]),
                torch.full_like(rows, tokens.shape[1] - 1),
                reads=False,
            )
            with self.host.hooked(hooks_of(intervention, self.host, batch)):
                logits = self.host.logits(self.host.run(tokens, before).residual)
            log_p = logits.float().log_softmax(-1)
            total[rows] = log_p[:, torch.arange(len(wanted)), wanted].sum(-1)
        return total

    def _later_anew(
        self,
        label: tuple[int, ...],
        rows: Int[Tensor, "batch pos"],
        batch: Batch,
        shared: Prefix | None,
        intervention: Intervention,
    ) -> Float[Tensor, " batch"]:
        """The same where positions depend on the length: each token at the length it itself ends.

        Rows are then of one length; all of them is read anew for each token.
        """
        assert batch.readout is not None
        assert batch.predicting is not None
        content = rows[:, : int(batch.predicting[0]) + 1]
        total = torch.zeros(len(rows), dtype=torch.float32, device=self.host.device)
        for end in range(1, len(label)):
            begun = self.host.tensor([label[:end]] * len(rows))
            tokens = torch.cat([content, begun], dim=1)
            again = replace(
                batch,
                lengths=torch.full_like(batch.readout, tokens.shape[1]),
                reads=int(batch.readout[0]) < content.shape[1],
                tokens=tokens,
            )
            with self.host.hooked(hooks_of(intervention, self.host, again)):
                residual = self.host.run(tokens, shared).residual[:, -1]
            total += self.host.logits(residual).float().log_softmax(-1)[:, label[end]]
        return total

    def training_keys(
        self, intervention: Intervention
    ) -> list[Float[Tensor, "token head d_head"]] | None:
        """Keys of the demonstrations' tokens, each demonstration read alone, a layer at a time.

        Tok2Attn's k_train: what the intervened model's queries attend to among the training tokens.
        None where the model does not expose them.
        """
        layers: list[list[Tensor]] = [[] for _ in range(self.host.n_layers)]
        shown = self.episode.demonstrations
        head = () if shown.bos is None else (shown.bos,)

        def keep(layer: int, keys: Tensor) -> None:
            layers[layer].append(keys[0, len(head) :].float())

        try:
            with frozen(self.host.model), torch.no_grad():
                for example in shown.examples:
                    tokens = self.host.tensor(head + example.tokens)
                    batch = demonstration_batch(self.host, len(head) + len(example.content), tokens)
                    with (
                        self.host.hooked(hooks_of(intervention, self.host, batch)),
                        self.host.query_key_hooks(None, keep),
                    ):
                        self.host.run(tokens)
        except HookError:
            return None
        # Some bridges have the hook and never run it.
        return [torch.cat(keys) for keys in layers] if all(layers) else None


def demonstration_batch(host: Host, content: int, tokens: Int[Tensor, "row pos"]) -> Batch:
    """Rows of demonstrations read alone; their readout token is the last of their content.

    Args:
        host: The model.
        content: Tokens up to and including the last of the content, BOS included.
        tokens: The rows.
    """
    rows = tokens.shape[0]
    return Batch(
        torch.full((rows,), -1, device=host.device),
        torch.full((rows,), tokens.shape[1], device=host.device),
        torch.full((rows,), content - 1, device=host.device),
        tokens=tokens,
    )
