"""Networks that learned nothing: weights drawn anew, or trained weights in random places."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host.base import Host
from iclgd_lens.host.initialiser import initialiser_of, new_weights, warn_of_initialiser
from iclgd_lens.host.parameters import named_parameters

Untrained = Literal["embeddings", "norms"]
"""What stays as trained: the (un)embeddings and all norms, or the norms alone."""


def reinitialise(model: nn.Module, keep: Untrained = "embeddings", seed: int = 0) -> None:
    """Draw the weights of a model anew, in place: for copies and fresh models alone.

    They are drawn by the initialiser of the architecture's own `transformers` class, in fp32, and
    then cast to the model's dtype. The model's configuration records it as `network`.

    Args:
        model: A HookedTransformer or TransformerBridge.
        keep: What stays as trained.
        seed: Seed of the weights; the global random state is not touched.

    Raises:
        UnsupportedModelError: The architecture cannot be made anew.
    """
    warn_of_initialiser(model)
    new = new_weights(model, seed)
    for each in named_parameters(model):
        if each.part == "norm" or (each.part == "embedding" and keep == "embeddings"):
            continue
        value = new.get(each.name)
        if value is None and each.is_bias:
            value = torch.zeros_like(each.value)
        if value is None or value.shape != each.value.shape:
            raise UnsupportedModelError(
                f"A new {initialiser_of(model)} has no weight like {each.name}, so this model has "
                "no untrained twin."
            )
        with torch.no_grad():
            each.value.copy_(value)
    _record(model, f"untrained ({keep} kept), seed {seed}, by {initialiser_of(model)}")


def permute_entries(host: Host, seed: int = 0) -> None:
    """Put each matrix's trained entries in random places, in place: for copies alone.

    The scale of every matrix stays, its structure goes. Embeddings, norms and biases stay.

    Args:
        host: The model.
        seed: Of the places; the global random state is not touched.
    """
    done: set[int] = set()
    # By TransformerLens's names and layout: the same places on both hosts.
    for site in host.sites.values():
        weight = host.parameter(site.weight)
        if weight is not None:
            host.write_parameter(site.weight, _permuted(weight, seed, site.weight))
            done.add(_storage(host.parameter(site.weight)))
    for each in named_parameters(host.model):
        if each.part == "block" and not each.is_bias and _storage(each.value) not in done:
            with torch.no_grad():
                each.value.copy_(_permuted(each.value, seed, each.name))
    _record(host.model, f"trained entries permuted within each matrix, seed {seed}")


def _record(model: Any, network: str) -> None:
    model.cfg.network = network


def _permuted(weight: Tensor, seed: int, name: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}:permuted {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order = torch.randperm(weight.numel(), generator=generator, device="cpu")
    return weight.detach().cpu().reshape(-1)[order].reshape(weight.shape)


def _storage(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.untyped_storage().data_ptr()
