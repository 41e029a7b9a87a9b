"""A random rival for interventions that are no weights: their changes, turned at random."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.errors import ControlError
from iclgd_lens.host import Hook, Host
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention, hooks_of

_APART = 10_007
"""Between the seeds of hook points."""


class RandomChange(Intervention):
    """At each hook point, one random direction with the length of each token's own change.

    Where the intervention leaves a token as it is, so does this. The direction is the same for
    every token and query, as an update's is.

    Args:
        intervention: What changes activations, by hooks alone.
        seed: Seed of the directions.

    Raises:
        ControlError: It puts keys and values before each query, too.
    """

    def __init__(self, intervention: Intervention, seed: int) -> None:
        if type(intervention).prefix is not Intervention.prefix:
            raise ControlError(
                f"There is no random update of the size of a {type(intervention).__name__}: it "
                "puts keys and values before each query."
            )
        self.intervention, self.seed = intervention, seed
        self.directions: dict[int, Tensor] = {}

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """The intervention's hooks, each followed by a turn of what it changed."""
        own = hooks_of(self.intervention, host, batch)
        return [
            (name, partial(self._turned, place, function))
            for place, (name, function) in enumerate(own)
        ]

    def _turned(
        self, place: int, function: Callable[..., Tensor | None], activation: Tensor, hook: Any
    ) -> Tensor | None:
        changed = function(activation, hook=hook)
        if changed is None:
            return None
        length = (changed.float() - activation.float()).norm(dim=-1, keepdim=True)
        if place not in self.directions:
            generator = torch.Generator().manual_seed(self.seed + _APART * place)
            noise = torch.randn(activation.shape[2:], generator=generator, dtype=torch.float32)
            self.directions[place] = noise / noise.norm(dim=-1, keepdim=True)
        direction = self.directions[place].to(activation.device)
        return (activation.float() + length * direction).to(activation.dtype)
