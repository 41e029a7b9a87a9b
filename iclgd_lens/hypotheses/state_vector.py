r"""State vector: heads' outputs along the prompt are steps of a descent, averaged or accelerated.

    s_i = z_{0..l*} at the last token of demonstration i's content, after i - 1 others
    inner:     s̄ = mean of the last `inner` of them
    momentum:  s̄ + momentum Σ_i w_i (s_i - s_{i-1}),   w doubling each time, their sum 1

The heads' outputs at the readout token are replaced by it in layers 0 to l*. States along the
prompt play the weights of a descent that takes one step per demonstration, so the mean is averaging
of weights and the second term momentum. Where `layer` (l*) is not given, it is the one at which
demonstrations read alone are labelled best, each with a vector from the others' states. The first
demonstration has nothing before it and gives no state.

Limits: `momentum=0` is the plain average; `inner=1, momentum=0` the last demonstration's own state;
`strength=0` changes nothing, to the bit; values between 0 and 1 mix.

Fitted, because the states are in-context learning's own on the demonstrations. Published with 7 of
them and a layer chosen by hand for each task.

Source: Li et al. 2024 (state vector), re-derived: the weights of the published momentum leave out
the last difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import Contexts
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.companions import other_than
from iclgd_lens.hypotheses.injected_vectors import Lerp, best_layer
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import Intervention

NAME = "state_vector"


@hypothesis(
    NAME,
    description="heads' outputs along the prompt, averaged, put in place of the query's own",
    kind="fitted",
    source="Li et al. 2024",
    only_with={
        "momentum": {"inner": other_than(1)},
    },
)
def state_vector(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    layer: int | None = None,
    inner: int = 7,
    momentum: float = 0.0,
    strength: float = 1.0,
) -> Intervention:
    """Return the intervention that puts the state vector at the readout token.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode; at least two.
        layer: Last layer whose heads are replaced; None chooses on left-out demonstrations.
        inner: How many of the last states are averaged.
        momentum: Factor on the weighted sum of their differences.
        strength: How far heads' outputs move there: 0 not at all, 1 all the way.

    Raises:
        HypothesisError: A setting is not allowed, or there are too few demonstrations.
    """
    between(NAME, "inner", inner, 1)
    between(NAME, "strength", strength, 0, 1)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    if layer is not None:
        between(NAME, "layer", layer, 0, host.n_layers - 1)
    points = [host.z_hook(each) for each in range(host.n_layers)]
    seen = contexts.after_others(points, loo="causal")
    states = torch.stack([seen.values[point] for point in points], 1)
    if layer is None:
        rows = torch.stack(
            [
                state_of(_without(states, seen.places, place), inner, momentum)
                for place in range(len(contexts.shown))
            ]
        )
        layer = best_layer(
            contexts,
            range(host.n_layers),
            lambda last: Lerp(_values(host, rows.transpose(0, 1), last), strength, per_row=True),
        )
    return Lerp(_values(host, state_of(states, inner, momentum), layer), strength)


def state_of(
    states: Float[Tensor, "step *rest"], inner: int, momentum: float
) -> Float[Tensor, "*rest"]:
    """The average of the last states, and momentum along them."""
    last = states[-inner:]
    mean = last.mean(0)
    if len(last) < 2 or momentum == 0:
        return mean
    weights = 2.0 ** torch.arange(len(last) - 1, device=states.device)
    steps = torch.tensordot(weights / weights.sum(), last[1:] - last[:-1], dims=1)
    return mean + momentum * steps


def _without(states: Tensor, places: Sequence[int], place: int) -> Tensor:
    """The states of all other demonstrations; that one's own where there is no other."""
    others = [row for row, own in enumerate(places) if own != place]
    return states[others] if others else states


def _values(
    host: Host, state: Float[Tensor, "layer *rest"], last: int
) -> dict[str, Float[Tensor, "*rest"]]:
    return {host.z_hook(layer): state[layer] for layer in range(last + 1)}
