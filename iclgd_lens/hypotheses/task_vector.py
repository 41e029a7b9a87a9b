r"""Task vector: demonstrations are compressed into one state of the residual stream.

    θ_l = mean over left-out demonstrations i of x_l(D \ i, x_i)      x_l* <- θ_l*

x_l is the residual stream that leaves layer l at the readout token; a left-out demonstration after
the others plays the dummy query. θ takes the place of the query's own stream, so from there on the
readout token knows nothing of its own content but what attention fetches: in-context learning as
"compress, then apply". Where `layer` is not given, it is the one at which demonstrations read alone
are labelled best, each with a θ from the others. After the last layer no attention reads it, and
SimAOU is undefined.

Limits: `strength=0` changes nothing, to the bit; 1 puts θ in place; values between mix it with the
stream. Even a query's *own* in-context state, put there, does not give in-context learning's later
layers: they attend to demonstrations, too. That is not a defect of the implementation.

Fitted, because θ is an average of in-context learning's own states on the demonstrations. Published
with 5 demonstrations and one layer for each task, chosen by accuracy on 50 queries.

Source: Hendel et al. 2023.
"""

from __future__ import annotations

from typing import Any

from iclgd_lens.contexts import LOO, Contexts, mean_of_others
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.hypotheses.injected_vectors import Lerp, best_layer
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.intervention import Intervention

NAME = "task_vector"


@hypothesis(
    NAME,
    description="the mean in-context state of one layer, put in place of the query's own",
    kind="fitted",
    source="Hendel et al. 2023",
)
def task_vector(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    layer: int | None = None,
    strength: float = 1.0,
    loo: str = "exact",
) -> Intervention:
    """Return the intervention that puts the task vector at the readout token.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode; at least two.
        layer: Layer after which it is put; None chooses on left-out demonstrations.
        strength: How far the stream moves there: 0 not at all, 1 all the way.
        loo: Contexts of left-out demonstrations: "exact", "masked" or "causal".

    Raises:
        HypothesisError: A setting is not allowed, or there are too few demonstrations.
    """
    between(NAME, "strength", strength, 0, 1)
    one_of(NAME, "loo", loo, LOO)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    if layer is not None:
        between(NAME, "layer", layer, 0, host.n_layers - 1)
    layers = range(host.n_layers) if layer is None else [layer]
    points = {each: host.block_output_hook(each) for each in layers}
    seen = contexts.after_others(points.values(), loo=loo)
    if layer is None:

        def without_own(each: int) -> Intervention:
            states = seen.values[points[each]]
            rows = states.mean(0).expand(len(contexts.shown), -1).clone()
            rows[list(seen.places)] = mean_of_others(states)
            return Lerp({points[each]: rows}, strength, per_row=True)

        layer = best_layer(contexts, layers, without_own)
    return Lerp({points[layer]: seen.values[points[layer]].mean(0)}, strength)
