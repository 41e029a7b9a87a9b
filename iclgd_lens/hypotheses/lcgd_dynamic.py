r"""LCGD whose layers do not learn alone: how far a loss reaches back, in what order, and how fast.

Four questions about the layers of LCGD, each with a setting that is off at its neutral value.

**Horizon m.** Layer l follows the gradient of the loss read after layer min(l + m, L - 1):
Δ_l ← Δ_l - η ∂loss_min(l+m, L-1) / ∂Δ_l. At m = 0 this is LCGD and at m = L - 1 it is GD, both to
the bit: a dose of what breaks layer causality, with both ends known.

**Sequential.** Layer l is updated, block l runs again with the new Δ_l, and only then does block
l + 1 read it, as later layers do in a prompt. Still layer-causal.

**Rates.** constant: η. norm: η trust |W_h| / |g_h| per head (LARS; biases keep η). rms:
g / (sqrt(running mean of g²) + 1e-8). hyper: η_(t+1) = η_t (1 + β cos(g_t, g_(t-1))) per layer; β =
0 is constant. surprise: η (1 - p_i), where p_i is the probability that the loss's layer gives the
demonstration's label word: learning driven by error.

**Feedback ρ.** At the label, the target is (1 - ρ) onehot(y) + ρ p_L, where p_L is what the last
layer predicted at the label of the demonstration before. This breaks layer causality by design.

In one line, with all but m at their neutral values:

    Δ_l <- Δ_l - η ∂loss_min(l+m, L-1) / ∂Δ_l

Limits: m = 0, rates "constant" (or β = 0), feedback 0 and one block after the other is LCGD, and
m = L - 1 is GD, to the bit.

Source: Deutch et al. 2024 for both ends of the horizon; You et al. 2017 (LARS); Tieleman and
Hinton 2012 (RMSProp); Baydin et al. 2018 (rates from gradients that agree).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host, as_host, layer_of
from iclgd_lens.host.hooks import run_twice
from iclgd_lens.hypotheses.horizon import horizon_step
from iclgd_lens.hypotheses.lcgd import layer_step, lens_loss
from iclgd_lens.hypotheses.learning_rates import RATES, transform_of
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.training.sgd import Learn, train

NAME = "lcgd_dynamic"


@hypothesis(
    NAME,
    description="LCGD with a horizon (0 is LCGD, layers - 1 is GD), order, rates and feedback",
    rows=partial(horizon_step, horizon=1),
    row_settings=("horizon",),
    source="Deutch et al. 2024, between LCGD and GD",
    only_with={
        "trust": {"rates": "norm"},
        "beta": {"rates": "hyper"},
    },
)
def lcgd_dynamic(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    horizon: int = 1,
    sequential: bool = False,
    rates: str = "constant",
    trust: float = 1e-3,
    beta: float = 0.1,
    feedback: float = 0.0,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of LCGD with a horizon, an order, rates and feedback.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        horizon: Blocks through which a loss is carried back: 0 is LCGD, layers - 1 (or more) GD.
        sequential: Whether a block runs again, changed, before the next one reads it; needs
            horizon 0 and batch_size 1.
        rates: "constant", "norm", "rms", "hyper" or "surprise".
        trust: For rates "norm": the step's length relative to the weights, at a rate of 1.
        beta: For rates "hyper": how much a step's agreement with the one before changes the rate.
        feedback: Share of the last layer's prediction of the demonstration before in the target.
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences per step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    host = as_host(model)
    between(NAME, "horizon", horizon, 0)
    one_of(NAME, "rates", rates, RATES)
    between(NAME, "trust", trust, 0, above=True)
    between(NAME, "feedback", feedback, 0, 1)
    between(NAME, "beta", beta, -1, 1)
    if sequential and not (horizon == 0 and batch_size == 1):
        raise HypothesisError(f"{NAME}: sequential needs horizon=0 and batch_size=1.")
    rule = _Rule(host.n_layers, horizon, sequential, rates == "surprise", feedback)
    # As GD runs: its back-propagation keeps every weight in any case.
    whole = host.laid_out() if rule.horizon == rule.last else contextlib.nullcontext()
    with whole:
        delta = train(
            rule,
            NAME,
            host,
            demonstrations,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            loss_on=loss_on,
            weights=weights,
            layers=layers,
            transform=transform_of(host, rates, trust, beta),
        )
    delta.metadata |= {
        "horizon": horizon,
        "sequential": sequential,
        "rates": rates,
        "trust": trust,
        "beta": beta,
        "feedback": feedback,
    }
    return delta


class _Rule:
    """One sequence's step; it remembers what the last layer predicted for the sequence before."""

    def __init__(
        self, n_layers: int, horizon: int, sequential: bool, surprise: bool, feedback: float
    ) -> None:
        self.last = n_layers - 1
        self.horizon = min(horizon, self.last)
        self.sequential, self.surprise, self.feedback = sequential, surprise, feedback
        self.errors: dict[int, Tensor] = {}
        self.predicted: Tensor | None = None
        self.predicting: Tensor | None = None

    def __call__(
        self, host: Host, delta: Mapping[str, Tensor], sequence: TrainingSequence, learn: Learn
    ) -> Tensor:
        """See `sgd.UpdateRule`."""
        if self.feedback and not any(name.startswith(f"blocks.{self.last}.") for name in delta):
            raise HypothesisError(f"{NAME}: feedback needs the last layer ({self.last}) in layers.")
        self.predicted, self.predicting = self.predicting, None
        plain = not self.surprise and not self.feedback
        loss = lens_loss if plain else self._loss
        follow = partial(self._surprised, learn) if self.surprise else learn
        if self.horizon == 0 and self.sequential:
            learning = {layer_of(name) for name in delta}
            with run_twice(host, sorted(learning)):
                return layer_step(host, delta, sequence, follow, loss, rows=0)
        if self.horizon == 0:
            return layer_step(host, delta, sequence, follow, loss)
        return horizon_step(host, delta, sequence, follow, self.horizon, loss)

    def _surprised(self, learn: Learn, name: str, gradient: Tensor) -> None:
        read = min(layer_of(name) + self.horizon, self.last)
        learn(name, gradient * self.errors[read])

    def _loss(
        self,
        host: Host,
        layers: Sequence[int],
        residual: Float[Tensor, "layer pos d_model"],
        sequence: TrainingSequence,
    ) -> Tensor:
        loss = sequence_loss(host, residual, sequence)
        label = range(sequence.label_start, len(sequence.tokens))
        if self.surprise:
            only = TrainingSequence(sequence.tokens, tuple(label), sequence.label_start)
            with torch.no_grad():
                for layer, own in zip(layers, residual.detach().split(1), strict=True):
                    likelihood = sequence_loss(host, own, only).neg().div(len(label)).exp()
                    self.errors[layer] = 1 - likelihood
        if self.feedback:
            before = slice(sequence.label_start - 1, sequence.label_start)
            logits = host.logits(residual[:, before]).float()[:, 0]
            if self.predicted is not None:
                # -sum_v t_v log q_v is linear in the target t: only the logits differ.
                wanted = logits[:, sequence.tokens[sequence.label_start]]
                loss = loss + self.feedback * (wanted - logits @ self.predicted).sum()
            if self.last in layers:
                own = logits[list(layers).index(self.last)]
                self.predicting = own.detach().softmax(-1)
        return loss
