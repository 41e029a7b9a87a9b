"""Asks a model, on five tokens, whether the hooks mean what this package takes them to mean.

TransformerLens names the same hook on many architectures, and not everywhere does the same value
pass there: some attention bridges send softmax weights through the score hook, some forget cached
keys, processed weights sit in other coordinates. A few short forward passes tell, and a wrong
reading is an error, never a wrong number.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from iclgd_lens.errors import HookError, UnsupportedModelError
from iclgd_lens.host.condition import causes
from iclgd_lens.host.dot_products import give_scores, queries_and_keys
from iclgd_lens.host.guard import frozen
from iclgd_lens.host.processed import PROCESSED, check_unprocessed

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host, LinearSite

_DIFFERS = f"Its weights are processed or its attention differs. {PROCESSED}"
_TOKENS = 5
_SHARED = 3  # of them, read first and shared as keys and values


def check_model(host: Host) -> None:
    """Raise `UnsupportedModelError` if `host` would measure its model wrongly.

    Checks that weights are unprocessed, that every site's output is its input times its weight,
    that scores are what the softmax sees, that attention is causal, that a shared prefix is read
    like the tokens themselves, and that the host's logits are the model's. A failure is put down to
    the model's condition (hooks of the user's, say) where that may explain it.
    """
    try:
        _check(host)
    except UnsupportedModelError as error:
        found = causes(host.model)
        if not found:
            raise
        text = str(error).replace(_DIFFERS, "").replace(PROCESSED, "").strip()
        raise UnsupportedModelError(f"{text} The likely cause: {'; '.join(found)}.") from error


def _check(host: Host) -> None:
    if host.n_ctx < _TOKENS:
        raise UnsupportedModelError(
            f"{host.name} reads {host.n_ctx} tokens at most, too few for a demonstration and a "
            "query."
        )
    check_unprocessed(host)
    # HookedTransformer's own forward hides padding tokens, where its tokenizer pads on the left.
    padding = getattr(host.tokenizer, "pad_token_id", None)
    tokens = host.tensor([i % host.d_vocab for i in range(_TOKENS + 1) if i != padding][:_TOKENS])
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % host.d_vocab
    with frozen(host.model), torch.no_grad():
        residual = _observed_run(host, tokens)
        other = host.run(changed).residual
        expected = cast(Any, host.model)(tokens, return_type="logits")
        logits = host.logits(residual)
        prefix = host.run(tokens[:, :_SHARED], keep=True).prefix
        rest = host.run(tokens[:, _SHARED:], prefix).residual
        host.cuts_last_mlp = _cuts_last_mlp(host, tokens, residual)
    if not agree(residual[:, :-1], other[:, :-1], host.dtype):
        raise UnsupportedModelError(
            f"Changing the last token of {host.name} changes earlier positions: it does not attend "
            "causally. In-context learning is measured on causal decoders only."
        )
    if prefix is None or not agree(rest, residual[:, _SHARED:], host.dtype):
        raise UnsupportedModelError(
            f"{host.name} reads tokens differently after cached keys and values of those before "
            f"them: this {host.kind} cannot share demonstrations among queries and is not served."
        )
    if not agree(logits, expected, host.dtype):
        raise UnsupportedModelError(
            f"{host.name}'s logits are not its final norm and unembedding applied to the last "
            "block's output; this architecture is not served."
        )


def _cuts_last_mlp(host: Host, tokens: Tensor, residual: Tensor) -> bool:
    """Whether the model runs with its last MLP at one token alone, and gives the same there."""
    host.cuts_last_mlp = True
    try:
        cut = host.run(tokens, at=_SHARED).residual
    except RuntimeError as error:
        # A block that adds to the MLP's output in place (Falcon's) needs it at every token.
        if "shape" not in str(error) and "size" not in str(error):
            raise
        return False
    return agree(cut, residual[:, [_SHARED]], host.dtype)


def _keep(seen: dict[str, Tensor], name: str, activation: Tensor, hook: Any) -> None:
    seen[name] = activation


def _observed_run(host: Host, tokens: Tensor) -> Tensor:
    scores: dict[int, Tensor] = {}
    seen: dict[str, Tensor] = {}
    sites = list(host.sites.values())
    names = {site.input_hook for site in sites} | {site.output_hook for site in sites}
    patterns = [f"blocks.{layer}.attn.hook_pattern" for layer in range(host.n_layers)]
    needed = [host.block_input_hook(layer) for layer in range(host.n_layers)]
    needed += [host.block_output_hook(layer) for layer in range(host.n_layers)]
    needed += [host.attention_output_hook(layer) for layer in range(host.n_layers)]
    needed += [host.z_hook(layer) for layer in range(host.n_layers)]
    watched = {*names, *patterns, *needed}
    try:
        with (
            host.score_hooks(lambda layer, value: scores.__setitem__(layer, value)),
            host.hooked([(name, partial(_keep, seen, name)) for name in watched]),
            queries_and_keys(host) as parts,
        ):
            residual = host.run(tokens).residual
    except HookError as error:
        raise UnsupportedModelError(
            f"{host.name} cannot be measured on a {host.kind}: {error} Layers without softmax "
            "attention (state space, linear attention, MLA) are not served."
        ) from error
    for site in sites:
        _check_site(host, site, seen)
    for layer, name in enumerate(patterns):
        _check_scores(host, layer, scores.get(layer), seen[name])
    weights = {layer: seen[name] for layer, name in enumerate(patterns)}
    host.exposes_queries = give_scores(parts, scores, weights, _rounding(host.dtype))
    return residual


def _check_site(host: Host, site: LinearSite, seen: dict[str, Tensor]) -> None:
    weight = host.parameter(site.weight)
    if weight is None or tuple(weight.shape) != site.shape or not weight.is_floating_point():
        found = "none" if weight is None else f"{weight.dtype} {tuple(weight.shape)}"
        raise UnsupportedModelError(
            f"{site.weight} of {host.name} should be a floating-point weight of shape "
            f"{site.shape}, found {found}; quantised and latent-attention weights are not served."
        )
    bias = None if site.bias is None else host.parameter(site.bias)
    x, y = site.read(seen[site.input_hook]), seen[site.output_hook]
    product = site.apply(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), y)
    if not agree(product, y, host.dtype):
        raise UnsupportedModelError(
            f"{host.name}: what passes at {site.output_hook} is not {site.weight} applied to what "
            f"passes at {site.input_hook}. {_DIFFERS}"
        )


def _check_scores(host: Host, layer: int, scores: Tensor | None, pattern: Tensor) -> None:
    if scores is None:
        raise UnsupportedModelError(
            f"{host.name} exposes no pre-softmax attention scores at layer {layer}: either it was "
            'not loaded with attn_implementation="eager" (iclgd_lens.load_model does), or its kind '
            "of attention is not served."
        )
    if host.attention == "linear":
        _check_linear(host, layer, scores, pattern)
        return
    expected = torch.softmax(scores.float(), dim=-1)
    # Attention sinks take a share of every row; the rest keeps its proportions.
    actual = pattern.float() / pattern.float().sum(-1, keepdim=True)
    if expected.shape != actual.shape or not agree(actual, expected, host.dtype):
        raise UnsupportedModelError(
            f"{host.name}: the softmax of what passes at layer {layer}'s score hook is not its "
            "attention pattern, so scores cannot be compared; this attention is not served."
        )


def _check_linear(host: Host, layer: int, scores: Tensor, pattern: Tensor) -> None:
    """Linear attention: a key's weight is its score, and 0 where the causal mask hides it."""
    hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
    expected = scores.float().masked_fill(hidden, 0.0)
    if expected.shape != pattern.shape or not agree(pattern.float(), expected, host.dtype):
        raise UnsupportedModelError(
            f"{host.name} was handed over as a model of linear attention, but layer {layer}'s "
            "attention pattern is not its masked scores; leave attention= out for a softmax."
        )


def agree(a: Tensor, b: Tensor, dtype: torch.dtype) -> bool:
    """Whether two results of one computation in `dtype` differ by rounding alone."""
    a, b = a.float(), b.float()
    return bool((a - b).abs().max() <= _rounding(dtype) * (1 + b.abs().max()))


def _rounding(dtype: torch.dtype) -> float:
    """What rounding may do to a result, as a share of 1 and its largest entry."""
    return 1e-3 if dtype in (torch.float32, torch.float64) else 6e-2


_WRAPPER = "_original_component"


@contextlib.contextmanager
def outputs(model: nn.Module) -> Generator[dict[str, Tensor], None, None]:
    """Collect what each part of a `transformers` model gives, in the order in which parts end.

    A bridge's wrappers count as the parts that they wrap.
    """
    found: dict[str, Tensor] = {}
    handles: list[Any] = []
    try:
        for path, module in model.named_modules():
            name = ".".join(part for part in path.split(".") if part != _WRAPPER)
            if name:
                handles.append(module.register_forward_hook(partial(_keep_output, found, name)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _keep_output(
    found: dict[str, Tensor], name: str, module: nn.Module, given: Any, output: Any
) -> None:
    first = output[0] if isinstance(output, tuple) and output else output
    if isinstance(first, Tensor):
        found.setdefault(name, first.detach().cpu())


def first_difference(expected: Mapping[str, Tensor], bridge: Any, tokens: Tensor) -> str | None:
    """Name the first part whose output is not that of the unwrapped model.

    Args:
        expected: What `outputs` collected from the unwrapped model on `tokens`.
        bridge: The bridge.
        tokens: Token ids.
    """
    original: nn.Module = bridge.original_model
    with outputs(original) as found, torch.no_grad():
        bridge(tokens.to(next(original.parameters()).device), return_type="logits")
    for name, value in found.items():
        other = expected.get(name)
        if other is None or other.shape != value.shape or not value.is_floating_point():
            continue
        if not agree(value, other, other.dtype):
            return name
    return None
