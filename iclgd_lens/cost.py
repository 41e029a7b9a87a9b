"""What building an intervention costs, counted while it is built.

The unit is one sequence through one block: a demonstration read whole by a model of L blocks is L
block forwards, and L block backwards if the loss flows back through all of them. Unembeddings count
sequences whose predictions were computed, once for each block they were read from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Hashable
from dataclasses import asdict, astuple, dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from iclgd_lens.host import Hook, Host, uncounted_hooks

ENTRIES = 8
"""Results that are remembered at once; the oldest is forgotten."""
SHARED_BYTES = 64_000_000
"""Size of a result above which it is not remembered."""
T = TypeVar("T")


@dataclass
class Ledger:
    """Passes, counted.

    Attributes:
        block_forwards: Sequences through blocks.
        block_backwards: Gradients of sequences through blocks.
        unembeddings: Sequences unembedded, once for each block that they were read from.
        demonstrations: Sequences that entered the first block.
    """

    block_forwards: int = 0
    block_backwards: int = 0
    unembeddings: int = 0
    demonstrations: int = 0

    def as_dict(self) -> dict[str, int]:
        """Plain JSON values."""
        return asdict(self)

    def add(self, forwards: int, backwards: int, unembeddings: int, demonstrations: int) -> None:
        """Count more passes."""
        self.block_forwards += forwards
        self.block_backwards += backwards
        self.unembeddings += unembeddings
        self.demonstrations += demonstrations

    def shared(self, among: int) -> Ledger:
        """An equal share of what was run for several at once."""
        return Ledger(*(value // among for value in self.as_dict().values()))

    @property
    def total(self) -> int:
        """Block passes, forward and back; what costs are compared by."""
        return self.block_forwards + self.block_backwards


@contextlib.contextmanager
def counted(host: Host) -> Generator[Ledger, None, None]:
    """Count what runs on `host` inside the context; nothing of the model changes.

    Passes of a copy of the model are not counted.
    """
    ledger = Ledger()
    before, charged = host.unembedded, host.charged
    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        hooks.append((host.block_input_hook(layer), partial(_enter, ledger, layer)))
        hooks.append((host.block_output_hook(layer), partial(_leave, ledger)))
    try:
        with uncounted_hooks(host, hooks):
            yield ledger
    finally:
        ledger.unembeddings = host.unembedded - before
        ledger.add(*(now - then for now, then in zip(host.charged, charged, strict=True)))


@contextlib.contextmanager
def sharing(host: Host) -> Generator[None, None, None]:
    """Inside, what several hypotheses need from the same demonstrations is computed once.

    Ledgers count it for each of them: a cost is what a hypothesis costs alone. The model must stay
    as it is inside the context.
    """
    before, host.memory = host.memory, {}
    try:
        yield
    finally:
        host.memory = before


def remembered(
    host: Host, key: Hashable, make: Callable[[], T], keep: Callable[[T], bool] | None = None
) -> T:
    """What `make` returns, from memory where it was made before inside `sharing`.

    Args:
        host: The model's host.
        key: Everything that the result depends on, beside the model.
        make: Computes it.
        keep: Whether a result is small enough to be kept; None for always.
    """
    memory = host.memory
    if memory is None:
        return make()
    if key in memory:
        value, ledger = memory[key]
        host.charged = tuple(a + b for a, b in zip(host.charged, astuple(ledger), strict=True))
        return value
    with counted(host) as ledger:
        value = make()
    if keep is None or keep(value):
        while len(memory) >= ENTRIES:
            del memory[next(iter(memory))]
        memory[key] = (value, ledger)
    return value


def _enter(ledger: Ledger, layer: int, activation: Tensor, hook: Any) -> None:
    ledger.block_forwards += activation.shape[0]
    if layer == 0:
        ledger.demonstrations += activation.shape[0]


def _leave(ledger: Ledger, activation: Tensor, hook: Any) -> None:
    if activation.requires_grad and torch.is_grad_enabled():
        activation.register_hook(partial(_back, ledger, activation.shape[0]))


def _back(ledger: Ledger, rows: int, gradient: Tensor) -> None:
    ledger.block_backwards += rows
