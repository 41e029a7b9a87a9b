"""What a folder of a `transformers` model must hold before anything is built from it.

Only data is read, and only in the folder itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from iclgd_lens.errors import ModelError, UnsupportedModelError

_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "intermediate_size", "max_position_embeddings",
)  # fmt: skip
"""What `transformers` calls sizes, whichever words a configuration uses for them."""

_RAW = (*_SIZES, "n_embd", "n_head", "n_layer", "n_positions")

_INDEX = "model.safetensors.index.json"
_WHOLE = "model.safetensors"


def check_folder(folder: Path) -> None:
    """Refuse a folder without configuration or safetensors weights, or with code of its own.

    Raises:
        ModelError: Something is missing or unreadable.
        UnsupportedModelError: The folder's model would run code of its own.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{folder} has no config.json: it is not a folder of a transformers model")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"Cannot read {path}: {first_line(error)}") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ModelError(f"{path} names no model_type: it is not a configuration of transformers")
    if config.get("auto_map"):
        raise UnsupportedModelError(
            f"{path} points to code of its own (auto_map), which is never run; remove the entry "
            f"if transformers' own {config['model_type']!r} model fits the weights"
        )
    for name in _RAW:
        _check_size(name, config.get(name), str(folder))  # before transformers divides by it
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModelError(
            f"{folder} holds an adapter (adapter_config.json), whose base model lies elsewhere; "
            "merge the two and save the whole model"
        )
    _check_weight_files(folder)


def _check_weight_files(folder: Path) -> None:
    index = folder / _INDEX
    if index.is_file():
        shards = _shards(index)
        absent = [shard for shard in shards if not (folder / shard).is_file()]
        if absent:
            raise ModelError(f"{folder} lacks {len(absent)} of its weight files: {absent[0]}")
    elif not (folder / _WHOLE).is_file():
        pickled = sorted(file.name for file in folder.glob("*.bin"))
        if pickled:
            raise ModelError(
                f"{folder} holds its weights as a pickle ({pickled[0]}), which is never opened; "
                "save them with save_pretrained, which writes safetensors"
            )
        raise ModelError(f"{folder} has no weights: model.safetensors is missing")


def check_sizes(config: Any, place: str) -> None:
    """Refuse sizes that no model can have.

    Raises:
        ModelError: One is not a positive whole number, or heads do not divide what they share.
    """
    sizes: dict[str, Any] = {name: getattr(config, name, None) for name in _SIZES}
    for name, value in sizes.items():
        _check_size(name, value, place)
    whole = {name: value for name, value in sizes.items() if isinstance(value, int)}
    heads = whole.get("num_attention_heads")
    if heads is None:
        return
    width, shared = whole.get("hidden_size"), whole.get("num_key_value_heads")
    if width is not None and "head_dim" not in whole and width % heads:
        raise ModelError(
            f"The configuration of {place!r} divides hidden_size = {width} among "
            f"num_attention_heads = {heads}, which leaves a rest"
        )
    if shared is not None and heads % shared:
        raise ModelError(
            f"The configuration of {place!r} shares num_key_value_heads = {shared} among "
            f"num_attention_heads = {heads}, which leaves a rest"
        )


def _check_size(name: str, value: Any, place: str) -> None:
    if value is None or isinstance(value, (list, tuple, dict)):
        return  # absent, or one for each layer
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ModelError(
            f"The configuration of {place!r} says {name} = {value!r}; it must be a positive whole "
            "number"
        )


def check_weights(config: Any, folder: Path) -> None:
    """Refuse a configuration whose sizes exceed everything that the folder's weights hold.

    Otherwise such a model would be built, and fill memory, before anything shows that it does not
    fit.

    Raises:
        ModelError: A weight file is unreadable, or a size is beyond the weights.
    """
    shapes: list[list[int]] = []
    for file in weight_files(folder):
        try:
            with safe_open(file, framework="np") as opened:
                shapes += [opened.get_slice(name).get_shape() for name in opened.keys()]
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelError(f"Cannot load the weights of {str(folder)!r}: {file.name}: "
                             f"{first_line(error)}") from error  # fmt: skip
    longest = max((axis for shape in shapes for axis in shape), default=0)
    limits = {"vocab_size": longest, "hidden_size": longest, "intermediate_size": longest,
              "num_hidden_layers": len(shapes)}  # fmt: skip
    for name, limit in limits.items():
        value = getattr(config, name, None)
        if isinstance(value, int) and value > limit:
            raise ModelError(
                f"The configuration of {str(folder)!r} says {name} = {value}, but its weights hold "
                f"{len(shapes)} tensors of at most {longest} along an axis"
            )


def weight_files(folder: Path) -> Iterator[Path]:
    """The safetensors files of a folder that was checked."""
    index = folder / _INDEX
    if not index.is_file():
        yield folder / _WHOLE
        return
    for shard in _shards(index):
        yield folder / shard


def _shards(index: Path) -> list[str]:
    """The names of the weight files that an index points to.

    Raises:
        ModelError: It is unreadable or empty, or points outside its folder.
    """
    try:
        shards: list[Any] = list(
            json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        )
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ModelError(f"Cannot read {index}: {first_line(error)}") from error
    if not shards:
        raise ModelError(f"{index} names no weight file: its weight_map is empty")
    for shard in shards:
        path = PurePosixPath(shard) if isinstance(shard, str) else None
        if path is None or path.is_absolute() or ".." in path.parts or "\\" in str(shard):
            raise ModelError(f"{index} points to {shard!r}, which is not a file of its folder")
    return sorted(set(shards))


def first_line(error: BaseException) -> str:
    """An error in one line: the first line of its text, or its type."""
    lines = str(error).strip().splitlines()
    kind = type(error).__name__
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[0] = f"{lines[0]} {lines[1].strip()}"
    if not lines or isinstance(error, (KeyError, RecursionError)):
        return f"{kind}: {lines[0]}" if lines else kind
    return lines[0].rstrip(".")
