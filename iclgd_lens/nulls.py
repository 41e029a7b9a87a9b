"""How controls are made: untrained networks, wrong demonstrations, random updates and directions.

What each asks, and what varies with it, is in the table `iclgd_lens.controls`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from iclgd_lens.delta import ParameterDelta, matched_random
from iclgd_lens.derangements import deranged
from iclgd_lens.episode import FOREIGN, Demonstration, Demonstrations, Episode
from iclgd_lens.episode_loading import Asking, demonstrations_beside
from iclgd_lens.errors import ComparisonError, ControlError, UnsupportedModelError, nearest
from iclgd_lens.host import Hook, Host, as_host, copied
from iclgd_lens.host.untrained import Untrained, permute_entries, reinitialise
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention, Shift, hooks_of
from iclgd_lens.measures import similarity
from iclgd_lens.readout.reader import Readout
from iclgd_lens.tasks import get_task, list_tasks, load_rows

_APART = 10_007
"""Between the seeds of hook points."""


class RandomChange(Intervention):
    """At each hook point, one random direction with the length of each token's own change.

    Where the intervention leaves a token as it is, so does this. The direction is the same for
    every token and query, as an update's is.

    Args:
        intervention: What changes activations, by hooks alone.
        seed: Seed of the directions.

    Raises:
        ControlError: It puts keys and values before each query, too.
    """

    def __init__(self, intervention: Intervention, seed: int) -> None:
        if type(intervention).prefix is not Intervention.prefix:
            raise ControlError(
                f"There is no random update of the size of a {type(intervention).__name__}: it "
                "puts keys and values before each query."
            )
        self.intervention, self.seed = intervention, seed
        self.directions: dict[int, Tensor] = {}

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """The intervention's hooks, each followed by a turn of what it changed."""
        own = hooks_of(self.intervention, host, batch)
        return [
            (name, partial(self._turned, place, function))
            for place, (name, function) in enumerate(own)
        ]

    def _turned(
        self, place: int, function: Callable[..., Tensor | None], activation: Tensor, hook: Any
    ) -> Tensor | None:
        changed = function(activation, hook=hook)
        if changed is None:
            return None
        length = (changed.float() - activation.float()).norm(dim=-1, keepdim=True)
        if place not in self.directions:
            generator = torch.Generator().manual_seed(self.seed + _APART * place)
            noise = torch.randn(activation.shape[2:], generator=generator, dtype=torch.float32)
            self.directions[place] = noise / noise.norm(dim=-1, keepdim=True)
        direction = self.directions[place].to(activation.device)
        return (activation.float() + length * direction).to(activation.dtype)


def untrained(model: Any, keep: Untrained = "embeddings", seed: int = 0) -> Any:
    """Return an untrained copy of `model`; the model itself is not changed.

    Weights are those of a new model of the architecture's own `transformers` class, so its own
    initialiser draws them, residual scaling included (`iclgd_lens.host.untrained`). The same seed
    gives the same weights on a HookedTransformer and on a TransformerBridge of one model. A
    HookedTransformer that came from no known class is drawn by TransformerLens's rule, with a
    `ModelWarning`; which rule it was is in the twin's provenance.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        keep: What stays as trained. "embeddings": token and position embeddings, all norms and the
            unembedding (the paper's control). "norms": the norms alone.
        seed: Seed of the weights; the global random state is not touched.

    Raises:
        ComparisonError: `keep` is neither.
        UnsupportedModelError: A copy of this model does not compute with its own weights, or its
            architecture cannot be made anew.
    """
    if keep not in ("embeddings", "norms"):
        raise ComparisonError(
            f"keep is {keep!r}; allowed: embeddings, norms."
            + nearest(str(keep), ("embeddings", "norms"))
        )
    return _another_network(model, lambda _, twin: reinitialise(twin, keep, seed))


def _another_network(model: Any, change: Callable[[Host, nn.Module], None]) -> Any:
    host = as_host(model)
    twin = copied(host.model)
    try:
        change(host, twin)
        own = host.again(twin)  # asks anew whether every map computes with its new weights
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"A copy of {host.name} does not compute with weights of its own, so it has no "
            f"untrained twin; leave out the controls that need one. ({error})"
        ) from error
    return twin if host.attention == "softmax" else own  # a bare model would count as softmax


def untrained_norms(model: Any, seed: int = 0) -> Any:
    """Return an untrained copy of `model` that keeps the norms alone; see `untrained`."""
    return untrained(model, "norms", seed)


def untrained_twin(model: Any, seed: int = 0) -> Any:
    """Return an untrained copy of `model` that keeps embeddings and norms; see `untrained`."""
    return untrained(model, "embeddings", seed)


def permuted(model: Any, seed: int = 0) -> Any:
    """Return a copy of `model` with each matrix's trained entries in random places.

    Raises:
        UnsupportedModelError: A copy of this model does not compute with its own weights.
    """
    return _another_network(model, lambda host, twin: permute_entries(host.again(twin), seed))


def shuffled(model: Any, episode: Episode, seed: int = 0) -> Episode:
    """The control "shuffled": see `shuffled_labels`."""
    return shuffled_labels(episode, seed)


def shuffled_labels(episode: Episode, seed: int = 0) -> Episode:
    """Return the episode with its demonstrations' labels permuted so that none is right.

    Each label stands as often as before, so that what only counts labels, and the length of the
    prompt, stay the same. Where one label has more than half of the demonstrations there is no such
    permutation: then each label is replaced by another, drawn at random.
    """
    generator = np.random.default_rng(seed)
    examples = episode.demonstrations.examples
    # As they were drawn: a permuted prompt shows the same wrong labels in its own order.
    drawn = episode.demonstrations.drawn or range(len(examples))
    right = [examples[place].gold for place in drawn]
    wrong = deranged(right, generator)
    if wrong is None:
        shifts = generator.integers(1, episode.n_labels, len(right))
        wrong = [
            (gold + int(shift)) % episode.n_labels
            for gold, shift in zip(right, shifts, strict=True)
        ]
    labels = dict(zip(drawn, wrong, strict=True))
    return episode.with_demonstrations(
        [
            Demonstration(example.content, episode.label_tokens[labels[place]], labels[place])
            for place, example in enumerate(examples)
        ]
    )


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
        return similarity.sim_am(zero, change, direction)

    def unit(values: Tensor) -> Tensor:
        return values / values.norm(dim=-1, keepdim=True) if normalize else values

    change = unit(icl.attention_output) - unit(zs.attention_output)
    own = icl.scores - zs.scores
    mask = (zs.scores != 0) | (icl.scores != 0)
    return {
        "SimAOU": cosine(change[:, :, None], like(change)[:, :, None])[:, :, 0],
        "SimAM": cosine(own, like(own) * mask),
    }


def gaussian_directions(
    zs: Readout, icl: Readout, seed: int = 0, normalize: bool = True
) -> dict[str, Tensor]:
    """The control "gaussian": see `random_directions`."""
    return random_directions("gaussian", zs, icl, seed, normalize=normalize)


def uniform_directions(
    zs: Readout, icl: Readout, seed: int = 0, normalize: bool = True
) -> dict[str, Tensor]:
    """The control "uniform": see `random_directions`."""
    return random_directions("uniform", zs, icl, seed, normalize=normalize)


def random_update(intervention: Intervention, seed: int = 0) -> Intervention:
    """Another update of the same size: directions at random, each head's norm matched.

    Args:
        intervention: A weight change, a shift of activations, or another that changes activations
            by hooks alone: each change is then turned into a random direction of its size.
        seed: Seed of the directions.

    Raises:
        ControlError: It puts keys and values before queries, so that no random update of its size
            is defined.
    """
    if isinstance(intervention, ParameterDelta):
        return matched_random(intervention, seed)
    if not isinstance(intervention, Shift):
        return RandomChange(intervention, seed)
    generator = torch.Generator().manual_seed(seed)
    drawn: dict[str, Tensor] = {}
    for name, vector in intervention.vectors.items():
        noise = torch.randn(vector.shape, generator=generator, dtype=torch.float32, device="cpu")
        noise = noise.to(vector.device)
        drawn[name] = noise * (vector.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))
    return Shift(drawn)


def other_task(model: Any, episode: Episode, seed: int = 0) -> Episode:
    """The episode with demonstrations of the other task that its own task names.

    They are drawn from the same source; rows that the episode's task asks are passed over. The
    learning rate stays this task's: only the demonstrations are foreign.

    Raises:
        ControlError: The episode was not drawn from a task that ships, or its task names no other.
    """
    facts = episode.provenance
    task = get_task(facts["task"]) if facts.get("task") in list_tasks() else None
    if task is None or task.other_task is None or "data" not in facts:
        raise ControlError(
            "The control 'other_task' needs an episode of another task (in Python, other=): this "
            "episode was not drawn from a task that ships and names another (`other_task`)."
        )
    asked = load_rows(task, "validation", facts["data"], strip=episode.protocol.strip)
    other = demonstrations_beside(
        Asking(task, asked), task.other_task, as_host(model), shots=len(episode.demonstrations),
        seed=facts["seed"], data=facts["data"], protocol=episode.protocol,
    )  # fmt: skip
    return with_foreign(episode, other)


def with_foreign(episode: Episode, other: Episode | Demonstrations) -> Episode:
    """The episode with another task's demonstrations, whose labels are not its own."""
    shown = other.demonstrations if isinstance(other, Episode) else other
    return episode.with_demonstrations(
        [replace(example, gold=FOREIGN) for example in shown.examples], shown.drawn
    )
