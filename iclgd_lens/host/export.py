"""State dicts of updated models, in the model's own names or in those of `transformers`.

The caller's model lends its weights and is not changed; every tensor handed out is a copy. Each
updated weight is added up in fp32 and then cast to the model's dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from iclgd_lens.errors import DeltaError, nearest
from iclgd_lens.host.base import Host, LinearSite
from iclgd_lens.host.families import Family, WeightNames, family_of, unembedding_name, writable

LAYOUTS = ("transformer_lens", "huggingface")

State = dict[str, Tensor]
Delta = Mapping[str, Tensor]


def merged_state(host: Host, delta: Delta, layout: str) -> State:
    """Return the state dict of `host`'s model with `delta` added to its weights.

    Args:
        host: The model.
        delta: Weight name (e.g. "blocks.0.attn.W_K") to its change, shaped as the host's site.
        layout: "transformer_lens": the names of `model.state_dict()`. "huggingface": the names that
            the model's `transformers` class loads; joint query-key-value weights are joined again.

    Raises:
        DeltaError: The layout is unknown, or the model's architecture has no place for a weight.
    """
    if layout not in LAYOUTS:
        raise DeltaError(
            f"layout is {layout!r}; allowed: {', '.join(LAYOUTS)}." + nearest(layout, LAYOUTS)
        )
    if host.kind == "TransformerBridge":
        state = _bridge_state(host, delta, layout)
    elif layout == "transformer_lens":
        state = _hooked_state(host, delta)
    else:
        state = _converted_state(host, delta)
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _updated(host: Host, name: str, delta: Delta) -> Tensor:
    """A weight or bias in TransformerLens layout, with its change, in the model's dtype."""
    value = host.parameter(name)
    if value is None:
        raise DeltaError(f"{host.name} has no weight {name!r} to add a change to.")
    if name not in delta:
        return value
    return (value.float() + delta[name].detach().to(value.device, torch.float32)).to(value.dtype)


# -- HookedTransformer -----------------------------------------------------------------------------


def _hooked_state(host: Host, delta: Delta) -> State:
    state: State = dict(host.model.state_dict())
    for name in delta:
        stem, _, kind = name.rpartition(".")
        # Grouped keys and values are stored once per key/value head, under a name of their own.
        key = f"{stem}._{kind}" if f"{stem}._{kind}" in state else name
        state[key] = _updated(host, name, delta)
    return state


def _converted_state(host: Host, delta: Delta) -> State:
    """A HookedTransformer's weights under the names of the `transformers` class it came from."""
    architecture = str(getattr(host.cfg, "original_architecture", None))
    family = family_of(architecture)
    if family is None or family.names is None:
        raise DeltaError(
            f"{host.name} cannot be written in transformers names: its architecture is "
            f"{architecture!r}; written from a HookedTransformer: {', '.join(sorted(writable()))}. "
            'Use layout="transformer_lens", or load the model with host="bridge".'
        )
    names = family.names
    old: State = dict(host.model.state_dict())
    state: State = {names.embed: old["embed.W_E"]}
    if names.positions:
        state[names.positions] = old["pos_embed.W_pos"]
    for layer in range(host.n_layers):
        state |= _attention(host, family, names, layer, delta) | _mlp(host, names, layer, delta)
        for own, theirs in names.norms.items():
            for letter, kind in (("w", "weight"), ("b", "bias")):
                if (value := old.get(f"blocks.{layer}.{own}.{letter}")) is not None:
                    state[f"{names.layer.format(layer)}{theirs}.{kind}"] = value
    for letter, kind in (("w", "weight"), ("b", "bias")):
        if (value := old.get(f"ln_final.{letter}")) is not None:
            state[f"{names.final_norm}.{kind}"] = value
    unembed = unembedding_name(family)
    state[f"{unembed}.weight"] = old["unembed.W_U"].T
    if names.unembed_bias:
        state[f"{unembed}.bias"] = old["unembed.b_U"]
    else:
        _must_be_zero(host, "unembed.b_U", old["unembed.b_U"])
    return state


def _attention(host: Host, family: Family, names: WeightNames, layer: int, delta: Delta) -> State:
    stem, prefix = f"blocks.{layer}.attn", names.layer.format(layer)
    flat = {letter: _flat(letter, _updated(host, f"{stem}.W_{letter}", delta)) for letter in "QKVO"}
    biases = {letter: _updated(host, f"{stem}.b_{letter}", delta) for letter in "QKVO"}
    state: State = {}
    if names.joint:
        # One map [d_in, 3 d_model]: thirds side by side, or interleaved head by head.
        parts = [flat[letter] for letter in "QKV"]
        joined = [biases[letter] for letter in "QKV"]
        if names.interleaved:
            split = (host.n_heads, host.d_head)
            weight = torch.stack([part.unflatten(1, split) for part in parts], dim=2).flatten(1)
            bias = torch.stack(joined, dim=1).flatten()
        else:
            weight, bias = torch.cat(parts, dim=1), torch.cat(joined).flatten()
        state |= _linear(names, f"{prefix}{names.joint}", weight, bias)
    else:
        for letter, theirs in zip("QKV", names.separate, strict=True):
            bias = biases[letter].flatten() if letter in family.biases else None
            if bias is None:
                _must_be_zero(host, f"{stem}.b_{letter}", biases[letter])
            state |= _linear(names, f"{prefix}{theirs}", flat[letter], bias)
    bias = biases["O"] if "O" in family.biases else None
    if bias is None:
        _must_be_zero(host, f"{stem}.b_O", biases["O"])
    return state | _linear(names, f"{prefix}{names.output}", flat["O"], bias)


def _mlp(host: Host, names: WeightNames, layer: int, delta: Delta) -> State:
    stem, prefix = f"blocks.{layer}.mlp", names.layer.format(layer)
    state: State = {}
    for part, theirs in names.mlp.items():
        weight = _updated(host, f"{stem}.W_{part}", delta)
        bias = None if part == "gate" else _updated(host, f"{stem}.b_{part}", delta)
        if bias is not None and not names.mlp_bias:
            _must_be_zero(host, f"{stem}.b_{part}", bias)
            bias = None
        state |= _linear(names, f"{prefix}{theirs}", weight, bias)
    return state


def _linear(names: WeightNames, key: str, weight: Tensor, bias: Tensor | None) -> State:
    """A linear module's entries; `weight` is [d_in, d_out]."""
    state: State = {f"{key}.weight": weight if names.input_first else weight.T}
    return state if bias is None else state | {f"{key}.bias": bias}


def _must_be_zero(host: Host, name: str, bias: Tensor) -> None:
    if bool(bias.any()):
        raise DeltaError(
            f"{name} of {host.name} is not zero, but the transformers architecture has no such "
            'bias; use layout="transformer_lens".'
        )


def _flat(letter: str, weight: Tensor) -> Tensor:
    """An attention weight [head, d_in, d_out] as one [d_in, d_out] matrix."""
    return weight.flatten(0, 1) if letter == "O" else weight.permute(1, 0, 2).flatten(1)


# -- TransformerBridge -----------------------------------------------------------------------------


def _bridge_state(host: Host, delta: Delta, layout: str) -> State:
    model: Any = host.model
    if layout == "transformer_lens":
        state: State = dict(model.state_dict())
    else:
        state = _huggingface_state(host, model.original_model)
    held: dict[tuple[int, ...], list[str]] = {}
    for key, value in state.items():
        held.setdefault(_place(value), []).append(key)
    joint_layers: set[int] = set()
    for site in host.sites.values():
        module = _module(model, site)
        for name, kind in ((site.weight, "weight"), (site.bias, "bias")):
            if name is None or (name not in delta and layout == "transformer_lens"):
                continue
            old: Tensor = getattr(module, kind)
            keys = held.get(_place(old), [])
            if keys and name in delta:
                state |= dict.fromkeys(keys, _like(old, module, site, _updated(host, name, delta)))
            elif not keys and site.kind in ("W_Q", "W_K", "W_V"):
                joint_layers.add(site.layer)
            elif not keys and name in delta:
                raise DeltaError(f"{host.name} holds {name!r} nowhere in its {layout} state dict.")
    for layer in sorted(joint_layers):
        state |= _joined(host, layer, delta, held)
    return state


def _huggingface_state(host: Host, wrapped: nn.Module) -> State:
    """The wrapped model's weights under the names its class had before it was wrapped."""
    found: State = {
        key.replace("_original_component.", ""): value
        for key, value in nn.Module.state_dict(wrapped).items()
    }
    config = copy.deepcopy(cast(Any, wrapped).config)
    with torch.device("meta"):
        plain: nn.Module = type(wrapped)(config)
    missing = [key for key in plain.state_dict() if key not in found]
    if missing:
        raise DeltaError(
            f"{host.name} cannot be written in transformers names: the bridge keeps no "
            f'{missing[0]!r}. Use layout="transformer_lens".'
        )
    return {key: found[key] for key in plain.state_dict()}


def _module(model: Any, site: LinearSite) -> Any:
    """The `torch` module that computes a site's map."""
    _, layer, block, kind = site.weight.split(".")
    part = kind.removeprefix("W_").lower()
    return getattr(getattr(model.blocks[int(layer)], block), part).original_component


def _place(tensor: Tensor) -> tuple[int, ...]:
    """A key that two tensors share only if they are the same memory, read in the same way."""
    return (tensor.data_ptr(), *tensor.shape, *tensor.stride())


def _like(old: Tensor, module: Any, site: LinearSite, value: Tensor) -> Tensor:
    """`value`, in TransformerLens layout, laid out as the module's own weight or bias `old`."""
    if old.ndim == 1:
        return value.flatten()
    flat = _flat(site.kind[-1], value) if value.ndim == 3 else value
    return flat if type(module).__name__ == "Conv1D" else flat.T


def _joined(host: Host, layer: int, delta: Delta, held: dict[tuple[int, ...], list[str]]) -> State:
    """Query, key and value maps of a layer, joined as the wrapped model keeps them.

    The bridge splits a joint weight in its architecture's own way; splitting the weight's indices
    instead of its values tells where every entry belongs.
    """
    attention: Any = cast(Any, host.model).blocks[layer].attn
    joint = getattr(attention._modules.get("qkv"), "original_component", None)
    if joint is None or not hasattr(attention, "split_qkv_matrix"):
        raise DeltaError(
            f"{host.name} joins queries, keys and values of layer {layer} in a way that is not "
            'known; use layout="transformer_lens".'
        )
    places = _split_indices(attention, joint)
    state: State = {}
    for kind in ("weight", "bias"):
        old: Tensor | None = getattr(joint, kind, None)
        if old is None:
            continue
        new = old.detach().clone().flatten()
        for letter, place in zip("QKV", places, strict=True):
            site = host.site(f"blocks.{layer}.attn.W_{letter}")
            name = site.weight if kind == "weight" else site.bias
            if name is None:
                continue
            module = _module(host.model, site)
            value = _like(getattr(module, kind), module, site, _updated(host, name, delta))
            new[getattr(place, kind).long().to(new.device)] = value.to(new.dtype)
        keys = held.get(_place(old), [])
        if not keys:
            raise DeltaError(f"{host.name}'s state dict holds no joint weight of layer {layer}.")
        state |= dict.fromkeys(keys, new.view(old.shape))
    return state


def _split_indices(attention: Any, joint: Any) -> tuple[Any, Any, Any]:
    """Modules whose weights and biases are indices into the flattened joint weight and bias."""
    stand_in, holder = nn.Module(), nn.Module()
    for kind in ("weight", "bias"):
        old: Tensor | None = getattr(joint, kind, None)
        numbers = None
        if old is not None:
            # float64 counts exactly beyond the size of any weight.
            count = torch.arange(old.numel(), dtype=torch.float64).view(old.shape)
            numbers = nn.Parameter(count, requires_grad=False)
        stand_in.register_parameter(kind, numbers)
    holder.add_module(attention.submodules["qkv"].name, stand_in)
    # The bridge's new modules draw initial weights, which are discarded.
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        return attention.split_qkv_matrix(holder)
