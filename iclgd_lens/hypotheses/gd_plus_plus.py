r"""GD++: gradient descent on demonstrations that are first pushed apart.

Trained linear transformers of several layers do better than gradient descent by transforming the
data between steps: x_j <- x_j - γ' (Σ_i x_i x_iᵀ) x_j (von Oswald et al. 2023, GD++). What W_V's
gradient sees of a token is its input x; here the gradient is taken with x (I - γ' Xᵀ X) in its
place, X the demonstrations' inputs at the end of their contents in that layer:

    g <- (I - γ' Xᵀ X) g,    γ' = γ / (largest eigenvalue of Xᵀ X)

for values; other weights follow GD. γ = 1 takes the direction that demonstrations share most out of
what is learned. X is taken once, on the unchanged model, and errors are those of the inputs as they
are. The published rule transforms queries, too; here they are read as they come, so that this shows
only its effect on what is learned.

Limits: γ = 0 is GD to the bit. Where the columns of X are orthonormal it is GD with values at the
rate η (1 - γ).

Source: von Oswald et al. 2023, section on GD++ and its appendix.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import Hook, Host, LinearSite, as_host, frozen
from iclgd_lens.hypotheses.common import padded, shown_of
from iclgd_lens.hypotheses.companions import naming
from iclgd_lens.hypotheses.gd import gd_step
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.training.sgd import train

NAME = "gd_plus_plus"


@hypothesis(
    NAME,
    description="GD on demonstrations pushed apart before values learn (GD++)",
    source="von Oswald et al. 2023 (GD++)",
    only_with={
        "gamma": {"weights": naming("W_V")},
    },
)
def gd_plus_plus(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    gamma: float = 0.5,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of GD with value gradients on transformed demonstrations.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        gamma: Share of the most common direction that is taken out; 0 is GD.
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences per step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's. Without values
            this is GD.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "gamma", gamma, 0, 1)
    matrices: dict[str, torch.Tensor] = {}
    if gamma:
        for name, moment in value_moments(host, shown, loss_on).items():
            unit = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
            largest = torch.linalg.eigvalsh(moment)[-1].clamp(min=1e-30)
            matrices[name] = (unit - gamma / largest * moment).float()

    def transform(name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        return matrices[name] @ gradient if name in matrices else gradient

    with host.laid_out():
        delta = train(
            gd_step,
            NAME,
            host,
            shown,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            loss_on=loss_on,
            weights=weights,
            layers=layers,
            transform=transform if matrices else None,
        )
    delta.metadata |= {"gamma": gamma}
    return delta


def value_moments(
    host: Host, shown: Demonstrations, loss_on: str | None
) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """Mean of x xᵀ over the ends of contents, where a query is read; x enters W_V, by its name.

    In fp64. Each demonstration is run once, some of them together; the model stays as it is.

    Args:
        host: The model.
        shown: The demonstrations.
        loss_on: Which tokens of a demonstration the loss counts.
    """
    sites = {name: site for name, site in host.sites.items() if site.kind == "W_V"}
    sums: dict[str, Tensor] = {}
    counted = 0
    shown.check_vocabulary(host)

    def keep(site: LinearSite, own: Bool[Tensor, "row pos"], activation: Tensor, hook: Any) -> None:
        x = site.read(activation)[own].double()
        moment = x.T @ x
        sums[site.weight] = sums[site.weight] + moment if site.weight in sums else moment

    sequences = shown.sequences(loss_on)
    with frozen(host.model), torch.no_grad():
        for places, tokens in padded(host, [tuple(each.tokens) for each in sequences]):
            own = torch.zeros_like(tokens, dtype=torch.bool)
            for row, place in enumerate(places):
                own[row, sequences[place].label_start - 1] = True
            hooks: list[Hook] = [
                (site.input_hook, partial(keep, site, own)) for site in sites.values()
            ]
            with host.hooked(hooks):
                host.run(tokens)
            counted += int(own.sum())
    return {name: total / counted for name, total in sums.items()}
