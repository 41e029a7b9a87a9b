"""Interventions that change a head's output as a function of its query, current or at ZS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Hook, Host, frozen
from iclgd_lens.hypotheses.dual_form import by_head, values_of
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention


@dataclass(frozen=True, eq=False)
class Own:
    """What one layer of the unchanged model computes on some rows; fp32.

    Attributes:
        q: Query at the readout token, as it enters the dot product.
        z: Each head's output there.
        keys: Keys of all tokens of the row.
        values: Their values.
        seen: Which tokens the readout token sees.
    """

    q: Float[Tensor, "row head d_head"]
    z: Float[Tensor, "row head d_head"]
    keys: Float[Tensor, "row token head d_head"]
    values: Float[Tensor, "row token head d_head"]
    seen: Bool[Tensor, "row token"]


Make = Callable[[int, Own], Tensor]
"""Makes a layer's new head outputs at the readout token from what the unchanged model holds."""


class FromZeroShot(Intervention):
    """Puts head outputs at the readout token that are made from the unchanged model's.

    Before each pass its rows are read without any change, so no layer's output is made from what an
    earlier layer's change did: layers do not interact.
    """

    def __init__(self, make: Make) -> None:
        self.make = make

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """One hook per layer; where the rows' tokens are not given, they raise as they fire."""
        if not batch.reads:
            return []
        own = None if batch.tokens is None else zero_shot(host, batch)
        return [
            (host.z_hook(layer), partial(self._put, batch, layer, None if own is None else it))
            for layer, it in enumerate(own or [None] * host.n_layers)
        ]

    def _put(
        self, batch: Batch, layer: int, own: Own | None, activation: Tensor, hook: Any
    ) -> Tensor:
        if own is None:
            raise HypothesisError(
                "Queries frozen at ZS need the rows' tokens beforehand; readouts and compare() "
                "give them."
            )
        return batch.put(activation, self.make(layer, own))


def zero_shot(host: Host, batch: Batch) -> list[Own]:
    """Read a batch's rows without any change."""
    tokens = batch.tokens
    assert tokens is not None
    q: dict[int, Tensor] = {}
    z: dict[int, Tensor] = {}
    k: dict[int, Tensor] = {}

    def at_readout(into: dict[int, Tensor], layer: int, value: Tensor, hook: Any) -> None:
        into[layer] = batch.at_readout(value).float()

    def whole(layer: int, value: Tensor, hook: Any) -> None:
        k[layer] = by_head(host, value.float())

    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        hooks.append((host.query_key_hook(layer, "q"), partial(at_readout, q, layer)))
        hooks.append((host.query_key_hook(layer, "k"), partial(whole, layer)))
        hooks.append((host.z_hook(layer), partial(at_readout, z, layer)))
    with frozen(host.model), torch.no_grad(), host.hooked(hooks):
        prefix = host.prefix(tokens)
    places = torch.arange(tokens.shape[1], device=tokens.device)
    last = tokens.shape[1] - 1 if batch.readout is None else batch.readout[:, None]
    seen = (places <= last).expand(tokens.shape)
    return [
        Own(q[i], z[i], k[i], by_head(host, values_of(prefix, i)), seen)
        for i in range(host.n_layers)
    ]


@dataclass(frozen=True, eq=False)
class Form:
    """One layer's z <- keep z + constant + q W, head by head."""

    keep: Float[Tensor, " head"]
    constant: Float[Tensor, "head d_head"]
    weight: Float[Tensor, "head d_head d_head"]

    def __call__(
        self, q: Float[Tensor, "row head d_head"], z: Float[Tensor, "row head d_head"]
    ) -> Float[Tensor, "row head d_head"]:
        """Return the new head outputs."""
        change = torch.einsum("rhd,hde->rhe", q, self.weight)
        return self.keep[:, None] * z + self.constant + change


class QueryForms(Intervention):
    """Changes head outputs at the readout token by a form of the query that passes there."""

    def __init__(self, forms: Sequence[Form]) -> None:
        self.forms = list(forms)

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """Two hooks per layer: one reads q, one changes z."""
        if not batch.reads:
            return []
        found: list[Hook] = []
        for layer, form in enumerate(self.forms):
            read: list[Tensor] = []
            found.append((host.query_key_hook(layer, "q"), partial(_read, batch, read)))
            found.append((host.z_hook(layer), partial(_change, batch, read, form)))
        return found


def _read(batch: Batch, read: list[Tensor], activation: Tensor, hook: Any) -> None:
    read[:] = [batch.at_readout(activation).float()]


def _change(batch: Batch, read: list[Tensor], form: Form, activation: Tensor, hook: Any) -> Tensor:
    return batch.put(activation, form(read.pop(), batch.at_readout(activation).float()))
