"""Attention of one query's readout token, against TransformerLens's own patterns."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

import iclgd_lens as lens
from iclgd_lens.host import as_host
from iclgd_lens.hypotheses.learned_vector import PredictionShift
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.intervention import Injection, Intervention
from iclgd_lens.protocol import DEFAULT
from tests import checks, families


@pytest.fixture(scope="module")
def case() -> tuple[Any, Any]:
    model = lens.load_model("embedded")
    return model, lens.load_episode("sst2", model, shots=4, queries=3)


def test_weights_are_those_of_a_whole_plain_pass(case: tuple[Any, Any]) -> None:
    model, episode = case
    frame = lens.readout_attention(model, episode, query=1)
    tokens = (*episode.demonstrations.prompt(), *episode.queries[1].content)
    found: list[torch.Tensor] = []
    host = as_host(model)
    hooks = [
        (f"blocks.{layer}.attn.hook_pattern", lambda value, hook: found.append(value[0, :, -1]))
        for layer in range(host.n_layers)
    ]
    with torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor(tokens))
    expected = torch.stack(found).mean((0, 1))
    icl = frame[frame["setting"] == "ICL"]
    assert icl["position"].tolist() == list(range(len(tokens)))
    assert icl["weight"].to_numpy() == pytest.approx(expected.numpy(), abs=1e-6)
    assert "".join(icl["token"]).count("Label") == 5


def test_each_setting_adds_up_to_one_and_stands_at_its_place(case: tuple[Any, Any]) -> None:
    model, episode = case
    built = {
        "oracle": get_hypothesis("oracle").build(model, episode),
        "gd": get_hypothesis("gd").build(model, episode, lr=0.1),
    }
    frame = lens.readout_attention(model, episode, built)
    sums = frame.groupby("setting", sort=False)["weight"].sum()
    assert list(sums.index) == ["ZS", "ICL", "oracle", "gd"]
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)
    by = {name: own.set_index("position")["weight"] for name, own in frame.groupby("setting")}
    # The demonstrations' own keys and values are in-context learning.
    assert by["oracle"].to_numpy() == pytest.approx(by["ICL"].to_numpy(), abs=1e-6)
    # Alone, a query stands after the BOS, where it stands in the prompt.
    own = len(episode.queries[0].content)
    last = len(episode.demonstrations.prompt()) + own
    assert by["ZS"].index.tolist() == by["gd"].index.tolist() == [0, *range(last - own, last)]
    assert abs(by["gd"] - by["ZS"]).max() > 1e-4


def test_heads_average_to_the_whole_and_parts_are_the_prompts(case: tuple[Any, Any]) -> None:
    model, episode = case
    built = {"gd": get_hypothesis("gd").build(model, episode, lr=0.1)}
    whole = lens.readout_attention(model, episode, built, query=2)
    heads = lens.readout_attention(model, episode, built, query=2, by_head=True)
    host = as_host(model)
    assert len(heads) == host.n_layers * host.n_heads * len(whole)
    means = heads.groupby(["setting", "position"], sort=False)["weight"].mean()
    assert means.to_numpy() == pytest.approx(whole["weight"].to_numpy(), abs=1e-6)
    sums = heads.groupby(["setting", "layer", "head"])["weight"].sum()
    assert sums.to_numpy() == pytest.approx(1, abs=1e-5)
    icl = whole[whole["setting"] == "ICL"]
    shown = episode.demonstrations
    assert icl[icl["part"] == "label"]["token"].tolist() == [
        host.tokenizer.decode([token]) for example in shown.examples for token in example.label
    ]
    assert (icl["part"] == "query").sum() == len(episode.readout_tokens(episode.queries[2]))
    assert (icl["part"] == "bos").sum() == int(shown.bos is not None)
    assert (icl["part"] == "separator").sum() == len(shown) * len(shown.separator)


@pytest.mark.parametrize("kind", checks.kinds())
def test_what_acts_where_the_label_is_predicted_acts_there(kind: str) -> None:
    host = checks.host(kind, "llama")
    episode = checks.episode(DEFAULT.replace(readout="first_label_word"), queries=1)
    vector = 3 * torch.randn(host.d_model, generator=torch.Generator().manual_seed(0))
    first = host.block_input_hook(0)
    frame = lens.readout_attention(
        host, episode, {"vector": PredictionShift(first, vector)}, by_head=True
    )
    own = episode.readout_tokens(episode.queries[0])
    found: list[torch.Tensor] = []

    def add(value: torch.Tensor, hook: Any) -> torch.Tensor:
        moved = value.clone()
        moved[:, len(episode.queries[0].content)] += vector  # the content's last, after the BOS
        return moved

    hooks: list[Any] = [(first, add)]
    hooks += [
        (f"blocks.{layer}.attn.hook_pattern", lambda value, hook: found.append(value[0, :, -1]))
        for layer in range(host.n_layers)
    ]
    with torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor((families.BOS, *own)))
    weights = frame[frame["setting"] == "vector"]["weight"].to_numpy()
    assert weights == pytest.approx(torch.stack(found).flatten().numpy(), abs=1e-6)


def test_a_prefix_of_one_token_is_no_bos_where_there_is_none() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    with_bos = checks.episode(queries=1)
    shown = dataclasses.replace(with_bos.demonstrations, bos=None)
    episode = dataclasses.replace(with_bos, demonstrations=shown)
    one = Injection(host.prefix(host.tensor([9])))
    frame = lens.readout_attention(host, episode, {"one": one})
    own = len(episode.queries[0].content)
    last = len(shown.prompt()) + own
    positions = frame[frame["setting"] == "one"]["position"].tolist()
    assert positions == list(range(last - own, last))


def test_a_query_that_is_not_there_is_named(case: tuple[Any, Any]) -> None:
    with pytest.raises(lens.LensError, match="no query 3"):
        lens.readout_attention(*case, query=3)


def test_the_model_is_left_as_it_was_whatever_happens() -> None:
    class Broken(Intervention):
        def hooks(self, host: Any, batch: Any = None) -> Any:
            def fail(value: torch.Tensor, hook: Any) -> None:
                raise RuntimeError("in the midst of a pass")

            return [(host.z_hook(1), fail)]

    for kind in checks.kinds():
        model = checks.fresh(kind, "llama")
        checks.logits(model, families.tokens(4))  # a bridge sets itself up when it first runs
        before = checks.photograph(model)
        episode = checks.episode(queries=2)
        lens.readout_attention(model, episode)
        before.assert_same(model)
        with pytest.raises(RuntimeError, match="in the midst"):
            lens.readout_attention(model, episode, {"broken": Broken()})
        before.assert_same(model)
