r"""Attention kernel: a query takes the labels of the demonstrations that a head attends to.

    p(c | q) = Σ_{i: y_i = c} w_i / Σ_i w_i,    w_i = attention of one head to demonstration i

from the readout token, to the demonstration's tokens and the separator after it, in in-context
learning's own pass of the query. `head` is the head whose p is best on left-out demonstrations
("best"), the mean over all heads ("mean"), or a head by layer and number ("3.0"). The model reads
the query alone, and its label words get the probabilities p (a share `floor` of them divided
equally); see `label_direction`.

Limits: attention that is uniform over demonstrations gives their label frequencies; `strength=0`
changes nothing, to the bit.

A reconstruction, hence fitted: it asks in-context learning itself, query by query, which
demonstrations it looks at. What it can show is that labels are read off by one head's attention;
never that in-context learning is kernel regression.

Source: Han et al. 2023, section 5.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import Contexts, spans
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Hook, Host, frozen
from iclgd_lens.hypotheses.label_direction import LabelPredictor, towards, votes
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import Batch, Intervention

NAME = "attention_kernel"


@hypothesis(
    NAME,
    description="a query takes the labels of demonstrations that a head attends to in context",
    kind="fitted",
    source="Han et al. 2023, section 5",
    version="2",
    only_with={
        "loo": {"head": "best"},
    },
)
def attention_kernel(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    head: str = "best",
    loo: str = "exact",
    floor: float = 1e-3,
    strength: float = 1.0,
) -> Intervention:
    """Return the intervention that gives label words the shares of a head's attention.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        head: "best" on left-out demonstrations, "mean" of all, or "LAYER.HEAD".
        loo: Contexts of left-out demonstrations: "exact", "masked" or "causal".
        floor: Share of the probability that is given to all label words equally.
        strength: How far the model's own label scores move there; 0 is not at all.

    Raises:
        HypothesisError: A setting is not allowed, or there are too few demonstrations.
    """
    between(NAME, "floor", floor, 0, 1, above=True)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    if not len(contexts.shown):
        raise HypothesisError(f"{NAME} needs at least 1 demonstration.")
    weight = torch.zeros(host.n_layers, host.n_heads, device=host.device)
    if head == "mean":
        weight += 1 / weight.numel()
    elif head == "best":
        losses = _losses(contexts, loo, floor).nan_to_num(nan=math.inf)  # argmin would take a NaN
        weight.view(-1)[int(losses.argmin())] = 1
    else:
        weight[_named(host, head)] = 1
    return _AttentionKernel(contexts, weight, floor, strength)


def _named(host: Host, head: str) -> tuple[int, int]:
    layer, _, number = head.partition(".")
    if not (layer.isdigit() and number.isdigit()):
        raise HypothesisError(f"{NAME}: head is {head!r}; allowed: best, mean, or as '3.0'.")
    if int(layer) >= host.n_layers or int(number) >= host.n_heads:
        raise HypothesisError(
            f"{NAME}: {host.name} has layers 0 to {host.n_layers - 1} of heads 0 to "
            f"{host.n_heads - 1}, not {head}."
        )
    return int(layer), int(number)


def _losses(contexts: Contexts, loo: str, floor: float) -> Float[Tensor, " head"]:
    """Negative log-likelihood of left-out demonstrations' labels, by each head of each layer."""
    seen = contexts.after_others(loo=loo, attention=True, labels=False)
    assert seen.attention is not None
    total = torch.zeros(seen.attention[0, :, :, 0].numel(), device=seen.attention.device)
    for row, place in zip(seen.attention, seen.places, strict=True):
        shares = votes(row.flatten(0, 1), contexts.gold, len(contexts.words))
        own = contexts.gold[place]
        total -= towards(shares, torch.zeros_like(shares), floor, 1.0)[:, own]
    return total


class _AttentionKernel(LabelPredictor):
    def __init__(
        self,
        contexts: Contexts,
        weight: Float[Tensor, "layer head"],
        floor: float,
        strength: float,
    ) -> None:
        super().__init__(contexts.host, contexts.shown, contexts.words, [])
        self.prompt, self.weight, self.gold = contexts.prompt(), weight, contexts.gold
        self.floor, self.strength = floor, strength

    def before(self, host: Host, batch: Batch) -> Tensor | None:
        """Attention to each demonstration in in-context learning's own pass; None if unknown."""
        if batch.tokens is None:
            return None
        head = int(self.shown.bos is not None)
        tokens, places = batch.tokens[:, head:], batch.readout
        own = Batch(readout=None if places is None else places - head)
        total = torch.zeros(len(tokens), len(self.shown), device=tokens.device)

        def add(layer: int, pattern: Tensor, hook: Any) -> None:
            weights = own.at_readout(pattern.transpose(1, 2)).float()
            for place, (start, end) in enumerate(spans(self.shown)):
                total[:, place] += weights[..., start:end].sum(-1) @ self.weight[layer]

        hooks: list[Hook] = [
            (f"blocks.{layer}.attn.hook_pattern", partial(add, layer))
            for layer in self.weight.any(-1).nonzero()[:, 0].tolist()
        ]
        with frozen(host.model), torch.no_grad(), host.hooked(hooks):
            host.run(tokens, self.prompt.expand(len(tokens)))
        return total

    def shift(self, scores: Tensor, features: dict[str, Tensor], before: Tensor | None) -> Tensor:
        """Towards the shares of attention."""
        if before is None:
            raise HypothesisError(
                f"{NAME} needs the rows' tokens beforehand; readouts and compare() give them."
            )
        shares = votes(before, self.gold, len(self.words))
        return towards(shares, scores, self.floor, self.strength)
