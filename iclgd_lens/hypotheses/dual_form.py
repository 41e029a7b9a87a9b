"""The dual form of attention: demonstrations as keys and values that a query meets, head by head.

Row vectors throughout. A head reads the demonstrations through the scores of its query with their
keys, s_j = c q k_j, c the model's own factor. What follows from that, exactly or not, is a matter
of the hypotheses `dual_softmax`, `dual_linear`, `dual_momentum` and `ladder`; this module reads the
keys and values, and puts a query of ZS where in-context learning would have it.

Rotary positions: k depends on where it stands, and q does. A query stands `offset` tokens later in
in-context learning than alone, and q' = q R(offset). R is read off the model: unit vectors are sent
through its own rotation at the positions `offset` and 0. Absolute positions sit in the residual
stream, so there a query keeps its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import spans
from iclgd_lens.episode import Demonstrations
from iclgd_lens.errors import HookError, HypothesisError
from iclgd_lens.host import Hook, Host, Prefix, frozen

_ROWS = 64
"""How many of the prompt's queries the factor of the scores is read from."""


@dataclass(frozen=True, eq=False)
class Memory:
    """One layer's demonstrations as its query heads read them; fp32, BOS left out.

    Attributes:
        keys: Keys as they enter the dot product.
        values: What attention mixes.
        owner: Place of the demonstration that each token belongs to, separators with the one
            before.
        factor: What q k is multiplied by to give a score.
        turn: R(offset), or None where positions do not turn queries.
    """

    keys: Float[Tensor, "token head d_head"]
    values: Float[Tensor, "token head d_head"]
    owner: tuple[int, ...]
    factor: float
    turn: Float[Tensor, "d_head d_head"] | None

    def aligned(self, q: Float[Tensor, "*rest d_head"]) -> Float[Tensor, "*rest d_head"]:
        """Queries of ZS as they stand after the demonstrations."""
        return q if self.turn is None else q @ self.turn

    def scores(self, q: Float[Tensor, "*rest head d_head"]) -> Float[Tensor, "*rest head token"]:
        """Scores of queries that already stand after the demonstrations."""
        return self.factor * torch.einsum("...hd,thd->...ht", q, self.keys)

    def linear_map(
        self, *, center: bool, rank: int | None = None, without: int | None = None
    ) -> Float[Tensor, "head d_head d_head"]:
        """R c Σ_i k_i^T v_i: what linear attention adds to a head's output, as a map of q at ZS.

        Args:
            center: Whether the mean key is subtracted first: softmax does not see what all scores
                have in common.
            rank: Each head's map is replaced by its best approximation of this rank.
            without: Place of a demonstration to leave out.
        """
        kept = [index for index, place in enumerate(self.owner) if place != without]
        keys, values = self.keys[kept], self.values[kept]
        if center:
            keys = keys - keys.mean(0)
        found = self.factor * torch.einsum("thd,the->hde", keys, values)
        if rank is not None and rank < found.shape[-1]:
            u, s, v = torch.linalg.svd(found.double())
            found = (u[..., :rank] * s[..., None, :rank] @ v[..., :rank, :]).float()
        return found if self.turn is None else self.turn @ found


def is_linear(host: Host) -> bool:
    """Whether attention weights are the scores themselves."""
    return getattr(host, "attention", "softmax") == "linear"


def read_memory(
    host: Host, shown: Demonstrations, rule: str, *, turned: bool = True
) -> tuple[list[Memory], Prefix]:
    """Read the prompt once: each layer's keys and values as its heads meet them, and the prefix.

    Args:
        host: The model.
        shown: The demonstrations.
        rule: Who asks, for error messages.
        turned: Whether rotations of queries are read, too.

    Raises:
        HookError: The model does not expose queries and keys as they enter the dot product.
        HypothesisError: Scores are not c q k (a soft cap), a window hides tokens, attention has
            sinks, or there is no demonstration.
    """
    if not len(shown):
        raise HypothesisError(f"{rule} needs at least 1 demonstration.")
    tokens = host.tensor(shown.prompt())
    queries: dict[int, Tensor] = {}
    keys: dict[int, Tensor] = {}
    factors: dict[int, float] = {}

    def score(layer: int, scores: Tensor) -> None:
        if layer in queries and layer in keys:
            factors[layer] = _factor(host, rule, queries.pop(layer), keys[layer], scores[0].float())

    def keep(into: dict[int, Tensor], layer: int, value: Tensor) -> None:
        into[layer] = value[0].float()

    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(host.n_layers)]
    with (
        frozen(host.model),
        torch.no_grad(),
        host.query_key_hooks(partial(keep, queries), partial(keep, keys)),
        host.score_hooks(score),
        host.hooked([(name, partial(_check_sinks, host, rule)) for name in patterns]),
    ):
        prefix = host.prefix(tokens)
    if len(factors) < host.n_layers:
        raise HookError(
            f"This {host.kind} of {host.name} does not expose queries and keys as they enter the "
            f"dot product, which {rule} reads."
        )
    bos = int(shown.bos is not None)
    owner = tuple(i for i, (start, end) in enumerate(spans(shown)) for _ in range(start, end))
    turns = _turns(host, prefix, prefix.length - bos) if turned else [None] * host.n_layers
    memories = [
        Memory(
            by_head(host, keys[layer][bos:]),
            by_head(host, values_of(prefix, layer)[0, bos:]),
            owner,
            factors[layer],
            turns[layer],
        )
        for layer in range(host.n_layers)
    ]
    return memories, prefix


def by_head(host: Host, value: Float[Tensor, "*rest kv d_head"]) -> Float[Tensor, "*rest h d_head"]:
    """Keys or values of key/value heads, once for each query head that shares them."""
    return value.repeat_interleave(host.n_heads // value.shape[-2], dim=-2)


def values_of(prefix: Prefix, layer: int) -> Float[Tensor, "row token kv d_head"]:
    """A layer's values of everything read, in fp32."""
    value = prefix.values[layer].float()
    return value if prefix.axis == 1 else value.transpose(1, 2)


def _factor(host: Host, rule: str, q: Tensor, k: Tensor, scores: Tensor) -> float:
    """What q k is multiplied by, from scores that were not masked."""
    rows = torch.arange(max(0, len(q) - _ROWS), len(q), device=q.device)
    product = torch.einsum("qhd,khd->hqk", q[rows], by_head(host, k))
    seen = torch.arange(len(k), device=k.device) <= rows[:, None]
    product, scores = product[:, seen], scores[:, rows][:, seen]
    if not (scores > torch.finfo(host.dtype).min / 2).all():  # hidden: -inf, or the least number
        raise HypothesisError(
            f"{rule}: a window of {host.name} hides some of the prompt's {len(k)} tokens from "
            "later ones, which the dual form does not hold; fewer demonstrations may fit into it."
        )
    length = product.square().sum()
    if not length:
        return host.d_head**-0.5
    factor = float((product * scores).sum() / length)
    if not (scores - factor * product).abs().max() <= _tolerance(host) * (1 + scores.abs().max()):
        raise HypothesisError(
            f"{rule}: attention scores of {host.name} are not queries times keys (a soft cap, or "
            "positions that are added to scores), so they have no dual form."
        )
    return factor


def _tolerance(host: Host) -> float:
    return 1e-3 if host.dtype in (torch.float32, torch.float64) else 6e-2


def _check_sinks(host: Host, rule: str, pattern: Tensor, hook: Any) -> None:
    """Every row counts: a token that is read alone may give a sink much more than the last one."""
    if is_linear(host):
        return
    if not (pattern[0].float().sum(-1) - 1).abs().max() <= _tolerance(host):
        raise HypothesisError(
            f"{rule}: some of the attention of {host.name} goes to no token (attention sinks), "
            "which the dual form does not hold."
        )


def _turns(host: Host, prefix: Prefix, offset: int) -> list[Tensor | None]:
    """R(offset) of each layer, from what the model's own rotation makes of unit vectors."""
    places = [host.site(f"blocks.{i}.attn.W_Q").output_hook for i in range(host.n_layers)]
    after = [host.query_key_hook(i, "q") for i in range(host.n_layers)]
    if places == after or not offset:
        return [None] * host.n_layers
    unit = torch.eye(host.d_head, device=host.device)

    def rotated(before: Prefix | None) -> list[Tensor]:
        found: dict[int, Tensor] = {}

        def send(activation: Tensor, hook: Any) -> Tensor:
            rows = unit[:, None, None].expand(-1, 1, host.n_heads, -1)
            return rows.reshape(activation.shape).to(activation.dtype)

        def keep(layer: int, activation: Tensor, hook: Any) -> None:
            found[layer] = activation[:, 0, 0].float()

        hooks: list[Hook] = [(name, send) for name in places]
        hooks += [(name, partial(keep, layer)) for layer, name in enumerate(after)]
        tokens = prefix.tokens[:, :1].expand(host.d_head, -1)
        with frozen(host.model), torch.no_grad(), host.hooked(hooks):
            host.run(tokens, None if before is None else before.expand(host.d_head))
        return [found[layer] for layer in range(host.n_layers)]

    # At position 0 nothing is turned; what is left is a norm's gain on queries, where there is one.
    return [
        torch.linalg.solve(first, later)
        for first, later in zip(rotated(None), rotated(prefix.crop(offset)), strict=True)
    ]
