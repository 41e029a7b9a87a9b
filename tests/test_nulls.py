"""Controls: what is drawn, what is kept, and that the same seed gives the same bytes."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from iclgd_lens import nulls
from iclgd_lens.controls import CONTROLS
from iclgd_lens.derangements import deranged
from iclgd_lens.errors import ComparisonError, UnsupportedModelError
from iclgd_lens.host import Host, as_host
from iclgd_lens.host.checkpoint import ModelWarning
from iclgd_lens.host.condition import model_provenance
from iclgd_lens.hypotheses.random import random as random_delta
from iclgd_lens.networks import another_network
from iclgd_lens.nulls import random_directions, shuffled_labels, untrained
from iclgd_lens.readout.reader import Reader
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
FAMILIES = checks.pairs("gpt2", "neox", "llama", "qwen3")


def is_norm(name: str) -> bool:
    return any(part in name for part in ("ln", "norm", "layernorm"))


def is_embedding(name: str) -> bool:
    return any(part in name for part in ("embed", "wte", "wpe", "lm_head", "W_E", "W_U", "W_pos"))


@pytest.mark.parametrize("keep", ["embeddings", "norms"])
@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_untrained_models_keep_what_they_say(kind: str, family: str, keep: str) -> None:
    model = checks.model(kind, family)
    twin = untrained(model, keep, seed=5)
    assert type(twin) is type(model)
    old, new = dict(model.named_parameters()), dict(twin.named_parameters())
    assert old.keys() == new.keys()
    for name, value in new.items():
        assert value.data_ptr() != old[name].data_ptr()
        kept = is_norm(name) or (keep == "embeddings" and is_embedding(name))
        zero = not value.any()
        assert torch.equal(value, old[name]) == kept or zero, name
        if value.ndim > 1 and not kept and not ("attn.b_" in name or "attn._b_" in name):
            assert value.std() > 0.005, f"{name} was not drawn"
    host = Host(twin)
    for site in host.sites.values():
        if site.bias is not None:
            assert not host.parameter(site.bias).any()
    with torch.no_grad():
        assert torch.isfinite(checks.logits(twin, families.tokens(6))).all()


DRAWN = ("gpt2", "neox", "gptj", "llama", "qwen2", "qwen3", "mistral")


@pytest.mark.parametrize(("kind", "family"), checks.pairs(*DRAWN))
def test_untrained_weights_are_those_that_the_architecture_draws(kind: str, family: str) -> None:
    """Standard deviations of each kind of weight, beside a new `transformers` model's own."""
    twin = Host(untrained(checks.model(kind, family), seed=5))
    config = families.BRIDGE_FAMILIES[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        new = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    own = Host(families.hosted(kind, new.eval()))
    for kind_of in {site.kind for site in twin.sites.values()}:
        drawn, expected = (
            torch.stack([h.parameter(s.weight) for s in h.sites.values() if s.kind == kind_of])
            for h in (twin, own)
        )
        ratio = float(drawn.std() / expected.std())
        assert ratio == pytest.approx(1, abs=4 / drawn.numel() ** 0.5), kind_of
        assert abs(float(drawn.mean())) < 5 * float(drawn.std()) / drawn.numel() ** 0.5


BRIDGED = ("gemma2", "granite", "opt", "bloom")


@pytest.mark.parametrize("family", BRIDGED)
def test_families_of_the_bridge_alone_are_drawn_by_their_own_class(family: str) -> None:
    twin = Host(untrained(checks.model("bridge", family), seed=5))
    config = families.BRIDGE_FAMILIES[family]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        new = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    own = Host(families.hosted("bridge", new.eval()))
    for name in twin.sites:
        drawn, expected = twin.parameter(name), own.parameter(name)
        assert float(drawn.std() / expected.std()) == pytest.approx(
            1, abs=5 / drawn.numel() ** 0.5
        ), name


@pytest.mark.parametrize("kind", checks.kinds())
def test_gpt2_scales_what_it_adds_to_the_residual_stream(kind: str) -> None:
    twin = Host(untrained(checks.model(kind, "gpt2"), seed=5))
    std = families.FAMILIES["gpt2"]().initializer_range
    for site in twin.sites.values():
        scale = (2 * twin.n_layers) ** -0.5 if site.kind in ("W_O", "W_out") else 1.0
        drawn = twin.parameter(site.weight)
        assert float(drawn.std()) == pytest.approx(std * scale, rel=4 / drawn.numel() ** 0.5)


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_twin_names_its_initialiser(kind: str) -> None:
    model = checks.model(kind, "gpt2")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        twins = untrained(model, "norms", seed=4), nulls.permuted(model, seed=2)
    told = [model_provenance(each)["network"] for each in twins]
    assert told[0] == "untrained (norms kept), seed 4, by transformers GPT2LMHeadModel"
    assert "permuted" in told[1]
    assert "network" not in model_provenance(model)
    hashes = {model_provenance(each)["config_hash"] for each in (model, *twins)}
    assert len(hashes) == 1


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="TransformerLens 4 has none")
@pytest.mark.parametrize("init_mode", ["gpt2", "xavier_uniform"])
def test_a_model_of_ones_own_is_drawn_by_its_init_mode_and_one_of_no_known_class_says_so(
    init_mode: str,
) -> None:
    from transformer_lens import HookedTransformer

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(
            {"n_layers": 2, "d_model": 32, "d_head": 8, "n_heads": 4, "n_ctx": 32, "d_vocab": 40,
             "act_fn": "gelu", "init_mode": init_mode, "model_name": "mine", "device": "cpu",
             "normalization_type": "LN"}
        ).eval()  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        twin = untrained(model, seed=1)
    other = copy.deepcopy(model)
    other.cfg.original_architecture = "NoSuchForCausalLM"
    with pytest.warns(ModelWarning, match=f"initialiser of mine .* is not known.*{init_mode}"):
        untrained(other, seed=1)
    assert f"TransformerLens init_mode='{init_mode}'" in model_provenance(twin)["network"]
    for name in Host(twin).sites:
        drawn, trained = Host(twin).parameter(name), Host(model).parameter(name)
        assert not torch.equal(drawn, trained)
        assert float(drawn.std() / trained.std()) == pytest.approx(1, rel=0.1)
    assert torch.equal(twin.embed.W_E, model.embed.W_E)


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="TransformerLens 4 has none")
def test_a_model_that_transformer_lens_loaded_knows_its_class() -> None:
    """Without the configuration that `load_model` keeps: its class and sizes are enough."""
    model = checks.fresh("hooked", "gpt2")
    expected = untrained(model, seed=3)
    del model.cfg.origin
    with warnings.catch_warnings():
        warnings.simplefilter("error", ModelWarning)
        twin = untrained(model, seed=3)
    pairs = zip(twin.parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("kind", checks.kinds())
def test_permuted_models_keep_every_entry_and_no_place(kind: str) -> None:
    model = checks.model(kind, "llama")
    twin, again = nulls.permuted(model, seed=3), nulls.permuted(model, seed=3)
    old, new, same = Host(model), Host(twin), Host(again)
    for name in old.sites:
        before, after = old.parameter(name), new.parameter(name)
        assert torch.equal(before.flatten().sort().values, after.flatten().sort().values)
        assert not torch.equal(before, after)
        assert torch.equal(after, same.parameter(name))
    assert torch.equal(old.embedding, new.embedding)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_the_same_seed_gives_the_same_untrained_model(kind: str, family: str) -> None:
    model = checks.model(kind, family)
    one, again, other = (untrained(model, "norms", seed) for seed in (1, 1, 2))
    first = dict(one.named_parameters())
    assert all(torch.equal(first[name], value) for name, value in again.named_parameters())
    name = "blocks.0.attn.W_V"
    assert not torch.equal(Host(one).parameter(name), Host(other).parameter(name))


def used(kind: str) -> Any:
    """A new model after its first pass, at which a bridge prepares its norms."""
    model = checks.fresh(kind, "gpt2")
    with torch.no_grad():
        checks.logits(model, families.tokens(4))
    return model


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_copy_that_computes_with_other_weights_is_no_untrained_model(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = used(kind)

    def copied(original: Any) -> Any:
        twin = copy_of(original)
        # What becomes of some bridges: a method of the copy is still bound to the original.
        part = "attn" if kind == "hooked" else "attn.o"
        old, new = (each.blocks[1].get_submodule(part) for each in (original, twin))
        new.__dict__["forward"] = old.forward
        return twin

    copy_of = nulls.copied
    monkeypatch.setattr(nulls, "copied", copied)
    before = checks.photograph(model)
    with pytest.raises(UnsupportedModelError, match="does not compute with weights of its own"):
        untrained(model)
    before.assert_same(model)


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_copy_that_shares_memory_is_never_written_to(kind: str) -> None:
    model = used(kind)
    attention = model.blocks[1].attn
    attention.__dict__["__deepcopy__"] = lambda memo: attention
    before = checks.photograph(model)
    with pytest.raises(UnsupportedModelError, match="shares weights with the original"):
        untrained(model)
    before.assert_same(model)


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="needs both hosts")
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "qwen2"])
@pytest.mark.parametrize("make", [untrained, nulls.untrained_norms, nulls.permuted])
def test_both_hosts_draw_the_same_network(family: str, make: Any) -> None:
    hosts = [Host(make(checks.model(kind, family), seed=3)) for kind in checks.kinds()]
    for name in hosts[0].sites:
        assert torch.equal(hosts[0].parameter(name), hosts[1].parameter(name)), name
    tokens = families.tokens(8)
    with torch.no_grad():
        one, other = (host.logits(host.run(tokens).residual) for host in hosts)
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_an_unknown_untrained_variant_is_refused() -> None:
    with checks.untyped(), pytest.raises(ComparisonError, match=r"'norm'; .* Did you mean 'norms'"):
        untrained(checks.model(checks.kinds()[0], "gpt2"), "norm")  # type: ignore[arg-type]


@pytest.mark.parametrize("labels", [((5,), (6,)), ((5,), (6, 9), (8,), (12,))])
def test_shuffled_labels_are_all_wrong_and_stand_as_often(labels: Any) -> None:
    episode = checks.episode(shots=40, labels=labels)
    examples = episode.demonstrations.examples
    even = [example for gold in range(len(labels)) for example in examples if example.gold == gold]
    least = min(Counter(example.gold for example in examples).values())
    taken = Counter[int]()
    balanced: list[Any] = []
    for example in even:
        taken[example.gold] += 1
        if taken[example.gold] <= least:
            balanced.append(example)
    episode = episode.with_demonstrations(balanced)
    wrong = shuffled_labels(episode, seed=2)
    pairs = list(zip(balanced, wrong.demonstrations.examples, strict=True))
    for right, example in pairs:
        assert example.content == right.content
        assert example.gold != right.gold
        assert example.label == episode.label_tokens[example.gold]
    assert Counter(r.gold for r, _ in pairs) == Counter(w.gold for _, w in pairs)
    assert len(wrong.demonstrations.prompt()) == len(episode.demonstrations.prompt())
    if len(labels) > 2:
        drawn = Counter((right.gold, example.gold) for right, example in pairs)
        assert len(drawn) == len(labels) * (len(labels) - 1), "every wrong label is drawn"
        assert wrong != shuffled_labels(episode, seed=3)
    assert wrong == shuffled_labels(episode, seed=2)
    assert wrong.queries == episode.queries
    assert wrong.demonstrations.drawn == episode.demonstrations.drawn


def test_where_one_label_has_more_than_half_each_is_replaced() -> None:
    episode = checks.episode(shots=40, labels=((5,), (6, 9), (8,)))
    examples = [e for e in episode.demonstrations.examples if e.gold == 0]
    more = [*examples, *(e for e in episode.demonstrations.examples if e.gold == 1)][
        : len(examples) + 2
    ]
    uneven = episode.with_demonstrations(more)
    golds = [e.gold for e in more]
    assert deranged(golds, np.random.default_rng(0)) is None
    wrong = [e.gold for e in shuffled_labels(uneven, 1).demonstrations.examples]
    assert all(new != old for new, old in zip(wrong, golds, strict=True))
    assert set(wrong[: len(examples)]) == {1, 2}


@pytest.mark.parametrize("kind_of", ["gaussian", "uniform"])
def test_random_directions_are_what_their_name_says(kind_of: Any) -> None:
    host, episode = checks.host(checks.kinds()[0], "gpt2"), checks.episode(queries=200)
    reader = Reader(host, episode)
    zs, icl = reader.zs(), reader.icl()
    found = random_directions(kind_of, zs, icl, seed=1)
    assert found["SimAOU"].shape == (200, 3)
    assert found["SimAM"].shape == (200, 3, 4)
    again = random_directions(kind_of, zs, icl, seed=1)
    assert all(torch.equal(found[name], again[name]) for name in found)
    other = random_directions(kind_of, zs, icl, seed=2)
    assert not torch.equal(found["SimAOU"], other["SimAOU"])
    raw = random_directions(kind_of, zs, icl, seed=1, normalize=False)
    assert not torch.equal(found["SimAOU"], raw["SimAOU"])
    # An isotropic direction of n dimensions has a squared cosine of 1/n on average.
    assert float((found["SimAOU"] ** 2).mean()) == pytest.approx(1 / 32, rel=0.25) or (
        kind_of == "uniform"
    )
    if kind_of == "gaussian":
        assert abs(float(found["SimAOU"].mean())) < 0.03
        assert abs(float(found["SimAM"].mean())) < 0.05
    # Padding takes no part: with one key of its own, a cosine is 1 or -1.
    short = [row for row, q in enumerate(episode.queries) if len(q.content) == 3]
    own = icl.scores[short] - zs.scores[short]
    generator = torch.Generator().manual_seed(1)
    draw = torch.randn if kind_of == "gaussian" else torch.rand
    draw(zs.attention_output[:, :, None].shape, generator=generator)
    direction = draw(zs.scores.shape, generator=generator)[short]
    expected = torch.cosine_similarity(own[..., :3], direction[..., :3], dim=-1)
    torch.testing.assert_close(found["SimAM"][short], expected, rtol=1e-4, atol=1e-5)


def test_controls_use_no_global_randomness() -> None:
    model, episode = checks.model(checks.kinds()[0], "gpt2"), checks.episode()
    checks.host(checks.kinds()[0], "gpt2")
    with checks.untyped():
        before, python = checks.photograph(model), random.getstate()
        untrained(model)
        untrained(model, "norms")
        shuffled_labels(episode)
        random_delta(model, episode)
        assert random.getstate() == python
        before.assert_same(model)


def test_a_permuted_prompt_shows_the_same_wrong_labels_in_its_own_order() -> None:
    """Else orders of one draw would differ in their labels, too."""
    shown = checks.episode(labels=((5,), (6,), (8,), (9,)), shots=12)
    examples = shown.demonstrations.examples
    order = [4, 0, 7, 2, 8, 1, 6, 11, 3, 10, 5, 9]
    drawn = [order.index(place) for place in range(12)]
    permuted = shown.with_demonstrations([examples[place] for place in order], drawn)
    wrong, also = (shuffled_labels(each, 3).demonstrations.examples for each in (shown, permuted))
    assert [wrong[place].gold for place in order] == [each.gold for each in also]
    assert [wrong[place].content for place in order] == [each.content for each in also]


def test_a_network_is_no_null_for_itself() -> None:
    """An untrained model drawn with a twin's seed would be its own twin."""
    control = CONTROLS["untrained"]
    model = as_host(untrained(checks.host(checks.kinds()[0], "gpt2"), "embeddings", 1))
    twins = [another_network(model, control, seed) for seed in range(3)]
    name = next(iter(model.sites))
    weights = [host.parameter(name) for host in (model, *twins)]
    assert not any(torch.equal(weights[0], each) for each in weights[1:])
    assert torch.equal(weights[1], as_host(untrained(model, "embeddings", 0)).parameter(name))
