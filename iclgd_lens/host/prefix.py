"""What a forward pass gives, and what of it later passes may share."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.errors import UnsupportedModelError


@dataclass(frozen=True)
class Prefix:
    """Keys and values of tokens already read, to be shared by many queries.

    Attributes:
        tokens: Token ids read so far: "batch pos".
        keys: One tensor a layer, in the host's own layout.
        values: One tensor a layer, in the host's own layout.
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

    Their keys and values would be others as soon as a query follows, so none are kept.
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


@dataclass(frozen=True)
class Run:
    """What one forward pass gives.

    Attributes:
        residual: Residual stream after the last block, before the final norm: "batch pos d_model".
        prefix: Keys and values of everything read, where asked for.
    """

    residual: Float[Tensor, "batch pos d_model"]
    prefix: Prefix | None
