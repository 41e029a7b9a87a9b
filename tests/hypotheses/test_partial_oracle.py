"""All heads are the oracle, none is ZS; a set of heads against a model that masks by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.errors import HookError, HypothesisError
from iclgd_lens.heads import indirect_effects, induction_scores
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.oracle import oracle
from iclgd_lens.hypotheses.partial_oracle import partial_oracle
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import DEFAULT
from iclgd_lens.readout.reader import Reader, Readout
from tests import checks, families

EPISODE = checks.episode(shots=4, labels=((5,), (6, 8)))
FAMILIES = checks.pairs("gpt2", "llama")
PARTS = ("attention_output", "z", "scores", "label_scores")


def read(host: Host, intervention: Intervention, episode: Any = EPISODE) -> Readout:
    return Reader(host, episode).ftzs(intervention)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_all_heads_are_the_oracle_to_the_bit(kind: str, family: str) -> None:
    host = checks.host(kind, family)
    every = [(layer, head) for layer in range(families.N_LAYERS) for head in range(4)]
    known = read(host, oracle(host, EPISODE))
    for heads in ("all", every):
        found = read(host, partial_oracle(host, EPISODE, heads=heads))
        assert all(torch.equal(getattr(found, part), getattr(known, part)) for part in PARTS)


@pytest.mark.parametrize("kind", checks.kinds())
def test_no_head_is_zs_where_positions_are_relative(kind: str) -> None:
    host = checks.host(kind, "llama")
    episode = checks.episode(DEFAULT.replace(bos=False), labels=((5,), (6, 8)))
    found = read(host, partial_oracle(host, episode, heads="none"), episode)
    known = read(host, Intervention(), episode)
    for part in PARTS:
        checks.close(getattr(found, part), getattr(known, part), 2e-5)


@pytest.mark.parametrize("kind", checks.kinds())
def test_no_head_is_zs_where_there_are_no_positions(kind: str) -> None:
    model = checks.fresh(kind, "gpt2")
    with torch.no_grad():
        if kind == "hooked":
            model.pos_embed.W_pos.zero_()
        else:
            model.original_model.transformer.wpe.weight.zero_()
    host = Host(model)
    found = read(host, partial_oracle(host, EPISODE, heads="none"))
    for part in PARTS:
        checks.close(getattr(found, part), getattr(read(host, Intervention()), part), 2e-5)


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_some_heads_see_what_a_masked_pass_shows_them(kind: str, family: str) -> None:
    model, host = checks.model(kind, family), checks.host(kind, family)
    heads = [(0, 1), (2, 3)]
    found = read(host, partial_oracle(host, EPISODE, heads="0.1, 2.3"))
    prompt = EPISODE.demonstrations.prompt()

    def mask(scores: Any, hook: Any) -> Any:
        layer, scores = int(hook.name.split(".")[1]), scores.clone()
        for head in range(families.N_HEADS):
            if (layer, head) not in heads:
                scores[:, head, len(prompt) :, 1 : len(prompt)] = -1e9
        return scores

    names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(families.N_LAYERS)]
    for index, query in enumerate(EPISODE.queries):
        kept: list[torch.Tensor] = []
        point = f"blocks.{families.N_LAYERS - 1}.attn.hook_z"
        with torch.no_grad():
            model.run_with_hooks(
                torch.tensor([[*prompt, *query.content]]),
                fwd_hooks=[
                    *((name, mask) for name in names),
                    (point, lambda act, hook, kept=kept: kept.append(act[0, -1].flatten())),
                ],
            )
        checks.close(found.z[index, -1].flatten(), kept[0], 2e-5)


@pytest.mark.parametrize("kind", checks.kinds())
def test_found_heads_are_those_of_the_search(kind: str) -> None:
    host = checks.host(kind, "llama")
    scores = {
        "induction": induction_scores(host, bos=families.BOS, seed=2),
        "function_vector": indirect_effects(host, EPISODE, seed=2),
    }
    for name, own in scores.items():
        found = read(host, partial_oracle(host, EPISODE, heads=name, top=3, seed=2))
        known = read(host, partial_oracle(host, EPISODE, heads=own.top(3)))
        assert torch.equal(found.z, known.z)
    assert scores["induction"].top(3) != scores["function_vector"].top(3)


def test_wrong_heads_and_models_are_refused() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    with pytest.raises(HypothesisError, match="Did you mean 'induction'"):
        partial_oracle(host, EPISODE, heads="inductio")
    with pytest.raises(HypothesisError, match=r"heads 0 to 3, not 1\.4"):
        partial_oracle(host, EPISODE, heads="1.4")
    with pytest.raises(HypothesisError, match="top is 0"):
        partial_oracle(host, EPISODE, top=0)
    with pytest.raises(HookError, match="read but not changed"):
        partial_oracle(checks.host("bridge", "gptj"), EPISODE, heads="0.1")
