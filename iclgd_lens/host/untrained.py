"""Networks that learned nothing: weights drawn anew, or trained weights in random places.

A new model of the same configuration is made from a seed, as the class itself makes it, and laid
out as the model in question: whatever the class scales (GPT-2's residual projections, say) is
scaled. A HookedTransformer that came from no known class is drawn by TransformerLens's own rule,
and a warning says so.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import warnings
from collections.abc import Generator, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host.base import Host
from iclgd_lens.host.checkpoint import ModelWarning
from iclgd_lens.host.families import Origin, family_of


class Parameter(NamedTuple):
    """One parameter.

    Attributes:
        name: Its path in the model.
        value: The parameter itself.
        part: "norm", "embedding" (of tokens or positions, and the unembedding) or "block".
        is_bias: Whether it is a bias or another vector, not a matrix.
    """

    name: str
    value: Tensor
    part: Literal["norm", "embedding", "block"]
    is_bias: bool


def named_parameters(model: nn.Module) -> Iterator[Parameter]:
    """Yield every parameter of a HookedTransformer or TransformerBridge, shared ones once."""
    for path, module in model.named_modules(remove_duplicate=True):
        kind = type(module).__name__
        part: Literal["norm", "embedding", "block"] = "block"
        if "Norm" in kind:
            part = "norm"
        elif "mbed" in kind or "mbed" in path or "lm_head" in path:
            part = "embedding"
        for name, parameter in module.named_parameters(recurse=False):
            is_bias = parameter.ndim < 2 or name.lstrip("_").startswith("b_")
            yield Parameter(f"{path}.{name}", parameter, part, is_bias)


Weights = Mapping[str, Tensor]
"""New weights by the names that `named_parameters` gives them."""


def new_weights(model: Any, seed: int) -> Weights:
    """Draw every weight of `model` anew, as its architecture does before training.

    The same seed gives the same weights whatever the caller's random state, default dtype and
    device are, and on both hosts; the global random state is as before.

    Args:
        model: A HookedTransformer or TransformerBridge; it is not changed.
        seed: Of the draw.

    Raises:
        UnsupportedModelError: The architecture cannot be made anew.
    """
    with _seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        if hasattr(model, "original_model"):
            return _of_bridge(model)
        origin = origin_of(model)
        if origin is not None:
            return _of_hooked(model, origin)
        return _of_transformer_lens(model)


def initialiser_of(model: Any) -> str:
    """The name of the one whose rule `new_weights` follows."""
    original = getattr(model, "original_model", None)
    if original is not None:
        return f"transformers {type(original).__name__}"
    origin = origin_of(model)
    if origin is not None:
        return f"transformers {origin.architecture}"
    cfg = model.cfg
    scale = f", initializer_range={cfg.initializer_range:.4g}" if cfg.init_mode == "gpt2" else ""
    return f"TransformerLens init_mode={cfg.init_mode!r}{scale}"


def warn_of_initialiser(model: Any) -> None:
    """Warn where a model's own initialiser is not known, and say what is used in its place.

    That of a HookedTransformer which its user configured is its `init_mode`.
    """
    if hasattr(model, "original_model") or origin_of(model) is not None:
        return
    known = getattr(model.cfg, "original_architecture", None)
    if known is None:
        return
    warnings.warn(
        f"The initialiser of {model.cfg.model_name} ({known}) is not known; its untrained twin is "
        f"drawn by another: {initialiser_of(model)}.",
        ModelWarning,
        stacklevel=3,
    )


def origin_of(model: Any) -> Origin | None:
    """The `transformers` class and configuration of a HookedTransformer, where they are known.

    A model that TransformerLens itself loaded knows its class and its sizes; all else is then the
    class's default.
    """
    cfg = model.cfg
    origin: Origin | None = getattr(cfg, "origin", None)
    if origin is not None:
        return origin if family_of(origin.architecture) is not None else None
    architecture = getattr(cfg, "original_architecture", None)
    family = family_of(architecture)
    if family is None or architecture is None:
        return None
    config = family.config(cfg)
    config.tie_word_embeddings = torch.equal(model.embed.W_E.T, model.unembed.W_U)
    return Origin(architecture, config)


@contextlib.contextmanager
def _seeded(seed: int) -> Generator[None, None, None]:
    # The CPU's generator alone: `torch.manual_seed` would reset those of other devices, too.
    with (
        torch.random.fork_rng(devices=[]),
        torch.device("cpu"),
        torch.inference_mode(False),
        torch.no_grad(),
    ):
        torch.default_generator.manual_seed(seed)
        yield


def _made(cls: Any, config: Any) -> Any:
    """A new `transformers` model in fp32 on the CPU."""
    try:
        return cls._from_config(
            copy.deepcopy(config), attn_implementation="eager", dtype=torch.float32
        ).eval()
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"{cls.__name__} cannot be made anew from its configuration, so this model has no "
            f"untrained twin ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error


def _of_bridge(model: Any) -> Weights:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    original = model.original_model
    new = _made(type(original), original.config)
    bridge = build_bridge_from_module(
        new, type(original).__name__, hf_config=new.config, model_name="untrained"
    )
    return {each.name: each.value for each in named_parameters(bridge)}


def _of_hooked(model: Any, origin: Origin) -> Weights:
    import transformers

    family = family_of(origin.architecture)
    assert family is not None
    return family.convert(
        _made(getattr(transformers, origin.architecture), origin.config), model.cfg
    )


def _of_transformer_lens(model: Any) -> Weights:
    from transformer_lens import HookedTransformer

    cfg = copy.deepcopy(model.cfg)
    # Neither a tokenizer nor another device is needed, and the seed is set already.
    cfg.init_weights, cfg.seed, cfg.tokenizer_name, cfg.device = True, None, None, "cpu"
    cfg.dtype, cfg.n_devices = torch.float32, 1
    new: nn.Module = HookedTransformer(cfg, move_to_device=False)
    return {each.name: each.value for each in named_parameters(new)}


Untrained = Literal["embeddings", "norms"]
"""What stays as trained: the (un)embeddings and all norms, or the norms alone."""


def reinitialise(model: nn.Module, keep: Untrained = "embeddings", seed: int = 0) -> None:
    """Draw the weights of a model anew, in place: for copies and fresh models alone.

    They are drawn by the initialiser of the architecture's own `transformers` class, in fp32, and
    then cast to the model's dtype. The model's configuration records it as `network`.

    Args:
        model: A HookedTransformer or TransformerBridge.
        keep: What stays as trained.
        seed: Seed of the weights; the global random state is not touched.

    Raises:
        UnsupportedModelError: The architecture cannot be made anew.
    """
    warn_of_initialiser(model)
    new = new_weights(model, seed)
    for each in named_parameters(model):
        if each.part == "norm" or (each.part == "embedding" and keep == "embeddings"):
            continue
        value = new.get(each.name)
        if value is None and each.is_bias:
            value = torch.zeros_like(each.value)
        if value is None or value.shape != each.value.shape:
            raise UnsupportedModelError(
                f"A new {initialiser_of(model)} has no weight like {each.name}, so this model has "
                "no untrained twin."
            )
        with torch.no_grad():
            each.value.copy_(value)
    _record(model, f"untrained ({keep} kept), seed {seed}, by {initialiser_of(model)}")


def permute_entries(host: Host, seed: int = 0) -> None:
    """Put each matrix's trained entries in random places, in place: for copies alone.

    The scale of every matrix stays, its structure goes. Embeddings, norms and biases stay.

    Args:
        host: The model.
        seed: Of the places; the global random state is not touched.
    """
    done: set[int] = set()
    # By TransformerLens's names and layout: the same places on both hosts.
    for site in host.sites.values():
        weight = host.parameter(site.weight)
        if weight is not None:
            host.write_parameter(site.weight, _permuted(weight, seed, site.weight))
            done.add(_storage(host.parameter(site.weight)))
    for each in named_parameters(host.model):
        if each.part == "block" and not each.is_bias and _storage(each.value) not in done:
            with torch.no_grad():
                each.value.copy_(_permuted(each.value, seed, each.name))
    _record(host.model, f"trained entries permuted within each matrix, seed {seed}")


def _record(model: Any, network: str) -> None:
    model.cfg.network = network


def _permuted(weight: Tensor, seed: int, name: str) -> Tensor:
    digest = hashlib.sha256(f"{seed}:permuted {name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    order = torch.randperm(weight.numel(), generator=generator, device="cpu")
    return weight.detach().cpu().reshape(-1)[order].reshape(weight.shape)


def _storage(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.untyped_storage().data_ptr()
