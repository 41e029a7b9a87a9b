"""A model's parameters and what part of it each belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from torch import Tensor, nn


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        name: Its path in the model.
        value: The parameter itself.
        part: "norm", "embedding" (of tokens or positions, and the unembedding) or "block".
        is_bias: Whether it is a bias or another vector, not a matrix.
    """

    name: str
    value: Tensor
    part: Literal["norm", "embedding", "block"]
    is_bias: bool


def named_parameters(model: nn.Module) -> Iterator[Parameter]:
    """Yield every parameter of a HookedTransformer or TransformerBridge, shared ones once."""
    for path, module in model.named_modules(remove_duplicate=True):
        kind = type(module).__name__
        part: Literal["norm", "embedding", "block"] = "block"
        if "Norm" in kind:
            part = "norm"
        elif "mbed" in kind or "mbed" in path or "lm_head" in path:
            part = "embedding"
        for name, parameter in module.named_parameters(recurse=False):
            is_bias = parameter.ndim < 2 or name.lstrip("_").startswith("b_")
            yield Parameter(f"{path}.{name}", parameter, part, is_bias)
