"""What building a hypothesis costs, counted while it is built.

A *block pass* is one token through one block; forwards and backwards are counted apart, and so are
tokens that are read by the unembedding. In these units LCGD pays, for each predicted token of a
demonstration and each layer, one unembedding, and for each token and layer one block pass each way;
GD the same with one unembedding a token. Nothing is estimated: hooks count what runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Generator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import Hook, Host, as_host
from iclgd_lens.hypotheses.parts import shown_of
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.intervention import Intervention


@dataclasses.dataclass
class Ledger:
    """What ran.

    Attributes:
        block_forwards: Tokens through blocks.
        block_backwards: The same, on the way back.
        unembeddings: Tokens read by the final norm and the unembedding.
        demonstrations: Demonstrations that the hypothesis was shown, auxiliary ones included.
    """

    block_forwards: int = 0
    block_backwards: int = 0
    unembeddings: int = 0
    demonstrations: int = 0

    def as_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    def factor(self, of: Ledger, vocabulary: float = 1.0) -> float:
        """How many times another's cost this is.

        Args:
            of: The other, LCGD's as a rule.
            vocabulary: What an unembedding costs, in block passes (vocabulary times width over a
                block's weights); the pass back of either costs twice the one forward.
        """
        costs = [
            ledger.block_forwards + 2 * ledger.block_backwards + vocabulary * ledger.unembeddings
            for ledger in (self, of)
        ]
        return costs[0] / costs[1]


@contextlib.contextmanager
def counting(host: Host) -> Generator[Ledger, None, None]:
    """Count what runs on `host` in the context."""
    ledger = Ledger()
    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        hooks.append((host.block_input_hook(layer), partial(_entered, ledger)))
        hooks.append((host.block_output_hook(layer), partial(_left, ledger)))
    norm = host.final_norm

    def counted(residual: Tensor) -> Tensor:
        ledger.unembeddings += residual.shape[:-1].numel()
        return norm(residual)

    vars(host)["final_norm"] = counted
    try:
        with host.hooked(hooks, forced=False):
            yield ledger
    finally:
        del vars(host)["final_norm"]


def _entered(ledger: Ledger, activation: Tensor, hook: Any) -> None:
    ledger.block_forwards += activation.shape[:-1].numel()


def _left(ledger: Ledger, activation: Tensor, hook: Any) -> None:
    if activation.requires_grad and torch.is_grad_enabled():
        activation.register_hook(partial(_returned, ledger))


def _returned(ledger: Ledger, gradient: Tensor) -> None:
    ledger.block_backwards += gradient.shape[:-1].numel()


def counted(
    hypothesis: Hypothesis, model: Any, episode: Demonstrations | Episode, **settings: Any
) -> tuple[Intervention, Ledger]:
    """Build a hypothesis and count what that costs; a delta carries it as metadata "cost"."""
    host = as_host(model)
    with counting(host) as ledger:
        built = hypothesis.build(host, episode, **settings)
    ledger.demonstrations = len(shown_of(episode)) + sum(
        len(shown_of(other)) for other in settings.get("auxiliary", ())
    )
    if isinstance(built, ParameterDelta):
        built.metadata["cost"] = ledger.as_dict()
    return built, ledger
