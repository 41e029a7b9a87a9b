"""Named parts of a residual stream, and blocks of weights that read one part and write another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import WorldError

HARD = 60.0
"""Score by which a position is picked: other keys get e^-60 of its weight, nothing in fp32."""

CONSTANT = 200.0
"""A constant that every head that learns writes into a part of its own, which no loss sees. SimAOU
is the cosine of a change of direction: without something to turn, ZS has none. The change u of a
vector this long differs from u / CONSTANT by |u|^2 / CONSTANT^2, here below 1e-5."""

ALOOF = -30.0
"""Logit of every token that is not a label word."""


class Layout:
    """Parts of a residual stream, one after the other: `Layout(word=9, place=64).word` is a slice.

    Args:
        sizes: Width of each part, by name.
    """

    def __init__(self, **sizes: int) -> None:
        self._parts: dict[str, slice] = {}
        self.width = 0
        for name, size in sizes.items():
            self._parts[name] = slice(self.width, self.width + size)
            self.width += size

    def __getitem__(self, name: str) -> slice:
        return self._parts[name]

    def size(self, name: str) -> int:
        """Width of a part."""
        part = self._parts[name]
        return part.stop - part.start


class Block:
    """The weights of one attention block, zero where nothing was written.

    Args:
        width: Of the residual stream.
        heads: Number of query heads.
        d_head: Width of a head.
        kv_heads: Number of key and value heads, shared by groups of query heads; None for as many.
    """

    def __init__(self, width: int, heads: int, d_head: int, kv_heads: int | None = None) -> None:
        shared = heads if kv_heads is None else kv_heads
        self.W_Q = torch.zeros(heads, width, d_head)
        self.W_K = torch.zeros(shared, width, d_head)
        self.W_V = torch.zeros(shared, width, d_head)
        self.W_O = torch.zeros(heads, d_head, width)
        self.b_V = torch.zeros(shared, d_head)
        self.b_O = torch.zeros(width)

    def named(self, layer: int) -> dict[str, Tensor]:
        """The weights by TransformerLens name."""
        return {f"blocks.{layer}.attn.{name}": value for name, value in vars(self).items()}


def weights_of(embed: Mapping[str, Tensor], blocks: Iterable[Block]) -> dict[str, Tensor]:
    """Embeddings and blocks by TransformerLens name."""
    found = dict(embed)
    for layer, block in enumerate(blocks):
        found |= block.named(layer)
    return found


def previous(block: Block, place: slice, head: int = 0) -> None:
    """Let a head attend to the token before, whatever the tokens are."""
    positions = range(place.stop - place.start)
    for p in positions:
        block.W_Q[head, place.start + p, p] = HARD
        if p + 1 in positions:
            block.W_K[head, place.start + p, p + 1] = 1.0


def itself(block: Block, place: slice, head: int = 0) -> None:
    """Let a head attend to its own token alone."""
    for p in range(place.stop - place.start):
        block.W_Q[head, place.start + p, p] = HARD
        block.W_K[head, place.start + p, p] = 1.0


def unembedding(
    layout: Layout, tokens: int, predicted: slice, labels: range
) -> Float[Tensor, "width token"]:
    """Read label logits from a part of the stream; every other token has a low logit.

    The logit of the others comes from the position: each token has exactly one.
    """
    found = torch.zeros(layout.width, tokens)
    found[layout["place"]] = ALOOF
    found[layout["place"], labels.start : labels.stop] = 0.0
    found[predicted, labels.start : labels.stop] = torch.eye(len(labels))
    return found


def centred(size: int) -> Float[Tensor, "size size"]:
    """The projection that takes the mean out: I - 11^T / size."""
    return torch.eye(size) - 1.0 / size


def rotation(size: int, degrees: float) -> Float[Tensor, "size size"]:
    """Turn every plane of the centred space by an angle; rows times this matrix are turned.

    The planes are those of the Fourier basis, one for each frequency, so that `size` must be odd.
    The mean of a row stays as it is.

    Raises:
        WorldError: The angle is not finite.
    """
    if not math.isfinite(degrees):
        raise WorldError(f"An angle is {degrees}; it must be a finite number of degrees.")
    steps = torch.arange(size, dtype=torch.float64)
    found = torch.full((size, size), 1.0 / size, dtype=torch.float64)
    angle = math.radians(degrees)
    for frequency in range(1, size // 2 + 1):
        phase = 2 * math.pi * frequency * steps / size
        plane = torch.stack([phase.cos(), phase.sin()]) * (2 / size) ** 0.5
        turn = torch.tensor(
            [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]],
            dtype=torch.float64,
        )
        found += plane.T @ turn @ plane
    return found.float()
