"""What hypotheses that inject vectors share: where left-out demonstrations choose the layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import Contexts, label_losses
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Hook, Host
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention


class Lerp(Intervention):
    """Moves what passes at the readout token towards a value, at each of some hook points.

    Args:
        values: Hook point to that value: shaped as one token's activation, or with a first axis
            over rows.
        strength: 1 puts the value there, 0 changes nothing, to the bit.
        per_row: Whether the first axis is that over rows, looked up by `Batch.queries`.
    """

    def __init__(
        self, values: dict[str, Float[Tensor, "*rest"]], strength: float, *, per_row: bool = False
    ) -> None:
        self.values, self.strength, self.per_row = values, strength, per_row

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """One hook per value."""
        return [
            (name, partial(self._move, batch, value.to(host.device)))
            for name, value in self.values.items()
        ]

    def _move(self, batch: Batch, value: Tensor, activation: Tensor, hook: Any) -> Tensor:
        if not batch.reads:
            return activation
        now = batch.at_readout(activation).float()
        value = of_rows(value, batch) if self.per_row else value.expand_as(now)
        return batch.put(activation, torch.lerp(now, value, self.strength))


class RowShift(Intervention):
    """Adds one vector per row at the readout token, at one hook point, by `Batch.queries`."""

    def __init__(self, name: str, vectors: Float[Tensor, "row *rest"]) -> None:
        self.name, self.vectors = name, vectors

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """The one hook."""

        def add(activation: Tensor, hook: Any) -> Tensor:
            return batch.add(activation, of_rows(self.vectors, batch))

        return [(self.name, add)] if batch.reads else []


def of_rows(values: Float[Tensor, "row *rest"], batch: Batch) -> Float[Tensor, "row *rest"]:
    """The values of a batch's rows."""
    assert batch.queries is not None
    return values[batch.queries.to(values.device)]


def best_layer(
    contexts: Contexts, layers: Iterable[int], change: Callable[[int], Intervention]
) -> int:
    """The layer at which demonstrations, read alone under a change, are labelled best.

    Args:
        contexts: The demonstrations.
        layers: Which layers are tried.
        change: The intervention at a layer; each row's is an average over the other demonstrations'
            passes, in which that one stands as an example.

    Raises:
        HypothesisError: Label words are predicted before the readout token, at which the change is
            made: no layer moves them.
    """
    if contexts.shown.protocol.readout != "last_prompt_token":
        raise HypothesisError(
            f"{contexts.rule}: what is done at the first label word, the readout token of this "
            "protocol, moves no label word's probability, by which a layer would be chosen: give "
            "`layer`."
        )
    losses = {
        layer: float(label_losses(contexts.alone(change=change(layer)), contexts.gold).sum())
        for layer in layers
    }
    return min(losses, key=lambda layer: losses[layer])
