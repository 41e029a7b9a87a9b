r"""Label Bayes: demonstrations tell which label word stands for which, and nothing else is learned.

The model knows the task, up to the names of its classes. Let p0(c | x) be its label distribution
for a content read alone, and σ a permutation of the label words: class c is called σ(c). Then

    p(σ | D) ∝ π(σ) Π_i p0(σ^-1(y_i) | x_i)^(1/T),    p(c | q) = Σ_σ p(σ | D) p0(σ^-1(c) | q)
    π(σ) ∝ exp(κ · number of words that σ leaves in place)

κ is `prior`, T is `temperature`. The model's label words get the probabilities p; see
`label_direction`. Of two labels the posterior has a closed form: the log-odds of keeping the words
are 2κ + Σ_i log p0(y_i | x_i) / p0(other | x_i), over T.

Limits: κ = ∞ keeps all words: ZS to the bit. T = ∞ leaves the prior. Where p0 is uniform nothing
can be told, and nothing changes. Attention is not touched, so SimAOU is undefined; KL, recovery and
accuracy are not.

An explanation: no pass in context is read. It is what in-context learning would be if it only
recognised ("retrieved") what the model had learned before.

Source: this package, in the spirit of Xie et al. 2022; Min et al. 2022 and Kossen et al. 2024 test
what labels do.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.contexts import Contexts
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.label_direction import LabelPredictor
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import Intervention

NAME = "label_bayes"
MOST_LABELS = 9
_SMALLEST = 1e-30


@hypothesis(
    NAME,
    description="demonstrations tell which label word stands for which class, and nothing else",
    source="this package, in the spirit of Xie et al. 2022",
    version="2",
    only_with={
        "temperature": {"prior": other_than(math.inf)},
    },
)
def label_bayes(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    prior: float = 1.0,
    temperature: float = 1.0,
) -> Intervention:
    """Return the intervention that gives label words the posterior's probabilities.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        prior: Log-odds that speak for each word that keeps its meaning; inf keeps all of them.
        temperature: Divides the evidence of the demonstrations.

    Raises:
        HypothesisError: A setting is not allowed, or there are more than 9 label words.
    """
    between(NAME, "prior", prior, 0)
    between(NAME, "temperature", temperature, 0, above=True)
    contexts = Contexts(model, demonstrations, NAME)
    labels = len(contexts.words)
    if labels > MOST_LABELS:
        raise HypothesisError(
            f"{NAME} goes through all permutations of the label words: at most {MOST_LABELS} of "
            f"them, not {labels}."
        )
    known = torch.empty(0, labels)
    if len(contexts.shown):
        known = contexts.alone().label_scores.cpu()
    weights = posterior(known, contexts.gold, prior, temperature)
    return _Renaming(contexts, weights)


def permutations(labels: int) -> Int[Tensor, "permutation label"]:
    """Every σ as a row: what class c is called. The first one is the identity."""
    return torch.tensor(list(itertools.permutations(range(labels))))


def posterior(
    scores: Float[Tensor, "demonstration label"],
    gold: Sequence[int],
    prior: float,
    temperature: float,
) -> Float[Tensor, "label label"]:
    """p(word | class): how likely it is that a class is called by each word.

    Args:
        scores: Label scores of the demonstrations' contents alone.
        gold: Label id of each.
        prior: κ.
        temperature: T.
    """
    labels = scores.shape[1]
    sigma = permutations(labels)
    kept = (sigma == torch.arange(labels)).sum(-1)
    inverse = sigma.argsort(-1)
    log_p = scores.double().log_softmax(-1)
    evidence = torch.zeros(len(sigma), dtype=torch.float64)
    for row, word in zip(log_p, gold, strict=True):
        evidence += row[inverse[:, word]]
    log_prior = torch.zeros(len(sigma), dtype=torch.float64)
    if prior == float("inf"):
        log_prior.masked_fill_(kept < labels, -torch.inf)
    else:
        log_prior += prior * kept
    share = (log_prior + evidence / temperature).softmax(0)
    found = torch.zeros(labels, labels, dtype=torch.float64)
    for own in range(labels):
        found[own].index_add_(0, sigma[:, own], share)
    return found.float()


class _Renaming(LabelPredictor):
    """Label words get the probabilities of the classes that they are names of."""

    def __init__(self, contexts: Contexts, weights: Float[Tensor, "label label"]) -> None:
        super().__init__(contexts.host, contexts.shown, contexts.words, [])
        self.weights = weights.to(contexts.host.device)

    def shift(self, scores: Tensor, features: dict[str, Tensor], before: Tensor | None) -> Tensor:
        """Log p(c | q) - log p0(c | q); 0 exactly where all words keep their meaning."""
        p0 = scores.softmax(-1).clamp(min=_SMALLEST)
        renamed = torch.einsum("rc,cw->rw", p0, self.weights)
        return renamed.log() - p0.log()
