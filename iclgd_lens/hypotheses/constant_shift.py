"""Constant shift: in-context learning adds the same vector to each head, whatever the query is.

The vector is measured on the demonstrations alone: how much each head's output at the end of an
example differs between the example in the prompt and the example by itself, averaged over all but
the first (which has nothing before it). It is the last rung of the ladder of linearisation, and
the family that function vectors belong to. It is fitted to in-context learning's own passes, so it
is a line to read scores by, never evidence.

    z_h <- z_h + mean_(i > 1) [z_h(x_i in the prompt) - z_h(x_i alone)]   at the readout token

Where the readout token is that of a label word after the content, examples are read in the same
way: each content with that word after it, both in the prompt up to it and alone.

Limits: strength 0 is no change. The centred scores of one constant vector are undefined or near 0:
it has nothing to say about what differs between queries.

Source: the simplest member of the vector family (Todd et al. 2024).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import Contexts
from iclgd_lens.episode import Demonstrations, Episode, Tokens
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Host, as_host, frozen
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.intervention import Intervention, Shift
from iclgd_lens.readout.reader import READ_TOKENS_AT_ONCE
from iclgd_lens.tokens import continued


@hypothesis(
    "constant_shift",
    description="every head's mean change on the demonstrations, added to every query",
    kind="fitted",
    source="the simplest member of the vector family (Todd et al. 2024)",
    version="2",
)
def constant_shift(
    model: Any, demonstrations: Demonstrations | Episode, *, strength: float = 1.0
) -> Intervention:
    """Return the shift of every head's output at the readout token.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples (or their episode), at least two.
        strength: Factor on the shift.

    Raises:
        HypothesisError: Fewer than two demonstrations: the first has nothing before it.
    """
    shown = demonstrations.demonstrations if isinstance(demonstrations, Episode) else demonstrations
    host = as_host(model)
    if len(shown) < 2:
        raise HypothesisError(f"constant_shift needs at least 2 demonstrations, not {len(shown)}.")
    if shown.protocol.readout == "last_prompt_token":
        change = _at_content_ends(host, shown)
    else:
        contexts = Contexts(host, demonstrations, "constant_shift")
        points = [host.z_hook(layer) for layer in range(host.n_layers)]
        seen = contexts.after_others(points, loo="causal", labels=False)
        alone = contexts.alone(points).values
        change = torch.stack([seen.values[p] - alone[p][list(seen.places)] for p in points])
    shift = strength * change.mean(1)
    return Shift({host.z_hook(layer): vector for layer, vector in enumerate(shift)})


def _at_content_ends(
    host: Host, shown: Demonstrations
) -> Float[Tensor, "layer example head d_head"]:
    """Each head's change at the end of all contents but the first: one pass of the prompt."""
    head = () if shown.bos is None else (shown.bos,)
    ends: list[int] = []  # where each example's content ends in the prompt
    start = len(head)
    for example in shown.examples:
        ends.append(start + len(example.content) - 1)
        start += len(example.tokens) + len(shown.separator)
    together = head_outputs(host, [shown.prompt()])[:, 0, ends]
    contents = [head + example.content for example in shown.examples]
    step = max(1, READ_TOKENS_AT_ONCE["cpu"] // max(map(len, contents))) if host.can_pad else 1
    alone = [
        head_outputs(host, some)[:, range(len(some)), [len(ids) - 1 for ids in some]]
        for some in (contents[at : at + step] for at in range(0, len(contents), step))
    ]
    return (together - torch.cat(alone, dim=1))[:, 1:]


def head_outputs(
    host: Host, sequences: Sequence[Tokens]
) -> Float[Tensor, "layer sequence pos head d_head"]:
    """Every head's mixed values at every token of sequences, in fp32.

    Shorter ones are continued at their end, which nothing before it sees; where a model's positions
    depend on the length (`Host.can_pad`), give it one at a time.
    """
    found: dict[int, Tensor] = {}

    def keep(layer: int, activation: Tensor, hook: Any) -> None:
        found[layer] = activation.float()

    hooks = [(host.z_hook(layer), partial(keep, layer)) for layer in range(host.n_layers)]
    with frozen(host.model), torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor(continued(sequences)), at=-1)
    return torch.stack([found[layer] for layer in range(host.n_layers)])
