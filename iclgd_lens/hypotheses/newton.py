r"""Newton: values learn along directions scaled by how much the demonstrations vary along them.

Second-order learning of W_V with the Kronecker-factored curvature of its inputs (K-FAC's input
side): with A the mean of x xᵀ over the tokens from which the loss's are predicted, which are those
that the gradient is a mean over, x the input of W_V there in that layer,

    ΔW_V <- ΔW_V - η (A / δ + I)⁻¹ g = -(η δ) (A + δ I)⁻¹ g,   δ = damping · (mean eigenvalue of A)

so that common directions are learned no faster than rare ones. Other weights follow g itself. The
gradient is LCGD's, or GD's with `causal=False`; A is taken once, on the unchanged model.

Limits: damping = infinity is LCGD (or GD) to the bit. In a world that is linear regression a full
step on the label with η δ = 1 and δ -> 0 is least squares. That transformers' layers follow
iterative Newton is the claim of Fu et al. 2024; here it can be held against gradient descent.

Source: Martens and Grosse 2015 (K-FAC); Fu et al. 2024.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import as_host
from iclgd_lens.hypotheses.common import shown_of
from iclgd_lens.hypotheses.gd import gd_step
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.preconditioning import preconditioned, predicting, value_moments
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.training.sgd import train

NAME = "newton"


@hypothesis(
    NAME,
    description="LCGD whose value gradients are scaled by the inputs' inverse second moments",
    source="K-FAC (Martens and Grosse 2015); Fu et al. 2024",
)
def newton(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    damping: float = 1.0,
    causal: bool = True,
    lr: float | None = None,
    epochs: int = 1,
    batch_size: int = 1,
    loss_on: str | None = None,
    weights: str | Iterable[str] | None = None,
    layers: int | Iterable[int] | None = None,
) -> ParameterDelta:
    """Return the weight changes of LCGD (or GD) with second-order value updates.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: What to learn from.
        damping: What is added to the moments, relative to their mean eigenvalue; inf is LCGD.
        causal: LCGD's gradients; else GD's.
        lr: Learning rate; None takes the task's published one.
        epochs: Passes over the demonstrations.
        batch_size: Sequences a step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's.
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "damping", damping, 0, above=True)
    matrices: dict[str, torch.Tensor] = {}
    if math.isfinite(damping):
        moments = value_moments(host, shown, loss_on, predicting)
        matrices = {name: damped_inverse(moment, damping) for name, moment in moments.items()}
    with contextlib.nullcontext() if causal else host.laid_out():
        delta = train(
            layer_step if causal else gd_step,
            NAME,
            host,
            shown,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            loss_on=loss_on,
            weights=weights,
            layers=layers,
            transform=preconditioned(matrices) if matrices else None,
        )
    delta.metadata |= {"damping": None if math.isinf(damping) else damping, "causal": causal}
    return delta


def damped_inverse(
    moment: Float[Tensor, "d_in d_in"], damping: float
) -> Float[Tensor, "d_in d_in"]:
    """(A / δ + I)⁻¹ in fp32, δ = damping times A's mean eigenvalue."""
    unit = torch.eye(len(moment), dtype=moment.dtype, device=moment.device)
    delta = damping * moment.diagonal().mean().clamp(min=1e-30)
    return torch.linalg.inv(moment / delta + unit).float()
