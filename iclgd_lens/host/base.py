"""The one interface through which the rest of the package sees a TransformerLens model.

A `Host` names hook points, lists linear sites, runs prompts and shares prefixes. It never writes a
weight. Shapes follow TransformerLens: residual stream "batch pos d_model", heads "batch pos head
d_head", attention scores "batch head query key".
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclgd_lens.errors import HookError, UnsupportedModelError, nearest
from iclgd_lens.host.condition import refuse_condition
from iclgd_lens.host.hook_names import HookNames
from iclgd_lens.host.hooks import Firings, Hook, attached, receiver, without_reread
from iclgd_lens.host.last_mlp import At, last_mlp_at, tokens_at
from iclgd_lens.host.sites_and_passes import ForwardResult as ForwardResult
from iclgd_lens.host.sites_and_passes import LinearSite as LinearSite
from iclgd_lens.host.sites_and_passes import Prefix as Prefix
from iclgd_lens.host.sites_and_passes import WholePrefix, read_again

if TYPE_CHECKING:
    from typing_extensions import Self

Attention = Literal["softmax", "linear"]
"""What a model makes of its masked scores: their softmax, or the scores themselves."""


class Host(HookNames):
    """A HookedTransformer (TransformerLens 3) or TransformerBridge (3 and 4), behind one interface.

    Args:
        model: The model.
        attention: "softmax", or "linear" for a HookedTransformer whose own hooks put the masked
            scores in the pattern's place; the model is asked whether they do.

    Attributes:
        kind: "HookedTransformer" or "TransformerBridge".
        n_layers: Blocks.
        n_heads: Query heads of a block.
        n_key_value_heads: Key and value heads of a block; one may serve several query heads.
        d_model: Entries of the residual stream.
        d_head: Entries of a head's queries, keys and values.
        d_vocab: Tokens.
        n_ctx: Positions.
        cfg: The model's configuration.
        cuts_last_mlp: Whether its last MLP can run at some tokens alone; see `last_mlp`.
        exposes_queries: Whether what a bridge shows as queries and keys is what its attention
            multiplies; see `dot_products`.
        unembedded: Sequences unembedded so far, from which the cost of a build is counted.
        charged: Further costs that are counted, of passes that were shared; see `cost.sharing`.
        memory: Where passes that several builds share are kept; see `cost.sharing`.

    Raises:
        UnsupportedModelError: The model cannot be measured faithfully; the message says what to do.
    """

    kind: str

    def __new__(cls, model: Any, attention: Attention = "softmax") -> Self:
        """Return a `HookedHost` or a `BridgeHost`, whichever `model` needs."""
        if cls is Host:
            from iclgd_lens.host.choose import host_class

            return super().__new__(cast("type[Self]", host_class(model)))
        return super().__new__(cls)

    def __init__(self, model: nn.Module, attention: Attention = "softmax") -> None:
        if attention not in get_args(Attention):
            unknown = f"attention is {attention!r}; allowed: {', '.join(get_args(Attention))}."
            raise UnsupportedModelError(unknown + nearest(attention, get_args(Attention)))
        refuse_condition(model)
        self.model = model
        self.attention: Attention = attention
        self.cfg: Any = cast(Any, model).cfg
        self.n_layers, self.n_heads = int(self.cfg.n_layers), int(self.cfg.n_heads)
        self.d_model, self.d_head = int(self.cfg.d_model), int(self.cfg.d_head)
        self.d_vocab, self.n_ctx = int(self.cfg.d_vocab), int(self.cfg.n_ctx)
        self.n_key_value_heads = int(getattr(self.cfg, "n_key_value_heads", None) or self.n_heads)
        self.unembedded, self.charged = 0, (0, 0, 0, 0)  # so far; see `cost`
        self.memory: dict[Any, Any] | None = None  # see `cost.sharing`
        self.cuts_last_mlp = False  # until the model was asked whether it can
        self.exposes_queries = True  # until the model was asked whether it does
        self._reread = 0  # tokens at the beginning of a running pass that its caller did not give
        self._points: dict[str, Any] = dict(cast(Any, model).hook_dict)
        self._sites = {site.weight: site for site in self._list_sites()}

    def again(self, model: nn.Module) -> Self:
        """Return a host of another model of this kind, under the same options.

        Raises:
            UnsupportedModelError: The model cannot be measured faithfully.
        """
        return type(self)(model, self.attention)

    @property
    def name(self) -> str:
        """The model's name, as its configuration gives it."""
        return str(getattr(self.cfg, "model_name", None) or "model")

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return getattr(self.model, "tokenizer", None)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding matrix."""
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        """The device of the embedding matrix, where tokens go."""
        return self.embedding.device

    @property
    @abstractmethod
    def embedding(self) -> Tensor:
        """The token embedding matrix."""

    # -- hook points ---------------------------------------------------------------------------

    @abstractmethod
    def score_hooks(
        self, receive: Callable[[int, Float[Tensor, "batch head query key"]], None]
    ) -> contextlib.AbstractContextManager[None]:
        """Call `receive(layer, scores)` with pre-softmax scores during forwards in the context."""

    @contextlib.contextmanager
    def query_key_hooks(
        self,
        queries: Callable[[int, Tensor], None] | None,
        keys: Callable[[int, Tensor], None] | None,
    ) -> Generator[None, None, None]:
        """Call back with queries and keys as they enter the dot product: "batch pos head d_head".

        Raises:
            HookError: This model does not expose them.
        """
        hooks = [
            (self.query_key_hook(layer, letter), receiver(receive, layer))
            for letter, receive in (("q", queries), ("k", keys))
            if receive is not None
            for layer in range(self.n_layers)
        ]
        with self.hooked(hooks, forced=False):
            yield

    @contextlib.contextmanager
    def hooked(
        self, hooks: Sequence[Hook], *, forced: bool = True
    ) -> Generator[Firings, None, None]:
        """Attach `hooks` for the duration of the context, after the user's own hooks.

        Exactly these hooks are removed on exit, whatever happens.

        Raises:
            HookError: A hook point does not exist, or (on a clean exit) one never fired; with
                `forced=False` only if others did.
        """
        firings = Firings([name for name, _ in hooks])
        with attached(self.hook_point, self.shown(hooks), firings):
            yield firings
        firings.check(forced)

    def shown(self, hooks: Sequence[Hook]) -> Sequence[Hook]:
        """Hooks that see the tokens a pass was given, also where it reads others before them."""
        if self.can_pad:
            return hooks
        return [
            (name, partial(without_reread, lambda: self._reread, name, function))
            for name, function in hooks
        ]

    def has_hook_point(self, name: str) -> bool:
        """Whether the model has a HookPoint of that name."""
        return name in self._points

    def hook_point(self, name: str) -> Any:
        """Return the model's HookPoint of that name.

        Raises:
            HookError: There is none.
        """
        if name not in self._points:
            unknown = f"This {self.kind} has no hook point {name!r}."
            raise HookError(unknown + nearest(name, self._points))
        return self._points[name]

    # -- linear sites --------------------------------------------------------------------------

    @abstractmethod
    def _list_sites(self) -> Iterator[LinearSite]:
        """Yield every linear site that this model has."""

    @property
    def sites(self) -> dict[str, LinearSite]:
        """Linear sites by the TransformerLens name of their weight."""
        return dict(self._sites)

    def site(self, name: str) -> LinearSite:
        """Return the site of a weight or bias, e.g. "blocks.0.attn.W_K" or "blocks.0.attn.b_K".

        Raises:
            HookError: The model has no such linear map.
        """
        stem, _, kind = name.rpartition(".")
        weight = f"{stem}.W{kind[1:]}"
        if weight not in self._sites:
            raise HookError(f"{self.name} has no linear map {name!r}." + nearest(name, self._sites))
        return self._sites[weight]

    @abstractmethod
    def parameter(self, name: str) -> Tensor | None:
        """Return a weight or bias in TransformerLens layout, possibly a view, never a parameter.

        Key and value weights have one slice per key/value head. None if the model has no such bias.
        """

    @abstractmethod
    def write_parameter(self, name: str, value: Tensor) -> None:
        """Overwrite a weight or bias given in TransformerLens layout (only for copied models)."""

    # -- running -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def laid_out(self) -> Generator[None, None, None]:
        """Hold weights in memory as the forward pass reads them, where that saves copies.

        For many short passes on a CPU. Values stay as they are; a HookedTransformer's weights of
        attention and of gated MLPs take twice their memory inside the context.
        """
        yield

    @property
    @abstractmethod
    def depends_on_length(self) -> bool:
        """Whether a token's position depends on the length of the whole sequence.

        So it is with rotary embeddings that are rescaled as a sequence grows (dynamic scaling,
        LongRoPE): keys and values of demonstrations then differ from query to query.
        """

    @property
    def can_pad(self) -> bool:
        """Whether tokens at the end of a sequence leave all before them as they are.

        True of causal attention, except where positions depend on the length.
        """
        return not self.depends_on_length

    def run(
        self,
        tokens: Int[Tensor, "batch pos"],
        prefix: Prefix | None = None,
        keep: bool = False,
        at: At | None = None,
    ) -> ForwardResult:
        """Run the blocks on `tokens`, after `prefix` if given; the unembedding is not run.

        Args:
            tokens: Token ids, all of one length; each is attended to by those after it.
            prefix: Keys and values already read, expanded to the batch. Where positions depend on
                the length, its tokens are read again; hooks see the given tokens alone.
            keep: Whether to return the keys and values of prefix and tokens together.
            at: The token of each row whose residual stream is returned, or one position for all;
                None for every token. The last block's MLP then runs at these alone, where no hook
                looks at what it gives.
        """
        if self.depends_on_length and (keep or prefix is not None):
            return self._run_whole(tokens, prefix, keep, at)
        with last_mlp_at(self, tokens.shape, at):
            run = self._run(tokens, prefix, keep)
        return run if at is None else ForwardResult(tokens_at(run.residual, at), run.prefix)

    def prefix(self, tokens: Int[Tensor, "batch pos"], before: Prefix | None = None) -> Prefix:
        """Keys and values of `before`, if given, and `tokens`, to be read before others."""
        prefix = self.run(tokens, before, keep=True, at=-1).prefix
        assert prefix is not None
        return prefix

    @abstractmethod
    def _run(
        self, tokens: Int[Tensor, "batch pos"], prefix: Prefix | None, keep: bool
    ) -> ForwardResult:
        """`run` at every token."""

    def _run_whole(
        self, tokens: Int[Tensor, "batch pos"], prefix: Prefix | None, keep: bool, at: At | None
    ) -> ForwardResult:
        """`run` where positions depend on the length: a prefix is read again with what follows."""
        read = read_again(self.name, prefix, tokens)
        self._reread = read.shape[1] - tokens.shape[1]
        try:
            residual = self._run(read, None, False).residual[:, -tokens.shape[1] :]
        finally:
            self._reread = 0
        residual = residual if at is None else tokens_at(residual, at)
        return ForwardResult(residual, WholePrefix(read) if keep else None)

    @abstractmethod
    def final_norm(self, residual: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """Apply the model's final normalisation."""

    @abstractmethod
    def unembed(self, normalized: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Apply the unembedding (and the logit soft cap, where the model has one)."""

    @abstractmethod
    def unembedding(self) -> tuple[Tensor, Tensor | None] | None:
        """Return W_U [d_model, d_vocab] and b_U, if logits are just x W_U + b_U.

        None where a soft cap follows, or where hooks are attached to the unembedding.
        """

    def logits(self, residual: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """Final norm and unembedding of any residual stream (the logit lens)."""
        self.unembedded += residual.shape[0] if residual.ndim > 2 else 1
        return self.unembed(self.final_norm(residual))

    def tensor(self, tokens: Sequence[int] | Sequence[Sequence[int]]) -> Int[Tensor, "batch pos"]:
        """Token ids as a batch on the model's device."""
        return torch.atleast_2d(torch.tensor(tokens, dtype=torch.long, device=self.device))
