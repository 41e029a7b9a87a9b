"""Value gradients multiplied by a matrix over their inputs, made of the demonstrations' inputs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from iclgd_lens.episode import Demonstrations
from iclgd_lens.host import Hook, Host, LinearSite, frozen
from iclgd_lens.hypotheses.common import padded
from iclgd_lens.training.sgd import Transform


def value_moments(
    host: Host, shown: Demonstrations, *, ends_alone: bool = False
) -> dict[str, Float[Tensor, "d_in d_in"]]:
    """Mean of x xᵀ over the demonstrations' tokens, x what enters W_V, by W_V's name; in fp64.

    Args:
        host: The model, unchanged; each demonstration is run once, some of them together.
        shown: The demonstrations.
        ends_alone: The last tokens of the contents alone, where queries are read.
    """
    sites = {name: site for name, site in host.sites.items() if site.kind == "W_V"}
    sums: dict[str, Tensor] = {}
    counted = 0
    shown.check_vocabulary(host)

    def keep(site: LinearSite, own: Bool[Tensor, "row pos"], activation: Tensor, hook: Any) -> None:
        x = site.read(activation)[own].double()
        moment = x.T @ x
        sums[site.weight] = sums[site.weight] + moment if site.weight in sums else moment

    sequences = shown.sequences()
    with frozen(host.model), torch.no_grad():
        for places, tokens in padded(host, [tuple(each.tokens) for each in sequences]):
            own = torch.zeros_like(tokens, dtype=torch.bool)
            for row, place in enumerate(places):
                end = sequences[place].label_start
                last = len(sequences[place].tokens)
                own[row, slice(end - 1, end) if ends_alone else slice(0, last)] = True
            hooks: list[Hook] = [
                (site.input_hook, partial(keep, site, own)) for site in sites.values()
            ]
            with host.hooked(hooks):
                host.run(tokens)
            counted += int(own.sum())
    return {name: total / counted for name, total in sums.items()}


def preconditioned(matrices: Mapping[str, Float[Tensor, "d_in d_in"]]) -> Transform:
    """A gradient transform: each named weight's gradient with its input axis multiplied."""

    def transform(name: str, gradient: Tensor, change: Tensor, count: int) -> Tensor:
        return matrices[name] @ gradient if name in matrices else gradient

    return transform
