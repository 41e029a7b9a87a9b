r"""LCGD that learns from a demonstration as much as the prompt attends to it, head by head.

In the prompt, head (l, h) reads demonstration i with a share of its attention. LCGD learns from all
demonstrations alike. Here the gradient of (l, h) from demonstration i is multiplied by w_lhi^γ:

    m_lhi = attention of head (l, h), at the prompt's last token, to the tokens of demonstration i
    w_lhi = m_lhi / mean_i m_lhi

A key/value head that several query heads share takes the mean of their m; weights without heads
take the mean over a layer's heads. BOS and separators take no part. A head with more than 95 % of
its attention outside the demonstrations (on the BOS token, as a rule) has w = 1 and is counted.

Limits: γ = 0 is LCGD to the bit. Where attention is uniform over tokens and demonstrations are
equally long, every γ is LCGD. It stays layer-causal: attention of layer l needs blocks < l alone.

The weights are in-context learning's own: the prompt of the demonstrations is read once, though no
query. What it gains over LCGD may come from that pass.

Two weightings that know nothing of the prompt's attention tell whether it matters *which*
demonstration is weighted: "recency", w = exp(-(K - i) / τ), and "permuted", the prompt's own w
moved to other demonstrations.

Source: this package. That attention to a demonstration is the size of its update is the reading of
Dai et al. 2023, section 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.errors import EpisodeError
from iclgd_lens.host import Hook, Host, as_host, frozen, layer_of
from iclgd_lens.hypotheses.common import shown_of, training_order
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.training.sgd import Learn, train

NAME = "lcgd_attention"
WEIGHTED_BY = ("attention", "recency", "permuted")
SINK = 0.95


@hypothesis(
    NAME,
    description="LCGD, each head learning from a demonstration as much as the prompt attends to it",
    source="Dai et al. 2023, section 3, read as a learning rate",
    only_with={
        "tau": {"weighted_by": "recency", "gamma": other_than(0)},
        "seed": {"weighted_by": "permuted", "gamma": other_than(0)},
        "weighted_by": {"gamma": other_than(0)},
    },
)
def lcgd_attention(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    gamma: float = 1.0,
    weighted_by: str = "attention",
    tau: float = 4.0,
    seed: int = 0,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of LCGD with gradients weighted by the prompt's own attention.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        gamma: Power of the weights; 0 is LCGD.
        weighted_by: "attention", or the comparisons "recency" and "permuted".
        tau: For "recency": how many demonstrations back the weight falls to 1/e.
        seed: For "permuted": seed of the permutation.
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences per step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        EpisodeError: The prompt is longer than the model reads.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "gamma", gamma, 0, 8)
    one_of(NAME, "weighted_by", weighted_by, WEIGHTED_BY)
    between(NAME, "tau", tau, 0, above=True)
    if weighted_by == "recency":
        mass = recency(host, len(shown), tau)
    else:
        mass = prompt_attention(host, shown)
    if weighted_by == "permuted":
        moved = np.random.default_rng(seed).permutation(len(shown))
        mass = mass[..., torch.from_numpy(moved).to(host.device)]
    rule = _Rule(host, mass, gamma, training_order(shown))
    delta = train(
        rule,
        NAME,
        host,
        shown,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        loss_on=loss_on,
        weights=weights,
        layers=layers,
    )
    delta.metadata |= {"gamma": gamma, "weighted_by": weighted_by, "sink_heads": rule.sinks}
    if weighted_by != "attention":
        delta.metadata |= {"tau": tau} if weighted_by == "recency" else {"seed": seed}
    return delta


def recency(host: Host, count: int, tau: float) -> Float[Tensor, "layer head demonstration"]:
    """Attention that falls by e every `tau` demonstrations back from the last, for every head."""
    mass = torch.exp((torch.arange(1, count + 1) - count) / tau).to(host.device)
    return (mass / mass.sum()).expand(host.n_layers, host.n_heads, -1)


def weights_of(
    mass: Float[Tensor, "layer head demonstration"],
) -> tuple[Float[Tensor, "layer head demonstration"], int]:
    """Weights of mean 1 over demonstrations, and the number of heads that read none of them."""
    total = mass.sum(-1, keepdim=True)
    reads = total > 1 - SINK
    return torch.where(reads, mass / total * mass.shape[-1], 1.0), int((~reads).sum())


def prompt_attention(
    host: Host, shown: Demonstrations
) -> Float[Tensor, "layer head demonstration"]:
    """Attention of the prompt's last token to each demonstration's tokens, by one pass.

    Raises:
        EpisodeError: The prompt is longer than the model reads.
    """
    prompt = shown.prompt()
    if len(prompt) > host.n_ctx:
        raise EpisodeError(
            f"The demonstrations are {len(prompt)} tokens, but {host.name} reads {host.n_ctx}; "
            "nothing is truncated."
        )
    shown.check_vocabulary(host)
    owner = torch.repeat_interleave(
        torch.arange(len(shown)), torch.tensor([len(example.tokens) for example in shown.examples])
    ).to(host.device)
    positions = host.tensor(shown.prompt_positions())[0]
    found: dict[int, Tensor] = {}

    def keep(layer: int, pattern: Tensor, hook: Any) -> None:
        last = pattern[0, :, -1].float()[:, positions]
        mass = torch.zeros(len(last), len(shown), device=last.device)
        found[layer] = mass.index_add_(1, owner, last)

    hooks: list[Hook] = [
        (f"blocks.{layer}.attn.hook_pattern", partial(keep, layer))
        for layer in range(host.n_layers)
    ]
    with frozen(host.model), torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor(prompt))
    return torch.stack([found[layer] for layer in range(host.n_layers)])


class _Rule:
    """LCGD's step with gradients multiplied by the weights of the sequence's own demonstration."""

    def __init__(
        self,
        host: Host,
        mass: Float[Tensor, "layer head demonstration"],
        gamma: float,
        order: list[int],
    ) -> None:
        self.order, self.step = order, 0
        groups = host.n_heads // host.n_key_value_heads
        own, self.sinks = weights_of(mass)
        shared, _ = weights_of(mass.unflatten(1, (host.n_key_value_heads, groups)).mean(2))
        self.weight, self.shared = own**gamma, shared**gamma

    def __call__(
        self, host: Host, delta: Mapping[str, Tensor], sequence: TrainingSequence, learn: Learn
    ) -> Tensor:
        """See `sgd.UpdateRule`."""
        place = self.order[self.step % len(self.order)]
        self.step += 1
        return layer_step(host, delta, sequence, partial(self._weighted, learn, place))

    def _weighted(self, learn: Learn, place: int, name: str, gradient: Tensor) -> None:
        layer, kind = layer_of(name), name.rsplit(".", 1)[1]
        if ".attn." not in name or kind == "b_O":
            learn(name, gradient * self.weight[layer, :, place].mean())
            return
        by_head = self.shared if kind[-1] in "KV" else self.weight
        factor = by_head[layer, :, place]
        learn(name, gradient * factor.view(-1, *[1] * (gradient.ndim - 1)))
