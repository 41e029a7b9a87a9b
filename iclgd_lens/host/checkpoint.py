"""Reading a `transformers` checkpoint: a local folder, a Hugging Face Hub repository, a GGUF file.

Only data is read. Weights come from safetensors files, code that a checkpoint brings along is
never run, and a checkpoint whose weights would be incomplete is refused rather than filled up.

A GGUF file holds weights, often quantised, with configuration and tokenizer. `transformers` reads
and dequantises it (extra `gguf`). It is read by itself:
what lies beside it, another model's tokenizer say, has no part in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import warnings
from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from iclgd_lens.errors import ModelError, UnsupportedModelError
from iclgd_lens.host.model_folder import check_folder, check_sizes, check_weights, first_line

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


class ModelWarning(UserWarning):
    """A model loads, but not quite as its checkpoint or its name may suggest."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a model is read from.

    Attributes:
        name: What results call the model: the Hub name, the folder's own name or an alias.
        location: The Hub name or the folder's path.
        is_folder: Whether `location` is a folder; a folder is read without any network.
        revision: Branch, tag or commit of the Hub repository; None for its default branch.
    """

    name: str
    location: str
    is_folder: bool
    revision: str | None = None

    @contextlib.contextmanager
    def _place(self) -> Generator[tuple[str, dict[str, Any]], None, None]:
        """Where `transformers` finds the model, and how it is to read there."""
        arguments: dict[str, Any] = {"trust_remote_code": False}
        if self.is_folder:
            arguments["local_files_only"] = True
        if self.revision is not None:
            arguments["revision"] = self.revision
        yield self.location, arguments

    def check(self) -> None:
        """Refuse what cannot be read, without building anything.

        Raises:
            ModelError: Something is missing or unreadable.
            UnsupportedModelError: The model would run code of its own.
        """
        if self.is_folder:
            check_folder(Path(self.location))

    def _check_config(self, config: Any) -> None:
        check_sizes(config, self.location)
        if self.is_folder:
            check_weights(config, Path(self.location))

    def _has_tokenizer(self) -> bool:
        # Without files some tokenizer classes come up empty instead of failing.
        folder = Path(self.location)
        return not self.is_folder or any((folder / file).is_file() for file in _TOKENIZER_FILES)

    def config(self) -> Any:
        """The `transformers` configuration, of a causal decoder with plain weights.

        Raises:
            ModelError: It is missing or unreadable, or its weights are not safetensors.
            UnsupportedModelError: It needs its own code, or is not such a model.
        """
        from transformers import AutoConfig

        self.check()
        try:
            with self._place() as (place, arguments):
                config: Any = AutoConfig.from_pretrained(place, **arguments)
        except Exception as error:  # what a configuration holds may fail anywhere
            if "trust_remote_code" in str(error):
                raise UnsupportedModelError(
                    f"{self.name} needs code of its own, which is never run; "
                    "use a model whose architecture transformers has itself"
                ) from error
            raise ModelError(
                f"Cannot read the configuration of {self.location!r}: {first_line(error)}"
            ) from error
        _check_causal(config, self.name)
        self._check_config(config)
        return config

    def model(self, config: Any, dtype: torch.dtype) -> Any:
        """The `transformers` model on the CPU: eager attention, evaluation mode.

        Raises:
            ModelError: Weights are missing, unreadable or of another shape.
        """
        from transformers import AutoModelForCausalLM

        try:
            with self._place() as (place, arguments):
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    place,
                    config=config,
                    dtype=dtype,
                    attn_implementation="eager",
                    use_safetensors=True,
                    output_loading_info=True,
                    **arguments,
                )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # so may weights that do not fit it
            raise ModelError(
                f"Cannot load the weights of {self.location!r}: {first_line(error)}"
            ) from error
        model, report = loaded
        absent = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
        if absent:
            raise ModelError(
                f"The weights of {self.location!r} are not those of a whole "
                f"{type(model).__name__}: {len(absent)} missing or of a wrong shape, "
                f"among them {absent[0]}"
            )
        if report["unexpected_keys"]:
            unused = sorted(report["unexpected_keys"])
            warnings.warn(
                f"{type(model).__name__} has no place for {len(unused)} weights of "
                f"{self.name}, among them {unused[0]}; they are left out",
                ModelWarning,
                stacklevel=3,
            )
        return model.eval()

    def tokenizer(self) -> Any | None:
        """The `transformers` tokenizer, or None (with a `ModelWarning`) where there is none.

        Raises:
            ModelError: The tokenizer's files are unreadable or need code of their own.
        """
        from transformers import AutoTokenizer

        if not self._has_tokenizer():
            warnings.warn(
                f"{self.name} has no tokenizer: the model takes token ids alone",
                ModelWarning,
                stacklevel=3,
            )
            return None
        try:
            with self._place() as (place, arguments):
                try:
                    # TransformerLens wants this flag, and reads anew where it is unset.
                    return AutoTokenizer.from_pretrained(place, add_bos_token=True, **arguments)
                except ValueError:
                    return AutoTokenizer.from_pretrained(place, **arguments)
        except Exception as error:  # the tokenizers library raises plain ones
            raise ModelError(
                f"Cannot read the tokenizer of {self.location!r}: {first_line(error)}"
            ) from error

    def exact_revision(self, config: Any) -> str | None:
        """What identifies the weights: the Hub commit, or a digest of a folder's weight files."""
        if not self.is_folder:
            return getattr(config, "_commit_hash", None) or self.revision
        digest = hashlib.sha256()
        for file in sorted(filter(Path.is_file, Path(self.location).glob("*.safetensors"))):
            with file.open("rb") as stream:
                while block := stream.read(1 << 20):
                    digest.update(block)
        return f"sha256:{digest.hexdigest()[:16]}"


def _check_causal(config: Any, name: str) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind: str = config.model_type
    if getattr(config, "quantization_config", None) is not None:
        raise UnsupportedModelError(
            f"{name} is quantized: its weights have no gradient; load the unquantized model"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder model ({kind}); only causal decoders are served"
        )
    # Encoders that can also be built as decoders say so in their configuration.
    encoder = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    if encoder or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UnsupportedModelError(
            f"{name} is not a causal language model ({kind}); only causal decoders are served"
        )


SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_PLAIN = ("F32", "F16", "BF16", "F64")
_TOKENS = "tokenizer.ggml.tokens"


@dataclass(frozen=True)
class GgufCheckpoint(Checkpoint):
    """One GGUF file; `location` is its path."""

    @contextlib.contextmanager
    def _place(self) -> Generator[tuple[str, dict[str, Any]], None, None]:
        file = Path(self.location).resolve()
        # A folder of its own, where `transformers` finds nothing else.
        with tempfile.TemporaryDirectory(prefix="iclgd-gguf-") as folder:
            (Path(folder) / file.name).symlink_to(file)
            arguments = {"trust_remote_code": False, "local_files_only": True}
            yield folder, {**arguments, "gguf_file": file.name}

    def check(self) -> None:
        """Refuse a file that is none of the kind, before `transformers` opens it.

        Raises:
            ModelError: It is unreadable or damaged, or the package that reads it is not installed.
        """
        try:
            with Path(self.location).open("rb") as stream:
                magic = stream.read(len(_MAGIC))
        except OSError as error:
            raise ModelError(f"Cannot read {self.location!r}: {error.strerror}") from error
        if magic != _MAGIC:
            raise ModelError(f"{self.location!r} is not a GGUF file: it does not begin as one")
        _ = self._reader

    def _check_config(self, config: Any) -> None:
        check_sizes(config, self.location)

    def _has_tokenizer(self) -> bool:
        return _TOKENS in self._reader.fields

    def tokenizer(self) -> Any | None:
        """The file's tokenizer, or None (with a `ModelWarning`) where it holds none.

        Raises:
            ModelError: The file's tokenizer cannot be read.
        """
        tokenizer = super().tokenizer()
        if tokenizer is not None:
            # TransformerLens reads a tokenizer anew that does not add BOS by itself, from a folder
            # that is gone by then. The package writes BOS itself and adds nothing else.
            tokenizer.init_kwargs["add_bos_token"] = True
        return tokenizer

    @cached_property
    def _reader(self) -> Any:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            raise ModelError(
                "Reading a GGUF file needs the package gguf: pip install 'iclgd_lens[gguf]'"
            ) from error
        try:
            return GGUFReader(self.location)
        except Exception as error:  # a damaged file fails wherever it is damaged
            raise ModelError(
                f"Cannot read {self.location!r}: it is damaged or cut short ({first_line(error)})"
            ) from error

    @property
    def quantisation(self) -> str:
        """The kinds of its weights, that of the most numbers first, such as "Q4_1, F32"."""
        counts: Counter[str] = Counter()
        for tensor in self._reader.tensors:
            counts[tensor.tensor_type.name] += int(tensor.n_elements)
        return ", ".join(kind for kind, _ in counts.most_common())

    def tell(self, dtype: str) -> None:
        """Say once that weights were quantised, and as what."""
        kind = self.quantisation.split(", ")[0]
        if kind not in _PLAIN:
            warnings.warn(
                f"{self.name} holds weights quantised as {self.quantisation}, dequantised to "
                f"{dtype}: results are those of the quantised model",
                ModelWarning,
                stacklevel=3,
            )

    def exact_revision(self, config: Any) -> str | None:
        """A digest of the file."""
        digest = hashlib.sha256()
        with Path(self.location).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return f"sha256:{digest.hexdigest()[:16]}"
