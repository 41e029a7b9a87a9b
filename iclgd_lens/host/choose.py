"""Which host serves a model, and what no host serves."""

from __future__ import annotations

from typing import Any

from torch import nn

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host.base import Host


def host_class(model: Any) -> type[Host]:
    """Return the host class for `model`.

    Raises:
        UnsupportedModelError: `model` is neither a HookedTransformer nor a TransformerBridge.
    """
    names = {base.__name__ for base in type(model).__mro__}
    if "TransformerBridge" in names:
        from iclgd_lens.host.bridge import BridgeHost

        return BridgeHost
    if "HookedTransformer" in names:
        from iclgd_lens.host.hooked import HookedHost

        return HookedHost
    hint = " Wrap it with TransformerLens, or pass its folder or name to iclgd_lens.load_model."
    if {"HookedEncoder", "HookedEncoderDecoder", "HookedAudioEncoder"} & names:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not a causal decoder; in-context learning is measured on "
            "decoder-only models."
        )
    raise UnsupportedModelError(
        f"Expected a HookedTransformer or a TransformerBridge, got {type(model).__name__}."
        + (hint if isinstance(model, nn.Module) else "")
    )


def as_host(model: Any) -> Host:
    """Return `model` itself where it is a host already, else `Host(model)`."""
    return model if isinstance(model, Host) else host_class(model)(model)
