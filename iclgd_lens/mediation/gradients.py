r"""Attribution of all heads from one forward and one backward pass per batch, and direct effects.

*Attribution patching*: to first order, putting another output z' in place of a head's z changes the
label margin m by (z' - z) . dm/dz. The derivative goes through everything that later layers make of
the head's output at the readout token; one backward pass gives it for all heads. It is wrong where
attention is saturated or paths cancel, so exact interventions stand beside it (`patching`).

*Direct effect*: what a head's change d = (z^ICL - z^ZS) W_O does to the margin on the straight way
to the logits, with the final norm's scale kept as it is in ICL: direct effects of all heads, MLPs
and embeddings then add up. For a norm f(x) = w c(x) / s(x) + b with the scale s and the centring c
(none in RMSNorm), the map of d at fixed s is J_f d along what is orthogonal to c(x), and
f(x) - f(0) along x; so no family's norm need be known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.host import Hook, Host, Prefix
from iclgd_lens.intervention import Batch
from iclgd_lens.mediation.margins import Margin
from iclgd_lens.readout.batching import batches
from iclgd_lens.tokens import continued

DIFFERENTIATED_TOKENS_AT_ONCE = 2048
"""Tokens of a differentiated pass at most, shared ones counted for each row: what autograd keeps of
every layer until the backward pass takes some ten times the memory of a plain pass."""


@dataclass(frozen=True)
class Gradients:
    """The label margin and its derivatives in one setting.

    Attributes:
        margin: The label margin, in nats.
        z: Its derivative by each head's output at the readout token, later layers included.
        direct: What a change of the residual stream does to it at the final norm's own scale.
    """

    margin: Float[Tensor, " query"]
    z: Float[Tensor, "query layer head d_head"]
    direct: Float[Tensor, "query d_model"]


def gradients(
    host: Host, margin: Margin, episode: Episode, prefix: Prefix | None,
    tokens_at_once: int = DIFFERENTIATED_TOKENS_AT_ONCE,
) -> Gradients:  # fmt: skip
    """Differentiate the label margin of every query, after `prefix`.

    Args:
        host: The model, frozen by the caller.
        margin: The label margin.
        episode: The queries.
        prefix: Keys and values that every query sees; BOS is in it.
        tokens_at_once: Tokens of a pass at most, shared ones counted for each row.
    """
    n = len(episode.queries)
    size: dict[str, Any] = {"dtype": torch.float32, "device": host.device}
    found = Gradients(
        torch.empty(n, **size),
        torch.empty(n, host.n_layers, host.n_heads, host.d_head, **size),
        torch.empty(n, host.d_model, **size),
    )
    for indices in _batches(host, episode, prefix, tokens_at_once):
        value, by_head, last = _of_batch(host, margin, episode, prefix, indices)
        found.margin[indices], found.z[indices] = value, by_head
        found.direct[indices] = _direct(host, margin, last, _gold(host, episode, indices))
    return found


def _batches(
    host: Host, episode: Episode, prefix: Prefix | None, tokens_at_once: int
) -> Iterator[list[int]]:
    yield from batches(
        [len(query.content) for query in episode.queries],
        shared=0 if prefix is None else prefix.length,
        tokens_at_once=tokens_at_once,
        pass_tokens=128 if host.can_pad else 0,
    )


def _gold(host: Host, episode: Episode, indices: list[int]) -> Tensor:
    return host.tensor([episode.queries[index].gold for index in indices])[0]


def _of_batch(
    host: Host, margin: Margin, episode: Episode, prefix: Prefix | None, indices: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Margins, derivatives by head, and the residual stream at the readout tokens."""
    own = [episode.queries[index].content for index in indices]
    tokens = host.tensor(continued(own))
    places = host.tensor([len(ids) - 1 for ids in own])[0]
    batch = Batch(host.tensor(indices)[0], places + 1, places, tokens=tokens)
    shape = (len(own), host.n_heads, host.d_head)
    # Zeros that are added: the derivative by them is that by z, through all that follows.
    with torch.enable_grad():
        probes = [torch.zeros(shape, device=host.device, requires_grad=True)
                  for _ in range(host.n_layers)]  # fmt: skip
        hooks: list[Hook] = [
            (host.z_hook(layer), partial(_add, batch, probe)) for layer, probe in enumerate(probes)
        ]
        shared = None if prefix is None else prefix.expand(len(own))
        with host.hooked(hooks):
            residual = host.run(tokens, shared).residual
        last = residual[torch.arange(len(own), device=host.device), places]
        value = margin(last, _gold(host, episode, indices))
        by_layer = torch.autograd.grad(value.sum(), probes)
    return value.detach(), torch.stack(by_layer, dim=1), last.detach()


def _add(batch: Batch, probe: Tensor, activation: Tensor, hook: Any) -> Tensor:
    return batch.add(activation, probe.reshape(len(probe), *activation.shape[2:]))


def _direct(host: Host, margin: Margin, residual: Tensor, gold: Tensor) -> Tensor:
    """What a change of `residual` does to the margin where the final norm's scale is kept."""
    at = residual.float() if host.dtype == torch.float32 else residual
    with torch.enable_grad():
        x = at.clone().requires_grad_()
        normalized = host.final_norm(x)
        value = margin.of_normalized(normalized, gold).sum()
        by_x, by_normalized = torch.autograd.grad(value, (x, normalized))
    nothing, same = (host.final_norm(fill(at[:1])) for fill in (torch.zeros_like, torch.ones_like))
    by_x, by_normalized, at = by_x.float(), by_normalized.float(), at.float()
    along = ((normalized.detach() - nothing).float() * by_normalized).sum(-1)
    # A norm that makes the same of ones as of zeros takes means out.
    centred = at - at.mean(-1, keepdim=True) if torch.allclose(nothing, same) else at
    missing = along - (by_x * at).sum(-1)
    return by_x + centred * (missing / (centred**2).sum(-1))[:, None]


def direct_effects(
    host: Host, change: Float[Tensor, "query layer head d_head"], by_residual: Tensor
) -> Float[Tensor, "query layer head"]:
    """What each head's change of output does to the margin on the straight way to the logits.

    Args:
        host: The model.
        change: The change of each head's output.
        by_residual: `Gradients.direct`.
    """
    found: list[Tensor] = []
    for layer in range(host.n_layers):
        weight = host.parameter(f"blocks.{layer}.attn.W_O")
        assert weight is not None
        by_head = einsum(
            weight.float(), by_residual, "head d_head d_model, query d_model -> query head d_head"
        )
        found.append((change[:, layer] * by_head).sum(-1))
    return torch.stack(found, dim=1)
