"""Untrained weights: what an architecture scores without anything that it learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from iclgd_lens.host.base import Host
from iclgd_lens.host.initialiser import initialiser_of

Untrained = Literal["embeddings", "norms"]
"""What stays as trained: the (un)embeddings and all norms, or the norms alone."""

# What is drawn is the same whatever the caller's default dtype and device are.
_DRAWN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def reinitialise(host: Host, keep: Untrained = "embeddings", seed: int = 0) -> None:
    """Draw the weights of `host`'s model anew, in place: for copies and fresh models alone.

    Weights are drawn by the architecture's own initialiser (`initialiser_of`): matrices normal,
    biases zero.

    Args:
        host: The model.
        keep: What stays as trained.
        seed: Seed of the weights; the global random state is not touched.
    """
    drawn: set[int] = set()
    rule = initialiser_of(host)
    for site in host.sites.values():
        weight = _normal(site.shape, rule.of(site.kind), seed, site.weight)
        host.write_parameter(site.weight, weight)
        drawn.add(_storage(host.parameter(site.weight)))
        if site.bias is not None:
            host.write_parameter(site.bias, torch.zeros(site.bias_shape, **_DRAWN))
            drawn.add(_storage(host.parameter(site.bias)))
    for name, parameter, is_embedding in _other_parameters(host.model):
        if _storage(parameter) in drawn or (is_embedding and keep == "embeddings"):
            continue
        with torch.no_grad():
            if parameter.ndim < 2 or name.rsplit(".", 1)[1].lstrip("_").startswith("b_"):
                parameter.zero_()
            else:
                parameter.copy_(_normal(tuple(parameter.shape), rule.std, seed, name))


def permute_entries(host: Host, seed: int = 0) -> None:
    """Put each matrix's trained entries in random places, in place: for copies alone.

    The scale of every matrix stays, its structure goes. Embeddings, norms and biases stay.

    Args:
        host: The model.
        seed: Of the places; the global random state is not touched.
    """
    for site in host.sites.values():
        weight = host.parameter(site.weight)
        if weight is None:
            continue
        order = torch.randperm(
            weight.numel(), generator=_generator(seed, f"permuted {site.weight}")
        )
        flat = weight.detach().cpu().reshape(-1)[order]
        host.write_parameter(site.weight, flat.reshape(site.shape))


def _other_parameters(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Every parameter outside the norms, and whether it belongs to an (un)embedding."""
    for path, module in model.named_modules(remove_duplicate=True):
        kind = type(module).__name__
        if "Norm" in kind or kind == "RMSNorm":
            continue
        embedding = "mbed" in kind or "mbed" in path or "lm_head" in path or kind == "PosEmbed"
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{name}", parameter, embedding


def _storage(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.untyped_storage().data_ptr()


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def _normal(shape: tuple[int, ...], std: float, seed: int, name: str) -> Tensor:
    return torch.randn(shape, generator=_generator(seed, name), **_DRAWN) * std
