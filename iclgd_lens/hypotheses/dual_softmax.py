r"""Dual softmax: attention to the demonstrations written out, exactly. A check of the hook path.

With scores s_j = c q k_j, a head's output splits into a part from the demonstrations and a part
from the query's own tokens and BOS:

    z = g o_demo + (1 - g) o_own,    o_S = Σ_{j in S} softmax_S(s)_j v_j
    g = Z_demo / (Z_demo + Z_own),   Z_S = Σ_{j in S} exp(s_j)

The model is run where in-context learning runs it, but with the demonstrations hidden from every
head; hooks read q, compute o_demo and g from the demonstrations' stored keys and values, and put
the split in its place, at every token.

Limits: nothing is approximated, so this is `oracle` up to rounding
(1e-5 in fp32), and where it is not, reading queries, sharing key/value heads or adding at z is
wrong: what `dual_linear` and `ladder` stand on. Attention that is linear has g = 1 and no softmax.

Source: Dai et al. 2023, section 3.1, before softmax is dropped.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.contexts import shown_of
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import Hook, Host, Prefix, as_host
from iclgd_lens.hypotheses.dual_form import Memory, is_linear, read_memory
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention, has_prefix, hide

NAME = "dual_softmax"


@hypothesis(
    NAME,
    description="attention to the demonstrations written out from keys and values: the oracle",
    kind="check",
    source="Dai et al. 2023, section 3.1",
)
def dual_softmax(model: Any, demonstrations: Demonstrations | Episode) -> Intervention:
    """Return the intervention that computes attention to the demonstrations with hooks.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.

    Raises:
        HypothesisError: The model's attention has no dual form, or there is no demonstration.
        HookError: The model does not expose queries and keys, or its scores cannot be changed.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    memory, prefix = read_memory(host, shown, NAME, turned=False)
    return SplitAttention(host, memory, prefix, int(shown.bos is not None))


class SplitAttention(Intervention):
    """Hides a prefix's tokens after the first `bos` and adds what attention would make of them."""

    def __init__(self, host: Host, memory: list[Memory], prefix: Prefix, bos: int) -> None:
        self.memory, self._prefix = memory, prefix
        self.hidden = torch.arange(prefix.length, device=host.device)[None, None] >= bos
        self.hiding = [hide(host, layer, self.hidden) for layer in range(host.n_layers)]

    def prefix(self, host: Host) -> Prefix:
        """The demonstrations: the query stands after them."""
        return self._prefix

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """In each layer: read q, measure and hide scores, put the split."""
        found: list[Hook] = []
        for layer, memory in enumerate(self.memory):
            seen: dict[str, Tensor] = {}
            found.append((host.query_key_hook(layer, "q"), partial(_keep, seen)))
            name, _ = self.hiding[layer]
            found.append((name, partial(_measure, seen, self.hidden, is_linear(host))))
            found.append(self.hiding[layer])
            found.append((host.z_hook(layer), partial(_split, seen, memory)))
        return found


def _keep(seen: dict[str, Tensor], activation: Tensor, hook: Any) -> None:
    seen["q"] = activation.float()


def _measure(
    seen: dict[str, Tensor], hidden: Tensor, linear: bool, scores: Tensor, hook: Any
) -> None:
    """The logarithm of Z_own; where the prefix is not there, nothing is to be added."""
    if not has_prefix(hidden.shape[-1], scores):
        seen.clear()
        return
    if linear:
        return
    own = scores.float().clone()
    own[..., : hidden.shape[-1]].masked_fill_(hidden[:, :, None], float("-inf"))
    seen["own"] = own.logsumexp(-1).transpose(1, 2)


def _split(seen: dict[str, Tensor], memory: Memory, activation: Tensor, hook: Any) -> Tensor:
    if not seen:
        return activation
    scores = memory.scores(seen.pop("q"))
    z, own = activation.float(), seen.pop("own", None)
    if own is None:
        return (z + torch.einsum("...ht,thd->...hd", scores, memory.values)).to(activation.dtype)
    mixed = torch.einsum("...ht,thd->...hd", scores.softmax(-1), memory.values)
    gate = (scores.logsumexp(-1) - own).sigmoid()[..., None]
    return (gate * mixed + (1 - gate) * z).to(activation.dtype)
