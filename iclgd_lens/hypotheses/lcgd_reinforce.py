r"""LCGD by reward: policy gradients on label words, which learn most from what is nearly right.

At each layer's logit lens the policy p is the softmax of the label words' scores (a word of several
tokens counts by its mean log-probability, as accuracy does), and the reward is 1 where the right
word is chosen. Every estimator is cross-entropy over label words with a weight w that is held
constant: loss_i = -w_i log p_(y_i).

    exact    w = p^ν. At ν = 1 the gradient is that of the expected reward, p_y ∇ log p_y = ∇ p_y;
             ν = 0 is cross-entropy over label words, which learns most from surprise
    group    w = sqrt(p / (1 - p)), the expectation of GRPO's normalised advantage; p is held
             within [1e-3, 1 - 1e-3]
    sample   S words drawn from p, each reward minus the mean of the others' (Williams 1992);
             unbiased, within 1 / sqrt(S) of exact

An entropy bonus τ adds -τ H(p) to the loss. With `policy="vocabulary"` p is over all words, so that
ν = 0 is LCGD on the label, to the bit. With `causal=False` the reward is that of the model's own
prediction, back-propagated through all layers: GD by reward.

Limits: policy "vocabulary" with ν = 0 is LCGD on the label to the bit; "sample" tends to "exact" as
1 / sqrt(S).

Source: Williams 1992 (REINFORCE); Shao et al. 2024 (GRPO). That the expectation is a weighted
cross-entropy is derived; tests check it by autograd and by sampling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, Tokens, TrainingSequence
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.common import label_words, shown_of, training_order
from iclgd_lens.hypotheses.horizon import horizon_step
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.tokens import continued
from iclgd_lens.training.sgd import Learn, train

NAME = "lcgd_reinforce"
ESTIMATORS = ("exact", "group", "sample")
_CLIP = 1e-3


@hypothesis(
    NAME,
    description="LCGD by reward: policy gradients on label words, exact, group or sampled",
    source="REINFORCE (Williams 1992) and GRPO (Shao et al. 2024), layer-causal",
    only_with={
        "weight_power": {"estimator": "exact"},
        "samples": {"estimator": "sample"},
        "seed": {"estimator": "sample"},
        "entropy": {"policy": "labels"},
    },
)
def lcgd_reinforce(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    estimator: str = "exact",
    weight_power: float = 1.0,
    samples: int = 8,
    entropy: float = 0.0,
    policy: str = "labels",
    causal: bool = True,
    seed: int = 0,
    lr: float | None = None,
    epochs: int = 1,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of layer-causal policy gradients on the demonstrations' labels.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        estimator: "exact", "group" or "sample".
        weight_power: For "exact": the power of p that a demonstration is weighted by.
        samples: For "sample": words drawn for each layer and demonstration.
        entropy: Weight of the policy's entropy, which the loss rewards.
        policy: "labels": over the label words. "vocabulary": over all words.
        causal: Whether each layer's own prediction is rewarded, not the model's.
        seed: For "sample": seed of the draws.
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations, one per step.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    one_of(NAME, "estimator", estimator, ESTIMATORS)
    one_of(NAME, "policy", policy, ("labels", "vocabulary"))
    between(NAME, "weight_power", weight_power, 0)
    between(NAME, "samples", samples, 1)
    between(NAME, "entropy", entropy, 0)
    whole = policy == "vocabulary"
    if whole and estimator == "sample":
        raise HypothesisError(f'{NAME}: policy "vocabulary" needs estimator "exact" or "group".')
    words, gold = label_words(demonstrations)
    weigh = _Weight(estimator, weight_power, samples, seed)
    loss = _Loss(() if whole else words, weigh, entropy)
    rule = partial(_step, loss, [gold[place] for place in training_order(shown)], causal)
    delta = train(
        rule,
        NAME,
        host,
        shown,
        lr=lr,
        epochs=epochs,
        loss_on="label",
        weights=weights,
        layers=layers,
    )
    delta.metadata |= {"estimator": estimator, "weight_power": weight_power, "causal": causal}
    delta.metadata |= {"entropy": entropy, "policy": policy}
    if estimator == "sample":
        delta.metadata |= {"samples": samples, "seed": seed}
    return delta


class _Weight:
    """What the log-probability of each label word is multiplied by, held constant."""

    def __init__(self, estimator: str, power: float, samples: int, seed: int) -> None:
        self.estimator, self.power, self.samples = estimator, power, samples
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, p: Float[Tensor, "layer label"], gold: int) -> Float[Tensor, "layer label"]:
        """One weight per layer and word; except in sampling, only the right word's is not 0."""
        if self.estimator == "sample":
            return self._sampled(p, gold)
        weight = torch.zeros_like(p)
        weight[:, gold] = self.of_right(p[:, gold])
        return weight

    def of_right(self, p: Float[Tensor, " layer"]) -> Float[Tensor, " layer"]:
        """The right word's weight, from its probability."""
        if self.estimator == "group":
            p = p.clamp(_CLIP, 1 - _CLIP)
            return (p / (1 - p)).sqrt()
        return p**self.power

    def _sampled(self, p: Float[Tensor, "layer label"], gold: int) -> Float[Tensor, "layer label"]:
        # Drawn on the CPU, so that a seed means the same everywhere.
        drawn = torch.multinomial(
            p.detach().cpu(), self.samples, replacement=True, generator=self.generator
        ).to(p.device)
        reward = (drawn == gold).float()
        if self.samples > 1:
            others = (reward.sum(-1, keepdim=True) - reward) / (self.samples - 1)
            reward = reward - others
        return torch.zeros_like(p).scatter_add_(-1, drawn, reward / self.samples)


class _Loss:
    """A `lcgd.LayerLoss` of the sequence whose right word is `gold`; no words: all of them."""

    def __init__(self, words: tuple[Tokens, ...], weigh: _Weight, entropy: float) -> None:
        self.words, self.weigh, self.entropy = words, weigh, entropy
        self.gold = self.step = 0

    def __call__(
        self,
        host: Host,
        layers: Sequence[int],
        residual: Float[Tensor, "row pos d_model"],
        sequence: TrainingSequence,
    ) -> Tensor:
        """See `lcgd.LayerLoss`; where words have several tokens, each layer has a row per word."""
        # The loop divides by the label's tokens: the loss here is one per word, not one per token.
        count = len(sequence.targets)
        if not self.words:
            return self._over_vocabulary(host, residual, sequence)
        scores = word_scores(host, residual, sequence.label_start, self.words)
        log_p = scores.log_softmax(-1)
        p = log_p.detach().exp()
        loss = -(self.weigh(p, self.gold) * log_p).sum()
        if self.entropy:
            loss = loss + self.entropy * (log_p.exp() * log_p).sum()
        return count * loss

    def _over_vocabulary(
        self, host: Host, residual: Float[Tensor, "row pos d_model"], sequence: TrainingSequence
    ) -> Tensor:
        count = len(sequence.targets)
        if self.weigh.estimator == "exact" and self.weigh.power == 0:
            return sequence_loss(host, residual, sequence)
        losses = torch.stack([sequence_loss(host, own, sequence) for own in residual.split(1)])
        p = losses.detach().div(count).neg().exp()
        return (self.weigh.of_right(p) * losses).sum()


def word_scores(
    host: Host,
    residual: Float[Tensor, "row pos d_model"],
    start: int,
    words: Sequence[Tokens],
) -> Float[Tensor, "layer label"]:
    """Mean log-probability of each word's tokens, at each layer's logit lens.

    Args:
        host: The model.
        residual: What leaves a block: one row per layer where every word is one token, else one per
            layer and word.
        start: Position of a word's first token.
        words: The label words.
    """
    if all(len(word) == 1 for word in words):
        # The softmax over words cancels what the vocabulary's normaliser subtracts.
        tokens = host.tensor([word[0] for word in words])[0]
        return host.logits(residual[:, start - 1 : start]).float()[:, 0, tokens]
    by_word = residual.unflatten(0, (-1, len(words)))
    scores: list[Tensor] = []
    for index, word in enumerate(words):
        span = by_word[:, index, start - 1 : start - 1 + len(word)]
        log_p = host.logits(span).float().log_softmax(-1)
        wanted = host.tensor(word)[0].expand(len(span), -1)
        scores.append(log_p.gather(-1, wanted[..., None])[..., 0].mean(-1))
    return torch.stack(scores, dim=-1)


@dataclass(frozen=True)
class _Alternatives(TrainingSequence):
    """A sequence that is read once for each label word, in the place of its own."""

    words: tuple[Tokens, ...] = ()

    def rows(self, host: Host) -> Int[Tensor, "word pos"]:
        """One row per word, the shorter ones continued at their end, which nothing before sees."""
        before = self.tokens[: self.label_start]
        return host.tensor(continued([(*before, *word) for word in self.words]))


def _step(
    loss: _Loss,
    gold: Sequence[int],
    causal: bool,
    host: Host,
    delta: Mapping[str, Tensor],
    sequence: TrainingSequence,
    learn: Learn,
) -> Tensor:
    loss.gold = gold[loss.step % len(gold)]
    loss.step += 1
    if any(len(word) > 1 for word in loss.words):
        sequence = _Alternatives(
            sequence.tokens, sequence.targets, sequence.label_start, words=loss.words
        )
    if causal:
        return layer_step(host, delta, sequence, learn, loss)
    return horizon_step(host, delta, sequence, learn, host.n_layers - 1, loss)
