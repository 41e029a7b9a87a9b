"""A model in one GGUF file: weights, often quantised, with configuration and tokenizer.

`transformers` reads the file and dequantises its weights (extra `gguf`). It is read by itself:
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

from iclgd_lens.errors import ModelError
from iclgd_lens.host.checkpoint import Checkpoint, ModelWarning
from iclgd_lens.host.folder import check_sizes, first_line

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
            raise ModelError(f"cannot read {self.location!r}: {error.strerror}") from error
        if magic != _MAGIC:
            raise ModelError(f"{self.location!r} is no GGUF file: it does not begin as one")
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
                "reading a GGUF file needs the package gguf: pip install 'iclgd-lens[gguf]'"
            ) from error
        try:
            return GGUFReader(self.location)
        except Exception as error:  # a damaged file fails wherever it is damaged
            raise ModelError(
                f"cannot read {self.location!r}: it is damaged or cut short ({first_line(error)})"
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
