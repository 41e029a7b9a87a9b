"""Finds heads by what they do: induction heads, and function-vector heads.

    scores = indirect_effects(model, episode)
    scores.top(10)                                 # [(layer, head), ...], the largest first

*Induction*: on random tokens that come twice, how much of a token's attention goes to the token
after its first occurrence (Olsson et al. 2022).

*Indirect effect*: in a prompt whose labels were shuffled, how much likelier the right label becomes
when one head's output at the predicting token is replaced by its mean over proper prompts (Todd et
al. 2024). Prompts are those of left-out demonstrations, so no query is read. Heads with a large
effect carry the task; they are not the induction heads, as a rule (Yin and Steinhardt 2025).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import Contexts, shown_of
from iclgd_lens.cost import remembered
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import LensError
from iclgd_lens.host import Hook, Host, Prefix, as_host, frozen
from iclgd_lens.readout.patched_heads import (
    PATCHED_TOKENS_AT_ONCE,
    Patches,
    last_token,
    patched,
    single_heads,
)

Head = tuple[int, int]
"""Layer and head."""


@dataclass(frozen=True, eq=False)
class HeadScores:
    """One number per head.

    Attributes:
        name: What was measured.
        values: The numbers.

    Examples:
        >>> HeadScores("example", torch.tensor([[0.1, 0.9], [0.5, 0.2]])).top(2)
        [(0, 1), (1, 0)]
    """

    name: str
    values: Float[Tensor, "layer head"]

    def top(self, k: int = 10) -> list[Head]:
        """The `k` heads of the largest values, largest first; of equals, the earlier one first.

        Values that are undefined (NaN) come last.
        """
        values = self.values.flatten()
        order = values.argsort(descending=True, stable=True)  # NaN first
        undefined = int(values.isnan().sum())
        order = torch.cat([order[undefined:], order[:undefined]])[:k].tolist()
        return [divmod(index, self.values.shape[1]) for index in order]


def induction_scores(
    model: Any,
    *,
    length: int = 50,
    sequences: int = 4,
    tokens: Sequence[int] | None = None,
    bos: int | None = None,
    seed: int = 0,
) -> HeadScores:
    """Each head's attention from a repeated token to the one after its first occurrence.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        length: Random tokens before they are repeated; fewer where the context is short.
        sequences: How many such sequences.
        tokens: Token ids to draw from; None for the whole vocabulary.
        bos: Token at the start of each sequence; None for none.
        seed: Of the tokens.

    Raises:
        LensError: `length` is below 2 or `sequences` below 1, or the context is too short.
    """
    host = as_host(model)
    if length < 2 or sequences < 1:
        raise LensError(
            f"length is {length} and sequences is {sequences}; at least 2 and 1: what is looked "
            "for is the token after a repeated one."
        )
    head = () if bos is None else (bos,)
    length = min(length, (host.n_ctx - len(head)) // 2)
    if length < 2:
        raise LensError(f"{host.name} reads {host.n_ctx} tokens: too few to repeat two of them.")
    known = np.arange(host.d_vocab) if tokens is None else np.asarray(list(tokens))
    drawn = np.random.default_rng(seed).choice(known, size=(sequences, length))
    rows = host.tensor([[*head, *row, *row] for row in drawn.tolist()])
    first = torch.arange(length - 1) + len(head)  # the last token of all is followed by a repeat
    values = torch.zeros(host.n_layers, host.n_heads, device=host.device)

    def keep(layer: int, pattern: Tensor, hook: Any) -> None:
        values[layer] = pattern[:, :, first + length, first + 1].float().mean((0, 2))

    hooks: list[Hook] = [
        (f"blocks.{layer}.attn.hook_pattern", partial(keep, layer))
        for layer in range(host.n_layers)
    ]
    with frozen(host.model), torch.no_grad(), host.hooked(hooks):
        host.run(rows, at=-1)
    return HeadScores("induction", values)


def indirect_effects(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    trials: int = 8,
    seed: int = 0,
) -> HeadScores:
    """How much each head's mean output raises the right label's probability, labels shuffled.

    The probability is that of the label word's first token. Costs, beside reading the prompts, one
    token per head and trial.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode; at least two.
        trials: Prompts with shuffled labels at most, one for each of the first demonstrations.
        seed: Of the shuffle.

    Raises:
        HypothesisError: Fewer than two demonstrations.
        LensError: `trials` is below 1.
    """
    if trials < 1:
        raise LensError(f"trials is {trials}; it must be at least 1.")
    host, shown = as_host(model), shown_of(demonstrations)
    key = ("effects", shown.examples, shown.bos, shown.separator, trials, seed)
    return remembered(host, key, lambda: _indirect_effects(host, shown, trials, seed))


def _indirect_effects(host: Host, shown: Demonstrations, trials: int, seed: int) -> HeadScores:
    # The label is predicted after the content, wherever the protocol reads.
    shown = dataclasses.replace(shown, protocol=shown.protocol.replace(readout="last_prompt_token"))
    points = [host.z_hook(layer) for layer in range(host.n_layers)]
    seen = Contexts(host, shown, "indirect_effects").after_others(points)
    means = torch.stack([seen.values[point].mean(0) for point in points])
    wrong = Contexts(host, _shuffled(shown, seed), "indirect_effects")
    total = torch.zeros(host.n_layers, host.n_heads, device=host.device)
    count = min(trials, len(shown))
    for place, prefix, _ in wrong.prefixes("exact"):
        if place == count:
            break
        example = shown.examples[place]
        total += _effects(host, prefix, example.content, example.label[0], means)
    return HeadScores("function_vector", total / count)


def _shuffled(shown: Demonstrations, seed: int) -> Demonstrations:
    """The same contents with labels exchanged among them."""
    order = np.random.default_rng(seed).permutation(len(shown))
    labels = [shown.examples[i] for i in order]
    if all(a.label == b.label for a, b in zip(labels, shown.examples, strict=True)):
        labels = [*labels[1:], labels[0]]
    examples = tuple(
        dataclasses.replace(own, label=other.label, gold=other.gold)
        for own, other in zip(shown.examples, labels, strict=True)
    )
    return dataclasses.replace(shown, examples=examples)


def _effects(
    host: Host, prefix: Prefix, content: Sequence[int], label: int, means: Tensor
) -> Float[Tensor, "layer head"]:
    """Change of the label's probability with each head's output replaced, in one prompt."""
    shape = (host.n_layers, host.n_heads)
    every = [divmod(index, host.n_heads) for index in range(host.n_layers * host.n_heads)]
    one = single_heads(every, shape, host.device)
    rows = torch.cat([torch.zeros_like(one[:1]), one])  # the first replaces none
    patches = Patches(rows, host.tensor([0] * len(rows))[0], means.view(1, *shape, -1))

    def probability(residual: Float[Tensor, "row d_model"]) -> Float[Tensor, " row"]:
        return host.logits(residual).float().softmax(-1)[:, label]

    with frozen(host.model), torch.no_grad():
        at = last_token(host, prefix, content)
        found = patched(host, at, patches, probability, PATCHED_TOKENS_AT_ONCE)
    return (found[1:] - found[0]).view(shape)
