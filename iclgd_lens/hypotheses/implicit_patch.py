"""The implicit patch: each query's own change of MLP weights that gives ICL's logits exactly.

A block adds attention and an MLP to the stream. Let u be what the MLP reads at the readout token
and u_C the same after the demonstrations. Weights W_in + u^T (u_C - u) W_in / |u|^2 do to u what
W_in does to u_C, and the rest of the difference goes into what the MLP adds: its output bias,
its output weights where it has none, or, where a norm follows it, that norm's gain. Layer by layer,
each patch from what the patched model reads, the model without demonstrations ends in the logits
of the model with them, exactly.

A counterexample, therefore, and not a hypothesis: the function is that of in-context learning
to the last digit, while no attention weight moves. In layer 0 the attention output stays what it
was (SimAOU is undefined, as for no update); later layers' attention reads streams of other own
tokens that are not in-context learning's, and SimAOU there is not 1. A similarity of attention
says where an effect arises, not whether it arises; KL and recovery say that it does.

    ΔW_in = u^T (u_C - u) W_in / |u|²,   Δb_out = r_C - r   (r: the stream that the MLP is added to)

Limits: KL from in-context learning is 0 and the recovered change 1, to 1e-4; without demonstrations
nothing changes. It holds one patch per query, and changes nothing else that is read.

Source: Dherin et al. 2025; Innocenti and Achour 2025; Goldwaser et al. 2025.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from iclgd_lens.episode import Episode
from iclgd_lens.errors import HookError, HypothesisError
from iclgd_lens.host import Hook, Host, LinearSite, Prefix, as_host, frozen
from iclgd_lens.host.probe import agree
from iclgd_lens.hypotheses.registry import hypothesis
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention

CONTEXT_TOKENS_AT_ONCE = 8192
"""Tokens of a pass at most, the demonstrations counted for each query."""


@hypothesis(
    "implicit_patch",
    description="each query's own rank-1 MLP patch that gives ICL's logits: not 1 on attention",
    kind="check",
    needs=("demonstrations", "queries"),
    source="Dherin et al. 2025; Innocenti and Achour 2025; Goldwaser et al. 2025",
)
def implicit_patch(model: Any, episode: Episode) -> Intervention:
    """Return the patch of each query: in-context learning's logits at its readout token.

    The patch is made from each query's own pass after the demonstrations, as the oracle is, so it
    is a check: KL 0, recovery 1 and ICL's accuracy under protocols that read at the last prompt
    token, where label words are one token (later tokens of a label are read with the patch of the
    first). SimAOU is undefined in layer 0 and not 1 after it. The model is not changed.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        episode: Demonstrations and the queries.

    Raises:
        HypothesisError: `episode` has no queries, or a block is not attention and an MLP whose
            maps the host knows.
    """
    if not isinstance(episode, Episode):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise HypothesisError("implicit_patch patches each query: give the episode.")
    host = as_host(model)
    blocks = [_Block.of(host, layer) for layer in range(host.n_layers)]
    patch = ImplicitPatch(blocks, len(episode.queries), host)
    prompt = episode.demonstrations.prompt()
    with frozen(host.model), torch.no_grad():
        prefix = host.prefix(host.tensor(prompt)) if prompt else None
        for indices in _groups(episode, len(prompt)):
            _fit(host, episode, patch, indices, prefix)
    return patch


@dataclass
class _Block:
    """Where one block's parts pass, and what of its MLP is patched.

    `into` are the maps that read the MLP's input; `out` writes its output; `norm` is the hook after
    a norm that follows it.
    """

    layer: int
    into: tuple[LinearSite, ...]
    out: LinearSite
    norm: str | None

    @classmethod
    def of(cls, host: Host, layer: int) -> _Block:
        sites = {site.kind: site for site in host.sites.values() if site.layer == layer}
        if "W_in" not in sites or "W_out" not in sites:
            missing = "no MLP" if "W_in" not in sites else "no separate map out of its MLP"
            raise HypothesisError(
                f"implicit_patch: layer {layer} of {host.name} has {missing} that this "
                f"{host.kind} knows; it patches blocks of attention and an MLP."
            )
        into = tuple(sites[kind] for kind in ("W_in", "W_gate") if kind in sites)
        norm = f"blocks.{layer}.ln2_post.hook_out"
        try:
            host.hook_point(norm)
        except HookError:
            return cls(layer, into, sites["W_out"], None)
        return cls(layer, into, sites["W_out"], norm)


@dataclass
class _Values:
    """One layer's patch for every query."""

    u: Float[Tensor, "query d_model"]
    into: tuple[Float[Tensor, "query d_mlp"], ...]
    h: Float[Tensor, "query d_mlp"]
    out: Float[Tensor, "query d_model"]
    gain: Float[Tensor, " query"]


class ImplicitPatch(Intervention):
    """Rank-1 changes of MLP weights, each row of a pass with those of its own query.

    Args:
        blocks: The blocks.
        queries: Number of queries.
        host: The model.
    """

    def __init__(self, blocks: Sequence[_Block], queries: int, host: Host) -> None:
        self.blocks = blocks
        fp32: dict[str, Any] = {"dtype": torch.float32, "device": host.device}
        self.values = [
            _Values(
                torch.zeros(queries, block.into[0].shape[0], **fp32),
                tuple(torch.zeros(queries, site.shape[1], **fp32) for site in block.into),
                torch.zeros(queries, block.out.shape[0], **fp32),
                torch.zeros(queries, block.out.shape[1], **fp32),
                torch.ones(queries, **fp32),
            )
            for block in blocks
        ]

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """The patches of the rows' queries; none for rows that are no queries.

        Raises:
            HypothesisError: It is not known which queries the rows are.
        """
        if batch.queries is None:
            raise HypothesisError("implicit_patch holds one patch per query and changes no other.")
        if bool((batch.queries < 0).any()):
            return []
        return [hook for block in self.blocks for hook in self.of_block(block, batch.queries)]

    def of_block(self, block: _Block, queries: Int[Tensor, " row"]) -> list[Hook]:
        """The hooks of one block."""
        values = self.values[block.layer]
        found: list[Hook] = []
        for site, target in zip(block.into, values.into, strict=True):
            found += rank_one(site, values.u, target, queries)
        if block.out.bias is not None and block.norm is None:
            found.append((block.out.output_hook, partial(_add, values.out, queries)))
        else:
            found += rank_one(block.out, values.h, values.out, queries)
        if block.norm is not None:
            found.append((block.norm, partial(_scale, values.gain, queries)))
        return found


def rank_one(
    site: LinearSite,
    sources: Float[Tensor, "query d_in"],
    targets: Float[Tensor, "query d_out"],
    queries: Int[Tensor, " row"],
) -> list[Hook]:
    """Add source^T target / |source|^2 to a linear map, row by row; a source of 0 adds nothing.

    Sources and targets are looked up when the map runs: while patches are being made, they have
    just been set then.
    """
    read: list[Tensor] = []

    def enter(activation: Tensor, hook: Any) -> None:
        read[:] = [site.read(activation).float()]

    def leave(activation: Tensor, hook: Any) -> Tensor:
        source, target = sources[queries], targets[queries]
        length = source.square().sum(-1, keepdim=True)
        unit = source / torch.where(length > 0, length, 1.0)
        share = torch.einsum("rpd,rd->rp", read.pop(), unit)
        return activation + (share[..., None] * target[:, None]).to(activation.dtype)

    return [(site.input_hook, enter), (site.output_hook, leave)]


def _add(
    changes: Float[Tensor, "query d_model"], queries: Int[Tensor, " row"],
    activation: Tensor, hook: Any,
) -> Tensor:  # fmt: skip
    return activation + changes[queries][:, None].to(activation.dtype)


def _scale(
    gains: Float[Tensor, " query"], queries: Int[Tensor, " row"], activation: Tensor, hook: Any
) -> Tensor:
    return activation * gains[queries][:, None, None].to(activation.dtype)


# -- fitting ---------------------------------------------------------------------------------------


def _groups(episode: Episode, prompt: int) -> list[list[int]]:
    """Groups of queries of one length, each group as many as a pass holds."""
    found: list[list[int]] = []
    for length, indices in episode.lengths().items():
        step = max(1, CONTEXT_TOKENS_AT_ONCE // (prompt + length))
        found += [indices[start : start + step] for start in range(0, len(indices), step)]
    return found


Activations = dict[str, Tensor]
"""What passed at the readout tokens of one pass, by hook point: [row width], in fp32."""


def _keeping(seen: Activations, names: Iterable[str]) -> list[Hook]:
    def keep(name: str, activation: Tensor, hook: Any) -> None:
        seen[name] = activation[:, -1].float()  # rows of one length: the last token is read

    return [(name, partial(keep, name)) for name in dict.fromkeys(names)]


def _parts(host: Host, layer: int) -> tuple[str, str, str, str]:
    """Hooks of a block's input, of what attention and MLP add to it, and of its output."""
    return (
        host.block_input_hook(layer),
        host.attention_output_hook(layer),
        host.mlp_output_hook(layer),
        host.block_output_hook(layer),
    )


def _fit(
    host: Host, episode: Episode, patch: ImplicitPatch, indices: list[int], prefix: Prefix | None
) -> None:
    """Make the patches of some queries of one length."""
    own = [list(episode.readout_tokens(episode.queries[index])) for index in indices]
    bos = episode.demonstrations.bos
    alone = [([] if bos is None else [bos]) + ids for ids in own]
    aim: Activations = {}
    names = [name for layer in range(host.n_layers) for name in _parts(host, layer)]
    for block in patch.blocks:
        names += [site.input_hook for site in block.into] + [block.out.output_hook]
    with host.hooked(_keeping(aim, names)):
        if prefix is None:
            host.run(host.tensor(alone))
        else:
            host.run(host.tensor(own), prefix.expand(len(own)))
    for block in patch.blocks:
        _check_sum(host, block, aim)
    rows = host.tensor(indices)[0]
    seen: Activations = {}
    hooks: list[Hook] = []
    for block in patch.blocks:
        hooks += _fitting(host, block, patch.values[block.layer], rows, aim, seen)
        hooks += patch.of_block(block, rows)
    with host.hooked(hooks):
        host.run(host.tensor(alone))


def _check_sum(host: Host, block: _Block, seen: Activations) -> None:
    """Refuse a block that is not the sum of what its hooks show."""
    entry, attention, mlp, leaving = _parts(host, block.layer)
    whole = agree(seen[entry] + seen[attention] + seen[mlp], seen[leaving], host.dtype)
    plain = block.norm is not None or agree(seen[block.out.output_hook], seen[mlp], host.dtype)
    if not whole or not plain:
        raise HypothesisError(
            f"implicit_patch: layer {block.layer} of {host.name} is not the sum of its input, its "
            "attention and its MLP as this host sees them; this block is not served."
        )


def _fitting(
    host: Host,
    block: _Block,
    values: _Values,
    rows: Int[Tensor, " row"],
    aim: Activations,
    seen: Activations,
) -> list[Hook]:
    """Hooks that fill a block's patch from what passes, each before the patch is read there."""
    entry, attention, mlp, leaving = _parts(host, block.layer)

    def enter(site: LinearSite, into: Tensor, activation: Tensor, hook: Any) -> None:
        weight = host.parameter(site.weight)
        assert weight is not None
        values.u[rows] = u = site.read(activation)[:, -1].float()
        target = site.read(aim[site.input_hook][:, None])[:, 0].float()
        into[rows] = (target - u) @ weight.float()

    def inside(activation: Tensor, hook: Any) -> None:
        values.h[rows] = activation[:, -1].float()

    def out(activation: Tensor, hook: Any) -> None:
        now = activation[:, -1].float()
        wanted = aim[leaving] - seen[entry] - seen[attention]
        if block.norm is not None:
            wanted = _before_norm(wanted, aim[block.out.output_hook], aim[mlp], now)
        values.out[rows] = wanted - now

    def after_norm(activation: Tensor, hook: Any) -> None:
        now = activation[:, -1].float()
        wanted = aim[leaving] - seen[entry] - seen[attention]
        values.gain[rows] = (now * wanted).sum(-1) / now.square().sum(-1)

    hooks = [
        *_keeping(seen, (entry, attention)),
        *(
            (site.input_hook, partial(enter, site, into))
            for site, into in zip(block.into, values.into, strict=True)
        ),
        (block.out.input_hook, inside),
        (block.out.output_hook, out),
    ]
    return hooks if block.norm is None else [*hooks, (block.norm, after_norm)]


def _before_norm(
    wanted: Float[Tensor, "row d_model"],
    read: Float[Tensor, "row d_model"],
    left: Float[Tensor, "row d_model"],
    now: Float[Tensor, "row d_model"],
) -> Float[Tensor, "row d_model"]:
    """What must enter an RMSNorm so that it leaves in the direction of `wanted`, at its length now.

    The norm's gain, up to a factor, is what left it divided by what entered it in another pass.
    """
    gain = torch.where(read == 0, 1.0, left / torch.where(read == 0, 1.0, read))
    needed = wanted / torch.where(gain == 0, 1.0, gain)
    return needed * (now.norm(dim=-1) / needed.norm(dim=-1))[:, None]
