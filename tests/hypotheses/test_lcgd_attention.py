"""Attention to demonstrations against the model's own pattern; weights against single gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.errors import EpisodeError, HypothesisError
from iclgd_lens.host import Hook, Host, as_host
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.lcgd_attention import (
    lcgd_attention,
    prompt_attention,
    recency,
    weights_of,
)
from iclgd_lens.protocol import DEFAULT
from iclgd_lens.worlds import linear_world
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())


def spans(episode: Any) -> list[range]:
    """Positions of each demonstration in the prompt, counted by hand."""
    start, found = 1, list[range]()
    for example in episode.demonstrations.examples:
        end = start + len(example.content) + len(example.label)
        found.append(range(start, end))
        start = end + 1
    return found


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_attention_is_that_of_the_models_own_pattern(kind: str, family: str) -> None:
    model, episode = checks.model(kind, family), checks.episode()
    found = prompt_attention(checks.host(kind, family), episode.demonstrations)
    _, cache = model.run_with_cache(torch.tensor([episode.demonstrations.prompt()]))
    for layer in range(families.N_LAYERS):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1]
        for place, span in enumerate(spans(episode)):
            torch.testing.assert_close(found[layer, :, place], pattern[:, list(span)].sum(-1))


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_each_heads_change_is_weighted_by_its_own_attention(kind: str, family: str) -> None:
    """In one step over all demonstrations gradients add up: one LCGD a demonstration, weighted."""
    host, episode = checks.host(kind, family), checks.episode()
    examples = episode.demonstrations.examples
    mass = prompt_attention(host, episode.demonstrations)
    alone = [lcgd(host, episode.with_demonstrations([each])) for each in examples]
    sizes = [len(example.tokens) for example in examples]
    found = lcgd_attention(host, episode, gamma=2.0, batch_size=len(examples))
    for name, value in found.items():
        layer, heads = int(name.split(".")[1]), value.shape[0]
        by_head = mass[layer].view(heads, -1, len(examples)).mean(1)
        factor = ((by_head / by_head.mean(-1, keepdim=True)) ** 2).T
        expected = torch.zeros_like(value)
        for own, size, each in zip(alone, sizes, factor, strict=True):
            scale = each.view(-1, *[1] * (value.ndim - 1)) * size / sum(sizes)
            expected += own[name] * scale
        if not name.endswith("b_K"):
            checks.close(value, expected, 1e-4)


@BY_KIND
@pytest.mark.parametrize("gamma", [0.5, 3.0])
def test_uniform_attention_and_equal_lengths_leave_lcgd(kind: str, gamma: float) -> None:
    model = checks.fresh(kind, "gpt2")
    with torch.no_grad():
        for name in checks.random_delta(checks.host(kind, "gpt2"), "W_Q", "b_Q"):
            own = checks.real(model, name)
            wide = own.shape[-1] > own.shape[0] and own.ndim == 2  # a joint c_attn
            (own[:, : families.D_MODEL] if wide else own).zero_()
    episode = checks.episode(shots=6)
    short = [
        type(example)(example.content[:3], example.label, example.gold)
        for example in episode.demonstrations.examples
    ]
    episode = episode.with_demonstrations(short)
    weight, sinks = weights_of(prompt_attention(Host(model), episode.demonstrations))
    torch.testing.assert_close(weight, torch.ones_like(weight))
    assert sinks == 0
    found, plain = lcgd_attention(model, episode, gamma=gamma), lcgd(model, episode)
    for name in plain:
        if not name.endswith("b_K"):
            checks.close(found[name], plain[name], 1e-4)


def test_recency_falls_by_e_every_tau_demonstrations() -> None:
    weight, _ = weights_of(recency(checks.host(checks.kinds()[0], "llama"), 5, 2.0))
    expected = torch.tensor([-2.0, -1.5, -1.0, -0.5, 0.0]).exp()
    torch.testing.assert_close(weight[1, 2], expected / expected.mean())


def test_permuted_weights_are_the_same_ones_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    host, episode = checks.host(checks.kinds()[0], "llama"), checks.episode(shots=5)
    calls: list[torch.Tensor] = []

    def keep(mass: torch.Tensor) -> Any:
        calls.append(mass)
        return weights_of(mass)

    monkeypatch.setattr("iclgd_lens.hypotheses.lcgd_attention.weights_of", keep)
    for kind, seed in (("attention", 0), ("permuted", 3), ("permuted", 3), ("permuted", 4)):
        lcgd_attention(host, episode, weighted_by=kind, seed=seed)
    own, moved, again, other = calls[::2]
    assert not torch.equal(own, moved)
    assert torch.equal(own.sort(-1).values, moved.sort(-1).values)
    assert torch.equal(moved, again)
    assert not torch.equal(moved, other)


def test_heads_that_read_the_bos_alone_learn_as_in_lcgd(monkeypatch: pytest.MonkeyPatch) -> None:
    host, episode = checks.host(checks.kinds()[0], "gpt2"), checks.episode()
    mass = prompt_attention(host, episode.demonstrations)
    mass[0, 1] *= 0.04 / mass[0, 1].sum()
    path = "iclgd_lens.hypotheses.lcgd_attention.prompt_attention"
    monkeypatch.setattr(path, lambda host, shown: mass)
    found, plain = lcgd_attention(host, episode), lcgd(host, episode)
    assert found.metadata["sink_heads"] == 1
    # What the first layer learns first depends on nothing else: the head's change is LCGD's.
    one = [
        rule(host, episode, batch_size=4)["blocks.0.attn.W_V"] for rule in (lcgd_attention, lcgd)
    ]
    torch.testing.assert_close(one[0][1], one[1][1])
    assert not torch.allclose(one[0][0], one[1][0], rtol=1e-2)
    assert set(found) == set(plain)


@BY_KIND
def test_learning_stays_layer_causal(kind: str) -> None:
    other = checks.twin(checks.model(kind, "llama"))
    families.randomise(other.blocks[2], seed=100)
    before = lcgd_attention(checks.host(kind, "llama"), checks.episode())
    after = lcgd_attention(other, checks.episode())
    for name in before:
        assert torch.equal(before[name], after[name]) == (int(name.split(".")[1]) < 2), name


@BY_KIND
def test_weights_follow_demonstrations_that_are_trained_in_another_order(kind: str) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(DEFAULT.replace(order="drawn"))
    moved = episode.with_demonstrations(episode.demonstrations.examples, drawn=(2, 0, 3, 1))
    one = lcgd_attention(host, episode, batch_size=4)
    other = lcgd_attention(host, moved, batch_size=4)
    for name in one:
        if not name.endswith("b_K"):
            checks.close(other[name], one[name], 1e-5)


@BY_KIND
def test_weights_without_key_heads_take_the_query_heads_or_the_layers_mean(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=2)
    weight, _ = weights_of(prompt_attention(host, episode.demonstrations))
    kinds = ("W_Q", "W_O", "W_in")
    found = lcgd_attention(host, episode, weights=kinds, batch_size=2)
    examples = episode.demonstrations.examples
    alone = [lcgd(host, episode.with_demonstrations([e]), weights=kinds) for e in examples]
    total = sum(len(example.tokens) for example in examples)
    for name in found:
        by_head = weight[int(name.split(".")[1])]
        factors = by_head.mean(0) if "mlp" in name else by_head.T[..., None, None]
        expected = sum(
            own[name] * factor * len(example.tokens) / total
            for own, factor, example in zip(alone, factors, examples, strict=True)
        )
        assert isinstance(expected, torch.Tensor)
        checks.close(found[name], expected, 1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": -1.0}, r"gamma is -1\.0; it must be 0 to 8\. The nearest is 0\."),
        ({"weighted_by": "recent"}, r"allowed: attention, recency, .* Did you mean 'recency'\?"),
        ({"tau": 0.0, "weighted_by": "recency"}, r"tau is 0\.0; it must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HypothesisError, match=message):
        lcgd_attention(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)


def test_a_prompt_longer_than_the_context_is_refused() -> None:
    with pytest.raises(EpisodeError, match="but gpt2 reads 128; nothing is truncated"):
        lcgd_attention(checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=40))


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="worlds need HookedTransformer")
def test_attention_is_the_models_own_where_it_is_no_softmax_of_scores() -> None:
    world = linear_world()
    host, shown = as_host(world.model), world.episode.demonstrations
    seen: list[torch.Tensor] = []
    hooks: list[Hook] = [("blocks.0.attn.hook_pattern", lambda value, hook: seen.append(value[0]))]
    with torch.no_grad(), host.hooked(hooks):
        host.run(host.tensor(shown.prompt()))
    lengths = [len(example.tokens) for example in shown.examples]
    by_demonstration = seen[0][:, -1][:, list(shown.prompt_positions())].split(lengths, dim=-1)
    expected = torch.stack([each.sum(-1) for each in by_demonstration], dim=-1)
    checks.close(prompt_attention(host, shown)[0], expected, 1e-6)
    assert not torch.allclose(seen[0].sum(-1), torch.ones(()))
