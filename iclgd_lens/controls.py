"""Controls: what a score means is what it is when the hypothesis cannot be true.

Untrained models, random directions and incorrect demonstrations. (Random updates matched to a delta
are the hypothesis `random`; the zero update and the oracle are hypotheses too.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from iclgd_lens import scores
from iclgd_lens.episode import Demonstration, Episode
from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.host import as_host, copied
from iclgd_lens.readout import Readout

Untrained = Literal["embeddings", "norms"]


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
    """
    if keep not in ("embeddings", "norms"):
        raise ComparisonError(
            f"keep is {keep!r}; allowed: embeddings, norms."
            + nearest(str(keep), ("embeddings", "norms"))
        )
    original = as_host(model)
    twin = copied(original.model)
    host = as_host(twin)
    drawn: set[int] = set()
    for site in host.sites.values():
        heads_in = site.kind == "W_O"
        fan_in = site.shape[0] * site.shape[1] if heads_in else site.shape[-2]
        fan_out = int(np.prod(site.shape)) // fan_in
        host.write_parameter(site.weight, _xavier(site.shape, fan_in, fan_out, seed, site.weight))
        drawn.add(_storage(host.parameter(site.weight)))
        if site.bias is not None:
            host.write_parameter(site.bias, torch.zeros(site.bias_shape))
            drawn.add(_storage(host.parameter(site.bias)))
    for name, parameter, is_embedding in _other_parameters(twin):
        if _storage(parameter) in drawn or (is_embedding and keep == "embeddings"):
            continue
        with torch.no_grad():
            if parameter.ndim < 2 or name.rsplit(".", 1)[1].lstrip("_").startswith("b_"):
                parameter.zero_()
            elif is_embedding:
                noise = torch.randn(parameter.shape, generator=_generator(seed, name))
                parameter.copy_(noise * host.d_model**-0.5)
            else:
                fan_out, fan_in = parameter.shape[0], parameter[0].numel()
                parameter.copy_(_xavier(tuple(parameter.shape), fan_in, fan_out, seed, name))
    return twin


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
    return (2 * torch.rand(shape, generator=_generator(seed, name)) - 1) * bound


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
        return draw(values.shape, generator=generator).to(values.device)

    def cosine(change: Tensor, direction: Tensor) -> Tensor:
        zero = torch.zeros_like(change)
        return scores.sim_am(zero, change, direction)

    def unit(values: Tensor) -> Tensor:
        return values / values.norm(dim=-1, keepdim=True) if normalize else values

    change = unit(icl.attention_output) - unit(zs.attention_output)
    own = icl.scores - zs.scores
    mask = (zs.scores != 0) | (icl.scores != 0)
    return {
        "SimAOU": cosine(change[:, :, None], like(change)[:, :, None])[:, :, 0],
        "SimAM": cosine(own, like(own) * mask),
    }
