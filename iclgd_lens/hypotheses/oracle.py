"""The oracle: the demonstrations' own keys and values, injected before every query.

It does what in-context learning does, so its SimAOU and SimAM must be 1: the
instrument's own check.

    K, V <- [K_demonstrations; K], [V_demonstrations; V]   in every layer and head

Limits: SimAOU, SimAM, recovery and the label contrast are 1 and KL is 0, up to rounding.

Source: this package.
"""

from __future__ import annotations

from typing import Any

import torch

from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import as_host, frozen
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.intervention import Injection, Intervention


@hypothesis(
    "oracle",
    description="the demonstrations' keys and values injected: must score 1",
    kind="check",
)
def oracle(model: Any, demonstrations: Demonstrations | Episode) -> Intervention:
    """Return an intervention that shows each query the demonstrations' keys and values.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples (or their episode).
    """
    shown = demonstrations.demonstrations if isinstance(demonstrations, Episode) else demonstrations
    host = as_host(model)
    tokens = shown.prompt()
    if not tokens:
        return Intervention()
    with frozen(host.model), torch.no_grad():
        return Injection(host.prefix(host.tensor(tokens)))
