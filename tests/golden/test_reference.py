"""The published reference implementation's numbers, on both hosts; `PACK.md` describes the keys."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.measures import similarity
from iclgd_lens.protocol import REFERENCE
from iclgd_lens.readout.reader import Reader, Readout
from tests import checks

RULES = {"gd": gd, "lcgd": lcgd}
Array = NDArray[Any]


@functools.cache
def pack() -> dict[str, Array]:
    with np.load(Path(__file__).with_name("pack_a.npz"), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def weights() -> dict[str, torch.Tensor]:
    return {name[2:]: torch.from_numpy(value) for name, value in pack().items() if name[:2] == "W/"}


def settings() -> dict[str, Any]:
    return json.loads(str(pack()["cfg"]))


def hooked() -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    fields = {key: value for key, value in settings().items() if key != "lr"}
    model = HookedTransformer(HookedTransformerConfig(**fields, device="cpu"))
    found = model.load_state_dict(weights(), strict=False)
    assert not found.unexpected_keys
    assert all(name.endswith(("mask", "IGNORE")) for name in found.missing_keys)
    return model


def bridge() -> Any:
    """The same weights in a GPT-2 of `transformers`, behind a TransformerBridge."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    cfg, w = settings(), weights()
    config = transformers.GPT2Config(
        vocab_size=cfg["d_vocab"],
        n_positions=cfg["n_ctx"],
        n_embd=cfg["d_model"],
        n_layer=cfg["n_layers"],
        n_head=cfg["n_heads"],
        n_inner=cfg["d_mlp"],
        activation_function="gelu",
        layer_norm_epsilon=cfg["eps"],
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        model: Any = transformers.AutoModelForCausalLM.from_config(
            config, attn_implementation="eager"
        ).eval()
        state = {
            "transformer.wte.weight": w["embed.W_E"],
            "transformer.wpe.weight": w["pos_embed.W_pos"],
            "transformer.ln_f.weight": w["ln_final.w"],
            "transformer.ln_f.bias": w["ln_final.b"],
            "lm_head.weight": w["unembed.W_U"].T,
        }
        assert not w["unembed.b_U"].any()
        for layer in range(cfg["n_layers"]):
            to, at = f"transformer.h.{layer}.", f"blocks.{layer}."
            columns = [torch.cat(list(w[f"{at}attn.W_{x}"]), dim=1) for x in "QKV"]
            state |= {
                f"{to}attn.c_attn.weight": torch.cat(columns, dim=1),
                f"{to}attn.c_attn.bias": torch.cat([w[f"{at}attn.b_{x}"].ravel() for x in "QKV"]),
                f"{to}attn.c_proj.weight": w[f"{at}attn.W_O"].flatten(0, 1),
                f"{to}attn.c_proj.bias": w[f"{at}attn.b_O"],
                f"{to}mlp.c_fc.weight": w[f"{at}mlp.W_in"],
                f"{to}mlp.c_fc.bias": w[f"{at}mlp.b_in"],
                f"{to}mlp.c_proj.weight": w[f"{at}mlp.W_out"],
                f"{to}mlp.c_proj.bias": w[f"{at}mlp.b_out"],
            }
            for own, theirs in (("ln1", "ln_1"), ("ln2", "ln_2")):
                state[f"{to}{theirs}.weight"] = w[f"{at}{own}.w"]
                state[f"{to}{theirs}.bias"] = w[f"{at}{own}.b"]
        model.load_state_dict(state, strict=True)
        return build_bridge_from_module(
            model, "GPT2LMHeadModel", hf_config=config, model_name="pack_a"
        ).eval()


@functools.cache
def model(kind: str) -> Any:
    return hooked() if kind == "hooked" else bridge()


def episode() -> Episode:
    found = pack()
    demonstrations = [found[f"demo_{i}"][1:].tolist() for i in range(6)]
    queries = [found[f"zs/tokens_{q}"][1:-1].tolist() for q in range(5)]
    return Episode.from_tokens(
        demonstrations, queries, [10, 11], [0] * 5, bos=0, separator=2, protocol=REFERENCE
    )


@functools.cache
def delta(kind: str, rule: str) -> ParameterDelta:
    return RULES[rule](model(kind), episode(), lr=settings()["lr"])


@functools.cache
def readouts(kind: str) -> dict[str, Readout]:
    reader = Reader(model(kind), episode())
    found = {"zs": reader.zs(), "icl": reader.icl()}
    return found | {f"ftzs_{rule}": reader.ftzs(delta(kind, rule)) for rule in RULES}


def near(found: Any, expected: Any, tolerance: float) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=tolerance)


KINDS = pytest.mark.parametrize("kind", checks.kinds())
BY_RULE = pytest.mark.parametrize("rule", RULES)


def test_the_episode_writes_the_reference_tokens() -> None:
    ours, found = episode(), pack()
    prompt = ours.demonstrations.prompt()
    for index, query in enumerate(ours.queries):
        own = ours.readout_tokens(query)
        assert [0, *own] == found[f"zs/tokens_{index}"].tolist()
        assert [*prompt, *own] == found[f"icl/tokens_{index}"].tolist()
        assert len(prompt) == found["icl/context_len"][index]
    for index, sequence in enumerate(ours.demonstrations.sequences()):
        assert list(sequence.tokens) == found[f"demo_{index}"].tolist()
        assert sequence.targets == tuple(range(1, len(sequence.tokens)))


@KINDS
@BY_RULE
def test_deltas_and_losses(kind: str, rule: str) -> None:
    ours, found = delta(kind, rule), pack()
    prefix = f"{rule}/delta/"
    names = {name.removeprefix(prefix) for name in found if name.startswith(prefix)}
    assert set(ours) == names
    for name in names:
        near(ours[name], found[prefix + name], 1e-5)
    relative = np.array(ours.metadata["loss_sum"]) / found[f"{rule}/loss_sum"]
    near(relative, 1, 1e-5)
    assert ours.metadata["tokens"] == found[f"{rule}/ntok"].tolist()


@KINDS
@pytest.mark.parametrize("setting", ["zs", "icl", "ftzs_gd", "ftzs_lcgd"])
def test_attention_outputs_and_scores(kind: str, setting: str) -> None:
    readout, found = readouts(kind)[setting], pack()
    near(readout.attention_output, found[f"{setting}/attn_out"], 1e-4)
    for index, start in enumerate(found[f"{setting}/context_len"]):
        own = found[f"{setting}/scores_last_{index}"][:, :, start:]
        assert own.shape[-1] == len(found[f"zs/tokens_{index}"]) - 1
        near(readout.scores[index, :, :, : own.shape[-1]], own, 1e-4)
        assert not readout.scores[index, :, :, own.shape[-1] :].any()


@KINDS
def test_logits_at_the_recorded_token(kind: str) -> None:
    from iclgd_lens.host import Host

    host, found = Host(model(kind)), pack()
    for index in range(5):
        tokens = torch.from_numpy(found[f"icl/tokens_{index}"])[None]
        with torch.no_grad():
            near(
                host.logits(host.run(tokens).residual)[0, -1], found["icl/logits_last"][index], 1e-4
            )


@KINDS
@BY_RULE
def test_similarity_of_attention_outputs(kind: str, rule: str) -> None:
    read, found = readouts(kind), pack()
    three = [read[name].attention_output for name in ("zs", "icl", f"ftzs_{rule}")]
    per_query = similarity.sim_aou(*three)
    near(per_query, found[f"{rule}/SimAOU_per_query"], 1e-4)
    near(per_query.mean(0), found[f"{rule}/SimAOU"], 1e-4)
    raw = similarity.sim_aou(*three, normalize=False)
    near(raw.mean(0), found[f"{rule}/SimAOU_nonorm"], 1e-4)


@KINDS
@BY_RULE
def test_similarity_of_attention_maps(kind: str, rule: str) -> None:
    read, found = readouts(kind), pack()
    per_head = similarity.sim_am(*(read[name].scores for name in ("zs", "icl", f"ftzs_{rule}")))
    near(per_head, found[f"{rule}/SimAM_per_query_head"], 1e-4)
    near(per_head.mean((0, 2)), found[f"{rule}/SimAM"], 1e-4)


@KINDS
def test_the_comparison_gives_the_same_means(kind: str) -> None:
    from iclgd_lens.comparing import compare

    result = compare(model(kind), episode(), lr=settings()["lr"], controls=(), resamples=50)
    frame, found = result.frame(), pack()
    for rule in RULES:
        for score in ("SimAOU", "SimAM"):
            rows = frame[(frame.hypothesis == rule) & (frame.score == score)]
            by_layer = rows[rows.layer.notna() & rows["head"].isna()].sort_values("layer")
            near(by_layer["value"].to_numpy(), found[f"{rule}/{score}"], 1e-4)
            near(rows[rows.layer.isna()]["value"], found[f"{rule}/{score}"].mean(), 1e-4)
