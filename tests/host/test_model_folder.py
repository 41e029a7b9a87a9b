"""Malformed model folders: one line each, at once, and nothing read outside the folder."""

from __future__ import annotations

import builtins
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file

from iclgd_lens.errors import LensError
from iclgd_lens.host import Host
from iclgd_lens.host.loading import identify_model, load_model
from tests import checks, families

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("whole")
    return {name: families.save_folder(name, root / name) for name in ("llama", "gpt2")}


def spoilt(whole: dict[str, Path], tmp_path: Path, family: str = "llama") -> Path:
    return Path(shutil.copytree(whole[family], tmp_path / "model"))


def edit(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(LensError) as error:
        load_model(folder, device="cpu", **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- shards ----------------------------------------------------------------------------------------


def into_shards(folder: Path, weight_map: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "part.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    found = weight_map if weight_map is not None else dict.fromkeys(weights, "part.safetensors")
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": found}))


def test_shards_in_the_folder_are_read(whole: dict[str, Path], tmp_path: Path) -> None:
    folder = spoilt(whole, tmp_path)
    into_shards(folder, None)
    assert load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({}, "names no weight file"),
        ([], "Cannot read .*index.json"),
        ({"lm_head.weight": "../outside.safetensors"}, r"'\.\./outside\.safetensors', which is no"),
        ({"lm_head.weight": "sub/../../outside.safetensors"}, "which is not a file of its folder"),
        ({"lm_head.weight": "/etc/passwd"}, "'/etc/passwd', which is not a file of its folder"),
        ({"lm_head.weight": "..\\outside.safetensors"}, "which is not a file of its folder"),
        ({"lm_head.weight": 7}, "points to 7, which is not a file"),
        ({"lm_head.weight": None}, "points to None"),
        ({"lm_head.weight": ["part.safetensors"]}, "which is not a file"),
        ({"lm_head.weight": "gone.safetensors"}, "lacks 1 of its weight files"),
    ],
)
def test_an_index_that_leads_nowhere(
    whole: dict[str, Path], tmp_path: Path, weight_map: Any, message: str
) -> None:
    import re

    folder = spoilt(whole, tmp_path)
    shutil.copy(folder / "model.safetensors", tmp_path / "outside.safetensors")
    into_shards(folder, weight_map)
    assert re.search(message, refusal(folder))


def test_nothing_outside_the_folder_is_opened(
    whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = spoilt(whole, tmp_path)
    outside = tmp_path / "outside.safetensors"
    shutil.copy(folder / "model.safetensors", outside)
    into_shards(folder, {"lm_head.weight": "../outside.safetensors"})
    opened: list[str] = []
    for module, name in (
        (builtins, "open"),
        (io, "open"),
        (os, "open"),
        (safetensors, "safe_open"),
    ):
        original = getattr(module, name)

        def watched(path: Any, *args: Any, _original: Any = original, **kwargs: Any) -> Any:
            opened.append(str(path))
            return _original(path, *args, **kwargs)

        monkeypatch.setattr(module, name, watched)
    refusal(folder)
    assert opened
    assert not [path for path in opened if "outside." in path]
    with pytest.raises(LensError):
        identify_model(str(folder))
    assert opened
    assert not [path for path in opened if "outside." in path]


def test_an_adapter_without_its_base_model_is_refused(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    folder = spoilt(whole, tmp_path)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "/elsewhere"}')
    assert "merge the two" in refusal(folder)


# -- configurations --------------------------------------------------------------------------------

HUGE = 10**12
SIZES: list[tuple[str, dict[str, Any], str]] = [
    ("llama", {"hidden_size": 0}, "hidden_size = 0"),
    ("llama", {"hidden_size": -4}, "hidden_size = -4"),
    ("llama", {"hidden_size": HUGE}, f"hidden_size = {HUGE}"),
    ("llama", {"hidden_size": "wide"}, "wide|hidden_size"),
    ("llama", {"hidden_size": 32.5}, "32.5|hidden_size"),
    ("llama", {"hidden_size": 30}, "30"),
    ("llama", {"num_attention_heads": 0}, "num_attention_heads"),
    ("llama", {"num_attention_heads": 3}, r"\(3\)|heads = 3"),
    ("llama", {"num_key_value_heads": 0}, "num_key_value_heads"),
    ("llama", {"num_key_value_heads": 3}, "leaves a rest"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers = 0"),
    ("llama", {"num_hidden_layers": HUGE}, f"num_hidden_layers = {HUGE}"),
    ("llama", {"num_hidden_layers": 9}, "missing|weights"),
    ("llama", {"vocab_size": 0}, "vocab_size"),
    ("llama", {"vocab_size": HUGE}, f"vocab_size = {HUGE}"),
    ("llama", {"vocab_size": 77}, "wrong shape|weights"),
    ("llama", {"intermediate_size": HUGE}, f"intermediate_size = {HUGE}"),
    ("llama", {"intermediate_size": 0}, "intermediate_size = 0"),
    ("llama", {"head_dim": 0}, "head_dim"),
    ("llama", {"max_position_embeddings": 0}, "max_position_embeddings = 0"),
    ("llama", {"rope_parameters": {"rope_type": "nosuch"}}, "nosuch"),
    ("llama", {"rope_parameters": 7}, ""),
    ("llama", {"model_type": ["llama"]}, "model_type"),
    ("llama", {"model_type": 7}, "model_type"),
    ("llama", {"model_type": "nosuch"}, "nosuch"),
    ("llama", {"hidden_act": "nosuch"}, "nosuch"),
    ("llama", {"hidden_act": None}, ""),
    ("llama", {"dtype": "nosuch"}, ""),
    ("gpt2", {"n_embd": 0}, "n_embd = 0"),
    ("gpt2", {"n_layer": 0}, "n_layer = 0"),
    ("gpt2", {"n_head": 0}, "n_head = 0"),
    ("gpt2", {"n_positions": 0}, "n_positions = 0"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "changes", "message"), SIZES, ids=lambda value: str(value)[:40])
def test_a_configuration_that_no_model_can_have(
    whole: dict[str, Path], tmp_path: Path, family: str, changes: dict[str, Any], message: str
) -> None:
    import re

    folder = spoilt(whole, tmp_path, family)
    edit(folder, "config.json", **changes)
    assert re.search(message, refusal(folder))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", "{}", "[" * 100_000, "\udcff"])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", INDEX])
def test_a_file_that_is_no_json_of_its_kind(
    whole: dict[str, Path], tmp_path: Path, name: str, text: str
) -> None:
    folder = spoilt(whole, tmp_path)
    (folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    if name == "tokenizer_config.json" and text == "{}":
        return  # says nothing, which is allowed
    refusal(folder)


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "text"])
def test_damaged_weights(whole: dict[str, Path], tmp_path: Path, damage: str) -> None:
    folder = spoilt(whole, tmp_path)
    path = folder / "model.safetensors"
    data = path.read_bytes()
    cut = {"empty": b"", "cut": data[: len(data) // 2], "text": b"no weights at all",
           "header": b"\xff" * 8 + data[8:]}[damage]  # fmt: skip
    path.write_bytes(cut)
    assert "weights" in refusal(folder)


# -- a context of a few tokens ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_context_of_a_few_tokens(kind: Any, count: int, tmp_path: Path) -> None:
    config = families.FAMILIES["gpt2"]()
    config.n_positions = count
    folder = families.saved(families.of_config(config), tmp_path / "model")
    model = load_model(folder, device="cpu", host=kind)
    if count > 5:
        host = Host(model)
        assert torch.isfinite(host.logits(host.run(families.tokens(count)).residual)).all()
        return
    with pytest.raises(LensError, match=f"reads {count} tokens at most") as error:
        Host(model)
    assert "\n" not in str(error.value)


def test_a_pipe_or_folder_in_a_files_place_does_not_hang(
    whole: dict[str, Path], tmp_path: Path
) -> None:
    makers: list[Callable[[Path], None]] = [lambda path: os.mkfifo(path), lambda path: path.mkdir()]
    for number, make in enumerate(makers):
        for name in ("config.json", "model.safetensors", "extra.json"):
            folder = spoilt(whole, tmp_path / f"{number}{name}")
            (folder / name).unlink(missing_ok=True)
            make(folder / name)
            if name == "extra.json":
                assert identify_model(str(folder)).startswith("sha256:")
            else:
                refusal(folder)
