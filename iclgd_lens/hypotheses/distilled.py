r"""Distilled: the change that demonstrations themselves show in-context learning to make.

Each demonstration is a query to the K - 1 others (leave-one-out), and the update is fitted so that,
alone, it leaves in every head what it leaves in context. It is fitted to in-context learning's own
passes, so its score is no evidence: it is what K demonstrations can teach an update of these
weights, a mark that explanations are read against.

    ridge   W_V alone, in closed form: with the pattern as it is, a head's output at the readout
            token moves by u ΔW_V, u = Σ_t A_t x_t; ridge regression of z(in context) - z on u,
            head by head (query heads that share a value head together), layer after layer, each
            on what the changed layers below it pass on
    sgd     all trained weights, by LCGD on (1 - μ) CE_l + μ |a_l - a_l*|² / |a_l*|², where a_l
            is the layer's attention output at the end of content i, alone, and a_l* the same
            after the other demonstrations

Limits: `fit="sgd"` with μ = 0 is LCGD to the bit; with μ = 1 it is layer-wise IA2. An infinite
ridge is no change.

Source: IA2 (Mishra et al. 2026), layer-wise, on the demonstrations alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.demonstrations import part
from iclgd_lens.episode import Demonstrations, Episode, Tokens, TrainingSequence
from iclgd_lens.errors import EpisodeError, HypothesisError
from iclgd_lens.host import Hook, Host, as_host, layer_of
from iclgd_lens.hypotheses.common import at_ends, label_words, shown_of, training_order
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.hypotheses.value_regression import fit_values
from iclgd_lens.training.sgd import Learn, train, trained_names

NAME = "distilled"


@hypothesis(
    NAME,
    description="fitted so that each demonstration, alone, does what it does after the others",
    kind="fitted",
    source="IA2 (Mishra et al. 2026), on leave-one-out demonstrations",
    chooses=("lr", "epochs", "loss_on"),  # none of which its closed form has
    only_with={
        "ridge": {"fit": "ridge"},
        **{
            name: {"fit": "sgd"}
            for name in ("mu", "lr", "epochs", "batch_size", "loss_on", "weights")
        },
    },
)
def distilled(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    fit: str = "ridge",
    ridge: float = 1e-2,
    mu: float = 1.0,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes fitted to leave-one-out in-context learning.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What is shown, at least two (unless mu is 0).
        fit: "ridge" (values alone, closed form) or "sgd".
        ridge: For "ridge": penalty relative to the inputs' mean square.
        mu: Of "sgd": weight of the attention outputs beside the language-model loss.
        lr: Of "sgd": learning rate, never searched for; None takes the task's published one.
        epochs: Of "sgd": passes over the demonstrations.
        batch_size: Of "sgd": sequences per step.
        loss_on: Of "sgd": "all" tokens or the "label" alone; None takes the protocol's.
        weights: Of "sgd": what is trained; None takes the protocol's.
        layers: Which layers are fitted; None for all.

    Raises:
        HypothesisError: A setting is not allowed, or there are too few demonstrations.
        EpisodeError: A prompt is longer than the model reads.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    one_of(NAME, "fit", fit, ("ridge", "sgd"))
    between(NAME, "ridge", ridge, 0)
    between(NAME, "mu", mu, 0, 1)
    by_label = shown.protocol.readout == "first_label_word"
    if fit == "sgd" and by_label:
        raise HypothesisError(f'{NAME}: fit "sgd" needs a readout at the last prompt token.')
    if len(shown) < 2 and (fit == "ridge" or mu):
        raise HypothesisError(f"{NAME} needs at least 2 demonstrations, not {len(shown)}.")
    if fit == "ridge":
        named = trained_names(host, "W_V", layers)
        own = label_words(demonstrations)[0][0] if by_label else ()
        contents = [example.content + own for example in shown.examples]
        wanted = torch.stack([each[0] for each in left_out_outputs(host, shown, contents)])
        head = () if shown.bos is None else (shown.bos,)
        fitted = {layer_of(name) for name in named}
        found = fit_values(host, [head + each for each in contents], wanted, ridge, fitted)
        return ParameterDelta(found, {"rule": NAME, "fit": fit, "ridge": ridge, "model": host.name})
    rule = _Rule(host, shown, mu)
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
    delta.metadata |= {"fit": fit, "mu": mu}
    return delta


def left_out_outputs(
    host: Host, shown: Demonstrations, contents: Sequence[Tokens]
) -> list[tuple[Float[Tensor, "layer head d_head"], Float[Tensor, "layer d_model"]]]:
    """Mixed values and attention outputs at the end of each content, read after all the others.

    Raises:
        EpisodeError: A prompt is longer than the model reads.
    """
    prompts: list[Tokens] = []
    shown.check_vocabulary(host)
    for place, content in enumerate(contents):
        others = part(shown, [other for other in range(len(shown)) if other != place])
        tokens = others.prompt() + content
        if len(tokens) > host.n_ctx:
            raise EpisodeError(
                f"{len(others)} demonstrations and one more content are {len(tokens)} tokens, but "
                f"{host.name} reads {host.n_ctx}; nothing is truncated."
            )
        prompts.append(tokens)
    if not prompts:
        return []
    z = [host.z_hook(layer) for layer in range(host.n_layers)]
    output = [host.attention_output_hook(layer) for layer in range(host.n_layers)]
    kept = at_ends(host, (*z, *output), prompts)
    mixed, outputs = (torch.stack([kept[name] for name in names], 1) for names in (z, output))
    return list(zip(mixed, outputs, strict=True))


class _Rule:
    """LCGD's step on a loss that is partly the distance to the output in context."""

    def __init__(self, host: Host, shown: Demonstrations, mu: float) -> None:
        self.mu, self.order, self.step = mu, training_order(shown), 0
        self.now: dict[int, Tensor] = {}
        contents = [example.content for example in shown.examples]
        self.wanted = [w for _, w in left_out_outputs(host, shown, contents)] if mu else []

    def __call__(
        self, host: Host, delta: Mapping[str, Tensor], sequence: TrainingSequence, learn: Learn
    ) -> Tensor:
        """See `sgd.UpdateRule`."""
        if not self.mu:
            return layer_step(host, delta, sequence, learn)
        place = self.order[self.step % len(self.order)]
        self.step += 1

        def keep(layer: int, activation: Tensor, hook: Any) -> None:
            self.now[layer] = activation[0, sequence.label_start - 1].float()

        hooks: list[Hook] = [
            (host.attention_output_hook(layer), partial(keep, layer))
            for layer in range(host.n_layers)
        ]
        loss = partial(self._loss, self.wanted[place])
        with host.hooked(hooks):
            return layer_step(host, delta, sequence, learn, loss)

    def _loss(
        self,
        wanted: Float[Tensor, "layer d_model"],
        host: Host,
        layers: Sequence[int],
        residual: Tensor,
        sequence: TrainingSequence,
    ) -> Tensor:
        target = wanted[list(layers)]
        now = torch.stack([self.now.pop(layer) for layer in layers])
        gap = ((now - target).square().sum(-1) / target.square().sum(-1)).sum()
        # The loop divides by the predicted tokens; the distance is one per demonstration.
        loss = self.mu * len(sequence.targets) * gap
        if self.mu < 1:
            loss = loss + (1 - self.mu) * sequence_loss(host, residual, sequence)
        return loss
