"""A linear map of a model, and where what enters and leaves it passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import HookError


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
