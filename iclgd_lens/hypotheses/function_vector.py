r"""Function vector: a few heads carry the task, and their mean output does it without the prompt.

    v = Σ_{(l,h) in S} z̄_lh W_O,lh,    x_l* <- x_l* + strength v    at the readout token

z̄ is a head's mean output over in-context passes of left-out demonstrations; S are the `heads` heads
of the largest indirect effect (see `iclgd_lens.heads`): those whose mean output, put into prompts
with shuffled labels, raises the right label most. v is added to the residual stream that leaves
layer l*. Where `layer` is not given, it is the one at which demonstrations read alone are labelled
best, each with the mean of the others' passes. (In those it stands among the examples, and heads
are chosen with it: the choice of the layer is not free of its label.) After the last layer no
attention reads it, and SimAOU is undefined.

Limits: `strength=0` changes nothing, to the bit. With all heads of one layer, the change of z̄
instead of z̄, and v added where attention's output is, this is that layer of `constant_shift`.

Fitted, because v is an average of in-context learning's own activations on the demonstrations.
Published with 10 heads, 10 shots and 100 prompts, injected at about a third of the depth.

Source: Todd et al. 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import LOO, Contexts, mean_of_others
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.heads import Head, indirect_effects
from iclgd_lens.host import Host, frozen, writes_add_up
from iclgd_lens.hypotheses.injected_vectors import RowShift, best_layer
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.intervention import Intervention, Shift

NAME = "function_vector"


@hypothesis(
    NAME,
    description="the mean output of a few heads in context, added to the residual stream",
    kind="fitted",
    source="Todd et al. 2024",
)
def function_vector(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    heads: int = 10,
    layer: int | None = None,
    strength: float = 1.0,
    trials: int = 8,
    loo: str = "exact",
    seed: int = 0,
) -> Intervention:
    """Return the intervention that adds the function vector at the readout token.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode; at least two.
        heads: How many heads.
        layer: Layer after which the vector is added; None chooses on left-out demonstrations.
        strength: Factor on the vector.
        trials: Prompts with shuffled labels that indirect effects are measured on, at most.
        loo: Contexts in which mean outputs are taken: "exact", "masked" or "causal".
        seed: Of the shuffle.

    Raises:
        HypothesisError: A setting is not allowed, there are too few demonstrations, or a norm or
            factor stands between the model's heads and its residual stream (Gemma 2, Granite).
    """
    between(NAME, "heads", heads, 1)
    between(NAME, "trials", trials, 1)
    one_of(NAME, "loo", loo, LOO)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    if layer is not None:
        between(NAME, "layer", layer, 0, host.n_layers - 1)
    first = contexts.shown.examples[0].tokens if len(contexts.shown) else ()
    with frozen(host.model):
        served = not first or writes_add_up(host, first)
    if not served:
        raise HypothesisError(
            f"{NAME}: attention outputs of {host.name} are normalised or scaled before they join "
            "the residual stream: what its heads write there is not the sum of their outputs."
        )
    points = [host.z_hook(each) for each in range(host.n_layers)]
    seen = contexts.after_others(points, loo=loo)
    chosen = indirect_effects(host, contexts.shown, trials=trials, seed=seed).top(heads)
    outputs = head_sum(host, torch.stack([seen.values[point] for point in points], 1), chosen)
    if layer is None:
        # A demonstration without a context of its own takes no part in the mean of the others.
        own = outputs.mean(0).expand(len(contexts.shown), -1).clone()
        own[list(seen.places)] = mean_of_others(outputs)
        layer = best_layer(
            contexts,
            range(host.n_layers),
            lambda each: RowShift(host.block_output_hook(each), strength * own),
        )
    return Shift({host.block_output_hook(layer): strength * outputs.mean(0)})


def head_sum(
    host: Host, z: Float[Tensor, "row layer head d_head"], heads: Sequence[Head]
) -> Float[Tensor, "row d_model"]:
    """What some heads write to the residual stream together: Σ z W_O.

    Raises:
        HypothesisError: The host does not know the model's W_O.
    """
    total = torch.zeros(len(z), host.d_model, device=z.device)
    for layer, head in heads:
        weight = host.parameter(f"blocks.{layer}.attn.W_O")
        if weight is None:
            raise HypothesisError(f"{host.name} has no map out of its heads that {NAME} can read.")
        total += z[:, layer, head] @ weight[head].float()
    return total
