r"""Dual momentum: each head adds an exponential average of the demonstrations' values.

Gradient descent with momentum adds a decaying sum of past gradients. If values play the gradients,
attention with momentum adds a decaying sum of past values (Dai et al. 2023, section 5), whatever
the query is:

    z_h <- z_h + strength Σ_i decay^(K - i) v̄_hi,    v̄_hi the mean value of demonstration i's tokens

Limits: strength 0 changes nothing, to the bit; decay 0 leaves the last demonstration's values
alone; decay 1 sums them all. It is one vector per head for all queries: a rung between linear
attention and a constant shift, not a claim.

Fitted, because the values are those that in-context learning itself reads, in its own prompt: some
similarity is there by construction.

Source: Dai et al. 2023, section 5 (momentum attention), re-derived.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import shown_of, spans
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import as_host, frozen
from iclgd_lens.hypotheses.dual_form import by_head, values_of
from iclgd_lens.hypotheses.registry import between, hypothesis
from iclgd_lens.intervention import Intervention, Shift

NAME = "dual_momentum"


@hypothesis(
    NAME,
    description="each head adds a decaying sum of the demonstrations' values",
    kind="fitted",
    source="Dai et al. 2023, section 5",
)
def dual_momentum(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    decay: float = 0.9,
    strength: float = 1.0,
) -> Intervention:
    """Return the shift of every head's output at the readout token.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        decay: Factor on a demonstration's values for each one after it.
        strength: Factor on the sum.

    Raises:
        HypothesisError: `decay` is outside 0 to 1, or there is no demonstration.
    """
    host, shown = as_host(model), shown_of(demonstrations)
    between(NAME, "decay", decay, 0, 1)
    if not len(shown):
        raise HypothesisError(f"{NAME} needs at least 1 demonstration.")
    with frozen(host.model), torch.no_grad():
        prefix = host.prefix(host.tensor(shown.prompt()))
    vectors: dict[str, Tensor] = {}
    for layer in range(host.n_layers):
        values = by_head(host, values_of(prefix, layer)[0])
        means = torch.stack([values[start:end].mean(0) for start, end in spans(shown)])
        vectors[host.z_hook(layer)] = strength * momentum(means, decay)
    return Shift(vectors)


def momentum(values: Float[Tensor, "step *rest"], decay: float) -> Float[Tensor, "*rest"]:
    """Σ_i decay^(K - i) v_i: what gradient descent with momentum adds at its last step."""
    total = torch.zeros_like(values[0])
    for value in values:
        total = decay * total + value
    return total
