"""Log-probabilities of label words, token by token, after passes that read the queries.

A word's first token is predicted where the query ends, for many queries at a time; its later tokens
take a pass of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.host import Host, Prefix
from iclgd_lens.intervention import Batch, Intervention, hooks_of
from iclgd_lens.tokens import Tokens

_LOGITS_AT_ONCE = 1 << 22
"""Logits in memory at a time (16 MB): enough rows to read the unembedding's weights seldom."""


def add_first_tokens(
    host: Host,
    labels: Sequence[Tokens],
    label_scores: Float[Tensor, "query label"],
    predicting: Float[Tensor, "query d_model"],
) -> None:
    """Add log-probabilities of the label words' first tokens, and take means over their tokens.

    Args:
        host: The model.
        labels: The label words.
        label_scores: Sums over the words' later tokens, in nats; becomes the means.
        predicting: The residual stream after the last block, where the words are predicted.
    """
    first = host.tensor([tokens[0] for tokens in labels])[0]
    lengths = host.tensor([len(tokens) for tokens in labels])[0]
    rows = max(1, _LOGITS_AT_ONCE // host.d_vocab)
    for scores, residual in zip(label_scores.split(rows), predicting.split(rows), strict=True):
        logits = host.logits(residual).float()
        log_p = logits[:, first] - logits.logsumexp(-1, keepdim=True)
        scores.add_(log_p).div_(lengths)


def later_tokens(
    host: Host,
    label: Tokens,
    read: Prefix,
    lengths: Int[Tensor, " row"],
    queries: Int[Tensor, " row"] | None,
    intervention: Intervention,
) -> Float[Tensor, " row"]:
    """Log-probability, in nats, of a label word's tokens after the first.

    Args:
        host: The model.
        label: The word.
        read: Keys and values of the rows, read under the intervention.
        lengths: How far each row is to be kept: up to where the word is predicted.
        queries: Index of each row's query.
        intervention: What else acts.
    """
    total = torch.zeros(len(lengths), dtype=torch.float32, device=host.device)
    wanted = host.tensor(label[1:])[0]
    for length in lengths.unique().tolist():
        rows = (lengths == length).nonzero()[:, 0]
        before = (read if len(rows) == len(lengths) else read.rows(rows)).crop(length)
        tokens = host.tensor([label[:-1]] * len(rows))
        batch = Batch(
            None if queries is None else queries[rows],
            torch.full_like(rows, tokens.shape[1]),
            torch.full_like(rows, tokens.shape[1] - 1),
            reads=False,
        )
        with host.hooked(hooks_of(intervention, host, batch)):
            logits = host.logits(host.run(tokens, before).residual)
        log_p = logits.float().log_softmax(-1)
        total[rows] = log_p[:, torch.arange(len(wanted)), wanted].sum(-1)
    return total


def later_anew(
    host: Host, label: Tokens, batch: Batch, shared: Prefix | None, intervention: Intervention
) -> Float[Tensor, " row"]:
    """The same where positions depend on the length: each token is read at the end of a sequence.

    Args:
        host: The model.
        label: The word.
        batch: The rows, all of one length and with their tokens; they are read anew.
        shared: What is read before them.
        intervention: What else acts.
    """
    rows, readout, predicting = batch.tokens, batch.readout, batch.predicting
    assert rows is not None
    assert readout is not None
    assert predicting is not None
    content = rows[:, : int(predicting[0]) + 1]
    total = torch.zeros(len(rows), dtype=torch.float32, device=host.device)
    for end in range(1, len(label)):
        tokens = torch.cat([content, host.tensor([label[:end]] * len(rows))], dim=1)
        again = replace(
            batch,
            lengths=torch.full_like(readout, tokens.shape[1]),
            reads=int(readout[0]) < content.shape[1],
            tokens=tokens,
        )
        with host.hooked(hooks_of(intervention, host, again)):
            residual = host.run(tokens, shared, at=-1).residual[:, 0]
        total += host.logits(residual).float().log_softmax(-1)[:, label[end]]
    return total
