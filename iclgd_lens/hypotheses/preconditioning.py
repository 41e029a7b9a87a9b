"""Value gradients multiplied by a matrix over their inputs, made of the demonstrations' inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.demonstrations import Demonstrations, TrainingSequence
from iclgd_lens.host import Hook, Host, LinearSite, frozen
from iclgd_lens.hypotheses.common import padded
from iclgd_lens.training.sgd import Transform

Positions = Callable[[TrainingSequence], list[int]]


def value_moments(
    host: Host, shown: Demonstrations, loss_on: str | None, where: Positions
) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """Mean of x xᵀ over some of the demonstrations' tokens, x what enters W_V, by W_V's name.

    In fp64. Each demonstration is run once, some of them together; the model stays as it is.

    Args:
        host: The model.
        shown: The demonstrations.
        loss_on: Which tokens of a demonstration the loss is of.
        where: The positions of one demonstration: such as `content_end`.
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
                own[row, where(sequences[place])] = True
            hooks: list[Hook] = [
                (site.input_hook, partial(keep, site, own)) for site in sites.values()
            ]
            with host.hooked(hooks):
                host.run(tokens)
            counted += int(own.sum())
    return {name: total / counted for name, total in sums.items()}


def content_end(sequence: TrainingSequence) -> list[int]:
    """The last position of the content, where a query is read."""
    return [sequence.label_start - 1]


def preconditioned(matrices: Mapping[str, Float[Tensor, "d_in d_in"]]) -> Transform:
    """A gradient transform: each named weight's gradient with its input axis multiplied."""

    def transform(name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        return matrices[name] @ gradient if name in matrices else gradient

    return transform
