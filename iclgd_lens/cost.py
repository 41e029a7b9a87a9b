"""What building an intervention costs, counted while it is built.

The unit is one sequence through one block: a demonstration read whole by a model of L blocks is L
block forwards, and L block backwards if the loss flows back through all of them. Unembeddings count
sequences whose predictions were computed, once for each block they were read from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iclgd_lens.host import Hook, Host, uncounted_hooks


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
    before = host.unembedded
    hooks: list[Hook] = []
    for layer in range(host.n_layers):
        hooks.append((host.block_input_hook(layer), partial(_enter, ledger, layer)))
        hooks.append((host.block_output_hook(layer), partial(_leave, ledger)))
    try:
        with uncounted_hooks(host, hooks):
            yield ledger
    finally:
        ledger.unembeddings = host.unembedded - before


def _enter(ledger: Ledger, layer: int, activation: Tensor, hook: Any) -> None:
    ledger.block_forwards += activation.shape[0]
    if layer == 0:
        ledger.demonstrations += activation.shape[0]


def _leave(ledger: Ledger, activation: Tensor, hook: Any) -> None:
    if activation.requires_grad and torch.is_grad_enabled():
        activation.register_hook(partial(_back, ledger, activation.shape[0]))


def _back(ledger: Ledger, rows: int, gradient: Tensor) -> None:
    ledger.block_backwards += rows
