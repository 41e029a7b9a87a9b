"""Other networks in a model's place: an untrained twin, one with permuted weights, one's own."""

from __future__ import annotations

import torch

from iclgd_lens.controls import Control
from iclgd_lens.host import Host, as_host
from iclgd_lens.registry import resolve
from iclgd_lens.rules import returned_by

_APART = 1_000_003
"""Offset to the seed of a network that is drawn again."""


def another_network(host: Host, control: Control, seed: int) -> Host:
    """Return the network that a control puts in a model's place.

    A network is no null for itself. Where a seed gives the very weights of the model, as it does
    for an untrained model that was drawn with that seed, another seed is taken.

    Args:
        host: The model.
        control: It acts on the network.
        seed: Of the network.

    Raises:
        ControlError: The control returned something else.
    """
    made = as_host(returned_by(control, resolve(control.function)(host, seed)))
    if _has_the_weights_of(made, host):
        made = as_host(returned_by(control, resolve(control.function)(host, seed + _APART)))
    return made


def _has_the_weights_of(one: Host, other: Host) -> bool:
    for name in one.sites:
        mine, theirs = one.parameter(name), other.parameter(name)
        if mine is None or theirs is None or not torch.equal(mine, theirs):
            return False
    return True
