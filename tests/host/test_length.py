"""Positions that depend on the length of the whole sequence, against passes without any cache."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.errors import UnsupportedModelError
from iclgd_lens.host import Host, Prefix
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.intervention import Injection
from iclgd_lens.protocol import REFERENCE
from iclgd_lens.readout.reader import Reader
from tests import checks, families

SWITCH = 32
_SCALED = {"rope_theta": 500.0, "original_max_position_embeddings": SWITCH}
ROPES: dict[str, Any] = {
    "longrope": (
        transformers.Phi3Config,
        {**_SCALED, "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
    ),
    "dynamic": (
        transformers.LlamaConfig,
        {"rope_theta": 500.0, "rope_type": "dynamic", "factor": 4.0},
    ),
}


def original(rope: str) -> Any:
    """A model whose rotary frequencies change where a sequence grows beyond `SWITCH` tokens."""
    cls, parameters = ROPES[rope]
    fields = {**families._GROUPED, "rope_parameters": parameters, "pad_token_id": 0}
    fields["max_position_embeddings"] = SWITCH if rope == "dynamic" else 4 * SWITCH
    fields |= {"original_max_position_embeddings": SWITCH} if rope == "longrope" else {}
    return families.of_config(cls(**fields), std=0.4)


def bridged(model: Any) -> Any:
    bridge = families.hosted("bridge", copy.deepcopy(model))
    bridge.cfg.n_ctx = 4 * SWITCH
    return bridge


def uncached(model: Any, tokens: list[int]) -> Tensor:
    """Log-probabilities after the last token, by a model that has read nothing before."""
    with torch.no_grad():
        fresh = copy.deepcopy(model)
        return fresh(torch.tensor([tokens]), use_cache=False).logits[0, -1].log_softmax(-1)


def label_score(model: Any, before: list[int], label: tuple[int, ...]) -> float:
    parts = [uncached(model, [*before, *label[:end]])[token] for end, token in enumerate(label)]
    return float(torch.stack(parts).mean())


def episode(demonstrations: int) -> Episode:
    """Queries of 3 to 8 tokens after demonstrations of 5 tokens each."""
    generator = torch.Generator().manual_seed(3)

    def words(count: int) -> list[int]:
        return torch.randint(7, families.VOCAB_SIZE, (count,), generator=generator).tolist()

    labels = [[5], [6, 9, 4]]
    return Episode.from_tokens(
        [[*words(3), *labels[0]] for _ in range(demonstrations)],
        [words(3 + index) for index in range(6)], labels, [0] * 6,
        bos=families.BOS, separator=[4],
    )  # fmt: skip


# The prompt has 5 tokens a demonstration and the BOS; queries then end before, beyond and across.
@pytest.mark.parametrize("shots", [3, 5, 9], ids=["below", "across", "above"])
@pytest.mark.parametrize("rope", ROPES)
def test_every_setting_equals_a_pass_without_a_cache(rope: str, shots: int) -> None:
    model = original(rope)
    shown = episode(shots)
    prompt = list(shown.demonstrations.prompt())
    lengths = {len(prompt) + len(query.content) for query in shown.queries}
    assert (min(lengths) <= SWITCH, max(lengths) > SWITCH) == {
        3: (True, False), 5: (True, True), 9: (False, True),
    }[shots]  # fmt: skip
    for padded in (True, False):
        reader = Reader(bridged(model), shown, pad_queries=padded, first=3)
        for readout, before in ((reader.icl(), prompt), (reader.zs(), [families.BOS])):
            expected = [
                [label_score(model, [*before, *query.content], ids) for ids in shown.label_tokens]
                for query in shown.queries
            ]
            torch.testing.assert_close(
                readout.label_scores, torch.tensor(expected), atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("rope", ROPES)
def test_scores_are_those_of_the_whole_sequence(rope: str) -> None:
    model = original(rope)
    shown = episode(5)
    readout = Reader(bridged(model), shown, first=3).icl()
    prompt = list(shown.demonstrations.prompt())
    host = Host(bridged(model))
    seen: dict[int, Tensor] = {}
    for index, query in enumerate(shown.queries[:3]):
        with torch.no_grad(), host.score_hooks(lambda layer, x: seen.__setitem__(layer, x)):
            host.run(host.tensor([*prompt, *query.content]))
        for layer, scores in seen.items():
            last = scores[0, :, -1]
            own = last[:, len(prompt) :]
            torch.testing.assert_close(
                readout.scores[index, layer, :, : own.shape[1]], own, atol=1e-5, rtol=0
            )
            places = list(shown.demonstrations.prompt_positions())
            torch.testing.assert_close(
                readout.demonstration_scores[index, layer], last[:, places], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("protocol", [None, REFERENCE], ids=["default", "reference"])
@pytest.mark.parametrize("rope", ROPES)
def test_an_update_acts_on_the_query_and_its_label_alone(rope: str, protocol: Any) -> None:
    """Against a model whose weights were changed, which reads the query without a cache."""
    model = original(rope)
    shown = episode(5)
    if protocol is not None:
        demonstrations = dataclasses.replace(shown.demonstrations, protocol=protocol)
        shown = dataclasses.replace(shown, demonstrations=demonstrations)
    host = Host(bridged(model))
    delta = ParameterDelta(checks.random_delta(host, "W_K", "W_V", scale=0.2))
    readout = Reader(host, shown).ftzs(delta)
    changed = copy.deepcopy(model)
    changed.load_state_dict(delta.merged(host, "huggingface"), strict=False)
    expected = [
        [label_score(changed, [families.BOS, *q.content], ids) for ids in shown.label_tokens]
        for q in shown.queries
    ]
    torch.testing.assert_close(readout.label_scores, torch.tensor(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rope", ROPES)
def test_the_oracle_is_icl_and_made_up_keys_are_refused(rope: str) -> None:
    host, shown = Host(bridged(original(rope))), episode(5)
    reader = Reader(host, shown)
    found, icl = reader.ftzs(oracle(host, shown)), reader.icl()
    torch.testing.assert_close(found.label_scores, icl.label_scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.scores, icl.scores, atol=1e-5, rtol=0)
    made_up = torch.zeros(1, families.N_KV_HEADS, 4, host.d_head)
    prefix = Prefix(host.tensor([5] * 4), (made_up,) * 3, (made_up,) * 3, 2)
    with pytest.raises(UnsupportedModelError, match="depend on the length"):
        reader.ftzs(Injection(prefix))


@pytest.mark.parametrize("rope", ROPES)
def test_the_callers_model_and_its_frequencies_are_left_alone(rope: str) -> None:
    bridge = bridged(original(rope))
    with torch.no_grad():
        bridge(families.tokens(4 * SWITCH - 1), return_type="logits")  # grown by the caller
    before = checks.photograph(bridge)
    state = [dict(module.__dict__) for module in bridge.original_model.modules()]
    shown = episode(5)
    with checks.untyped():
        reader = Reader(bridge, shown)
        reader.zs(), reader.icl(), gd(bridge, shown, lr=0.1)
        before.assert_same(bridge)
    for old, module in zip(state, bridge.original_model.modules(), strict=True):
        for name in ("max_seq_len_cached", "attention_scaling", "long_inv_freq"):
            assert (old.get(name) is None) == (module.__dict__.get(name) is None)
            if old.get(name) is not None:
                assert torch.equal(
                    torch.as_tensor(old[name]), torch.as_tensor(getattr(module, name))
                )
