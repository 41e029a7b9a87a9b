"""Signs, in the weights themselves, that TransformerLens processed them.

Processing keeps a model's logits but changes its coordinates, and gradient descent follows those.
Some of it leaves a trace in the configuration, which the hosts look for; the rest is found here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host.families import family_of

if TYPE_CHECKING:
    from iclgd_lens.host.base import Host

PROCESSED = (
    "Load it with from_pretrained_no_processing (HookedTransformer), call "
    "enable_compatibility_mode(no_processing=True) (TransformerBridge), or use "
    "iclgd_lens.load_model(...)."
)


def check_unprocessed(host: Host) -> None:
    """Raise `UnsupportedModelError` if the weights of `host` bear a sign of processing."""
    if _refactored(host):
        raise UnsupportedModelError(
            f"The attention of {host.name} is refactored (refactor_factored_attn_matrices: the "
            "rows of each head's W_O are orthonormal, the columns of its W_V are ordered), so its "
            f"weights are processed and gradient descent on them is a different one. {PROCESSED}"
        )
    if _folded_values(host):
        raise UnsupportedModelError(
            f"The value biases of {host.name} are folded into b_O (fold_value_biases: every b_V is "
            "0), so its weights are processed and what its heads give lacks a constant of each "
            f"head's. {PROCESSED}"
        )
    if _centred(host):
        raise UnsupportedModelError(
            f"The weights of {host.name} that write to the residual stream are centred, so they "
            f"are processed and gradient descent on them is a different one. {PROCESSED}"
        )
    if _folded_values(host):
        raise UnsupportedModelError(
            f"The value biases of {host.name} are folded into b_O (fold_value_biases: every b_V is "
            "0), so its weights are processed and what its heads give lacks a constant of each "
            f"head's. {PROCESSED}"
        )


# -- refactored queries, keys and values -----------------------------------------------------------


def _refactored(host: Host) -> bool:
    """Whether every head's W_V W_O is split as TransformerLens splits it.

    With U S V^T its singular value decomposition, W_V becomes U S and W_O becomes V^T, and b_V goes
    into b_O. (W_Q and W_K share their singular values, which is harder to see.)
    """
    # TransformerLens refactors no grouped heads; wider heads cannot have orthonormal rows.
    if host.n_key_value_heads != host.n_heads or host.d_head > host.d_model:
        return False
    allowed = max(1e-4, torch.finfo(host.dtype).eps)
    unequal = False
    for layer in range(host.n_layers):
        stem = f"blocks.{layer}.attn"
        outputs = _wide(host.parameter(f"{stem}.W_O"))
        if outputs is None or outputs.shape != (host.n_heads, host.d_head, host.d_model):
            return False
        identity = torch.eye(host.d_head, dtype=outputs.dtype, device=outputs.device)
        if bool((outputs @ outputs.mT - identity).abs().max() > allowed):
            return False
        values, bias = _wide(host.parameter(f"{stem}.W_V")), host.parameter(f"{stem}.b_V")
        if values is None or (bias is not None and bool(bias.any())):
            return False
        singular = values.norm(dim=1)
        if bool((singular[:, 1:] > singular[:, :-1] * (1 + allowed)).any()):
            return False
        # Where they are all equal, someone drew or built orthogonal weights: no decomposition.
        unequal |= bool((singular[:, 0] > singular[:, -1] * (1 + 10 * allowed)).any())
    return unequal


def _wide(weight: Tensor | None) -> Tensor | None:
    """A weight in full precision, None where it is absent or quantised."""
    if weight is None or not weight.is_floating_point():
        return None
    return weight if weight.dtype == torch.float64 else weight.float()


# -- value biases ----------------------------------------------------------------------------------


def _folded_values(host: Host) -> bool:
    """Whether b_O holds what b_V would have, in a family that trains value biases.

    The block's output is the same, each head's own is not. Where b_O is 0, too, as before any
    training, nothing was folded.
    """
    family = family_of(str(getattr(host.cfg, "original_architecture", None)))
    # A bridge keeps a trace of all processing; its biases may be those of a crafted model.
    if host.kind != "HookedTransformer" or family is None or "V" not in family.biases:
        return False
    stems = [f"blocks.{layer}.attn" for layer in range(host.n_layers)]
    outputs = [host.parameter(f"{stem}.b_O") for stem in stems]
    if not any(bias is not None and bool(bias.any()) for bias in outputs):
        return False
    values = [host.parameter(f"{stem}.b_V") for stem in stems]
    return all(bias is not None and not bool(bias.any()) for bias in values)


# -- centred writes to the residual stream ---------------------------------------------------------


def _centred(host: Host) -> bool:
    """LayerNorm hides a centred write to the residual stream; GD on it would be a different GD.

    TransformerLens centres every map that writes there and the embedding. In half precision a few
    rows of any model have means that rounding could give, so all rows of both must have such.
    """
    if "RMS" in str(host.cfg.normalization_type):
        return False
    any_write = False
    for layer in range(host.n_layers):
        weight = host.parameter(f"blocks.{layer}.attn.W_O")
        if weight is None or not _has_centred_rows(weight):
            return False
        any_write |= bool(weight.any())  # zeros, as some begin training with, tell nothing
    return any_write and _has_centred_rows(host.embedding.detach())


_ROUNDINGS = 16
"""How many times what one entry's rounding moves a row's mean by still counts as rounding. Centred
weights of random models stay below 9, also where rows had means to be rounded; in bfloat16, where
rounding is coarsest, a third of other rows stay below, but never all of a model's."""


def _has_centred_rows(weight: Tensor) -> bool:
    """Whether the mean of each row along d_model is 0, up to the rounding of its entries."""
    wide = _wide(weight)
    if wide is None:
        return False
    # Weights may have been centred in another dtype than the finest.
    eps = max(torch.finfo(weight.dtype).eps, torch.finfo(torch.float32).eps)
    allowed = _ROUNDINGS * eps / weight.shape[-1] ** 0.5
    return bool((wide.mean(-1).abs() <= allowed * wide.abs().amax(-1)).all())
