"""How well a model predicts the label words of demonstrations, each of them read alone.

    losses = label_losses(host, left_out, delta)      # a demonstration, in nats a token

What a search for a budget judges rates by, and hypotheses that leave demonstrations out their own
settings. Rows of one length, or continued to one, share a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import Demonstrations, Tokens
from iclgd_lens.host import Host, Prefix, frozen
from iclgd_lens.intervention import Intervention, can_be_padded, hooks_of
from iclgd_lens.readout.batching import batches
from iclgd_lens.readout.reader import demonstration_batch
from iclgd_lens.tokens import continued

_LABELLED_TOKENS_AT_ONCE = 8192
_UNEMBEDDED_AT_ONCE = 64


def label_losses(
    host: Host,
    shown: Demonstrations,
    intervention: Intervention,
    *,
    per: Literal["token", "word"] = "token",
) -> Float[Tensor, " demonstration"]:
    """Negative log-likelihood of each demonstration's label word, in prompt order.

    Args:
        host: The model, whose caller may have hooks attached.
        shown: What is read, one by one.
        intervention: Under which; a prefix of its own takes the place of BOS.
        per: Whether of a word of several tokens the mean is taken ("token") or the sum ("word").
    """
    prefix = intervention.prefix(host)
    head = () if shown.bos is None or prefix is not None else (shown.bos,)
    rows = [head + example.tokens for example in shown.examples]
    words = [example.label for example in shown.examples]
    pads = host.can_pad and can_be_padded(intervention)
    with frozen(host.model), torch.no_grad():
        # Made here: a caller's inference mode would make a tensor that cannot be filled.
        losses = torch.zeros(len(rows), dtype=torch.float32, device=host.device)
        for places in batches(
            [len(row) for row in rows],
            shared=0 if prefix is None else prefix.length,
            tokens_at_once=_LABELLED_TOKENS_AT_ONCE,
            pass_tokens=_LABELLED_TOKENS_AT_ONCE if pads else 0,
        ):
            own = [words[place] for place in places]
            lengths = [len(rows[place]) for place in places]
            starts = [length - len(word) for length, word in zip(lengths, own, strict=True)]
            tokens = host.tensor(continued([rows[place] for place in places]))
            batch = demonstration_batch(host, starts, tokens, lengths)
            before = None if prefix is None else prefix.expand(len(places))
            with host.hooked(hooks_of(intervention, host, batch), forced=False):
                losses[places] = word_losses(host, tokens, starts, own, before)
    if per == "token":
        losses /= host.tensor([len(word) for word in words])[0]
    return losses


def word_losses(
    host: Host,
    tokens: Int[Tensor, "row pos"],
    starts: Sequence[int],
    words: Sequence[Tokens],
    prefix: Prefix | None = None,
) -> Float[Tensor, " row"]:
    """Run some rows under the hooks that are attached; the sum of each one's label losses, in nats.

    Args:
        host: The model, frozen by the caller.
        tokens: The rows.
        starts: Where each one's label word begins.
        words: The label words.
        prefix: What is read before the rows.
    """
    rows = len(words)
    host.unembedded += rows
    if all(len(word) == 1 for word in words):  # one token a row is all that need be read
        before = host.tensor(starts)[0] - 1
        predicting = host.run(tokens, prefix, at=before).residual[:, 0]
    else:
        residual = host.run(tokens, prefix).residual
        places = zip(range(rows), starts, words, strict=True)
        spans = [residual[row, at - 1 : at - 1 + len(word)] for row, at, word in places]
        predicting = torch.cat(spans)
    wanted = host.tensor([token for word in words for token in word])[0]
    owner = host.tensor([row for row, word in enumerate(words) for _ in word])[0]
    # Few at a time: all logits together would outweigh the pass itself.
    nll = [
        torch.nn.functional.cross_entropy(
            host.unembed(host.final_norm(some)).float(), targets, reduction="none"
        )
        for some, targets in zip(
            predicting.split(_UNEMBEDDED_AT_ONCE), wanted.split(_UNEMBEDDED_AT_ONCE), strict=True
        )
    ]
    losses = torch.zeros(rows, dtype=torch.float32, device=host.device)
    return losses.index_add_(0, owner, torch.cat(nll))
