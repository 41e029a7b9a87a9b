"""TransformerBridge (TransformerLens 3 and 4) as a host."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any, cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from iclgd_lens.errors import HookError, UnsupportedModelError
from iclgd_lens.host.base import Attention, ForwardResult, Host, LinearSite, Prefix
from iclgd_lens.host.bridge_attention import read_prefix, shared_cache, softmax_tap
from iclgd_lens.host.guard import frozen
from iclgd_lens.host.hooks import Hook, receiver
from iclgd_lens.host.probe import check_model
from iclgd_lens.host.rotary import depends_on_length, rotary_modules, unread
from iclgd_lens.host.unwatched_norms import computed_once, watchable_norms

_ROTATED = ("attn.hook_rot_q", "attn.hook_rot_k")


class BridgeHost(Host):
    """A TransformerBridge over a `transformers` model."""

    kind = "TransformerBridge"

    def __init__(self, model: nn.Module, attention: Attention = "softmax") -> None:
        if attention == "linear":
            raise UnsupportedModelError(
                "Linear attention is served on a HookedTransformer alone: the attention that "
                "`transformers` runs behind a TransformerBridge has a softmax."
            )
        _refuse(model)
        self._blocks: Any = cast(Any, model).blocks
        self._causal_lm: Any = cast(Any, model).original_model
        self._rotary = rotary_modules(self._causal_lm.modules())
        self._norms = watchable_norms(model.modules())
        self._casts: list[Hook] = []
        super().__init__(model, attention)
        self._casts = self._missing_casts()
        check_model(self)

    @property
    def embedding(self) -> Tensor:
        """The token embedding matrix: "d_vocab d_model"."""
        return self._causal_lm.get_input_embeddings().weight

    # -- sites ---------------------------------------------------------------------------------

    def _list_sites(self) -> Iterator[LinearSite]:
        for layer in range(self.n_layers):
            attention = self._blocks[layer].attn
            for letter, part in (("Q", "q"), ("K", "k"), ("V", "v"), ("O", "o")):
                yield self._site(layer, "attn", letter, part, getattr(attention, part))
            mlp = self._blocks[layer]._modules.get("mlp")
            if type(mlp).__name__ not in ("MLPBridge", "GatedMLPBridge"):
                continue
            for letter, part in (("in", "in"), ("gate", "gate"), ("out", "out")):
                linear = mlp._modules.get(part)
                if linear is not None and f"blocks.{layer}.mlp.{part}.hook_out" in self._points:
                    yield self._site(layer, "mlp", letter, part, linear)

    def _site(self, layer: int, block: str, letter: str, part: str, linear: Any) -> LinearSite:
        stem = f"blocks.{layer}.{block}"
        d_in, d_out = _in_out(linear.original_component).shape
        heads = self.n_key_value_heads if letter in "KV" else self.n_heads
        if block == "mlp":
            shape: tuple[int, ...] = (d_in, d_out)
        elif letter == "O":
            shape = (heads, d_in // heads, d_out)
        else:
            shape = (heads, d_in, d_out // heads)
        biased = getattr(linear.original_component, "bias", None) is not None
        return LinearSite(
            layer=layer,
            weight=f"{stem}.W_{letter}",
            bias=f"{stem}.b_{letter}" if biased else None,
            shape=shape,
            input_hook=f"{stem}.{part}.hook_in",
            output_hook=f"{stem}.{part}.hook_out",
        )

    def _linear(self, name: str) -> tuple[Any, str]:
        """The `torch` module that holds a weight or bias, and its letter (Q, K, ..., in, out)."""
        _, layer, block, kind = name.split(".")
        letter = kind.split("_", 1)[1]
        part = letter.lower()
        return getattr(getattr(self._blocks[int(layer)], block), part).original_component, letter

    def parameter(self, name: str) -> Tensor | None:
        """See `Host.parameter`."""
        module, letter = self._linear(name)
        if ".b_" in name:
            bias = getattr(module, "bias", None)
            if bias is None:
                return None
            return bias.detach().view(-1, self.d_head) if letter in "QKV" else bias.detach()
        weight = _in_out(module).detach()
        if letter == "O":
            return rearrange(weight, "(head d_in) d_out -> head d_in d_out", head=self.n_heads)
        if letter in ("Q", "K", "V"):
            heads = self.n_heads if letter == "Q" else self.n_key_value_heads
            return rearrange(weight, "d_in (head d_head) -> head d_in d_head", head=heads)
        return weight

    def write_parameter(self, name: str, value: Tensor) -> None:
        """See `Host.write_parameter`."""
        module, letter = self._linear(name)
        with torch.no_grad():
            if ".b_" in name:
                module.bias.copy_(value.flatten())
                return
            if letter == "O":
                value = rearrange(value, "head d_in d_out -> (head d_in) d_out")
            elif letter in ("Q", "K", "V"):
                value = rearrange(value, "head d_in d_head -> d_in (head d_head)")
            _in_out(module).copy_(value)

    # -- attention -----------------------------------------------------------------------------

    def attention_output_hook(self, layer: int) -> str:
        """See `Host.attention_output_hook`."""
        name = super().attention_output_hook(layer)
        return name if name in self._points else f"blocks.{layer}.attn.hook_out"

    def mlp_output_hook(self, layer: int) -> str:
        """See `Host.mlp_output_hook`."""
        name = super().mlp_output_hook(layer)
        return name if name in self._points else f"blocks.{layer}.mlp.hook_out"

    @contextlib.contextmanager
    def score_hooks(
        self, receive: Callable[[int, Float[Tensor, "batch head query key"]], None]
    ) -> Generator[None, None, None]:
        """See `Host.score_hooks`."""
        native = [layer for layer in range(self.n_layers) if self._is_native(layer)]
        hooks = [
            (self.score_hook(layer), receiver(receive, layer))
            for layer in range(self.n_layers)
            if layer not in native
        ]
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.hooked(hooks, forced=False))
            if native:
                # The softmax is no hook point, so what a pass reads again is left out here.
                stack.enter_context(
                    softmax_tap(
                        self, native, lambda layer, x: receive(layer, x[:, :, self._reread :])
                    )
                )
            yield

    def _is_native(self, layer: int) -> bool:
        """Whether `transformers` itself runs this attention.

        Its score hook then carries softmax weights, so scores are taken where the softmax reads.
        """
        from transformer_lens.model_bridge.generalized_components.attention import AttentionBridge

        return type(self._blocks[layer].attn).forward is AttentionBridge.forward

    def score_hook(self, layer: int) -> str:
        """See `Host.score_hook`."""
        if self._is_native(layer):
            raise HookError(
                f"Transformers itself runs the attention of this bridge of {self.name}: its scores "
                "can be read but not changed."
            )
        return f"blocks.{layer}.attn.hook_attn_scores"

    def query_key_hook(self, layer: int, letter: str) -> str:
        """See `Host.query_key_hook`."""
        position = getattr(self.cfg, "positional_embedding_type", "standard")
        rotary = position == "rotary"
        hidden = (rotary and self._is_native(0)) or not self.exposes_queries
        if position not in ("standard", "rotary") or hidden:
            raise HookError(
                f"This bridge of {self.name} does not expose queries and keys as they enter the "
                "dot product; Tok2Attn is undefined on it."
            )
        return f"blocks.{layer}.attn." + (f"hook_rot_{letter}" if rotary else f"{letter}.hook_out")

    # -- running -------------------------------------------------------------------------------

    @property
    def depends_on_length(self) -> bool:
        """See `Host.depends_on_length`."""
        return depends_on_length(self._causal_lm.config)

    def _run(
        self, tokens: Int[Tensor, "batch pos"], prefix: Prefix | None, keep: bool
    ) -> ForwardResult:
        residuals: list[Tensor] = []
        last = self.block_output_hook(self.n_layers - 1)
        cache = None
        if keep or prefix is not None:
            cache = shared_cache(self._causal_lm.config, prefix, tokens.shape[0], keep)
        collect = receiver(lambda _, value: residuals.append(value), 0)
        hooks = [*self._casts, (last, collect)]
        with self.hooked(hooks), unread(self._rotary), computed_once(self._norms):
            # The base model stops before the unembedding.
            self._causal_lm.base_model(
                input_ids=tokens, past_key_values=cache, use_cache=cache is not None
            )
        if cache is None or not keep:
            return ForwardResult(residuals[-1], None)  # of a block that runs twice, the second
        read = tokens if prefix is None else torch.cat([prefix.tokens, tokens], dim=1)
        return ForwardResult(residuals[-1], read_prefix(cache, read))

    def _missing_casts(self) -> list[Hook]:
        """Hooks that cast rotated queries and keys back to the model's dtype, where they must.

        Some architectures rotate in fp32 and cast back; attention bridges leave the cast out.
        """
        if self.dtype not in (torch.bfloat16, torch.float16):
            return []
        try:
            with frozen(self.model), torch.no_grad():
                self.run(self.tensor([0, 0]))
        except RuntimeError as error:
            if "dtype" in str(error) or "scalar type" in str(error):
                names = [name for name in self._points if name.endswith(_ROTATED)]
                return [(name, partial(_cast, self.dtype)) for name in names]
        return []

    def final_norm(self, residual: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
        """See `Host.final_norm`."""
        return cast(Any, self.model).ln_final(residual)

    def unembed(self, normalized: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
        """See `Host.unembed`."""
        logits = cast(Any, self.model).unembed(normalized) * self._logit_scale
        cap = self._soft_cap
        return cap * torch.tanh(logits / cap) if cap else logits

    def unembedding(self) -> tuple[Tensor, Tensor | None] | None:
        """See `Host.unembedding`."""
        module = cast(Any, self.model).unembed
        linear = module.original_component
        if (
            self._soft_cap
            or self._logit_scale != 1
            or not isinstance(linear, nn.Linear)
            or module.hook_in.has_hooks()
            or module.hook_out.has_hooks()
        ):
            return None
        return linear.weight.T, linear.bias

    @property
    def _soft_cap(self) -> float:
        return float(getattr(self._causal_lm.config, "final_logit_softcapping", None) or 0.0)

    @property
    def _logit_scale(self) -> float:
        """What logits are multiplied by: Cohere's models name the factor, Granite's its inverse."""
        config = self._causal_lm.config
        factor, divisor = (getattr(config, key, None) for key in ("logit_scale", "logits_scaling"))
        return float(factor or 1.0) / float(divisor or 1.0)


def _cast(dtype: torch.dtype, activation: Tensor, hook: Any) -> Tensor:
    return activation.to(dtype)


def _in_out(module: Any) -> Tensor:
    """A linear module's weight as a [d_in, d_out] view."""
    return module.weight if type(module).__name__ == "Conv1D" else module.weight.T


def _refuse(model: Any) -> None:
    """Raise `UnsupportedModelError` for what the model's structure alone rules out."""
    config = getattr(model.original_model, "config", None)
    name = getattr(model.cfg, "model_name", None) or type(model.original_model).__name__
    if config is None or not hasattr(model.original_model, "base_model"):
        raise UnsupportedModelError(
            f"{name} is not a transformers model behind the bridge; boot it from transformers, or "
            "with iclgd_lens.load_model."
        )
    if getattr(config, "is_encoder_decoder", False) or not (
        hasattr(model, "unembed") and hasattr(model, "blocks")
    ):
        raise UnsupportedModelError(
            f"{name} is not a causal decoder; in-context learning is measured on decoder-only "
            "models."
        )
    if getattr(getattr(model, "ln_final", None), "original_component", None) is None:
        raise UnsupportedModelError(
            f"{name} has no final norm before its unembedding (it normalises after each block), so "
            "no layer's output can be read as logits; such architectures are not served."
        )
    for layer, block in enumerate(model.blocks):
        attention = block._modules.get("attn")
        parts = [] if attention is None else [attention._modules.get(part) for part in "qkvo"]
        if not parts or any(getattr(part, "original_component", None) is None for part in parts):
            raise UnsupportedModelError(
                f"Layer {layer} of {name} has no separate query, key, value and output maps (state "
                "space, linear or latent attention); such layers are not served."
            )
        if any("SSM" in type(part).__name__ for part in block._modules.values()):
            raise UnsupportedModelError(
                f"Layer {layer} of {name} has a state space beside its attention, whose state "
                "cannot be shared among queries as keys and values are; such layers are not served."
            )
    implementation = getattr(config, "_attn_implementation", "eager")
    if implementation != "eager":
        raise UnsupportedModelError(
            f"{name} runs {implementation!r} attention, which exposes no scores; load it with "
            'attn_implementation="eager", or with iclgd_lens.load_model.'
        )
    for switch in ("use_attn_in", "use_split_qkv_input", "use_hook_mlp_in", "use_attn_result"):
        if getattr(model.cfg, switch, False):
            raise UnsupportedModelError(
                f"cfg.{switch} is on and changes what passes at the hooks; call "
                f"model.set_{switch}(False)."
            )
    folded = getattr(model.cfg, "layer_norm_folding", False)
    # The bridge's configuration does not tell: RMSNorms are folded without a trace in it.
    if folded or getattr(model, "_weights_processed", False):
        raise UnsupportedModelError(
            f"The weights of {name} are processed (norms folded, weights centred), so gradient "
            "descent on them is a different gradient descent. Load it again and call "
            "enable_compatibility_mode(no_processing=True), or use iclgd_lens.load_model."
        )
