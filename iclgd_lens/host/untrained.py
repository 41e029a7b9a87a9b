"""Untrained weights: what an architecture scores without anything that it learned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from iclgd_lens.host.base import Host

Untrained = Literal["embeddings", "norms"]
"""What stays as trained: the (un)embeddings and all norms, or the norms alone."""

# What is drawn is the same whatever the caller's default dtype and device are.
_DRAWN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def reinitialise(host: Host, keep: Untrained = "embeddings", seed: int = 0) -> None:
    """Draw the weights of `host`'s model anew, in place: for copies and fresh models alone.

    Weight matrices are drawn Xavier-uniform, biases are zero.

    Args:
        host: The model.
        keep: What stays as trained.
        seed: Seed of the weights; the global random state is not touched.
    """
    drawn: set[int] = set()
    for site in host.sites.values():
        heads_in = site.kind == "W_O"
        fan_in = site.shape[0] * site.shape[1] if heads_in else site.shape[-2]
        fan_out = int(np.prod(site.shape)) // fan_in
        host.write_parameter(site.weight, _xavier(site.shape, fan_in, fan_out, seed, site.weight))
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
            elif is_embedding:
                noise = torch.randn(parameter.shape, generator=_generator(seed, name), **_DRAWN)
                parameter.copy_(noise * host.d_model**-0.5)
            else:
                fan_out, fan_in = parameter.shape[0], parameter[0].numel()
                parameter.copy_(_xavier(tuple(parameter.shape), fan_in, fan_out, seed, name))


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


def _xavier(shape: tuple[int, ...], fan_in: int, fan_out: int, seed: int, name: str) -> Tensor:
    bound = (6.0 / (fan_in + fan_out)) ** 0.5
    return (2 * torch.rand(shape, generator=_generator(seed, name), **_DRAWN) - 1) * bound
