"""HookedTransformer (TransformerLens 3) as a host."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclgd_lens.errors import HookError, UnsupportedModelError
from iclgd_lens.host.base import Attention, ForwardResult, Host, LinearSite, Prefix
from iclgd_lens.host.checkpoint import ModelWarning
from iclgd_lens.host.families import family_of
from iclgd_lens.host.guard import laid_out
from iclgd_lens.host.hooks import receiver
from iclgd_lens.host.probe import check_model

_GAINLESS = ("LNPre", "RMSPre")
_SWITCHES = {
    "use_attn_in": "set_use_attn_in(False)",
    "use_split_qkv_input": "set_use_split_qkv_input(False)",
    "use_hook_mlp_in": "set_use_hook_mlp_in(False)",
    "ungroup_grouped_query_attention": "set_ungroup_grouped_query_attention(False)",
}


# How TransformerLens's products read their weights: these axes, slowest first. It copies what lies
# otherwise in each pass, and a graph holds that copy until its backward pass is done.
_ATTENTION_ORDERS = {"W_Q": (0, 2, 1), "W_K": (0, 2, 1), "W_V": (0, 2, 1), "W_O": (2, 0, 1)}
_GATED_ORDERS = {"W_gate": (1, 0), "W_in": (1, 0), "W_out": (1, 0)}


class HookedHost(Host):
    """A HookedTransformer, read and trained through its hook points."""

    kind = "HookedTransformer"

    def __init__(self, model: nn.Module, attention: Attention = "softmax") -> None:
        self._blocks: Any = cast(Any, model).blocks
        _refuse(cast(Any, model).cfg)
        super().__init__(model, attention)
        check_model(self)

    @property
    def embedding(self) -> Tensor:
        """The token embedding matrix: "d_vocab d_model"."""
        return cast(Any, self.model).embed.W_E

    # -- sites ---------------------------------------------------------------------------------

    def _list_sites(self) -> Iterator[LinearSite]:
        cfg = self.cfg
        shapes = {
            "W_Q": (self.n_heads, self.d_model, self.d_head),
            "W_K": (self.n_key_value_heads, self.d_model, self.d_head),
            "W_V": (self.n_key_value_heads, self.d_model, self.d_head),
        }
        for layer in range(self.n_layers):
            stem = f"blocks.{layer}"
            entry, read = self._normalized(layer, "ln1")
            for letter in "QKV":
                yield LinearSite(
                    layer=layer,
                    weight=f"{stem}.attn.W_{letter}",
                    bias=f"{stem}.attn.b_{letter}" if self._has_bias(layer, letter) else None,
                    shape=shapes[f"W_{letter}"],
                    input_hook=entry,
                    output_hook=f"{stem}.attn.hook_{letter.lower()}",
                    read=read,
                )
            if not cfg.use_normalization_before_and_after:
                yield LinearSite(
                    layer=layer,
                    weight=f"{stem}.attn.W_O",
                    bias=f"{stem}.attn.b_O" if self._has_bias(layer, "O") else None,
                    shape=(self.n_heads, self.d_head, self.d_model),
                    input_hook=f"{stem}.attn.hook_z",
                    output_hook=f"{stem}.hook_attn_out",
                )
            yield from self._mlp_sites(layer)

    def _mlp_sites(self, layer: int) -> Iterator[LinearSite]:
        if self.cfg.attn_only:
            return
        mlp = self._blocks[layer].mlp
        kind = type(mlp).__name__
        if kind not in ("MLP", "GatedMLP") or mlp.cfg.is_layer_norm_activation():
            return
        stem = f"blocks.{layer}.mlp"
        entry, read = self._normalized(layer, "ln2")
        d_model, d_mlp = mlp.W_in.shape
        gated = kind == "GatedMLP"
        # A gated MLP adds b_in after the product with the gate: it is no bias of W_in's map.
        yield LinearSite(
            layer=layer,
            weight=f"{stem}.W_in",
            bias=None if gated else f"{stem}.b_in",
            shape=(d_model, d_mlp),
            input_hook=entry,
            output_hook=f"{stem}.hook_pre_linear" if gated else f"{stem}.hook_pre",
            read=read,
        )
        if gated:
            yield LinearSite(
                layer=layer,
                weight=f"{stem}.W_gate",
                bias=None,
                shape=(d_model, d_mlp),
                input_hook=entry,
                output_hook=f"{stem}.hook_pre",
                read=read,
            )
        if not self.cfg.use_normalization_before_and_after:
            absent = gated and not bool(mlp.b_out.any())
            yield LinearSite(
                layer=layer,
                weight=f"{stem}.W_out",
                bias=None if absent else f"{stem}.b_out",
                shape=(d_mlp, d_model),
                input_hook=f"{stem}.hook_post",
                output_hook=f"blocks.{layer}.hook_mlp_out",
            )

    def _normalized(self, layer: int, norm: str) -> tuple[str, Callable[[Tensor], Tensor]]:
        """Hook before the norm's gain, and the rest of the norm to apply to what passes there."""
        block = self._blocks[layer]
        if self.cfg.normalization_type is None:
            parallel = self.cfg.parallel_attn_mlp
            point = "hook_resid_pre" if norm == "ln1" or parallel else "hook_resid_mid"
            return f"blocks.{layer}.{point}", lambda value: value
        read = partial(_gained, getattr(block, norm), self.cfg.dtype)
        return f"blocks.{layer}.{norm}.hook_normalized", read

    def _has_bias(self, layer: int, letter: str) -> bool:
        architecture = getattr(self.cfg, "original_architecture", None)
        family = family_of(architecture)
        if architecture is None or (family is not None and letter in family.biases):
            return True
        # Layer by layer: what a layer learns must not depend on what later layers hold.
        return bool(_attribute(self._blocks[layer].attn, f"b_{letter}").any())

    def parameter(self, name: str) -> Tensor | None:
        """See `Host.parameter`."""
        module, kind = self._owner(name)
        value = _attribute(module, kind)
        return None if value is None else value.detach()

    def write_parameter(self, name: str, value: Tensor) -> None:
        """See `Host.write_parameter`."""
        module, kind = self._owner(name)
        with torch.no_grad():
            _attribute(module, kind).copy_(value)

    def _owner(self, name: str) -> tuple[Any, str]:
        module: Any = self.model
        *path, kind = name.split(".")
        for part in path:
            module = module[int(part)] if part.isdigit() else getattr(module, part)
        return module, kind

    # -- attention -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def score_hooks(
        self, receive: Callable[[int, Float[Tensor, "batch head query key"]], None]
    ) -> Generator[None, None, None]:
        """See `Host.score_hooks`."""
        hooks = [
            (self.score_hook(layer), receiver(receive, layer)) for layer in range(self.n_layers)
        ]
        with self.hooked(hooks, forced=False):
            yield

    def score_hook(self, layer: int) -> str:
        """See `Host.score_hook`."""
        return f"blocks.{layer}.attn.hook_attn_scores"

    def query_key_hook(self, layer: int, letter: str) -> str:
        """See `Host.query_key_hook`."""
        position = self.cfg.positional_embedding_type
        if position not in ("standard", "rotary"):
            raise HookError(
                f"Queries and keys of a model with {position!r} positions do not by themselves "
                "give attention scores; Tok2Attn is undefined on it."
            )
        return f"blocks.{layer}.attn.hook_{'rot_' if position == 'rotary' else ''}{letter}"

    # -- running -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def laid_out(self) -> Generator[None, None, None]:
        """See `Host.laid_out`."""
        parameters: dict[nn.Parameter, tuple[int, ...]] = {}
        for block in self._blocks:
            parts: list[tuple[Any, Mapping[str, tuple[int, ...]]]] = [
                (block.attn, _ATTENTION_ORDERS)
            ]
            if not self.cfg.attn_only and type(block.mlp).__name__ == "GatedMLP":
                parts.append((block.mlp, _GATED_ORDERS))
            for part, orders in parts:
                for name, order in orders.items():
                    weight = _attribute(part, name)
                    # Elsewhere a copy is short, and memory is scarce.
                    if isinstance(weight, nn.Parameter) and weight.device.type == "cpu":
                        parameters[weight] = order
        with laid_out(parameters):
            yield

    @property
    def depends_on_length(self) -> bool:
        """See `Host.depends_on_length`."""
        return bool(getattr(self.cfg, "use_dynamic_ntk_rope", False))

    def _run(
        self, tokens: Int[Tensor, "batch pos"], prefix: Prefix | None, keep: bool
    ) -> ForwardResult:
        cache = self._cache(tokens.shape[0], prefix, keep) if keep or prefix is not None else None
        # An explicit mask: TransformerLens would derive one that hides tokens equal to padding.
        mask = torch.ones_like(tokens, dtype=torch.int)
        residual = cast(Any, self.model)(
            tokens,
            return_type=None,
            stop_at_layer=self.n_layers,
            past_kv_cache=cache,
            attention_mask=None if self._mask_is_free(cache) else mask,
            prepend_bos=False,
        )
        if cache is None or not keep:
            return ForwardResult(residual, None)
        read = tokens if prefix is None else torch.cat([prefix.tokens, tokens], dim=1)
        entries = cache.entries
        return ForwardResult(
            residual,
            Prefix(
                read,
                tuple(entry.past_keys for entry in entries),
                tuple(entry.past_values for entry in entries),
            ),
        )

    def _mask_is_free(self, cache: Any) -> bool:
        """Whether TransformerLens builds no padding mask of its own when given none."""
        tokenizer = self.tokenizer
        return cache is None and (tokenizer is None or tokenizer.padding_side != "left")

    def _cache(self, batch: int, prefix: Prefix | None, keep: bool) -> Any:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
        from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry

        if prefix is None:
            return TransformerLensKeyValueCache.init_cache(self.cfg, self.device, batch)
        shared = prefix.expand(batch)
        cache = TransformerLensKeyValueCache(
            entries=[
                TransformerLensKeyValueCacheEntry(past_keys=k, past_values=v)
                for k, v in zip(shared.keys, shared.values, strict=True)
            ],
            previous_attention_mask=torch.ones_like(shared.tokens, dtype=torch.int),
        )
        if not keep:
            cache.freeze()
        return cache

    def final_norm(self, residual: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """See `Host.final_norm`."""
        if self.cfg.normalization_type is None:
            return residual
        return cast(Any, self.model).ln_final(residual)

    def unembed(self, normalized: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """See `Host.unembed`."""
        linear = self.unembedding()
        if linear is not None:
            # TransformerLens would copy the transposed matrix for every call.
            return normalized @ linear[0] + linear[1]
        logits = cast(Any, self.model).unembed(normalized)
        cap = self._soft_cap
        return cap * torch.tanh(logits / cap) if cap > 0 else logits

    def unembedding(self) -> tuple[Tensor, Tensor] | None:
        """See `Host.unembedding`."""
        module = cast(Any, self.model).unembed
        if self._soft_cap > 0 or module.hook_in.has_hooks() or module.hook_out.has_hooks():
            return None
        return module.W_U, module.b_U

    @property
    def _soft_cap(self) -> float:
        return float(getattr(self.cfg, "output_logits_soft_cap", None) or 0.0)


def _attribute(module: Any, kind: str) -> Any:
    """A weight by name; grouped key/value weights are stored once per key/value head."""
    grouped = f"_{kind}"
    names = dict(module.named_parameters(recurse=False))
    return names[grouped] if grouped in names else getattr(module, kind, None)


def _refuse(cfg: Any) -> None:
    """Raise `UnsupportedModelError` for what the configuration alone rules out."""
    norm, pretrained = cfg.normalization_type, getattr(cfg, "original_architecture", None)
    if norm in _GAINLESS and pretrained is not None:
        raise UnsupportedModelError(
            f"The norms of this {pretrained} are folded into its weights ({norm}), so gradient "
            "descent on it is a different gradient descent. Load it with HookedTransformer."
            "from_pretrained_no_processing(...), or with iclgd_lens.load_model(...)."
        )
    if norm in _GAINLESS:
        warnings.warn(
            f"This model's norms have no gain ({norm}). If it was trained so, all is well; if "
            "they were folded into its weights afterwards (process_weights_), gradient descent "
            "on it is not that of the model as it was trained.",
            ModelWarning,
            stacklevel=5,
        )
    elif norm not in ("LN", "RMS", None):
        raise UnsupportedModelError(f"Normalisation {cfg.normalization_type!r} is not served.")
    if getattr(cfg, "attention_dir", "causal") != "causal":
        raise UnsupportedModelError(
            "This model attends in both directions; in-context learning is measured on causal "
            "decoders only."
        )
    if cfg.positional_embedding_type == "shortformer":
        raise UnsupportedModelError(
            "Shortformer positions enter keys but not values; such models are not served."
        )
    family = family_of(getattr(cfg, "original_architecture", None))
    if family is not None and family.norm_after_attention:
        raise UnsupportedModelError(
            f"{cfg.original_architecture} normalises after attention, which HookedTransformer's "
            'hooks do not separate; load it with iclgd_lens.load_model(..., host="bridge").'
        )
    for switch, remedy in _SWITCHES.items():
        if getattr(cfg, switch, False):
            raise UnsupportedModelError(
                f"cfg.{switch} is on and changes what passes at the hooks; call model.{remedy}."
            )
    if getattr(cfg, "load_in_4bit", False):
        raise UnsupportedModelError("4-bit weights cannot be differentiated; load without them.")


def _gained(norm: Any, dtype: torch.dtype, value: Tensor) -> Tensor:
    """What a norm makes of its normalised input."""
    value = value.to(dtype) * getattr(norm, "w", 1)
    return value + norm.b if hasattr(norm, "b") else value
