r"""The ladder: from in-context learning to a constant vector, one ingredient less at each rung.

What in-context learning has beyond simpler things is what is lost from one rung to the next:

    0  oracle: the demonstrations' keys and values before each query
    1  queries frozen: head outputs are those of attention to demonstrations and own tokens, but
       with queries, own keys and own values of ZS. No layer sees what an earlier one changed
    2  gate fixed: z = (1 - g) z_ZS + g o_demo(q), g the mean share of attention that goes to the
       demonstrations, over left-out ones; one number per head
    3  linear attention: o_demo(q) = v̄ + q ΔW / T, ΔW = c Σ_i (k_i - k̄)^T v_i, the first-order
       expansion of its softmax at equal scores
    4  ΔW cut to `rank`
    5  no query at all: one vector per head (`constant_shift`)

From rung 1 on it acts at the readout token alone; rotary queries are turned to where they stand in
the prompt. Limits: rung 0 is `oracle` and rung 5 `constant_shift`, to the bit; rung 4 with rank
d_head is rung 3; in layer 0 of a rotary model, rung 1 is in-context learning. With linear attention
rungs 1 to 3 are one thing, and with one layer also rung 0. Whether scores fall from rung to rung is
a finding, not a promise.

Fitted, because rungs 2 to 5 take gates or vectors from in-context learning's own passes of left-out
demonstrations.

Source: this package, after Dai et al. 2023 and Todd et al. 2024.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclgd_lens.contexts import LOO, Contexts
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.constant_shift import constant_shift
from iclgd_lens.hypotheses.dual_form import Memory, is_linear, read_memory
from iclgd_lens.hypotheses.dual_linear import ROPES, from_zero_shot, gated_forms, gates
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.hypotheses.query_forms import FromZeroShot, Make, Own
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.intervention import Intervention

NAME = "ladder"


@hypothesis(
    NAME,
    description="from the oracle to a constant vector, an ingredient less at each rung",
    kind="fitted",
    source="this package, after Dai et al. 2023 and Todd et al. 2024",
    only_with={
        "rank": {"rung": 4},
        "rope": {"rung": (1, 2, 3, 4)},
        "loo": {"rung": (2, 3, 4)},
    },
)
def ladder(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    rung: int = 1,
    rank: int = 1,
    rope: str = "aligned",
    loo: str = "exact",
) -> Intervention:
    """Return the intervention of one rung.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode.
        rung: 0 (the oracle) to 5 (a constant shift).
        rank: Rank of each head's map at rung 4.
        rope: "aligned" turns rotary queries to where they stand in the prompt; "none" does not.
            Where queries are not rotary, both are one.
        loo: Contexts in which gates are measured: "exact", "masked" or "causal". Attention that
            is linear has no gate, and `loo` does nothing there.

    Raises:
        HypothesisError: A setting is not allowed, or the model's attention has no dual form.
        HookError: The model does not expose queries and keys.
    """
    between(NAME, "rung", rung, 0, 5)
    between(NAME, "rank", rank, 1)
    one_of(NAME, "rope", rope, ROPES)
    one_of(NAME, "loo", loo, LOO)
    if rung == 0:
        return oracle(model, demonstrations)
    if rung == 5:
        return constant_shift(model, demonstrations)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    memory, _ = read_memory(host, contexts.shown, NAME, turned=rope == "aligned")
    if rung == 1:
        return FromZeroShot(_exactly(host, memory, contexts.shown.bos is not None))
    gate = gates(contexts, loo)
    if rung == 2 and not is_linear(host):
        return FromZeroShot(_gated(memory, gate))
    return from_zero_shot(gated_forms(host, memory, gate, rank=rank if rung == 4 else None))


def _exactly(host: Host, memory: list[Memory], bos: bool) -> Make:
    def make(layer: int, own: Own) -> Tensor:
        it = memory[layer]
        later = it.aligned(own.q)
        scores = it.factor * torch.einsum("rhd,rthd->rht", own.q, own.keys)
        if bos:  # it stands as far off as in the prompt
            first = it.factor * torch.einsum("rhd,rhd->rh", later, own.keys[:, 0])
            scores = torch.cat([first[..., None], scores[..., 1:]], -1)
        scores = scores.masked_fill(~own.seen[:, None], 0.0 if is_linear(host) else float("-inf"))
        both = torch.cat([it.scores(later), scores], -1)
        weights = both if is_linear(host) else both.softmax(-1)
        shown = len(it.keys)
        z = torch.einsum("rht,thd->rhd", weights[..., :shown], it.values)
        return z + torch.einsum("rht,rthd->rhd", weights[..., shown:], own.values)

    return make


def _gated(memory: list[Memory], gate: Tensor) -> Make:
    def make(layer: int, own: Own) -> Tensor:
        it = memory[layer]
        weights = it.scores(it.aligned(own.q)).softmax(-1)
        mixed = torch.einsum("rht,thd->rhd", weights, it.values)
        share = gate[layer][:, None]
        return (1 - share) * own.z + share * mixed

    return make
