"""What a host hands out: its linear maps, and parts of a forward pass that later passes share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.errors import HookError, UnsupportedModelError


def _identity(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class LinearSite:
    """A linear map y = x W + b of one layer, and the hook points where x and y pass.

    Attributes:
        layer: Layer index.
        weight: TransformerLens name of W, e.g. "blocks.0.attn.W_K".
        bias: TransformerLens name of b, or None where the model's map has none.
        shape: Shape of W: [head, d_in, d_out] for attention, [d_in, d_out] for MLP weights.
        input_hook: Where x passes.
        output_hook: Where y passes.
        read: Turns the value at `input_hook` into x.
    """

    layer: int
    weight: str
    bias: str | None
    shape: tuple[int, ...]
    input_hook: str
    output_hook: str
    read: Callable[[Tensor], Tensor] = field(default=_identity, repr=False, compare=False)

    @property
    def kind(self) -> str:
        """The weight without its layer, e.g. "W_K"."""
        return self.weight.rsplit(".", 1)[1]

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of b: [head, d_head] where heads are outputs, else [d_out]."""
        if len(self.shape) == 3 and self.kind != "W_O":
            return (self.shape[0], self.shape[2])
        return (self.shape[-1],)

    def apply(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, like: Tensor
    ) -> Float[Tensor, "..."]:
        """Return x W + b in fp32, shaped as the value `like` at the output hook."""
        total: Tensor | None = None
        if weight is not None:
            x = x.to(weight.dtype)
            if self.kind == "W_O":
                total = x.reshape(*x.shape[:2], -1) @ rearrange(
                    weight, "head d_in d_out -> (head d_in) d_out"
                )
            elif weight.ndim == 3:
                total = x @ rearrange(weight, "head d_in d_head -> d_in (head d_head)")
            else:
                total = x @ weight
        if bias is not None:
            total = bias.flatten() if total is None else total + bias.flatten()
        if total is None:
            raise HookError(f"{self.weight}: neither a weight nor a bias to apply.")
        return total.expand(*like.shape[:2], -1).reshape(like.shape)


def layer_of(name: str) -> int:
    """The layer of a weight, a bias or a block's hook point, by its TransformerLens name.

    Examples:
        >>> layer_of("blocks.3.attn.W_K")
        3
    """
    return int(name.split(".")[1])


@dataclass(frozen=True)
class Prefix:
    """Keys and values of tokens already read, to be shared by many queries.

    Attributes:
        tokens: Token ids read so far: "batch pos".
        keys: One tensor per layer, in the host's own layout.
        values: One tensor per layer, in the host's own layout.
        axis: Which of their axes is the position.
    """

    tokens: Int[Tensor, "batch pos"]
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    axis: int = 1

    @property
    def length(self) -> int:
        """Number of tokens read."""
        return self.tokens.shape[1]

    def expand(self, batch: int) -> Prefix:
        """Return a view of this prefix for `batch` sequences; nothing is copied."""
        if self.tokens.shape[0] == batch:
            return self
        return Prefix(
            self.tokens.expand(batch, -1),
            tuple(k.expand(batch, *k.shape[1:]) for k in self.keys),
            tuple(v.expand(batch, *v.shape[1:]) for v in self.values),
            self.axis,
        )

    def rows(self, index: Int[Tensor, " row"]) -> Prefix:
        """Return a copy of some of the sequences."""
        return Prefix(
            self.tokens[index],
            tuple(k[index] for k in self.keys),
            tuple(v[index] for v in self.values),
            self.axis,
        )

    def crop(self, length: int) -> Prefix:
        """Return a view of the first `length` tokens' keys and values."""
        if length == self.length:
            return self
        return Prefix(
            self.tokens[:, :length],
            tuple(k.narrow(self.axis, 0, length) for k in self.keys),
            tuple(v.narrow(self.axis, 0, length) for v in self.values),
            self.axis,
        )


class WholePrefix(Prefix):
    """Tokens to be read again before each query, where positions depend on the whole length.

    Their keys and values would change as soon as a query follows, so none are kept.
    """

    def __init__(self, tokens: Int[Tensor, "batch pos"]) -> None:
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "axis", 1)

    @property
    def keys(self) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """There are none.

        Raises:
            UnsupportedModelError: Always.
        """
        raise UnsupportedModelError(
            "This model's positions depend on the length of the whole sequence, so the keys and "
            "values of demonstrations are others for every query; what needs them is not served."
        )

    values = keys  # pyright: ignore[reportAssignmentType]

    def expand(self, batch: int) -> Prefix:
        """See `Prefix.expand`."""
        return WholePrefix(self.tokens.expand(batch, -1))

    def rows(self, index: Int[Tensor, " row"]) -> Prefix:
        """See `Prefix.rows`."""
        return WholePrefix(self.tokens[index])

    def crop(self, length: int) -> Prefix:
        """See `Prefix.crop`."""
        return WholePrefix(self.tokens[:, :length])


def read_again(
    name: str, prefix: Prefix | None, tokens: Int[Tensor, "batch pos"]
) -> Int[Tensor, "batch read"]:
    """Tokens of a pass of the model `name` whose positions depend on the whole length.

    Raises:
        UnsupportedModelError: The prefix has keys and values, and not only tokens.
    """
    if prefix is None:
        return tokens
    if not isinstance(prefix, WholePrefix):
        raise UnsupportedModelError(
            f"The positions of {name} depend on the length of the whole sequence, so keys "
            "and values cannot be placed before a query; interventions that do are not served."
        )
    return torch.cat([prefix.expand(len(tokens)).tokens, tokens], dim=1)


@dataclass(frozen=True)
class ForwardResult:
    """What one forward pass gives.

    Attributes:
        residual: Residual stream after the last block, before the final norm: "batch pos d_model";
            pos is 1 where one token of each row was asked for.
        prefix: Keys and values of everything read, where asked for.
    """

    residual: Float[Tensor, "batch pos d_model"]
    prefix: Prefix | None
