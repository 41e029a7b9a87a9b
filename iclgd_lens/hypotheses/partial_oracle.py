r"""Partial oracle: some heads see the demonstrations, the others do not.

The query stands after the demonstrations, as in in-context learning, and their keys and values are
visible to a set S of heads alone; in all other heads the demonstrations' scores are -∞. Nothing
else is touched, so later layers see what the heads of S have done. With S the induction heads this
is the hypothesis that in-context learning is copying; with S the function-vector heads, that a few
heads carry the task; with S one head, it is that head's part.

    heads = "all"              the oracle, to the bit
    heads = "none"             no head sees a demonstration: ZS, at in-context learning's positions
    heads = "induction"        the `top` heads by attention to what followed a token before
    heads = "function_vector"  the `top` heads by indirect effect on left-out demonstrations
    heads = "3.0,7.2"          heads by layer and number; in Python also [(3, 0), (7, 2)]

Limits: "all" is the oracle to the bit. "none" is ZS exactly where positions cannot be told apart:
without BOS on rotary models, without position embeddings on others. Else the query's distance to
BOS, or its absolute position, is that of in-context learning: what in-context learning owes
to position alone.

A check and not an explanation: what the heads of S see is the demonstrations in context themselves.

Source: this package. Induction heads: Olsson et al. 2022; function-vector heads: Todd et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from iclgd_lens.contexts import shown_of
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError, nearest
from iclgd_lens.heads import Head, indirect_effects, induction_scores
from iclgd_lens.host import Hook, Host, Prefix, as_host, frozen
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import UNCOUNTED, Batch, Injection, Intervention, hide

NAME = "partial_oracle"
SETS = ("all", "none", "induction", "function_vector")


@hypothesis(
    NAME,
    description="the demonstrations' keys and values, visible to some heads alone",
    kind="check",
    source="this package; Olsson et al. 2022; Todd et al. 2024",
    only_with={
        "top": {"heads": ("induction", "function_vector")},
        "seed": {"heads": ("induction", "function_vector")},
    },
)
def partial_oracle(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    heads: str | Iterable[tuple[int, int]] = "function_vector",
    top: int = 10,
    seed: int = 0,
) -> Intervention:
    """Return the intervention that shows the demonstrations to some heads.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        heads: Which heads: "all", "none", "induction", "function_vector", "LAYER.HEAD,...", or
            pairs of layer and head.
        top: How many heads of the two kinds that are found.
        seed: Of the search for them.

    Raises:
        HypothesisError: A head does not exist, or there is no demonstration.
        HookError: The model's scores cannot be changed.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "top", top, 1)
    if not len(shown):
        raise HypothesisError(f"{NAME} needs at least 1 demonstration.")
    seeing = _heads(host, shown, heads, top, seed)
    with frozen(host.model), torch.no_grad():
        prefix = host.prefix(host.tensor(shown.prompt()))
    if bool(seeing.all()):
        return Injection(prefix)
    return PartialInjection(host, prefix, seeing, int(shown.bos is not None))


class PartialInjection(Intervention):
    """A prefix whose tokens after the first `bos` only some heads see.

    Args:
        host: The model.
        prefix: Its keys and values.
        seeing: Which heads see them.
        bos: Tokens of the prefix that all heads see.

    Raises:
        HookError: The model's scores cannot be changed.
    """

    def __init__(
        self, host: Host, prefix: Prefix, seeing: Bool[Tensor, "layer head"], bos: int
    ) -> None:
        self.seeing, self._prefix = seeing, prefix
        later = torch.arange(prefix.length, device=host.device) >= bos
        self.hidden = [~own[None, :, None] & later for own in seeing.to(host.device)]
        self.hooks(host)  # a model that cannot be served is refused at once

    def prefix(self, host: Host) -> Prefix:
        """The demonstrations' keys and values."""
        return self._prefix

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """One hook for each layer with a head that does not see them."""
        return [
            hide(host, layer, hidden)
            for layer, hidden in enumerate(self.hidden)
            if bool(hidden.any())
        ]


def _heads(
    host: Host, shown: Demonstrations, heads: str | Iterable[Head], top: int, seed: int
) -> Bool[Tensor, "layer head"]:
    seeing = torch.zeros(host.n_layers, host.n_heads, dtype=torch.bool)
    if heads == "all":
        return ~seeing
    for layer, head in _named(host, shown, heads, top, seed):
        if not (0 <= layer < host.n_layers and 0 <= head < host.n_heads):
            raise HypothesisError(
                f"{NAME}: {host.name} has layers 0 to {host.n_layers - 1} of heads 0 to "
                f"{host.n_heads - 1}, not {layer}.{head}."
            )
        seeing[layer, head] = True
    return seeing


def _named(
    host: Host, shown: Demonstrations, heads: str | Iterable[Head], top: int, seed: int
) -> list[Head]:
    if not isinstance(heads, str):
        return [(int(layer), int(head)) for layer, head in heads]
    if heads == "none":
        return []
    if heads == "induction":
        return induction_scores(host, bos=shown.bos, seed=seed).top(top)
    if heads == "function_vector":
        return indirect_effects(host, shown, seed=seed).top(top)
    parts = [part.strip().split(".") for part in heads.split(",")]
    if any(len(part) != 2 or not all(word.isdigit() for word in part) for part in parts):
        raise HypothesisError(
            f"{NAME}: heads is {heads!r}; allowed: {', '.join(SETS)}, or heads as '3.0,7.2'."
            + nearest(heads, SETS)
        )
    return [(int(layer), int(head)) for layer, head in parts]
