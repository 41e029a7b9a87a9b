r"""Kernel regression: a query takes the labels of the demonstrations that it is like.

    p(c | q) = Σ_{i: y_i = c} k(h_q, h_i) / Σ_i k(h_q, h_i),    k = exp(a(h_q, h_i) / τ)

h is the residual stream that enters block `layer` (`layer = n_layers`: that leaves the last one) at
the readout token of a content read alone; the demonstrations are in no prompt. a is

    "cosine"       cos(h_q, h_i)
    "rbf"          -|h_q - h_i|^2
    "mahalanobis"  -(h_q - h_i) Σ^-1 (h_q - h_i), Σ the demonstrations' covariance, a tenth of it
                   shrunk to its mean variance

with distances in units of their mean over pairs of demonstrations. `layer` and τ are chosen by the
likelihood of left-out demonstrations' labels, where they are not given. The model's label words get
the probabilities p (a share `floor` of them divided equally); see `label_direction`.

Limits: τ → 0 is the nearest neighbour (ties share), τ → ∞ the demonstrations' label frequencies,
`strength=0` no change, to the bit. Attention is not touched, so SimAOU is undefined; KL, recovery
and accuracy are not.

An explanation: no pass in context is read.

Source: Han et al. 2023 (in-context learning as kernel regression); Nadaraya 1964; Watson 1964.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import Contexts
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.label_direction import LabelPredictor, towards, votes
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.intervention import Intervention

NAME = "kernel_regression"
KERNELS = ("cosine", "rbf", "mahalanobis")
TAUS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
SHRINK = 0.1


@hypothesis(
    NAME,
    description="a query takes the labels of demonstrations whose activations are like its own",
    source="Han et al. 2023",
    version="2",
    only_with={
        "layer": {"tau": other_than(math.inf)},
        "kernel": {"tau": other_than(math.inf)},
    },
)
def kernel_regression(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    layer: int | None = None,
    kernel: str = "cosine",
    tau: float | None = None,
    floor: float = 1e-3,
    strength: float = 1.0,
) -> Intervention:
    """Return the intervention that gives label words the kernel regression's probabilities.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        layer: Block whose input is compared; None chooses on left-out demonstrations.
        kernel: "cosine", "rbf" or "mahalanobis".
        tau: Width of the kernel, 0 and inf included; None chooses on left-out demonstrations.
        floor: Share of the probability that is given to all label words equally.
        strength: How far the model's own label scores move there; 0 is not at all.

    Raises:
        HypothesisError: A setting is not allowed, or there are too few demonstrations.
    """
    one_of(NAME, "kernel", kernel, KERNELS)
    between(NAME, "floor", floor, 0, 1, above=True)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    if layer is not None:
        between(NAME, "layer", layer, 0, host.n_layers)
    if tau is not None:
        between(NAME, "tau", tau, 0)
    fewest = 2 if layer is None or tau is None else 1
    if len(contexts.shown) < fewest:
        raise HypothesisError(f"{NAME} needs at least {fewest} demonstrations here.")
    layers = list(range(host.n_layers + 1)) if layer is None else [layer]
    points = [stream_hook(host, each) for each in layers]
    seen = contexts.alone(points).values
    choices = [(point, width) for point in points for width in (TAUS if tau is None else (tau,))]
    if len(choices) > 1:
        losses = [
            _left_out_loss(seen[point], contexts, kernel, width, floor) for point, width in choices
        ]
        choices = [choices[losses.index(min(losses))]]
    point, width = choices[0]
    return _Kernel(contexts, point, seen[point], kernel, width, floor, strength)


def stream_hook(host: Host, layer: int) -> str:
    """Where the residual stream enters block `layer`; n_layers is where it leaves the last."""
    if layer == host.n_layers:
        return host.block_output_hook(layer - 1)
    return host.block_input_hook(layer)


class _Kernel(LabelPredictor):
    def __init__(
        self,
        contexts: Contexts,
        point: str,
        known: Tensor,
        kernel: str,
        tau: float,
        floor: float,
        strength: float,
    ) -> None:
        super().__init__(contexts.host, contexts.shown, contexts.words, [point])
        self.known, self.gold, self.kernel, self.tau = known, contexts.gold, kernel, tau
        self.floor, self.strength = floor, strength

    def shift(self, scores: Tensor, features: dict[str, Tensor], before: Tensor | None) -> Tensor:
        """Towards the kernel regression's probabilities."""
        likeness = similarities(features[self.points[0]], self.known, self.kernel)
        weights = weights_of(likeness, self.tau)
        return towards(
            votes(weights, self.gold, len(self.words)), scores, self.floor, self.strength
        )


def similarities(
    queries: Float[Tensor, "row d"], known: Float[Tensor, "demonstration d"], kernel: str
) -> Float[Tensor, "row demonstration"]:
    """a(h_q, h_i), distances in units of their mean over pairs of the known."""
    if kernel == "cosine":
        unit = torch.nn.functional.normalize
        return unit(queries, dim=-1) @ unit(known, dim=-1).T
    if kernel == "mahalanobis":
        queries, known = _whitened(queries, known)
    pairs = torch.cdist(known.double(), known.double()).square()
    n = len(known)
    unit_length = pairs.sum() / max(n * (n - 1), 1)
    found = -torch.cdist(queries.double(), known.double()).square()
    return (found / torch.where(unit_length > 0, unit_length, 1.0)).to(queries.dtype)


def _whitened(queries: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Both in coordinates in which the known ones' shrunk covariance is the identity."""
    mean = known.double().mean(0)
    centred = known.double() - mean
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    variances = sizes.square() / len(known)
    level = SHRINK * variances.sum() / known.shape[1]
    if not level > 0:
        return queries, known
    along = ((1 - SHRINK) * variances + level).rsqrt() - level.rsqrt()

    def white(value: Tensor) -> Tensor:
        value = value.double() - mean
        return level.rsqrt() * value + (value @ axes.T * along) @ axes

    return white(queries), white(known)


def weights_of(
    likeness: Float[Tensor, "row demonstration"], tau: float
) -> Float[Tensor, "row demonstration"]:
    """exp(a / τ) in shares: all alike at τ = ∞, the most like (ties share) at τ = 0."""
    if tau == 0:
        best = likeness == likeness.amax(-1, keepdim=True)
        return best / best.sum(-1, keepdim=True)
    return (likeness / tau).softmax(-1)


def _left_out_loss(
    known: Tensor, contexts: Contexts, kernel: str, tau: float, floor: float
) -> float:
    """Negative log-likelihood of each demonstration's label by the others."""
    gold: Sequence[int] = contexts.gold
    total = 0.0
    for place, own in enumerate(gold):
        others = [i for i in range(len(gold)) if i != place]
        weights = weights_of(similarities(known[place, None], known[others], kernel), tau)
        shares = votes(weights, [gold[i] for i in others], len(contexts.words))
        nothing = torch.zeros_like(shares)
        total -= float(towards(shares, nothing, floor, 1.0)[0, own])
    return total
