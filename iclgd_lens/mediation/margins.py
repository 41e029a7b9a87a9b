"""The label margin, and what stands before every query.

The margin is the gold label's logit minus the mean of the others', where the label is predicted: at
the last token of a query's content, whatever token the protocol reads. For a word of several tokens
the first one's logit counts, so that label words must differ in it.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.errors import EpisodeError
from iclgd_lens.host import Host, Prefix
from iclgd_lens.measures.similarity import label_margin


class Margin:
    """Gold label's logit minus the mean of the others', in nats.

    Args:
        host: The model.
        episode: Gives the label words; the first token of each counts.

    Raises:
        EpisodeError: Two label words begin with the same token.
    """

    def __init__(self, host: Host, episode: Episode) -> None:
        first = [tokens[0] for tokens in episode.label_tokens]
        if len(set(first)) < len(first):
            raise EpisodeError(
                "Two label words begin with the same token, so that the logit where the label is "
                "predicted does not tell them apart; mediation needs other label words."
            )
        self.host = host
        self.first = host.tensor(first)[0]
        # Where logits are a plain product, the label words' columns are all that is needed.
        linear = host.unembedding()
        self._columns: Tensor | None = None
        self._offset: Tensor | None = None
        if linear is not None:
            self._columns = linear[0][:, self.first].detach().float()
            self._offset = None if linear[1] is None else linear[1][self.first].detach().float()

    def of_normalized(
        self, normalized: Float[Tensor, "row d_model"], gold: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The margin, from what the unembedding reads."""
        if self._columns is None:
            logits = self.host.unembed(normalized)[..., self.first].float()
        else:
            logits = normalized.float() @ self._columns
            logits = logits if self._offset is None else logits + self._offset
        return label_margin(logits, gold)

    def __call__(
        self, residual: Float[Tensor, "row d_model"], gold: Int[Tensor, " row"]
    ) -> Float[Tensor, " row"]:
        """The margin, from the residual stream after the last block."""
        return self.of_normalized(self.host.final_norm(residual), gold)


def shared_prefix(host: Host, tokens: tuple[int, ...]) -> Prefix | None:
    """Keys and values of what stands before every query; None where nothing does."""
    return host.prefix(host.tensor(tokens)) if tokens else None


def repeated_gold(host: Host, gold: int, rows: int) -> Int[Tensor, " row"]:
    """One gold label for every row."""
    return torch.full((rows,), gold, dtype=torch.long, device=host.device)
