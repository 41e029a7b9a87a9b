"""The zero update: changes nothing, so every score of a change is undefined on it.

    ΔW = 0

Limits: it is ZS itself; a score that is a number here measures something else than a change.

Source: this package.
"""

from __future__ import annotations

from typing import Any

import torch

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import as_host
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.training.sgd import trained_names


@hypothesis(
    "zero", description="an update of zero: every score of a change is undefined", kind="check"
)
def zero(model: Any, demonstrations: Demonstrations | Episode) -> ParameterDelta:
    """Return a delta of zeros on the weights that the protocol trains."""
    shown = demonstrations.demonstrations if isinstance(demonstrations, Episode) else demonstrations
    host = as_host(model)
    tensors: dict[str, torch.Tensor] = {}
    for name in trained_names(host, shown.protocol.trained):
        site = host.site(name)
        shape = site.shape if name == site.weight else site.bias_shape
        tensors[name] = torch.zeros(shape, dtype=torch.float32, device=host.device)
    return ParameterDelta(tensors, {"rule": "zero", "model": host.name})
