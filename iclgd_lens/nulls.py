"""How controls are made: untrained networks, wrong demonstrations, random updates and directions.

What each asks, and what varies with it, is in the table `iclgd_lens.controls`.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from iclgd_lens import measures
from iclgd_lens.episode import Demonstration, Episode
from iclgd_lens.errors import ComparisonError, UnsupportedModelError, nearest
from iclgd_lens.host import as_host, copied
from iclgd_lens.host.untrained import Untrained, reinitialise
from iclgd_lens.readout import Readout


def untrained(model: Any, keep: Untrained = "embeddings", seed: int = 0) -> Any:
    """Return an untrained copy of `model`; the model itself is not changed.

    Weight matrices are drawn Xavier-uniform, biases are zero. The same seed gives the same blocks
    on a HookedTransformer and on a TransformerBridge of one model; embeddings, which
    `keep="norms"` draws too, are laid out and tied differently on the two and differ.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        keep: What stays as trained. "embeddings": token and position embeddings, all norms and the
            unembedding (the paper's control). "norms": the norms alone.
        seed: Seed of the weights; the global random state is not touched.

    Raises:
        ComparisonError: `keep` is neither.
        UnsupportedModelError: A copy of this model does not compute with its own weights.
    """
    if keep not in ("embeddings", "norms"):
        raise ComparisonError(
            f"keep is {keep!r}; allowed: embeddings, norms."
            + nearest(str(keep), ("embeddings", "norms"))
        )
    host = as_host(model)
    twin = copied(host.model)
    try:
        reinitialise(as_host(twin), keep, seed)
        as_host(twin)  # asks anew whether every map computes with the weights just drawn
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"A copy of {host.name} does not compute with weights of its own, so it has no "
            f"untrained twin; leave out the controls that need one. ({error})"
        ) from error
    return twin


def shuffled_labels(episode: Episode, seed: int = 0) -> Episode:
    """Return the episode with every demonstration's label replaced by another, drawn at random."""
    generator = np.random.default_rng(seed)
    examples: list[Demonstration] = []
    for example in episode.demonstrations.examples:
        shift = int(generator.integers(1, episode.n_labels))
        gold = (example.gold + shift) % episode.n_labels
        examples.append(Demonstration(example.content, episode.label_tokens[gold], gold))
    return episode.with_demonstrations(examples)


Directions = Literal["gaussian", "uniform"]


def random_directions(
    kind: Directions, zs: Readout, icl: Readout, seed: int = 0, *, normalize: bool = True
) -> dict[str, Tensor]:
    """SimAOU and SimAM of random directions in place of an intervention's change.

    Args:
        kind: "gaussian" for isotropic directions; "uniform" for entries in [0, 1), which are not
            zero-mean, as the reference implementation's baseline draws them.
        zs: The ZS readout.
        icl: The ICL readout.
        seed: Seed of the directions.
        normalize: Whether SimAOU normalises attention outputs first.

    Returns:
        "SimAOU" [query layer] and "SimAM" [query layer head].
    """
    generator = torch.Generator().manual_seed(seed)

    def like(values: Tensor) -> Tensor:
        draw = torch.randn if kind == "gaussian" else torch.rand
        return draw(values.shape, generator=generator, dtype=torch.float32, device="cpu").to(
            values.device
        )

    def cosine(change: Tensor, direction: Tensor) -> Tensor:
        zero = torch.zeros_like(change)
        return measures.sim_am(zero, change, direction)

    def unit(values: Tensor) -> Tensor:
        return values / values.norm(dim=-1, keepdim=True) if normalize else values

    change = unit(icl.attention_output) - unit(zs.attention_output)
    own = icl.scores - zs.scores
    mask = (zs.scores != 0) | (icl.scores != 0)
    return {
        "SimAOU": cosine(change[:, :, None], like(change)[:, :, None])[:, :, 0],
        "SimAM": cosine(own, like(own) * mask),
    }
