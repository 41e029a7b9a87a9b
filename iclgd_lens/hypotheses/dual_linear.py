r"""Dual linear: demonstrations are a weight matrix that each head's query is multiplied by.

Without its softmax, attention to the demonstrations is a linear map of the query (Dai et al. 2023,
section 3): ΔW_h = c Σ_i k_i^T v_i, which gradient descent on linear regression would make with
values as errors. Here that map is added to a model that reads the query alone:

    z_h <- z_h + s_h q_h R ΔW_h,    ΔW_h = c Σ_i (k_i - k̄)^T v_i

k and v are the demonstrations' own in their prompt, c is the model's factor on scores, R turns a
rotary query to where it would stand after them (`rope="aligned"`), k̄ is the mean key: softmax does
not see what all scores have in common. `scale` gives s_h:

    a number   the same for all heads; 0 changes nothing, to the bit
    "matched"  one per head, so that changes are as long as in-context learning's on left-out
               demonstrations, sqrt(Σ|Δz|^2 / Σ|q R ΔW|^2)
    "lstsq"    one per head, the least squares of those changes
    "gate"     z_h <- (1 - g_h) z_h + g_h (v̄_h + q_h R ΔW_h / T): the first-order expansion of the
               exact split with a constant gate g_h, its mean on left-out demonstrations; T tokens

Limits: with linear attention in one layer, `center=False, scale=1` is in-context learning exactly.
`scale="gate", frozen=True` is rung 3 of `ladder`, and with a rank its rung 4.

Fitted, because all but a number as scale take their s from in-context learning's own passes of
left-out demonstrations.

Source: Dai et al. 2023, section 3; Chen et al. 2024 for the exact conversion of linear attention.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import LOO, Contexts
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.dual_form import Memory, is_linear, read_memory
from iclgd_lens.hypotheses.query_forms import Form, FromZeroShot, Own, QueryForms
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.intervention import Intervention

NAME = "dual_linear"
SCALES = ("matched", "lstsq", "gate")
ROPES = ("aligned", "none")


@hypothesis(
    NAME,
    description="each head's query times a matrix that the demonstrations' keys and values make",
    kind="fitted",
    source="Dai et al. 2023, section 3; Chen et al. 2024",
    only_with={
        "loo": {"scale": SCALES},
    },
)
def dual_linear(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    scale: float | int | str = "matched",
    center: bool = True,
    rank: int | None = None,
    rope: str = "aligned",
    frozen: bool = False,
    loo: str = "exact",
) -> Intervention:
    """Return the intervention that adds the linear dual form at the readout token.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        scale: A number, or "matched", "lstsq" or "gate"; see the page.
        center: Whether the mean key is subtracted; with scale "gate" it never is where attention
            is linear.
        rank: Rank of each head's map; None for all of it.
        rope: "aligned" turns rotary queries to where they stand in the prompt; "none" does not.
        frozen: Whether queries are those of the unchanged model, not those after earlier layers'
            changes.
        loo: Contexts of left-out demonstrations: "exact", "masked" or "causal"; with scale "gate"
            it does nothing where attention is linear.

    Raises:
        HypothesisError: A setting is not allowed, or the model's attention has no dual form.
        HookError: The model does not expose queries and keys.
    """
    _check(scale, rank, rope, loo)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    memory, _ = read_memory(host, contexts.shown, NAME, turned=rope == "aligned")
    if scale == "gate":
        forms = gated_forms(host, memory, gates(contexts, loo), center=center, rank=rank)
    else:
        fitted = _scales(contexts, memory, scale, center, rank, loo)
        forms = [
            Form(
                torch.ones(host.n_heads, device=host.device),
                torch.zeros(host.n_heads, host.d_head, device=host.device),
                own[:, None, None] * each.linear_map(center=center, rank=rank),
            )
            for each, own in zip(memory, fitted, strict=True)
        ]
    return from_zero_shot(forms) if frozen else QueryForms(forms)


def from_zero_shot(forms: list[Form]) -> Intervention:
    """The same forms of the queries and outputs of the unchanged model."""

    def make(layer: int, own: Own) -> Tensor:
        return forms[layer](own.q, own.z)

    return FromZeroShot(make)


def gates(contexts: Contexts, loo: str) -> Float[Tensor, "layer head"]:
    """Mean share of attention that goes to demonstrations, over left-out ones."""
    attention = contexts.after_others(loo=loo, attention=True).attention
    assert attention is not None
    return attention.sum(-1).mean(0)


def gated_forms(
    host: Host,
    memory: list[Memory],
    gate: Float[Tensor, "layer head"],
    *,
    center: bool = True,
    rank: int | None = None,
) -> list[Form]:
    """The first-order expansion of softmax attention to the demonstrations, at a constant gate.

    Attention that is linear has no gate and needs no expansion: z + Σ_j s_j v_j.
    """
    found: list[Form] = []
    for layer, each in enumerate(memory):
        own = gate[layer]
        if is_linear(host):
            keep, mean = torch.ones_like(own), torch.zeros_like(each.values[0])
            weight = each.linear_map(center=False, rank=rank)
        else:
            keep, mean = 1 - own, own[:, None] * each.values.mean(0)
            weight = each.linear_map(center=center, rank=rank)
            weight = (own / len(each.keys))[:, None, None] * weight
        found.append(Form(keep, mean, weight))
    return found


def _scales(
    contexts: Contexts,
    memory: list[Memory],
    scale: float | int | str,
    center: bool,
    rank: int | None,
    loo: str,
) -> Float[Tensor, "layer head"]:
    host = contexts.host
    if not isinstance(scale, str):
        return torch.full((host.n_layers, host.n_heads), float(scale), device=host.device)
    layers = range(host.n_layers)
    points = [host.z_hook(layer) for layer in layers]
    asked = [host.query_key_hook(layer, "q") for layer in layers]
    alone = contexts.alone([*points, *asked])
    after = contexts.after_others(points, loo=loo)
    rows = list(after.places)
    found = torch.zeros(host.n_layers, host.n_heads, device=host.device)
    for layer in layers:
        change = after.values[points[layer]] - alone.values[points[layer]][rows]
        query = alone.values[asked[layer]][rows]
        maps = [memory[layer].linear_map(center=center, rank=rank, without=i) for i in rows]
        direction = torch.einsum("nhd,nhde->nhe", query, torch.stack(maps))
        length = direction.square().sum((0, 2))
        if scale == "matched":
            own = (change.square().sum((0, 2)) / length).sqrt()
        else:
            own = (change * direction).sum((0, 2)) / length
        found[layer] = torch.where(length > 0, own, 0.0)
    return found


def _check(scale: float | int | str, rank: int | None, rope: str, loo: str) -> None:
    if isinstance(scale, str):
        one_of(NAME, "scale", scale, SCALES)
    elif not abs(scale) < float("inf"):
        raise HypothesisError(f"{NAME}: scale is {scale}; it must be finite, or one of {SCALES}.")
    if rank is not None:
        between(NAME, "rank", rank, 1)
    one_of(NAME, "rope", rope, ROPES)
    one_of(NAME, "loo", loo, LOO)
