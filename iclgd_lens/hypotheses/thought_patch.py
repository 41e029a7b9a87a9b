r"""Thought patch: demonstrations act as a low-rank change of MLP weights, the same for all queries.

What in-context learning does to a token can be moved into a rank-1 change of the MLP that reads
it, exactly, query by query (`implicit_patch`). Here one change is fitted for all, from the
demonstrations alone: for each left-out one let u be what the MLP of a layer reads at the readout
token when it is read by itself, u_C the same after the others, r and r_C the stream between
attention and MLP.

    ΔW_in = (U^T U + ρ I)^-1 U^T (U_C - U) W_in,    ρ = ridge · mean eigenvalue of U^T U
    δb    = mean_k (r_C,k - r_k), added to the MLP's output

and likewise for the gate's weights of a gated MLP. Layers are patched in order, u and r read off
the model patched so far, so that what earlier patches have done is not done again. It is a change
of weights: it acts at every token. Attention's own weights do not change.

Limits: one pair and ridge → 0 is the exact patch of that demonstration, of rank 1. ridge → ∞ leaves
the bias; `ridge=inf, bias=False` changes nothing, to the bit.

Fitted, because u_C and r_C are in-context learning's own activations, taken as targets.

Source: Goldwaser et al. 2025; Mazzawi et al. 2025; after Dherin et al. 2025.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.contexts import LOO, Contexts, Seen
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import HypothesisError
from iclgd_lens.host import Hook, Host, LinearSite, frozen
from iclgd_lens.host.probe import agree
from iclgd_lens.hypotheses.registry import between, hypothesis, one_of
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention

NAME = "thought_patch"


@hypothesis(
    NAME,
    description="a low-rank change of MLP weights from what demonstrations read in context",
    kind="fitted",
    source="Goldwaser et al. 2025; Mazzawi et al. 2025",
)
def thought_patch(
    model: Any,
    demonstrations: Demonstrations | Episode,
    *,
    ridge: float = 1e-3,
    bias: bool = True,
    layers: int | Iterable[int] | None = None,
    loo: str = "exact",
) -> Intervention:
    """Return the intervention that changes what MLPs read and put out.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        demonstrations: The examples, or their episode; at least two.
        ridge: Penalty on the change, relative to the inputs' mean eigenvalue; inf for none of it.
        bias: Whether the stream's own change is added as a bias.
        layers: Which layers are patched; None for all.
        loo: Contexts of left-out demonstrations: "exact", "masked" or "causal".

    Raises:
        HypothesisError: A setting is not allowed, a layer has no MLP that the host knows, or there
            are too few demonstrations.
    """
    between(NAME, "ridge", ridge, 0)
    one_of(NAME, "loo", loo, LOO)
    contexts = Contexts(model, demonstrations, NAME)
    host = contexts.host
    given = range(host.n_layers) if layers is None else layers
    wanted = sorted({given} if isinstance(given, int) else set(given))
    for layer in wanted:
        between(NAME, "layers", layer, 0, host.n_layers - 1)
    blocks = [_Block.of(host, layer) for layer in wanted]
    names = [name for block in blocks for name in block.names(host)]
    aim = contexts.after_others(names, loo=loo, labels=False)
    for block in blocks:
        block.check(host, aim)
    patch = ThoughtPatch(blocks)
    tokens, batch = contexts.rows()
    hooks = [hook for block in blocks for hook in _fitting(host, block, batch, aim, ridge, bias)]
    with frozen(host.model), torch.no_grad(), host.hooked([*hooks]):
        host.run(tokens)
    return patch


@dataclass(eq=False)
class _Block:
    """One layer's MLP, and its patch.

    Attributes:
        layer: The layer.
        into: Maps that read the MLP's input.
        out: Where the MLP's output joins the stream, after any norm of its own.
        left: U^T (U U^T + ρ I)^-1.
        right: (U_C - U) W of each map.
        bias: What is added to the output.
    """

    layer: int
    into: tuple[LinearSite, ...]
    out: str
    left: Float[Tensor, "d_model pair"] | None = None
    right: dict[str, Float[Tensor, "pair d_mlp"]] = field(default_factory=dict[str, Tensor])
    bias: Float[Tensor, " d_model"] | None = None

    @classmethod
    def of(cls, host: Host, layer: int) -> _Block:
        sites = {site.kind: site for site in host.sites.values() if site.layer == layer}
        if "W_in" not in sites:
            raise HypothesisError(
                f"{NAME}: layer {layer} of {host.name} has no MLP whose weights this {host.kind} "
                "knows."
            )
        out = f"blocks.{layer}.ln2_post.hook_out"
        if not host.has_hook_point(out):
            out = host.mlp_output_hook(layer)
        return cls(layer, tuple(sites[k] for k in ("W_in", "W_gate") if k in sites), out)

    def names(self, host: Host) -> list[str]:
        """Hooks of the block's input, of what joins the stream, of its end, of the MLP's input."""
        return [
            host.block_input_hook(self.layer),
            host.attention_output_hook(self.layer),
            self.out,
            host.block_output_hook(self.layer),
            *(site.input_hook for site in self.into),  # not everywhere the same one
        ]

    def check(self, host: Host, aim: Seen) -> None:
        """Refuse a block that is not the sum of what its hooks show."""
        entry, attention, mlp, leaving = (aim.values[name] for name in self.names(host)[:4])
        if not agree(entry + attention + mlp, leaving, host.dtype):
            raise HypothesisError(
                f"{NAME}: layer {self.layer} of {host.name} is not the sum of its input, its "
                "attention and its MLP as this host sees them; this block is not served."
            )


class ThoughtPatch(Intervention):
    """Low-rank changes of the maps into MLPs, and of what MLPs put out, at every token."""

    def __init__(self, blocks: Iterable[_Block]) -> None:
        self.blocks = list(blocks)

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """Those of each patched layer."""
        return [hook for block in self.blocks for hook in _patching(block)]


def _patching(block: _Block) -> list[Hook]:
    found: list[Hook] = []
    for site in block.into if block.left is not None else ():
        read: list[Tensor] = []
        found.append((site.input_hook, partial(_enter, block, site, read)))
        found.append((site.output_hook, partial(_leave, block, site, read)))
    if block.bias is not None:
        found.append((block.out, partial(_add, block)))
    return found


def _enter(
    block: _Block, site: LinearSite, read: list[Tensor], activation: Tensor, hook: Any
) -> None:
    assert block.left is not None
    read[:] = [site.read(activation).float() @ block.left]


def _leave(
    block: _Block, site: LinearSite, read: list[Tensor], activation: Tensor, hook: Any
) -> Tensor:
    return activation + (read.pop() @ block.right[site.kind]).to(activation.dtype)


def _add(block: _Block, activation: Tensor, hook: Any) -> Tensor:
    assert block.bias is not None
    return activation + block.bias.to(activation.dtype)


def _fitting(
    host: Host, block: _Block, batch: Batch, aim: Seen, ridge: float, bias: bool
) -> list[Hook]:
    """Hooks that fit a block's patch from what passes in it, and apply it at once."""
    entry, attention = block.names(host)[:2]
    seen: dict[str, Tensor] = {}
    rows = list(aim.places)

    def keep(name: str, activation: Tensor, hook: Any) -> None:
        seen[name] = batch.at_readout(activation)[rows].float()

    def fit(site: LinearSite, activation: Tensor, hook: Any) -> None:
        u = batch.at_readout(site.read(activation))[rows].float()
        target = site.read(aim.values[site.input_hook][:, None])[:, 0].float()
        weight = host.parameter(site.weight)
        assert weight is not None
        block.left = ridge_factor(u, ridge)
        block.right[site.kind] = (target - u) @ weight.float()

    def fit_bias(activation: Tensor, hook: Any) -> Tensor:
        now = seen[entry] + seen[attention]
        block.bias = (aim.values[entry] + aim.values[attention] - now).mean(0)
        return _add(block, activation, hook)

    hooks: list[Hook] = [(name, partial(keep, name)) for name in (entry, attention)]
    if not math.isinf(ridge):
        for site in block.into:
            read: list[Tensor] = []
            hooks.append((site.input_hook, partial(fit, site)))
            hooks.append((site.input_hook, partial(_enter, block, site, read)))
            hooks.append((site.output_hook, partial(_leave, block, site, read)))
    return [*hooks, (block.out, fit_bias)] if bias else hooks


def ridge_factor(u: Float[Tensor, "pair d"], ridge: float) -> Float[Tensor, "d pair"]:
    """(U^T U + ρ I)^-1 U^T, ρ = ridge · mean eigenvalue of U^T U; solved in fp64, pair by pair.

    At ridge 0 the pseudo-inverse of U.
    """
    rows = u.double()
    gram = rows @ rows.T
    if ridge == 0:
        return torch.linalg.pinv(rows).float()
    rho = ridge * gram.trace() / u.shape[1]
    if rho == 0:
        return torch.zeros_like(u).T
    eye = torch.eye(len(u), dtype=torch.float64, device=u.device)
    return torch.linalg.solve(gram + rho * eye, rows).T.float()
