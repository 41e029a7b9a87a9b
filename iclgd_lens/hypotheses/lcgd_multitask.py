r"""LCGD on several tasks at once: predict the label, model the content, draw like labels together.

From the demonstrations alone, layer by layer as in LCGD:

    label     mean negative log-likelihood of the label word
    content   mean negative log-likelihood of the content's tokens
    contrast  InfoNCE: -log [Σ_(j alike) exp(cos(a_i, a_j) / T) / Σ_(j ≠ i) exp(cos(a_i, a_j) / T)],
              j alike: of the same label, j ≠ i. a_i is the layer's attention output at the end of
              content i; the others' are those last seen (at first, the unchanged model's) and are
              held constant

Combined by "sum" (fixed weights), by "pcgrad" (where two gradients disagree, each loses its part
along the other: g_t -= (g_t · g_s) / |g_s|² g_s; Yu et al. 2020) or by "upgrad" (each is projected
onto the cone of directions that harm no task; Quinton and Rey 2024, by `torchjd`). A layer's key
and value gradients are combined as one vector, each layer by itself.

Limits: weights (1, 0, 0) are LCGD on the label, to the bit. With `per="tokens"` every token counts
alike, and (1, 1, 0) is LCGD on all tokens. Where no gradients disagree, pcgrad is the sum.

`lcgd_shared` splits LCGD by other tasks: shared = the mean of what LCGD learns from each other
task's demonstrations, specific = what it learns from its own minus that mean. Does the shared part
(the format) carry the score? Without other tasks the specific part is LCGD to the bit.

Source: this package; Yu et al. 2020 (PCGrad), Quinton and Rey 2024 (UPGrad), van den Oord et al.
2018 (InfoNCE).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.cost import SHARED_BYTES, remembered
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode, TrainingSequence
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host, as_host, layer_of
from iclgd_lens.hypotheses.common import auxiliary_of, shown_of
from iclgd_lens.hypotheses.companions import Where, other_than
from iclgd_lens.hypotheses.contrastive_loss import ContrastiveLoss
from iclgd_lens.hypotheses.gradient_combination import COMBINERS, Combine, combiner
from iclgd_lens.hypotheses.lcgd import ROWS, layer_step, lcgd
from iclgd_lens.hypotheses.loss import sequence_loss
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.training.sgd import Learn, train

NAME = "lcgd_multitask"


def _tasks(*weights: int | float) -> int:
    return sum(weight != 0 for weight in weights)


SEVERAL = Where("two of label, content and contrast above 0", lambda *given: _tasks(*given) > 1)
EITHER = Where("label or content above 0", lambda *given: _tasks(*given) > 0)


@hypothesis(
    NAME,
    description="LCGD on label, content and contrast, by fixed weights, PCGrad or UPGrad",
    source="LCGD (Deutch et al. 2024) with PCGrad (Yu et al. 2020), UPGrad (Quinton and Rey 2024)",
    only_with={
        "temperature": {"contrast": other_than(0)},
        "combine": {("label", "content", "contrast"): SEVERAL},
        "per": {("label", "content"): EITHER},
    },
)
def lcgd_multitask(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    label: float = 1.0,
    content: float = 1.0,
    contrast: float = 0.0,
    combine: str = "sum",
    per: str = "task",
    temperature: float = 0.1,
    lr: float | None = None,
    epochs: int = 1,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of LCGD on several tasks, one demonstration per step.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        label: Weight of predicting the label word.
        content: Weight of predicting the content.
        contrast: Weight of drawing demonstrations of one label together; costs one more forward
            pass over the demonstrations.
        combine: "sum", "pcgrad" or "upgrad" (needs the extra `search`).
        per: "task": a task's loss is the mean over its tokens. "tokens": the sum over its tokens,
            divided by all of the sequence's, as LCGD on all tokens counts them.
        temperature: Of the contrast.
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed, no task has weight, or `torchjd` is missing.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    for name, value in (("label", label), ("content", content), ("contrast", contrast)):
        between(NAME, name, value, 0)
    if label + content + contrast == 0:
        raise HypothesisError(
            f"{NAME}: every task has weight 0; give one of them more, as label=1."
        )
    one_of(NAME, "combine", combine, COMBINERS)
    one_of(NAME, "per", per, ("task", "tokens"))
    between(NAME, "temperature", temperature, 0, above=True)
    terms = ContrastiveLoss(host, shown, temperature) if contrast else None
    rule = _Rule((label, content, contrast), combiner(NAME, combine), per == "tokens", terms)
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
    delta.metadata |= {"label": label, "content": content, "contrast": contrast}
    delta.metadata |= {"combine": combine, "per": per, "temperature": temperature}
    return delta


class _Rule:
    """One sequence's step: the tasks' losses of each layer, and one gradient made of theirs."""

    def __init__(
        self,
        weights: tuple[float, float, float],
        combine: Combine | None,
        by_tokens: bool,
        contrast: ContrastiveLoss | None,
    ) -> None:
        self.weights, self.combine = weights, combine
        self.by_tokens, self.contrast = by_tokens, contrast

    def __call__(
        self, host: Host, delta: Mapping[str, Tensor], sequence: TrainingSequence, learn: Learn
    ) -> Tensor:
        """See `sgd.UpdateRule`."""
        if self.combine is None and self.contrast is None and self.weights == (1.0, 0.0, 0.0):
            if not self.by_tokens:
                return layer_step(host, delta, sequence, learn)
        named: dict[int, dict[str, Tensor]] = {}
        for name, value in delta.items():
            named.setdefault(layer_of(name), {})[name] = value

        def loss(host: Host, layers: Sequence[int], residual: Tensor, _: Any) -> Tensor:
            terms = self._terms(host, layers, residual, sequence)
            if self.combine is None:
                return torch.stack(terms).sum()
            return _combined(self.combine, terms, [named[layer] for layer in layers])

        # What waits is bounded by what is unembedded: content, too, where graphs are kept.
        rows = ROWS
        if self.combine or self.contrast:
            rows = ROWS * len(sequence.targets) // (len(sequence.tokens) - 1)
        with self.contrast.reading() if self.contrast else contextlib.nullcontext():
            return layer_step(host, delta, sequence, learn, loss, rows)

    def _terms(
        self, host: Host, layers: Sequence[int], residual: Tensor, sequence: TrainingSequence
    ) -> list[Tensor]:
        """The tasks' weighted losses, times the label's tokens, by which the loop divides."""
        count, total = len(sequence.targets), len(sequence.tokens) - 1
        start = sequence.label_start
        spans = (range(start, len(sequence.tokens)), range(1, start))
        terms: list[Tensor] = []
        for weight, span in zip(self.weights, spans, strict=False):
            if weight and span:
                own = TrainingSequence(sequence.tokens, tuple(span), start)
                scale = weight * count / (total if self.by_tokens else len(span))
                terms.append(scale * sequence_loss(host, residual, own))
        if self.contrast is not None:
            terms.append(self.weights[2] * count * self.contrast.loss(layers, sequence))
        return terms


def _combined(
    combine: Combine, terms: Sequence[Tensor], layers: Sequence[Mapping[str, Tensor]]
) -> Tensor:
    """A loss of the terms' sum whose gradient is what `combine` makes of the terms' gradients.

    Blocks see nothing of one another, so that one back-propagation of a task serves the layers that
    have waited together; each layer's gradients are combined by themselves.
    """
    values = [value for named in layers for value in named.values()]
    tasks: list[list[Tensor]] = []
    for place, term in enumerate(terms):
        found: Sequence[Tensor | None] = [None] * len(values)
        if term.requires_grad:  # it does not where no other demonstration has the same label
            found = torch.autograd.grad(
                term, values, retain_graph=place < len(terms) - 1, allow_unused=True
            )
        tasks.append(
            [
                torch.zeros_like(value) if gradient is None else gradient
                for gradient, value in zip(found, values, strict=True)
            ]
        )
    parts: list[Tensor] = []
    for named in layers:
        own = slice(len(parts), len(parts) + len(named))
        rows = [torch.cat([gradient.flatten() for gradient in task[own]]) for task in tasks]
        split = combine(torch.stack(rows)).split([value.numel() for value in named.values()])
        parts += [part.view(value.shape) for part, value in zip(split, named.values(), strict=True)]
    return _Given.apply(torch.stack(list(terms)).sum().detach(), parts, *values)


class _Given(torch.autograd.Function):
    """A number whose gradient with respect to some values is given."""

    @staticmethod
    def forward(ctx: Any, number: Tensor, gradients: list[Tensor], *values: Tensor) -> Tensor:
        ctx.gradients = gradients
        return number.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, None, *(given * gradient for given in ctx.gradients)


@hypothesis(
    "lcgd_shared",
    description="what LCGD learns from this task alone, or from other tasks too",
    needs=("demonstrations", "auxiliary"),
    source="this package: LCGD (Deutch et al. 2024) split by other tasks",
)
def lcgd_shared(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    part: str = "specific",
    auxiliary: Sequence[Demonstrations | Episode] = (),
    lr: float | None = None,
    epochs: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the part of LCGD's changes that is this task's own, or that other tasks share.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        part: "specific" or "shared".
        auxiliary: Demonstrations of other tasks, one entry per task; none takes the episode's own.
        lr: Learning rate, of every task; None takes this task's published one.
        epochs: Passes over the demonstrations.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed, or the shared part is asked for without others.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    one_of("lcgd_shared", "part", part, ("specific", "shared"))
    auxiliary = auxiliary_of(demonstrations, auxiliary)
    if part == "shared" and not auxiliary:
        raise HypothesisError(
            "lcgd_shared: the shared part needs demonstrations of other tasks: load_episodes(..., "
            "auxiliary=), `auxiliary:` in a plan, --auxiliary TASK."
        )
    rate = lr if lr is not None else shown.learning_rate
    settings: dict[str, Any] = {
        "lr": rate, "epochs": epochs, "loss_on": loss_on, "weights": weights, "layers": layers,
    }  # fmt: skip
    others = [_of_another(host, other, settings) for other in auxiliary]
    shared: ParameterDelta | None = None
    for other in others:
        shared = other if shared is None else shared + other
    shared = None if shared is None else shared * (1 / len(others))
    found = shared
    facts = {} if shared is None else others[0].metadata
    if part == "specific":
        own = lcgd(host, shown, **settings)
        found, facts = own if shared is None else own - shared, own.metadata
    assert found is not None
    found.metadata = {**facts, "rule": "lcgd_shared", "part": part, "tasks": 1 + len(others)}
    return found


def _of_another(host: Host, other: Demonstrations, settings: Mapping[str, Any]) -> ParameterDelta:
    """What LCGD learns from another task; the same whatever this task's labels are."""
    own = (other.examples, other.bos, other.separator, other.protocol)
    key = ("lcgd_shared", own, repr(sorted(settings.items())))
    return remembered(host, key, lambda: lcgd(host, other, **settings), _is_small)


def _is_small(delta: ParameterDelta) -> bool:
    return sum(4 * value.numel() for _, value in delta.items()) <= SHARED_BYTES
