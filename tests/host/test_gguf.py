"""A model in one GGUF file: the numbers of its dequantised weights, and one line for faults."""

from __future__ import annotations

import builtins
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from iclgd_lens.episode_loading import load_episode
from iclgd_lens.errors import LensError, ModelError
from iclgd_lens.host import Host
from iclgd_lens.host.checkpoint import ModelWarning
from iclgd_lens.host.condition import model_provenance
from iclgd_lens.host.loading import identify_model, load_model
from iclgd_lens.host.model_source import find_model
from iclgd_lens.nulls import untrained
from iclgd_lens.protocol import DEFAULT
from tests import checks, families

gguf = pytest.importorskip("gguf")

WIDTH, MLP, HEADS, SHARED = 64, 96, 4, 2  # quantised rows are of 32 numbers
LETTERS = [chr(97 + i) for i in range(26)]
WORDS = ["<unk>", "<s>", "</s>", *LETTERS, "\u0120", ":", "S", "L", "P", "N", "yz", "wx"]


def original() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=WIDTH, intermediate_size=MLP, num_hidden_layers=2,
        num_attention_heads=HEADS, num_key_value_heads=SHARED, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
    )  # fmt: skip
    return families.of_config(config, seed=5)


NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.up_proj": "ffn_up", "mlp.gate_proj": "ffn_gate",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def their_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in OUTER:
        return f"{OUTER[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[part]}.weight"


def paired(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of rotated halves, put pair by pair as the format has them."""
    halves = weight.reshape(heads, 2, len(weight) // heads // 2, -1)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write(path: Path, model: Any, kind: str = "F32", architecture: str = "llama") -> Any:
    """Write a GGUF file; returns the model with the weights that the file holds."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(2)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(SHARED)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(WORDS))
    writer.add_tokenizer_model("gpt2")
    writer.add_add_bos_token(False)  # as SmolLM2 has it; TransformerLens then reads it anew
    writer.add_token_list(WORDS)
    writer.add_token_types([3 if word.startswith("<") else 1 for word in WORDS])
    writer.add_token_merges(["y z", "w x"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    quantised = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for name, value in model.named_parameters():
            data = value.numpy()
            matrix = value.ndim > 1 and kind != "F32"
            if matrix:
                raw = gguf.quants.quantize(data, quantised)
                data = gguf.quants.dequantize(raw, quantised)
                value.copy_(torch.from_numpy(data))
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                data = paired(data, HEADS if "q_proj" in name else SHARED)
            if matrix:
                raw = gguf.quants.quantize(data, quantised)
                writer.add_tensor(their_name(name), raw, raw_dtype=quantised)
            else:
                writer.add_tensor(their_name(name), data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write(path, original())


def ids() -> torch.Tensor:
    return torch.arange(3, 23)[None] % len(WORDS)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("type_name", ["F32", "Q8_0", "Q4_1"])
def test_logits_are_those_of_the_weights_in_the_file(
    kind: Any, type_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    model = write(path, original(), type_name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_model(path, device="cpu", host=kind)
    told = [str(each.message) for each in caught if issubclass(each.category, ModelWarning)]
    with torch.no_grad():
        found = loaded(ids(), return_type="logits")
        torch.testing.assert_close(found, model(ids()).logits, atol=1e-4, rtol=0)
    record = model_provenance(loaded)
    assert record["name"] == "tiny.gguf"
    assert record["revision"].startswith("sha256:")
    assert record["quantisation"].split(", ")[0] == type_name
    assert len(told) == (type_name != "F32")
    assert all(f"quantised as {type_name}, F32" in text for text in told)
    assert Host(untrained(loaded))


@pytest.mark.parametrize("kind", checks.kinds())
def test_the_tokenizer_comes_out_of_the_file(kind: Any, plain: tuple[Path, Any]) -> None:
    path, _ = plain
    model = load_model(path, device="cpu", host=kind)
    assert model.tokenizer("abc", add_special_tokens=False)["input_ids"] == [3, 4, 5]
    rows = [{"sentence": "ab" * (i + 1), "label": i % 2} for i in range(8)]
    import iclgd_lens as lens

    task = lens.Task("toy", "S:{sentence} L:", labels=["P", "N"])
    protocol = DEFAULT.replace(separator=" ")
    shown = load_episode(task, model, shots=2, queries=2, data=rows, protocol=protocol)
    assert shown.demonstrations.bos == 1
    assert model_provenance(model)["bos"] == "<s> (1)"


def test_what_lies_beside_the_file_has_no_part_in_it(
    plain: tuple[Path, Any], tmp_path: Path
) -> None:
    path = Path(shutil.copy(plain[0], tmp_path / "tiny.gguf"))
    families.save_folder("gpt2", tmp_path)
    model = load_model(path, device="cpu")
    assert model.tokenizer("abc", add_special_tokens=False)["input_ids"] == [3, 4, 5]
    assert model.cfg.d_model == WIDTH


def test_a_file_is_a_model_by_its_name(
    plain: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = plain
    monkeypatch.chdir(path.parent)
    assert find_model("tiny.gguf").is_file
    assert find_model("tiny.gguf-untrained").untrained
    find_model("tiny.gguf").check()
    assert identify_model("tiny.gguf") == identify_model(str(path))
    assert identify_model(str(path)).startswith("sha256:")
    with pytest.raises(ModelError, match=r"No model file 'tinny\.gguf'.*Did you mean 'tiny\.gguf'"):
        load_model("tinny.gguf")
    with pytest.raises(ModelError, match="is a file, which has only the one state"):
        load_model(path, revision="main")
    (tmp_path / "weights.bin").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_model(tmp_path / "weights.bin")


@pytest.mark.parametrize("damage", ["empty", "text", "magic", "header", "cut"])
def test_a_damaged_file_is_one_line(plain: tuple[Path, Any], tmp_path: Path, damage: str) -> None:
    data = plain[0].read_bytes()
    path = tmp_path / "tiny.gguf"
    cut = {"empty": b"", "text": b"no model", "magic": b"GGUF", "header": data[:300],
           "cut": data[: len(data) // 2]}[damage]  # fmt: skip
    path.write_bytes(cut)
    with pytest.raises(LensError) as error:
        load_model(path, device="cpu")
    assert "\n" not in str(error.value)
    assert "tiny.gguf" in str(error.value)


@pytest.mark.parametrize("architecture", ["nosuch", "mamba", "t5"])
def test_an_architecture_without_a_host_is_one_line(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "tiny.gguf"
    write(path, original(), architecture=architecture)
    with pytest.raises(LensError) as error:
        load_model(path, device="cpu")
    assert "\n" not in str(error.value)
    assert "tiny.gguf" in str(error.value) or architecture in str(error.value)


def test_a_missing_package_is_named(
    plain: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    original_import = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "gguf":
            raise ImportError(name)
        return original_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ModelError, match=r"pip install 'iclgd_lens\[gguf\]'"):
        load_model(plain[0], device="cpu")
