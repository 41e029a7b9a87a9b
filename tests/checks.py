"""Small episodes and models that tests share, and a photograph of what a call must not move."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from iclgd_lens.episode import Episode
from iclgd_lens.host import Host, copied
from iclgd_lens.protocol import DEFAULT, Protocol
from tests import families

LABELS = (5, 6)
SEPARATOR = 4


def kinds() -> tuple[str, ...]:
    """Hosts that the installed TransformerLens has."""
    return ("hooked", "bridge") if families.has_hooked_transformer() else ("bridge",)


def pairs(*names: str) -> list[Any]:
    """Parameters (kind, family) of every host and the given families."""
    return [pytest.param(kind, name, id=f"{kind}-{name}") for name in names for kind in kinds()]


def fresh(kind: str, family: str, seed: int = 0) -> Any:
    """A new model, free to be changed."""
    return families.hooked(family, seed) if kind == "hooked" else families.bridge(family, seed)


@functools.cache
def model(kind: str, family: str, seed: int = 0) -> Any:
    """A model shared by tests that leave it as it is."""
    made = fresh(kind, family, seed)
    # TransformerLens hangs hooks of its own on a bridge's parts in its first pass, whoever runs it.
    with torch.no_grad():
        made(torch.arange(2)[None], return_type=None)
    return made


@functools.cache
def host(kind: str, family: str, seed: int = 0) -> Host:
    """The host of the shared model."""
    return Host(model(kind, family, seed))


def episode(
    protocol: Protocol = DEFAULT,
    *,
    shots: int = 4,
    queries: int = 6,
    labels: Any = LABELS,
    seed: int = 0,
    lr: float | None = 0.05,
) -> Episode:
    """Random contents of 3 to 6 tokens; labels alternate, several queries share a length."""
    draw = np.random.default_rng(seed)
    words = [[label] if isinstance(label, int) else list(label) for label in labels]

    def content() -> list[int]:
        return draw.integers(7, families.VOCAB_SIZE, size=draw.integers(3, 7)).tolist()

    return Episode.from_tokens(
        [content() + words[index % len(words)] for index in range(shots)],
        [content() for _ in range(queries)],
        words,
        [index % len(words) for index in range(queries)],
        bos=families.BOS,
        separator=SEPARATOR,
        protocol=protocol,
        learning_rate=lr,
    )


def random_delta(host: Host, *kinds: str, scale: float = 0.05, seed: int = 0) -> dict[str, Tensor]:
    """A random change of every weight and bias of the given kinds; of all without any."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for site in host.sites.values():
        for name, shape in ((site.weight, site.shape), (site.bias, site.bias_shape)):
            if name is not None and (not kinds or name.rsplit(".", 1)[1] in kinds):
                found[name] = scale * torch.randn(shape, generator=generator)
    return found


def bridge_linear(bridge: Any, name: str) -> Any:
    """The torch module behind a TransformerLens weight or bias of a bridge."""
    _, layer, block, kind = name.split(".")
    part = kind.split("_", 1)[1].lower()
    return getattr(getattr(bridge.blocks[int(layer)], block), part).original_component


def real(model: Any, name: str) -> nn.Parameter:
    """The parameter that holds a TransformerLens weight or bias, in the model's own layout."""
    if type(model).__name__ == "HookedTransformer":
        own = dict(model.named_parameters())
        stem, kind = name.rsplit(".", 1)
        return own[f"{stem}._{kind}"] if f"{stem}._{kind}" in own else own[name]
    module = bridge_linear(model, name)
    return module.bias if ".b_" in name else module.weight


def in_own_layout(model: Any, name: str, value: Tensor) -> Tensor:
    """A tensor in TransformerLens layout, turned into the layout of `real(model, name)`."""
    if type(model).__name__ == "HookedTransformer":
        return value
    if ".b_" in name:
        return value.reshape(-1)
    kind = name.rsplit(".", 1)[1]
    if kind == "W_O":
        flat = value.reshape(-1, value.shape[-1])
    elif value.ndim == 3:
        flat = torch.cat(list(value), dim=1)
    else:
        flat = value
    return flat if type(bridge_linear(model, name)).__name__ == "Conv1D" else flat.T


def twin(model: Any) -> Any:
    """An independent copy whose parameters ask for gradients."""
    other = copied(model)
    for parameter in _all(other, "parameters"):
        parameter[1].requires_grad_(True)
    return other


def logits(model: Any, tokens: Tensor) -> Tensor:
    """The model's logits by its own forward."""
    return model(tokens, return_type="logits")


def mean_loss(model: Any, tokens: tuple[int, ...], targets: tuple[int, ...]) -> Tensor:
    """Sum of the negative log-likelihood at `targets`, by the model's own forward."""
    log_p = logits(model, torch.tensor([tokens]))[0].float().log_softmax(-1)
    return -torch.stack([log_p[target - 1, tokens[target]] for target in targets]).sum()


def close(a: Tensor, b: Tensor, relative: float, scale: float | None = None) -> None:
    """Assert max |a - b| <= relative * max |b|."""
    largest = float(b.abs().max()) if scale is None else scale
    difference = float((a - b).abs().max())
    assert difference <= relative * largest, f"{difference:.3g} > {relative:g} * {largest:.3g}"


@contextlib.contextmanager
def untyped() -> Iterator[None]:
    """Without the suite's run-time type checks, as a user's process is."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


# -- what must not change --------------------------------------------------------------------------


@dataclasses.dataclass
class Photograph:
    """Everything about a model, and about the process, that a call has to leave as it was."""

    parts: dict[str, Any]

    def assert_same(self, model: Any) -> None:
        """Fail with the name of the first thing that differs."""
        now = photograph(model).parts
        assert now.keys() == self.parts.keys(), set(now) ^ set(self.parts)
        changed = [name for name, part in self.parts.items() if not _same(part, now[name])]
        assert not changed, changed[:5]


def photograph(model: Any) -> Photograph:
    """Copy all that must not change: bytes, flags, hooks, gradients, buffers, random state.

    Python's own random state is left out: the run-time type checker of these tests draws from it.
    """
    parts: dict[str, Any] = {
        "torch rng": torch.random.get_rng_state(),
        "numpy rng": repr(np.random.get_state()),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "default dtype": torch.get_default_dtype(),
        "configuration": repr(sorted(vars(model.cfg).items(), key=lambda item: item[0])),
        "state dict keys": list(model.state_dict()),
        "parameter names": [name for name, _ in model.named_parameters()],
    }
    for name, parameter in _all(model, "parameters"):
        parts[f"value {name}"] = parameter.detach().clone()
        parts[f"identity {name}"] = (id(parameter), parameter.data_ptr(), parameter.stride())
        parts[f"flags {name}"] = (parameter.requires_grad, parameter.grad is None)
        if parameter.grad is not None:
            parts[f"gradient {name}"] = parameter.grad.clone()
    for name, buffer in _all(model, "buffers"):
        parts[f"buffer {name}"] = buffer.detach().clone()
    for name, module in _all(model, "modules"):
        hooks = (getattr(module, "fwd_hooks", ()), getattr(module, "bwd_hooks", ()))
        parts[f"module {name}"] = (
            module.training,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            len(module._backward_hooks),
            *([id(handle.hook) for handle in each] for each in hooks),
            id(module.__dict__.get("_pattern")),
            sorted(module._buffers),
        )
    return Photograph(parts)


def _all(model: Any, what: str) -> Iterator[tuple[str, Any]]:
    """Named parameters, buffers or modules of the model and of what a bridge wraps."""
    seen: set[int] = set()
    for prefix, root in (("", model), ("wrapped.", model.__dict__.get("original_model"))):
        for path, module in root.named_modules() if isinstance(root, nn.Module) else ():
            found: Any = [("", module)]
            if what != "modules":
                found = getattr(module, f"_{what}").items()
            for name, value in found:
                if value is not None and id(value) not in seen:
                    seen.add(id(value))
                    yield f"{prefix}{path}.{name}", value


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bool(torch.equal(a, b))
    return bool(a == b)
