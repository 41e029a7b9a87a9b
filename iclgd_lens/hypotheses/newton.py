r"""Newton: values learn along directions scaled by how much the demonstrations vary along them.

With the attention pattern as it is, what a head mixes at a token is linear in W_V: u W_V, with
u = Σ_t A_t x_t the pattern's mean of the layer's inputs. So learning W_V is regression on u, and
second-order learning takes the gradient times the inverse second moments of u (the input side of
Kronecker-factored curvature, K-FAC):

    ΔW_V <- ΔW_V - η (A / δ + I)⁻¹ g = -(η δ) (A + δ I)⁻¹ g,   δ = damping · (mean eigenvalue of A)

A is the mean of u uᵀ over the tokens from which the loss's are predicted, summed over the query
heads that share a value head; so common directions are learned no faster than rare ones. Other
weights follow g itself. The gradient is LCGD's, which lies in the span of A, or GD's with
`causal=False`, where the part that flows back through later tokens and layers need not lie in it. A
is taken once, on the unchanged model.

Limits: damping = infinity is LCGD (or GD) to the bit. In a world that is linear regression a full
step on the label with η δ = 1 and δ -> 0 is least squares. That transformers' layers follow
iterative Newton is the claim of Fu et al. 2024; here it can be held against gradient descent.

Source: Martens and Grosse 2015 (K-FAC); Fu et al. 2024.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.demonstrations import Demonstrations
from iclgd_lens.episode import Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Hook, Host, LinearSite, as_host, frozen
from iclgd_lens.hypotheses.common import padded, shown_of
from iclgd_lens.hypotheses.companions import naming
from iclgd_lens.hypotheses.gd import gd_step
from iclgd_lens.hypotheses.lcgd import layer_step
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.training.sgd import train

NAME = "newton"


@hypothesis(
    NAME,
    description="LCGD whose value gradients are scaled by the inverse moments of what heads mix",
    source="K-FAC (Martens and Grosse 2015); Fu et al. 2024",
    version="2",
    only_with={
        "damping": {"weights": naming("W_V")},
    },
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
        batch_size: Sequences per step.
        loss_on: "all" tokens or the "label" alone; None takes the protocol's.
        weights: What is trained, e.g. ("W_K", "W_V"); None takes the protocol's. Without values
            this is LCGD (or GD).
        layers: Which layers are trained; None for all.

    Raises:
        HypothesisError: A setting is not allowed.
        DivergedError: The loss or the delta is not finite.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "damping", damping, 0, above=True)
    scaled: dict[str, Callable[[Tensor], Tensor]] = {}
    if math.isfinite(damping):
        rows, tokens = mixed_inputs(host, shown, loss_on)
        scaled = {name: inverse_moments(each, tokens, damping) for name, each in rows.items()}

    def transform(name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        return scaled[name](gradient) if name in scaled else gradient

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
            transform=transform if scaled else None,
        )
    delta.metadata |= {"damping": None if math.isinf(damping) else damping, "causal": causal}
    return delta


def mixed_inputs(
    host: Host, shown: Demonstrations, loss_on: str | None
) -> tuple[dict[str, Float[Tensor, "kv_head row d_in"]], int]:
    """U = Σ_t A_t x_t of every query head at every token from which the loss's are predicted.

    Each demonstration is run once, some together; the model stays as it is.

    Args:
        host: The model.
        shown: The demonstrations.
        loss_on: Which tokens of a demonstration the loss counts.

    Raises:
        HypothesisError: The model does not show its attention pattern.

    Returns:
        Rows in fp32 by W_V's name, those of all query heads that share a value head; where there
        are many, d_in others with the same second moments. And the number of tokens.
    """
    shown.check_vocabulary(host)
    sites = [site for site in host.sites.values() if site.kind == "W_V"]
    found: dict[str, Tensor] = {}
    inputs: dict[int, Tensor] = {}

    def read(site: LinearSite, activation: Tensor, hook: Any) -> None:
        inputs[site.layer] = site.read(activation).float()

    def mix(
        site: LinearSite, own: Bool[Tensor, "row pos"], pattern: Float[Tensor, "row head pos key"],
        hook: Any,
    ) -> None:  # fmt: skip
        mixed = torch.einsum("rhqk,rki->rqhi", pattern.float(), inputs.pop(site.layer))[own]
        rows = mixed.unflatten(1, (host.n_key_value_heads, -1)).transpose(0, 1).flatten(1, 2)
        if site.weight in found:
            rows = torch.cat([found[site.weight], rows], dim=1)
        found[site.weight] = _as_few(rows)

    sequences = shown.sequences(loss_on)
    with frozen(host.model), torch.no_grad():
        for places, tokens in padded(host, [tuple(each.tokens) for each in sequences]):
            own = torch.zeros_like(tokens, dtype=torch.bool)
            for row, place in enumerate(places):
                own[row, [target - 1 for target in sequences[place].targets]] = True
            hooks: list[Hook] = []
            for site in sites:
                hooks.append((site.input_hook, partial(read, site)))
                pattern = f"blocks.{site.layer}.attn.hook_pattern"
                hooks.append((pattern, partial(mix, site, own)))
            with host.hooked(hooks):
                host.run(tokens)
    if len(found) < len(sites):  # some bridges have the hook point and never run it
        raise HypothesisError(f"{NAME} needs the attention pattern, which {host.name} hides.")
    return found, sum(len(each.targets) for each in sequences)


def _as_few(rows: Float[Tensor, "kv_head row d_in"]) -> Float[Tensor, "kv_head few d_in"]:
    """Rows with the same second moments, no more than there are inputs: R of U = Q R."""
    if rows.shape[1] <= rows.shape[2]:
        return rows
    return torch.linalg.qr(rows.double(), mode="r").R.float()


def inverse_moments(
    rows: Float[Tensor, "kv_head row d_in"], tokens: int, damping: float
) -> Callable[[Float[Tensor, "kv_head d_in d_head"]], Float[Tensor, "kv_head d_in d_head"]]:
    """The map g -> (A / δ + I)⁻¹ g, A = Uᵀ U / n with the rows U of n tokens.

    δ is damping times A's mean eigenvalue. Where there are fewer rows than inputs, by the kernel of
    rows, in fp64: g - Uᵀ (U Uᵀ + n δ I)⁻¹ U g.
    """
    u = rows.double()
    d_in = u.shape[-1]
    added = (damping * u.square().sum((-2, -1)) / d_in).clamp(min=1e-30 * tokens)  # n δ
    if u.shape[1] >= d_in:
        unit = torch.eye(d_in, dtype=u.dtype, device=u.device)
        matrix = torch.linalg.inv(u.mT @ u / added[:, None, None] + unit).float()
        return partial(_times, matrix)
    unit = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)
    solved = torch.linalg.solve(u @ u.mT + added[:, None, None] * unit, u)

    def scale(gradient: Tensor) -> Tensor:
        g = gradient.double()
        return (g - u.mT @ (solved @ g)).to(gradient.dtype)

    return scale


def _times(matrix: Tensor, gradient: Tensor) -> Tensor:
    return (matrix @ gradient.float()).to(gradient.dtype)
