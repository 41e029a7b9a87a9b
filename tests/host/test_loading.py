"""Loading: both hosts give the logits of `transformers`, offline, and refusals are one line."""

from __future__ import annotations

import inspect
import json
import shutil
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from iclgd_lens.errors import LensError, ModelError, UnsupportedModelError
from iclgd_lens.host import loading, model_source
from iclgd_lens.host.checkpoint import Checkpoint, ModelWarning
from iclgd_lens.host.families import hooked_fields
from iclgd_lens.host.loading import HostChoiceWarning, load_model, model_provenance
from tests import families

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K"
HOOKED = families.has_hooked_transformer()
needs_hooked = pytest.mark.skipif(not HOOKED, reason="TransformerLens 4 has no HookedTransformer")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a test tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: families.save_folder(name, root / name) for name in families.BRIDGE_FAMILIES}


@pytest.fixture
def gpt2(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder that a test may spoil."""
    return Path(shutil.copytree(folders["gpt2"], tmp_path / "gpt2"))


@pytest.fixture
def llama(folders: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(folders["llama"], tmp_path / "llama"))


def reference(folder: Path, ids: torch.Tensor) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    with torch.no_grad():
        return model.eval()(ids).logits


def logits(model: object, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(ids)  # type: ignore[operator]


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        config.pop(key, None) if value is None else config.update({key: value})
    path.write_text(json.dumps(config))


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    assert isinstance(error.value, LensError)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- the same numbers -------------------------------------------------------------------------


@needs_hooked
@pytest.mark.parametrize("family", families.FAMILIES)
def test_hooked_transformer_equals_transformers(folders: dict[str, Path], family: str) -> None:
    ids = families.tokens(40, batch=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        model = load_model(folders[family], device="cpu")
    assert type(model).__name__ == "HookedTransformer"
    torch.testing.assert_close(
        logits(model, ids), reference(folders[family], ids), atol=1e-4, rtol=0
    )
    assert not model.training
    assert model.cfg.normalization_type in ("LN", "RMS")  # "...Pre" would mean folded


@needs_hooked
@pytest.mark.parametrize("family", families.FAMILIES)
def test_auto_takes_the_bridge_for_large_models_with_gated_mlps(
    folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert type(load_model(folders[family], device="cpu")).__name__ == "HookedTransformer"
    size = sum(w.numel() for w in families.huggingface_model(family).parameters())
    gated = family in ("llama", "qwen2", "qwen3", "mistral")
    for least, expected in ((size, gated), (size + 1, False)):
        monkeypatch.setattr(loading, "_LARGE", least)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ModelWarning)
            model = load_model(folders[family], device="cpu")
        assert (type(model).__name__ == "TransformerBridge") == expected


@needs_hooked
def test_auto_loads_anew_what_a_bridge_has_taken_over(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_LARGE", 0)
    monkeypatch.setattr(loading, "_bridge", spoiled(loading._bridge))
    with pytest.warns(HostChoiceWarning, match="HookedTransformer: .*not those of transformers"):
        model = load_model(folders["llama"], device="cpu")
    assert type(model).__name__ == "HookedTransformer"
    ids = families.tokens(9)
    torch.testing.assert_close(
        logits(model, ids), reference(folders["llama"], ids), atol=1e-4, rtol=0
    )
    monkeypatch.setattr(loading, "_hooked", spoiled(loading._hooked))
    with pytest.raises(UnsupportedModelError, match="as a TransformerBridge are not") as error:
        load_model(folders["llama"], device="cpu")
    one_line(error)


@pytest.mark.parametrize("family", families.BRIDGE_FAMILIES)
def test_bridge_equals_transformers(folders: dict[str, Path], family: str) -> None:
    ids = families.tokens(40, batch=2)
    model = load_model(folders[family], device="cpu", host="bridge")
    assert type(model).__name__ == "TransformerBridge"
    torch.testing.assert_close(
        logits(model, ids), reference(folders[family], ids), atol=1e-4, rtol=0
    )
    assert not model.training
    _, cache = model.run_with_cache(ids)
    assert "blocks.0.attn.hook_attn_scores" in cache


@pytest.mark.parametrize("host", ["auto", "bridge"])
def test_a_pretrained_llama_tokenizes_and_predicts(host: str) -> None:
    if not STORIES.is_dir():
        pytest.skip("../shared/models/stories260K is absent")
    model = load_model(STORIES, device="cpu", host=host)  # type: ignore[arg-type]
    ids = model.to_tokens("Once upon a time, there was a little")
    assert ids[0, 0] == model.tokenizer.bos_token_id
    assert (ids == model.tokenizer.bos_token_id).sum() == 1
    torch.testing.assert_close(logits(model, ids), reference(STORIES, ids), atol=1e-4, rtol=0)
    assert model.to_string(logits(model, ids)[0, -1].argmax()).strip() in ("girl", "boy", "g", "b")
    assert model_provenance(model)["name"] == "stories260K"


def test_joint_weights_stay_trainable(folders: dict[str, Path]) -> None:
    model = load_model(folders["gpt2"], device="cpu")
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("host", ["auto", "bridge"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_half_precision(folders: dict[str, Path], family: str, host: str) -> None:
    ids = families.tokens(20)
    model = load_model(folders[family], dtype="bfloat16", device="cpu", host=host)  # type: ignore[arg-type]
    out = logits(model, ids).float()
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model_provenance(model)["dtype"] == "bfloat16"
    gap = (out - reference(folders[family], ids)).abs()
    assert 0 < gap.mean() < 0.1


def test_a_torch_dtype_is_a_dtype(folders: dict[str, Path]) -> None:
    model = load_model(folders["gpt2"], dtype=torch.float64, device="cpu")
    assert model_provenance(model)["dtype"] == "float64"


# --- spellings of a configuration ---------------------------------------------------------------


@pytest.mark.parametrize("host", ["auto", "bridge"])
def test_rotary_base_as_older_checkpoints_spell_it(llama: Path, host: str) -> None:
    ids = families.tokens(40)
    expected = reference(llama, ids)
    edit_config(llama, rope_parameters=None, rope_theta=500.0, dtype=None, torch_dtype="float32")
    model = load_model(llama, device="cpu", host=host)  # type: ignore[arg-type]
    torch.testing.assert_close(logits(model, ids), expected, atol=1e-4, rtol=0)
    edit_config(llama, rope_theta=10000.0)
    other = load_model(llama, device="cpu", host=host)  # type: ignore[arg-type]
    assert (logits(other, ids) - expected).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_tied_embeddings(tmp_path: Path, family: str) -> None:
    config = families.FAMILIES[family]()
    config.tie_word_embeddings = True
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    families.randomise(model, 3)
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    ids = families.tokens(20)
    with pytest.warns(ModelWarning, match="no tokenizer"):
        loaded = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(logits(loaded, ids), reference(tmp_path, ids), atol=1e-4, rtol=0)


@needs_hooked
@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {"n_inner": 56, "scale_attn_by_inverse_layer_idx": True}),
        ("gptj", {"n_inner": 56, "activation_function": "gelu"}),
        ("neox", {"use_parallel_residual": False, "hidden_act": "gelu_new"}),
        ("llama", {"num_key_value_heads": 4, "head_dim": 20}),
        ("mistral", {"sliding_window": 7}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 32,
                }
            },
        ),
    ],
)
def test_settings_that_change_the_numbers(
    tmp_path: Path, family: str, changes: dict[str, object]
) -> None:
    config = families.FAMILIES[family]()
    for key, value in changes.items():
        setattr(config, key, value)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    families.randomise(model, 1)
    model.save_pretrained(tmp_path)
    families.word_tokenizer().save_pretrained(tmp_path)
    ids = families.tokens(60)
    loaded = load_model(tmp_path, device="cpu", host="hooked")
    torch.testing.assert_close(logits(loaded, ids), reference(tmp_path, ids), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention_bias": True}, "attention biases"),
        ({"mlp_bias": True}, "MLP biases"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "linear"),
        ({"hidden_act": "mish"}, "mish"),
    ],
)
def test_what_a_converter_would_drop_goes_to_the_bridge(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    config = families.FAMILIES["llama"]()
    for key, value in changes.items():
        setattr(config, key, value)
    with pytest.raises(UnsupportedModelError, match=reason):
        hooked_fields(config, "LlamaForCausalLM")
    model = transformers.AutoModelForCausalLM.from_config(config)
    families.randomise(model, 2)
    model.save_pretrained(tmp_path)
    families.word_tokenizer().save_pretrained(tmp_path)
    ids = families.tokens(20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded = load_model(tmp_path, device="cpu")
    choices = [w for w in caught if issubclass(w.category, HostChoiceWarning)]
    assert len(choices) == HOOKED  # version 4 leaves no choice to warn of
    assert all(reason in str(w.message) for w in choices)
    assert type(loaded).__name__ == "TransformerBridge"
    torch.testing.assert_close(logits(loaded, ids), reference(tmp_path, ids), atol=1e-4, rtol=0)


@needs_hooked
def test_auto_says_that_it_took_the_bridge(folders: dict[str, Path]) -> None:
    with pytest.warns(HostChoiceWarning, match=r"opt .*TransformerBridge.*OPTForCausalLM"):
        model = load_model(folders["opt"], device="cpu")
    assert type(model).__name__ == "TransformerBridge"
    with pytest.raises(UnsupportedModelError, match="host='bridge'"):
        load_model(folders["opt"], device="cpu", host="hooked")


def spoiled(build: Any) -> Any:
    """What an adapter gives that drops a setting: a model of the right shape, other logits."""

    def build_otherwise(*arguments: Any, **named: Any) -> Any:
        model = build(*arguments, **named)
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if "mbed" not in n).mul_(1.5)
        return model

    return build_otherwise


def test_a_bridge_with_other_logits_is_never_returned(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_bridge", spoiled(loading._bridge))
    with pytest.raises(UnsupportedModelError, match="are not those of transformers") as error:
        load_model(gpt2, device="cpu", host="bridge")
    one_line(error)


@needs_hooked
def test_a_hooked_transformer_with_other_logits_is_never_returned(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_hooked", spoiled(loading._hooked))
    with pytest.raises(UnsupportedModelError, match="are not those of transformers"):
        load_model(gpt2, device="cpu", host="hooked")
    with pytest.warns(HostChoiceWarning, match="are not those of transformers"):
        model = load_model(gpt2, device="cpu")
    ids = families.tokens(9)
    torch.testing.assert_close(logits(model, ids), reference(gpt2, ids), atol=1e-4, rtol=0)


def test_an_adapter_that_fails_is_one_line(tmp_path: Path) -> None:
    config = families.FAMILIES["neox"]()
    config.attention_bias = False
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    families.word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="adapter for GPTNeoXForCausalLM") as error:
        load_model(tmp_path, device="cpu", host="bridge")
    one_line(error)


@pytest.mark.skipif(HOOKED, reason="HookedTransformer is there")
def test_hooked_on_version_4_says_why_not(folders: dict[str, Path]) -> None:
    with pytest.raises(UnsupportedModelError) as error:
        load_model(folders["gpt2"], device="cpu", host="hooked")
    assert "version 4 removed it" in one_line(error)


# --- the tokenizer ------------------------------------------------------------------------------


def test_tokenizer_comes_along(folders: dict[str, Path]) -> None:
    for host in ("auto", "bridge"):
        model = load_model(folders["llama"], device="cpu", host=host)  # type: ignore[arg-type]
        assert model.to_tokens("w0 w1").tolist() == [[1, 6, 7]]


@pytest.mark.parametrize("host", ["auto", "bridge"])
def test_no_tokenizer_is_allowed(gpt2: Path, host: str) -> None:
    (gpt2 / "tokenizer.json").unlink()
    (gpt2 / "tokenizer_config.json").unlink()
    with pytest.warns(ModelWarning, match="no tokenizer"):
        model = load_model(gpt2, device="cpu", host=host)  # type: ignore[arg-type]
    assert model.tokenizer is None
    assert logits(model, families.tokens(5)).shape == (1, 5, families.VOCAB_SIZE)


def test_a_broken_tokenizer_is_refused(gpt2: Path) -> None:
    (gpt2 / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer") as error:
        load_model(gpt2, device="cpu")
    one_line(error)


# --- refusals -----------------------------------------------------------------------------------


def test_arguments_are_named_with_the_nearest(gpt2: Path) -> None:
    with pytest.raises(ModelError, match=r"host 'brigde'.*auto, hooked, bridge.*'bridge'") as error:
        # Unwrapped: the run-time type check of the tests would answer first.
        inspect.unwrap(load_model)(gpt2, host="brigde")
    one_line(error)
    with pytest.raises(ModelError, match=r"dtype 'bfloat61'.*Did you mean 'bfloat16'"):
        load_model(gpt2, dtype="bfloat61")
    with pytest.raises(ModelError, match="dtype 'int64'"):
        load_model(gpt2, dtype=torch.int64)
    with pytest.raises(ModelError, match="device 'gpu'"):
        load_model(gpt2, device="gpu")
    with pytest.raises(ModelError, match="device 'cuda:99'"):
        load_model(gpt2, device="cuda:99")
    with pytest.raises(ModelError, match=r"revision='main'.*only the one state"):
        load_model(gpt2, revision="main")


def test_a_missing_folder(gpt2: Path) -> None:
    with pytest.raises(ModelError, match=r"No model folder .*gpt3'.*Did you mean 'gpt2'"):
        load_model(gpt2.parent / "gpt3")
    with pytest.raises(ModelError, match=r"No model folder '\./nowhere'"):
        load_model("./nowhere")
    with pytest.raises(ModelError, match="name is empty"):
        load_model("")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        load_model(gpt2 / "config.json")


def test_a_name_that_the_hub_does_not_give(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str, **arguments: object) -> None:
        assert arguments["trust_remote_code"] is False
        raise OSError(f"{name} is not a local folder\nand much more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", absent)
    with pytest.raises(ModelError, match="Did you mean 'gpt2-medium'") as error:
        load_model("gpt2-medum")
    one_line(error)
    with pytest.raises(ModelError, match="'gpt2' is neither a folder nor") as error:
        load_model("gpt2")
    assert "Did you mean" not in one_line(error)


def test_config_and_weights_must_be_there(gpt2: Path) -> None:
    weights = gpt2 / "model.safetensors"
    weights.rename(gpt2 / "aside")
    with pytest.raises(ModelError, match=r"no weights: model\.safetensors is missing"):
        load_model(gpt2)
    (gpt2 / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelError, match=r"pickle \(pytorch_model\.bin\), which is never opened"):
        load_model(gpt2)
    (gpt2 / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="names no model_type"):
        load_model(gpt2)
    (gpt2 / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"Cannot read .*config\.json"):
        load_model(gpt2)
    (gpt2 / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(gpt2)


def test_incomplete_weights_are_never_filled_up(gpt2: Path) -> None:
    file = gpt2 / "model.safetensors"
    whole = load_file(file)
    name = "transformer.h.1.attn.c_attn.weight"
    save_file({k: v for k, v in whole.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(ModelError, match=name.replace(".", r"\.")) as error:
        load_model(gpt2, device="cpu")
    one_line(error)
    save_file({**whole, name: whole[name][:, :-1].contiguous()}, file, {"format": "pt"})
    with pytest.raises(ModelError):
        load_model(gpt2, device="cpu")
    save_file({**whole, "transformer.h.1.extra": torch.ones(2)}, file, {"format": "pt"})
    with pytest.warns(ModelWarning, match=r"no place for 1 weights.*h\.1\.extra"):
        load_model(gpt2, device="cpu")
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(ModelError, match="Cannot load the weights"):
        load_model(gpt2, device="cpu")


def test_sharded_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    model = families.huggingface_model("llama")
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    families.word_tokenizer().save_pretrained(tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    ids = families.tokens(9)
    whole = logits(load_model(folders["llama"], device="cpu"), ids)
    torch.testing.assert_close(logits(load_model(tmp_path, device="cpu"), ids), whole)
    shards[0].unlink()
    with pytest.raises(ModelError, match="lacks 1 of its weight files"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ModelError, match="Cannot read"):
        load_model(tmp_path)


def test_code_in_a_folder_is_never_run(gpt2: Path) -> None:
    (gpt2 / "configuration_mine.py").write_text("raise SystemExit('code ran')")
    edit_config(gpt2, auto_map={"AutoConfig": "configuration_mine.Config"})
    with pytest.raises(UnsupportedModelError, match=r"auto_map.*never run") as error:
        load_model(gpt2)
    one_line(error)


def test_unknown_architecture(gpt2: Path) -> None:
    edit_config(gpt2, model_type="gpt22")
    with pytest.raises(ModelError, match="Cannot read the configuration") as error:
        load_model(gpt2)
    one_line(error)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (transformers.T5Config(), "encoder-decoder"),
        (transformers.BertConfig(), "only causal decoders"),
        (transformers.ViTConfig(), "only causal decoders"),
    ],
)
def test_only_causal_decoders(
    tmp_path: Path, config: transformers.PretrainedConfig, reason: str
) -> None:
    config.save_pretrained(tmp_path)
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UnsupportedModelError, match=reason) as error:
        load_model(tmp_path)
    one_line(error)


def test_quantized_weights_are_refused(gpt2: Path) -> None:
    edit_config(gpt2, quantization_config={"quant_method": "fp8"})
    with pytest.raises(UnsupportedModelError, match="quantized"):
        load_model(gpt2)


def test_no_adapter_for_an_architecture(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformer_lens.factories import architecture_adapter_factory as factory

    monkeypatch.setattr(factory, "SUPPORTED_ARCHITECTURES", {})
    with pytest.raises(UnsupportedModelError, match=r"no adapter for gpt2 \(GPT2LMHeadModel\)"):
        load_model(gpt2, device="cpu", host="bridge")


# --- names on the Hub, without a Hub --------------------------------------------------------------


@pytest.fixture
def fake_hub(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Serve the random GPT-2 or OPT folder for every Hub name; note what was asked for."""
    asked: dict[str, object] = {}

    def serve(target: type, label: str) -> None:
        original = target.from_pretrained  # type: ignore[attr-defined]

        def from_pretrained(name: str, **arguments: object) -> object:
            if not Path(name).is_dir():
                asked[label] = (name, arguments.pop("revision", None))
                name = str(folders["opt" if "opt" in name else "gpt2"])
            assert not arguments.get("trust_remote_code")
            return original(name, **arguments)

        monkeypatch.setattr(target, "from_pretrained", from_pretrained)

    serve(transformers.AutoConfig, "config")
    serve(transformers.AutoModelForCausalLM, "model")
    serve(transformers.AutoTokenizer, "tokenizer")
    return asked


def test_an_alias_and_a_revision_reach_the_hub(fake_hub: dict[str, object]) -> None:
    model = load_model("gpt2-small", device="cpu", revision="abc123")
    name = model_provenance(model)["name"]
    assert name in ("gpt2", "openai-community/gpt2")
    assert fake_hub == dict.fromkeys(("config", "model", "tokenizer"), (name, "abc123"))
    assert model_provenance(model)["revision"] == "abc123"


@needs_hooked
def test_an_official_name_without_own_converter(
    fake_hub: dict[str, object], folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ids = families.tokens(12)
    model = load_model("facebook/opt-125m", device="cpu")
    assert type(model).__name__ == "HookedTransformer"
    assert "Loaded" not in capsys.readouterr().out
    torch.testing.assert_close(
        logits(model, ids), reference(folders["opt"], ids), atol=1e-4, rtol=0
    )


@needs_hooked
def test_transformer_lens_is_kept_from_running_code(
    fake_hub: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformer_lens import loading_from_pretrained

    monkeypatch.setattr(loading_from_pretrained, "NEED_REMOTE_CODE_MODELS", ("facebook/opt",))
    with pytest.warns(HostChoiceWarning, match="own code"):
        model = load_model("facebook/opt-125m", device="cpu")
    assert type(model).__name__ == "TransformerBridge"


def test_pickled_models_of_transformer_lens_are_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="pickle") as error:
        load_model("gelu-2l")
    one_line(error)


def test_remote_code_on_the_hub_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def demand(name: str, **arguments: object) -> None:
        raise ValueError(f"{name} contains code; pass trust_remote_code=True")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", demand)
    with pytest.raises(UnsupportedModelError, match="code of its own, which is never run"):
        load_model("someone/model")


def test_names_are_listed() -> None:
    names = model_source.model_names()
    assert names[0] == "embedded"
    assert {"gpt2", "EleutherAI/pythia-70m"} <= set(names)
    assert len(names) == len(set(names))


def test_an_alias_of_the_package(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_source, "ALIASES", {"embedded": lambda: folders["gpt2"]})
    assert model_provenance(load_model("embedded", device="cpu"))["name"] == "embedded"


# --- what loading leaves behind -------------------------------------------------------------------


@pytest.mark.parametrize("host", ["auto", "bridge"])
def test_no_random_number_is_drawn(folders: dict[str, Path], host: str) -> None:
    before = torch.get_rng_state()
    load_model(folders["gpt2"], device="cpu", host=host)  # type: ignore[arg-type]
    assert torch.equal(before, torch.get_rng_state())


def test_provenance_tells_models_apart(folders: dict[str, Path], tmp_path: Path) -> None:
    first = model_provenance(load_model(folders["gpt2"], device="cpu"))
    again = model_provenance(load_model(folders["gpt2"], device="cpu", dtype="bfloat16"))
    assert first["config_hash"] == again["config_hash"]
    assert first["revision"] == again["revision"]
    assert first["revision"].startswith("sha256:")
    other = families.save_folder("gpt2", tmp_path / "gpt2", seed=1)
    retrained = model_provenance(load_model(other, device="cpu"))
    assert retrained["revision"] != first["revision"]
    assert {**retrained, "revision": ""} == {**first, "revision": ""}
    edit_config(other, layer_norm_epsilon=1e-3)
    assert model_provenance(load_model(other, device="cpu"))["config_hash"] != first["config_hash"]


def test_provenance_of_a_model_that_was_not_loaded_here() -> None:
    record = model_provenance(families.bridge("llama"))
    assert record["name"] == "llama"
    assert record["revision"] == "unknown"
    assert record["host"] == "TransformerBridge"


def test_the_hub_commit_is_the_revision() -> None:
    config = families.FAMILIES["gpt2"]()
    config._commit_hash = "0123abcd"
    assert Checkpoint("x", "x", is_folder=False).exact_revision(config) == "0123abcd"


def test_importing_the_loader_is_light() -> None:
    code = (
        "import sys, iclgd_lens.host.loading\n"
        "heavy = {'transformer_lens', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    root = Path(loading.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
