"""The implicit patch: in-context learning's logits by MLP weights alone, and not its attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import iclgd_lens as lens
from iclgd_lens import worlds
from iclgd_lens.embedded import embedded_model_folder
from iclgd_lens.errors import HypothesisError, ModelError
from iclgd_lens.host import Host, copied
from iclgd_lens.hypotheses.implicit_patch import implicit_patch
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.intervention import Batch
from iclgd_lens.readout.reader import Reader
from tests import checks

CASES = [*checks.pairs("gpt2", "llama", "neox", "qwen3"), pytest.param("bridge", "gemma2")]


def embedded_is_there() -> bool:
    try:
        return (embedded_model_folder() / "config.json").is_file()
    except ModelError:
        return False


def logits(host: Host, intervention: Any, episode: Any) -> torch.Tensor:
    """All logits after each query, read alone: [query token]."""
    rows: list[torch.Tensor] = []
    head = [episode.demonstrations.bos]
    for index, query in enumerate(episode.queries):
        tokens = host.tensor(head + list(query.content))
        batch = Batch(torch.tensor([index]), torch.tensor([tokens.shape[1]]))
        with torch.no_grad(), host.hooked(intervention.hooks(host, batch)):
            rows.append(host.logits(host.run(tokens).residual)[0, -1])
    return torch.stack(rows)


def in_context(host: Host, episode: Any) -> torch.Tensor:
    prompt = list(episode.demonstrations.prompt())
    rows = [host.tensor(prompt + list(query.content)) for query in episode.queries]
    with torch.no_grad():
        return torch.stack([host.logits(host.run(row).residual)[0, -1] for row in rows])


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_every_logit_is_that_of_in_context_learning(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode()
    before = checks.photograph(host.model)
    patch = implicit_patch(host, episode)
    before.assert_same(host.model)
    expected, alone = in_context(host, episode), logits(host, lens.Intervention(), episode)
    assert float((logits(host, patch, episode) - expected).abs().max()) < 1e-4
    assert float((alone - expected).abs().max()) > 1


@pytest.mark.parametrize(("kind", "family"), CASES)
def test_behaviour_is_exact_and_attention_is_not(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode()
    result = lens.compare(host, episode, ["implicit_patch"], controls=(), budget="published")
    assert float(result.tensor("KL_ICL", "implicit_patch").max()) < 1e-8
    moments = result.values["implicit_patch"]["recovery_moments"].mean(0)
    assert float((2 * moments[0] - moments[1]) / moments[2]) == pytest.approx(1, abs=1e-5)
    right = result.tensor("accuracy", "implicit_patch")
    assert torch.equal(right, result.tensor("accuracy", "ICL"))
    scores = result.tensor("SimAOU", "implicit_patch")
    assert scores[:, 0].isnan().all(), "layer 0's attention is as it was"
    assert (scores[:, 1:].mean(0) < 0.9).all(), "the lesson: same function, other attention"


@pytest.mark.skipif(not embedded_is_there(), reason="the embedded model is not in this checkout")
@pytest.mark.parametrize("kind", checks.kinds())
def test_the_embedded_model_learns_without_its_attention(kind: str) -> None:
    model = lens.load_model("embedded", host=kind)  # type: ignore[arg-type]
    episode = lens.load_episode("sst2", model, shots=6, queries=8)
    result = lens.compare(model, episode, ["implicit_patch"], controls=(), budget="published")
    reader = Reader(model, episode)
    icl, ft = reader.icl(), reader.ftzs(implicit_patch(model, episode))
    assert float((icl.label_scores - ft.label_scores).abs().max()) < 1e-4
    scores = result.tensor("SimAOU", "implicit_patch")
    assert scores[:, 0].isnan().all()
    assert float(scores[:, 1:].mean()) < 0.7


BAKED = [*checks.pairs("gpt2", "llama", "neox")]


@pytest.mark.parametrize(("kind", "family"), BAKED)
def test_the_patch_is_a_change_of_weights(kind: str, family: str) -> None:
    """Written into a copy's weights, by the formula, it needs no hook."""
    host, episode = checks.host(kind, family), checks.episode()
    patch = implicit_patch(host, episode)
    query = 2
    twin = Host(copied(host.model))
    for block, values in zip(patch.blocks, patch.values, strict=True):
        u, h, out = values.u[query], values.h[query], values.out[query]
        for site, target in zip(block.into, values.into, strict=True):
            weight = twin.parameter(site.weight)
            twin.write_parameter(site.weight, weight + torch.outer(u, target[query]) / (u @ u))
        if block.out.bias is None:
            weight = twin.parameter(block.out.weight)
            twin.write_parameter(block.out.weight, weight + torch.outer(h, out) / (h @ h))
        else:
            twin.write_parameter(block.out.bias, twin.parameter(block.out.bias) + out)
    tokens = [episode.demonstrations.bos, *episode.queries[query].content]
    with torch.no_grad():
        plain = twin.model(torch.tensor([tokens]), return_type="logits")[0, -1]
    assert float((plain - in_context(host, episode)[query]).abs().max()) < 1e-4


@pytest.mark.parametrize("kind", checks.kinds())
def test_no_demonstrations_need_no_patch(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode().with_demonstrations([])
    patch = implicit_patch(host, episode)
    assert max(float(values.out.abs().max()) for values in patch.values) < 1e-5
    alone = logits(host, lens.Intervention(), episode)
    checks.close(logits(host, patch, episode), alone, 1e-5)


def test_it_is_a_check_that_needs_queries() -> None:
    entry = get_hypothesis("implicit_patch")
    assert entry.kind == "check"
    assert "queries" in entry.needs


@pytest.mark.parametrize("kind", checks.kinds())
def test_rows_that_are_no_queries_are_refused_or_left_alone(kind: str) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode()
    patch = implicit_patch(host, episode)
    with pytest.raises(HypothesisError, match="one patch per query"):
        patch.hooks(host)
    assert patch.hooks(host, Batch(torch.tensor([-1]), torch.tensor([4]))) == []


@pytest.mark.parametrize("family", ["granite", "bloom"])
def test_blocks_that_are_not_attention_plus_mlp_are_refused(family: str) -> None:
    with pytest.raises(HypothesisError, match=r"layer 0 of \w+ (is not the sum|has no MLP)"):
        implicit_patch(checks.host("bridge", family), checks.episode())


def test_models_without_mlps_and_demonstrations_without_queries_are_refused() -> None:
    if "hooked" in checks.kinds():
        with pytest.raises(HypothesisError, match="has no MLP"):
            implicit_patch(*worlds.gd_world())
    with pytest.raises(HypothesisError, match="give the episode"), checks.untyped():
        implicit_patch(checks.host("bridge", "gpt2"), checks.episode().demonstrations)  # type: ignore[arg-type]
