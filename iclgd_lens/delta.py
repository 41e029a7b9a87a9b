"""Parameter deltas: what an update adds to a model's weights, applied with hooks, kept in a file.

The difference between an updated model's weights and the original's is added at hook points:
adding x ΔW + Δb to a linear map's output *is* the updated model. On disk a delta is a safetensors
file with a JSON header of facts and a checksum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from iclgd_lens.errors import DeltaError, HookError, nearest
from iclgd_lens.files import write_whole
from iclgd_lens.host import Hook, Host, LinearSite, as_host, layer_of
from iclgd_lens.intervention import UNCOUNTED, Batch, Intervention
from iclgd_lens.sealed_files import sealed, unsealed

FORMAT = "iclgd_lens.ParameterDelta/2"


class ParameterDelta(Intervention):
    """What an update adds to a model's weights, by TransformerLens weight name.

    Attention weights are [head, d_in, d_out], biases [head, d_head], one slice per key/value head.
    All tensors are fp32, whatever the model's dtype. Deltas of one model form a vector space:
    `a + b`, `a - b`, `2 * a`, `-a`.

    Args:
        tensors: Weight name (e.g. "blocks.0.attn.W_K") to its change.
        metadata: JSON-like facts that travel with the delta (rule, learning rate, model, ...).

    Examples:
        >>> delta = ParameterDelta({"blocks.0.attn.W_V": torch.ones(2, 4, 3)})
        >>> delta.norms()
        {'blocks.0.attn.W_V': tensor([3.4641, 3.4641])}
        >>> (2 * delta.select(heads=0)).norms()
        {'blocks.0.attn.W_V': tensor([6.9282, 0.0000])}
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
        """Frobenius norm of each weight's change, one value per head where it has heads."""
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
            layer, kind = layer_of(name), name.rsplit(".", 1)[1]
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

    def hooks(self, host: Host, batch: Batch = UNCOUNTED) -> list[Hook]:
        """Hooks that add x ΔW + Δb to each changed map's output: two per layer and weight."""
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
            DeltaError: The file is missing, truncated, changed, not a delta, or does not fit
                `model`.
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


# What is drawn is the same whatever the caller's default dtype and device are.
_DRAWN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def matched_random(like: ParameterDelta, seed: int) -> ParameterDelta:
    """Gaussian directions with `like`'s norm in every head of every weight."""
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for name in sorted(like):  # whatever order a file or a sum gave the weights
        value = like[name]
        noise = torch.randn(value.shape, generator=generator, **_DRAWN).to(value.device)
        by_head = ".attn." in name and value.ndim > 1
        flat, target = (noise.flatten(1), value.flatten(1)) if by_head else (noise, value)
        dims = -1 if by_head else tuple(range(value.ndim))
        scale = target.norm(dim=dims, keepdim=True) / flat.norm(dim=dims, keepdim=True)
        tensors[name] = (flat * scale).view(value.shape)
    facts = {"rule": "random", "seed": seed, "like": like.metadata.get("rule", "delta")}
    return ParameterDelta(tensors, facts)


def write_delta(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Write `tensors` and `metadata` to `path`; the file is whole or not there at all."""
    arrays = {name: value.detach().cpu().numpy() for name, value in tensors.items()}
    try:
        data = sealed(FORMAT, arrays, metadata)
    except (TypeError, ValueError) as error:
        raise DeltaError(f"The metadata of this delta is not JSON: {error}.") from error
    write_whole(path, data)


def read_delta(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and metadata of a file that `write_delta` wrote.

    Raises:
        DeltaError: The file is missing, truncated, changed, or another kind of safetensors file.
    """
    arrays, metadata = unsealed(path, FORMAT, DeltaError)
    for name in arrays:
        parts = name.split(".")
        if len(parts) != 4 or parts[0] != "blocks" or not parts[1].isdigit():
            raise DeltaError(f"{path.name} holds {name!r}, which is not a TransformerLens weight.")
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, metadata
