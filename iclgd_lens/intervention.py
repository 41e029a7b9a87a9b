"""Interventions: anything that changes what a model computes without changing its weights.

`ParameterDelta` is the central one: the difference between an updated model's weights and the
original's, added at hook points. Adding x ΔW + Δb to a linear map's output *is* the updated model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.delta_file import read_delta, write_delta
from iclgd_lens.errors import DeltaError, HookError, nearest
from iclgd_lens.host import Hook, Host, LinearSite, Prefix, as_host


class Intervention:
    """A change to a model's computation, expressed as hooks and, if need be, a shared prefix."""

    def hooks(self, host: Host) -> list[Hook]:
        """Return the hooks that make the change on `host`, in the order they are attached."""
        return []

    def prefix(self, host: Host) -> Prefix | None:
        """Return keys and values that every query sees before its own tokens, or None."""
        return None

    @contextlib.contextmanager
    def applied(self, model: Any) -> Generator[Any, None, None]:
        """Attach this intervention's hooks to `model` for the context; yields the model.

        The hooks are gone on exit, whatever happens; the model's own hooks stay.

        Raises:
            DeltaError: The intervention needs a prefix, which hooks alone cannot give.
            HookError: A hook point is missing, or did not fire though others did.
        """
        host = as_host(model)
        if self.prefix(host) is not None:
            raise DeltaError(
                f"{type(self).__name__} shares a prefix of keys and values, which hooks alone "
                "cannot add; compare() and readouts apply it."
            )
        with host.hooked(self.hooks(host), forced=False):
            yield host.model


class Injection(Intervention):
    """Keys and values placed before every query, as if their tokens had been read."""

    def __init__(self, prefix: Prefix) -> None:
        self._prefix = prefix

    def prefix(self, host: Host) -> Prefix | None:
        """Return the injected keys and values."""
        return self._prefix


class ParameterDelta(Intervention):
    """What an update adds to a model's weights, by TransformerLens weight name.

    Attention weights are [head, d_in, d_out], biases [head, d_head], one slice a key/value head.
    All tensors are fp32, whatever the model's dtype. Deltas of one model form a vector space:
    `a + b`, `a - b`, `2 * a`, `-a`.

    Args:
        tensors: Weight name (e.g. "blocks.0.attn.W_K") to its change.
        metadata: JSON-like facts that travel with the delta (rule, learning rate, model, ...).
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
    ) -> None:
        self._tensors = {name: value.to(torch.float32) for name, value in tensors.items()}
        self.metadata: dict[str, Any] = dict(metadata or {})

    # -- reading -------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Tensor:
        """Return one weight's change.

        Raises:
            DeltaError: This delta does not change that weight.
        """
        if name not in self._tensors:
            raise DeltaError(
                f"This delta does not change {name!r}; it changes {len(self)} weights."
                + nearest(name, self._tensors)
            )
        return self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def items(self) -> Iterable[tuple[str, Tensor]]:
        """Weight names and their changes."""
        return self._tensors.items()

    def __repr__(self) -> str:
        rule = self.metadata.get("rule", "delta")
        return f"ParameterDelta({rule}, {len(self)} weights, norm {self.norm():.4g})"

    def norm(self) -> float:
        """Frobenius norm over all weights."""
        return float(sum((value.double() ** 2).sum() for value in self._tensors.values())) ** 0.5

    def norms(self) -> dict[str, Float[Tensor, " head"]]:
        """Frobenius norm of each weight's change, one value a head where it has heads."""
        return {
            name: value.flatten(1).norm(dim=1) if ".attn." in name and value.ndim > 1
            else value.norm().reshape(1)
            for name, value in self._tensors.items()
        }  # fmt: skip

    @property
    def is_finite(self) -> bool:
        """Whether every entry is a finite number."""
        return all(bool(torch.isfinite(value).all()) for value in self._tensors.values())

    # -- algebra -------------------------------------------------------------------------------

    def __add__(self, other: ParameterDelta) -> ParameterDelta:
        """Weight-wise sum; a weight that only one of the two changes keeps that change."""
        tensors = dict(self._tensors)
        for name, value in other.items():
            if name in tensors and tensors[name].shape != value.shape:
                raise DeltaError(
                    f"{name} is {tuple(tensors[name].shape)} in one delta and "
                    f"{tuple(value.shape)} in the other: they belong to different models."
                )
            tensors[name] = tensors[name] + value if name in tensors else value
        return ParameterDelta(tensors)

    def __mul__(self, factor: int | float) -> ParameterDelta:
        """Every entry times `factor`."""
        return ParameterDelta({name: value * factor for name, value in self._tensors.items()})

    __rmul__ = __mul__

    def __neg__(self) -> ParameterDelta:
        """Every entry with its sign turned."""
        return self * -1.0

    def __sub__(self, other: ParameterDelta) -> ParameterDelta:
        """Weight-wise difference."""
        return self + -other

    def select(
        self,
        layers: int | Iterable[int] | None = None,
        heads: int | Iterable[int] | None = None,
        weights: str | Iterable[str] | None = None,
    ) -> ParameterDelta:
        """Return the part of this delta in some layers, heads or weights.

        Args:
            layers: Layer indices to keep; None keeps all.
            heads: Key/value heads to keep (query heads for W_Q and W_O); the others' change is set
                to zero, and weights without heads are dropped. None keeps all.
            weights: Weights to keep, without their layer ("W_K"); None keeps all.

        Raises:
            DeltaError: Nothing is left, or a head does not exist.
        """
        wanted = None if layers is None else set([layers] if isinstance(layers, int) else layers)
        kinds = None if weights is None else {weights} if isinstance(weights, str) else set(weights)
        kept: dict[str, Tensor] = {}
        for name, value in self._tensors.items():
            layer, kind = int(name.split(".")[1]), name.rsplit(".", 1)[1]
            if (wanted is not None and layer not in wanted) or (
                kinds is not None and kind not in kinds
            ):
                continue
            if heads is not None:
                if ".attn." not in name or kind == "b_O":
                    continue
                value = _only_heads(name, value, [heads] if isinstance(heads, int) else list(heads))
            kept[name] = value
        if not kept:
            raise DeltaError(
                f"No weight of this delta is in layers={layers}, heads={heads}, weights={weights}."
            )
        return ParameterDelta(kept, self.metadata)

    # -- on a model ----------------------------------------------------------------------------

    def check(self, host: Host) -> None:
        """Raise `DeltaError` unless every weight of this delta is one of `host`'s, in shape."""
        for name, value in self._tensors.items():
            try:
                site = host.site(name)
            except HookError as error:
                raise DeltaError(f"{error} The delta belongs to another model.") from error
            expected = site.shape if name == site.weight else site.bias_shape
            if name != site.weight and site.bias is None:
                raise DeltaError(f"{host.name} has no bias {name!r}; drop it with .select().")
            if tuple(value.shape) != expected:
                raise DeltaError(
                    f"{name} is {tuple(value.shape)} in this delta and {expected} in "
                    f"{host.name}: the delta belongs to another model."
                )

    def hooks(self, host: Host) -> list[Hook]:
        """Hooks that add x ΔW + Δb to each changed map's output: two a layer and weight."""
        self.check(host)
        tensors = {name: value.to(host.device) for name, value in self._tensors.items()}
        return delta_hooks(host, tensors)

    def merged(self, model: Any, layout: str = "transformer_lens") -> dict[str, Tensor]:
        """Return the state dict of the updated model, each tensor in the model's dtype.

        Args:
            model: The model that this delta belongs to; it is not changed.
            layout: "transformer_lens" for the model's own state dict, or "huggingface" for names
                that `transformers` loads.

        Raises:
            DeltaError: The delta does not fit the model, or the layout is unknown.
        """
        from iclgd_lens.host.export import merged_state

        host = as_host(model)
        self.check(host)
        return merged_state(host, self._tensors, layout)

    # -- on disk -------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with this delta and its metadata, atomically."""
        write_delta(Path(path), self._tensors, self.metadata)

    @classmethod
    def load(cls, path: str | Path, model: Any = None) -> ParameterDelta:
        """Read a file that `save` wrote.

        Args:
            path: The file.
            model: If given, the delta must fit it.

        Raises:
            DeltaError: The file is missing, truncated, not a delta, or does not fit `model`.
        """
        delta = cls(*read_delta(Path(path)))
        if model is not None:
            delta.check(as_host(model))
        return delta


def delta_hooks(host: Host, tensors: Mapping[str, Tensor]) -> list[Hook]:
    """Hooks that add x ΔW + Δb at each site that `tensors` names; differentiable in the tensors."""
    changed = dict.fromkeys(host.site(name).weight for name in tensors)
    hooks: list[Hook] = []
    inputs: dict[str, list[LinearSite]] = {}
    for weight in changed:
        site = host.site(weight)
        inputs.setdefault(site.input_hook, []).append(site)
    for input_hook, sites in inputs.items():
        weighted = [site for site in sites if site.weight in tensors]
        seen: dict[str, Tensor] = {}
        if weighted:
            hooks.append((input_hook, partial(_read, weighted, seen)))
        hooks += [
            (
                site.output_hook,
                partial(_add, site, tensors.get(site.weight), _bias(site, tensors), seen),
            )
            for site in sites
        ]
    return hooks


def _bias(site: LinearSite, tensors: Mapping[str, Tensor]) -> Tensor | None:
    return None if site.bias is None else tensors.get(site.bias)


def _read(
    sites: Sequence[LinearSite], seen: dict[str, Tensor], activation: Tensor, hook: Any
) -> None:
    x = sites[0].read(activation)
    seen.update({site.weight: x for site in sites})


def _add(
    site: LinearSite,
    weight: Tensor | None,
    bias: Tensor | None,
    seen: dict[str, Tensor],
    activation: Tensor,
    hook: Any,
) -> Tensor:
    # Popped, so that no layer's input outlives its layer.
    x = activation if weight is None else seen.pop(site.weight)
    change = site.apply(x, weight, bias, like=activation)
    return activation + change.to(activation.dtype)


def _only_heads(name: str, value: Tensor, heads: Sequence[int]) -> Tensor:
    for head in heads:
        if not 0 <= head < value.shape[0]:
            raise DeltaError(
                f"{name} has heads 0 to {value.shape[0] - 1} (key/value heads are shared by "
                f"several query heads in grouped-query attention), not {head}."
            )
    kept = torch.zeros_like(value)
    kept[list(heads)] = value[list(heads)]
    return kept
