"""Loading a model by name or from a folder, as a HookedTransformer or a TransformerBridge.

Both hosts are built from the same `transformers` model, without any weight processing: gradient
descent in folded or centred coordinates is a different gradient descent. TransformerLens itself
is imported only when a model is loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from iclgd_lens.errors import LensError, ModelError, UnsupportedModelError, nearest
from iclgd_lens.host.checkpoint import Checkpoint, GgufCheckpoint, ModelWarning
from iclgd_lens.host.condition import model_provenance as model_provenance
from iclgd_lens.host.families import convertible, family_of, hooked_from_huggingface, keep_origin
from iclgd_lens.host.guard import own_precision
from iclgd_lens.host.model_folder import first_line
from iclgd_lens.host.model_source import find_model, model_names, official_name
from iclgd_lens.host.probe import agree, first_difference, outputs
from iclgd_lens.host.rotary import depends_on_length
from iclgd_lens.host.untrained import reinitialise

HOSTS = ("auto", "hooked", "bridge")
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
_GATES = ("gate_proj", "gate_up_proj")  # how `transformers` names a gated MLP's maps
_LARGE = 50_000_000  # from this many parameters on, passes over weights are what takes time
_TOKENS = 8  # read to compare logits with those of `transformers`


class HostChoiceWarning(ModelWarning):
    """The host that `host="auto"` prefers cannot hold the model; it is loaded as the other."""


def load_model(
    name_or_folder: str | Path,
    *,
    dtype: torch.dtype | str = "float32",
    device: str | torch.device | None = None,
    host: Literal["auto", "hooked", "bridge"] = "auto",
    revision: str | None = None,
) -> Any:
    """Load a causal language model with its tokenizer and unprocessed weights.

    Attention is eager, so that scores can be read; the model is in evaluation mode. Only
    safetensors are read, and code that a checkpoint brings along is never run. A folder is read
    without a network. No random state changes.

    Args:
        name_or_folder: A Hugging Face Hub name, a name or alias of TransformerLens, the path of a
            `transformers` folder, a GGUF file (quantised weights are dequantised; extra `gguf`),
            or the package's own "embedded"; with "-untrained" behind it, its
            twin whose blocks are drawn by the architecture's own initialiser (seed 0).
        dtype: "float32", "bfloat16", "float16", "float64" or the `torch.dtype`.
        device: A torch device; the first CUDA device where there is one, else the CPU.
        host: "hooked" for HookedTransformer (TransformerLens 3 alone), "bridge" for
            TransformerBridge. "auto" prefers the first, but TransformerBridge for models with
            gated MLPs (Llama and its relatives) of 50 million parameters or more, which it reads
            faster and in half the memory, logits and gradients equal (benchmarks/README.md). Where
            the preferred one cannot hold the model the other does, with a warning
            (`HostChoiceWarning`).
        revision: Branch, tag or commit on the Hub.

    Returns:
        A `transformer_lens.HookedTransformer` or `transformer_lens.TransformerBridge`. Without
        tokenizer files in a folder the model comes without a tokenizer and a `ModelWarning`.

    Raises:
        ModelError: An argument is not an allowed one, or no model can be read there.
        UnsupportedModelError: No host can hold the model, or not the one asked for.

    Examples:
        >>> model = load_model("embedded")
        >>> model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model
        (4, 4, 128)
    """
    if host not in HOSTS:
        raise _choice("host", host, HOSTS)
    torch_dtype = _dtype(dtype)
    torch_device = _device(device)
    source = find_model(name_or_folder)
    source.refuse_pickled()
    checkpoint = source.checkpoint(revision)
    # The pieces of both hosts draw initial weights before the real ones replace them.
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), own_precision():
        config = _config(checkpoint)
        tokenizer = checkpoint.tokenizer()
        model = _build(
            lambda: checkpoint.model(config, torch_dtype), tokenizer, checkpoint, torch_device, host
        )
        if source.untrained:
            reinitialise(model)
    # The configuration is the one place of both hosts that may carry what results must record.
    model.cfg.model_name = source.name
    model.cfg.model_revision = checkpoint.exact_revision(config)
    if isinstance(checkpoint, GgufCheckpoint):
        model.cfg.quantisation = checkpoint.quantisation
        checkpoint.tell(str(torch_dtype).removeprefix("torch."))
    return model.eval()


def _config(checkpoint: Checkpoint) -> Any:
    """The checkpoint's configuration; a failure on the Hub answers with the nearest known name."""
    try:
        return checkpoint.config()
    except UnsupportedModelError:
        raise
    except ModelError as error:
        if checkpoint.is_folder:
            raise
        known = model_names()
        hint = "" if checkpoint.name in known else nearest(checkpoint.name, known)
        raise ModelError(
            f"{checkpoint.name!r} is neither a folder nor a model that the Hub gave "
            f"({error}).{hint}"
        ) from error


def _build(
    load: Callable[[], Any], tokenizer: Any, checkpoint: Checkpoint, device: torch.device, host: str
) -> Any:
    """The model in the host asked for; for "auto" in the first of `_order` that can hold it.

    Args:
        load: Reads the `transformers` model. A bridge takes its modules over, so that whatever is
            tried after one needs a model of its own.
        tokenizer: The model's.
        checkpoint: Where it is from.
        device: Where it goes.
        host: One of `HOSTS`.
    """
    hf_model = load()
    vocabulary = hf_model.get_input_embeddings().num_embeddings
    count = min(_TOKENS, getattr(hf_model.config, "max_position_embeddings", None) or _TOKENS)
    # From the middle of the vocabulary, where no special tokens are.
    tokens = (torch.arange(count)[None] + vocabulary // 2) % vocabulary
    with torch.no_grad(), outputs(hf_model) as parts:
        expected = hf_model(tokens, use_cache=False).logits

    def made(kind: str, hf_model: Any) -> Any:
        if kind == "hooked":
            model = _hooked(hf_model, tokenizer, checkpoint, device)
            return _checked(model, tokens, expected)
        model = _bridge(hf_model, tokenizer, checkpoint.name, device)
        return _checked(model, tokens, expected, parts)

    first, *others = _order(hf_model) if host == "auto" else (host,)
    failures: dict[str, Exception] = {}
    for kind in (first, *others):
        try:
            model = made(kind, load() if "bridge" in failures else hf_model)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # converters and adapters may fail on shapes not made for them
            failures[kind] = error
            continue
        if failures:
            warnings.warn(
                f"{checkpoint.name} is loaded as a {type(model).__name__}: "
                f"{first_line(failures[first])}",
                HostChoiceWarning,
                stacklevel=3,
            )
        return model
    if "bridge" not in failures:
        raise UnsupportedModelError(
            f"No HookedTransformer for {checkpoint.name}: {first_line(failures['hooked'])}; "
            "use host='bridge'"
        ) from failures["hooked"]
    error = failures["bridge"]
    if isinstance(error, UnsupportedModelError):
        raise error
    where = traceback.extract_tb(error.__traceback__)[-1].name
    reason = (str(error).strip() or f"{type(error).__name__} in {where}").splitlines()[0]
    raise UnsupportedModelError(
        f"The installed TransformerLens has an adapter for {type(hf_model).__name__}, but not "
        f"for {checkpoint.name} ({reason})"
    ) from error


def _order(hf_model: Any) -> tuple[str, ...]:
    """The hosts that "auto" tries, in turn.

    HookedTransformer copies the weights of a gated MLP, transposed, in each pass, and such models
    mostly rotate queries and keys too, which it does anew for all keys of a cache. In a small model
    neither matters.
    """
    if not has_hooked_transformer():
        return ("bridge",)
    gated = any(name.endswith(_GATES) for name, _ in hf_model.named_modules())
    large = sum(weight.numel() for weight in hf_model.parameters()) >= _LARGE
    return ("bridge", "hooked") if gated and large else ("hooked", "bridge")


def _checked(
    model: Any, tokens: Tensor, expected: Tensor, parts: Mapping[str, Tensor] | None = None
) -> Any:
    """Return `model`, unless its logits are not those of `transformers`: it dropped a setting."""
    with torch.no_grad():
        logits = model(tokens.to(next(model.parameters()).device), return_type="logits")
    # What overflows in transformers cannot be compared; results record it as not finite.
    if expected.isfinite().all() and not agree(logits.cpu(), expected, expected.dtype):
        part = None if parts is None else first_difference(parts, model, tokens)
        raise UnsupportedModelError(
            f"its logits as a {type(model).__name__} are not those of transformers: the installed "
            "TransformerLens does not honour all of its configuration"
            + ("" if part is None else f" (they part in {part})")
        )
    return model


def identify_model(name_or_folder: str | Path, revision: str | None = None) -> str:
    """Return what tells a checkpoint from all others, without loading its weights.

    A Hub commit, or for a folder a digest of its weights, configuration and tokenizer files.

    Raises:
        ModelError: No model can be read there.
        UnsupportedModelError: No host could serve the checkpoint.
    """
    source = find_model(name_or_folder)
    source.refuse_pickled()
    checkpoint = source.checkpoint(revision)
    config = _config(checkpoint)
    exact = checkpoint.exact_revision(config)
    if source.is_file:
        return str(exact)
    if not checkpoint.is_folder:
        return f"{checkpoint.location}@{exact or 'unknown'}"
    digest = hashlib.sha256()
    for pattern in ("*.json", "*.model", "*.txt"):
        for file in sorted(filter(Path.is_file, Path(checkpoint.location).glob(pattern))):
            digest.update(f"{file.name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return f"{exact}+{digest.hexdigest()[:16]}"


def has_hooked_transformer() -> bool:
    """Whether the installed TransformerLens has HookedTransformer (version 4 removed it)."""
    try:
        import transformer_lens

        return hasattr(transformer_lens, "HookedTransformer")
    except ImportError:  # version 4 raises this for the names that it removed
        return False


def _hooked(hf_model: Any, tokenizer: Any, checkpoint: Checkpoint, device: torch.device) -> Any:
    """A HookedTransformer: by the family's converter, else by TransformerLens's official name."""
    official = None if checkpoint.is_folder else official_name(checkpoint.location)
    known = type(hf_model).__name__ in convertible()
    if known or official is None or not has_hooked_transformer():
        return hooked_from_huggingface(
            hf_model, name=checkpoint.name, device=device, tokenizer=tokenizer
        )
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import NEED_REMOTE_CODE_MODELS

    if depends_on_length(hf_model.config):
        raise UnsupportedModelError(
            "its positions depend on the length of the sequence, those of HookedTransformer do not"
        )
    if official.startswith(NEED_REMOTE_CODE_MODELS):
        raise UnsupportedModelError("TransformerLens would run the checkpoint's own code for it")
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer.from_pretrained_no_processing(
            official,
            hf_model=hf_model,
            tokenizer=tokenizer,
            dtype=hf_model.dtype,
            device=str(device),
        )
    keep_origin(model, hf_model)
    return model


def _bridge(hf_model: Any, tokenizer: Any, name: str, device: torch.device) -> Any:
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(hf_model).__name__
    if architecture not in SUPPORTED_ARCHITECTURES:
        raise UnsupportedModelError(
            f"The installed TransformerLens has no adapter for {name} ({architecture})"
        )
    config, family = hf_model.config, family_of(architecture)
    biased = family is not None and "Q" in family.biases and family.names is not None
    if biased and getattr(config, "attention_bias", True) is False:
        raise UnsupportedModelError(
            f"{name} has attention without biases, which the installed adapter for {architecture} "
            "does not serve"
        )
    return build_bridge_from_module(
        hf_model.to(device),
        architecture,
        hf_config=config,
        tokenizer=tokenizer,
        model_name=name,
    ).eval()


def _dtype(dtype: torch.dtype | str) -> torch.dtype:
    if isinstance(dtype, str) and dtype in DTYPES:
        return DTYPES[dtype]
    if dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    raise _choice("dtype", str(dtype).removeprefix("torch."), DTYPES)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        # Only an allocation tells whether the device is there.
        return torch.empty(0, device=torch.device(device)).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {str(device)!r} cannot be used here: {reason}") from error


def _choice(what: str, given: object, allowed: Any) -> LensError:
    hint = nearest(str(given), allowed)
    return ModelError(f"{what} {given!r} is none of {', '.join(allowed)}.{hint}")
