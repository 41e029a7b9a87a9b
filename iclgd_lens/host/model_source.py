"""What a model's name stands for: where it leads, and whether a model can be there.

The one place that answers. Loading, plans, estimates and listings all ask here; nothing is loaded
and no network is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from iclgd_lens.embedded import NAMES, embedded_model_folder
from iclgd_lens.errors import ModelError, UnsupportedModelError, nearest
from iclgd_lens.host.checkpoint import SUFFIX, Checkpoint, GgufCheckpoint
from iclgd_lens.model_names import UNTRAINED_SUFFIX, label_of, split_untrained

ALIASES: Mapping[str, Callable[[], Path]] = MappingProxyType({NAMES[0]: embedded_model_folder})
"""Names of models that travel with the package, and where their folders are."""

UNTRAINED = NAMES[1:]
"""Names of their untrained twins (embeddings, norms and unembedding are trained)."""

# TransformerLens's own models: weights without a transformers configuration, pickled.
_PICKLED = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")


@dataclass(frozen=True)
class ModelSource:
    """Where a model's name leads.

    Attributes:
        name: What results call the model: the Hub name, the folder's own name or an alias; the
            twin's with "-untrained" behind it.
        location: The Hub name, or the folder's or file's path.
        is_folder: Whether `location` is a folder.
        is_file: Whether it is a GGUF file.
        untrained: Whether the untrained twin is meant.
    """

    name: str
    location: str
    is_folder: bool
    untrained: bool = False
    is_file: bool = False

    @property
    def folder(self) -> Path | None:
        """The folder that is read, or None for a model on the Hub."""
        return Path(self.location) if self.is_folder else None

    def checkpoint(self, revision: str | None = None) -> Checkpoint:
        """The checkpoint to read, at a revision.

        Raises:
            ModelError: A folder was asked for at a revision.
        """
        if self.is_local and revision is not None:
            kind = "file" if self.is_file else "folder"
            raise ModelError(
                f"revision={revision!r} is for models on the Hub; {self.location!r} is a {kind}, "
                "which has only the one state"
            )
        if self.is_file:
            return GgufCheckpoint(self.name, self.location, is_folder=True)
        return Checkpoint(self.name, self.location, self.is_folder, revision)

    @property
    def is_local(self) -> bool:
        """Whether it is read without a network."""
        return self.is_folder or self.is_file

    def check(self) -> None:
        """Refuse what certainly cannot be loaded, without asking the Hub.

        Raises:
            ModelError: The folder holds no `transformers` model, or the name is unknown.
            UnsupportedModelError: No such model is served.
        """
        self.refuse_pickled()
        if self.is_local:
            self.checkpoint().check()
            return
        known = model_names()
        # Without an owner, a Hub name is one of the old short ones, all of which are known.
        if "/" not in self.location and self.location not in known:
            raise ModelError(
                f"No model is called {self.location!r}: give a folder, a Hub name (owner/name) or "
                f"{NAMES[0]!r}.{nearest(self.location, known)}"
            )

    def refuse_pickled(self) -> None:
        """Raise `UnsupportedModelError` for a model that is published as a pickle alone."""
        if not self.is_local and self.location.startswith(_PICKLED):
            raise UnsupportedModelError(
                f"{self.name} is published as a pickle, which is never opened; load it with "
                "TransformerLens itself, without weight processing, and hand over the model"
            )


def find_model(name_or_folder: str | Path) -> ModelSource:
    """Return where a name leads: an alias of the package, then a folder or file, then the Hub.

    Args:
        name_or_folder: A name of the package's own ("embedded"), a folder, a GGUF file, a Hub name,
            or a name or alias of TransformerLens; with "-untrained" behind it, its untrained twin.

    Raises:
        ModelError: It is empty, a file, or the path of a folder that does not exist.
    """
    given = str(name_or_folder)
    if not given.strip():
        raise ModelError("The model's name is empty; give a Hub name or a folder")
    wanted, untrained = split_untrained(given)
    suffix = UNTRAINED_SUFFIX if untrained else ""
    if wanted in ALIASES:
        return ModelSource(given, str(ALIASES[wanted]()), True, untrained)
    folder = Path(wanted).expanduser()
    if folder.is_dir():
        return ModelSource(label_of(wanted) + suffix, str(folder), True, untrained)
    if folder.is_file() and folder.suffix == SUFFIX:
        return ModelSource(label_of(wanted) + suffix, str(folder), False, untrained, is_file=True)
    if folder.exists():
        raise ModelError(
            f"{wanted!r} is a file; give the folder that holds config.json, or a {SUFFIX} file"
        )
    is_path = isinstance(name_or_folder, Path) or wanted.startswith((".", "/", "~"))
    if is_path or wanted.count("/") > 1 or folder.suffix == SUFFIX:
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
        known = [path.name for path in siblings if path.is_dir() or path.suffix == SUFFIX]
        what = "file" if folder.suffix == SUFFIX else "folder"
        raise ModelError(f"No model {what} {wanted!r}.{nearest(folder.name, known)}")
    location = official_name(wanted) or wanted
    return ModelSource(location + suffix, location, False, untrained)


def official_name(name: str) -> str | None:
    """The Hub name for a name or alias that TransformerLens lists, else None."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    listed = {alias.lower(): full for full, names in MODEL_ALIASES.items() for alias in names}
    listed |= {full.lower(): full for full in OFFICIAL_MODEL_NAMES}
    return listed.get(name.lower())


def model_names() -> list[str]:
    """Names that are known without asking the Hub: the package's and TransformerLens's."""
    from transformer_lens.supported_models import MODEL_ALIASES, OFFICIAL_MODEL_NAMES

    aliases = {alias for names in MODEL_ALIASES.values() for alias in names}
    return [*ALIASES, *sorted(aliases | set(OFFICIAL_MODEL_NAMES))]
