"""GD is torch.optim.SGD on the real weights; LCGD is autograd on isolated blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import DivergedError, EpisodeError, HypothesisError, ProtocolError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.protocol import DEFAULT
from iclgd_lens.training.sgd import zeros
from tests import checks, families

RULES = {"gd": gd, "lcgd": lcgd}
BY_RULE = pytest.mark.parametrize("rule", RULES)
BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
SETTINGS: list[dict[str, Any]] = [
    {},
    {"epochs": 2},
    {"batch_size": 2, "epochs": 2},
    {"loss_on": "label"},
    {"weights": ("W_Q", "W_O", "W_in", "b_out"), "layers": (0, 2)},
]
NAMED = [",".join(f"{key}={value}" for key, value in each.items()) or "plain" for each in SETTINGS]

Loss = Callable[[Any, tuple[int, ...], tuple[int, ...]], Tensor]


def trained(model: Any, settings: dict[str, Any]) -> list[str]:
    kinds = settings.get("weights", ("W_K", "b_K", "W_V", "b_V"))
    layers = settings.get("layers", range(families.N_LAYERS))
    names = list(checks.random_delta(Host(model)))
    return [
        name for name in names
        if name.rsplit(".", 1)[1] in kinds and int(name.split(".")[1]) in layers
    ]  # fmt: skip


def sgd(model: Any, episode: Episode, loss: Loss, settings: dict[str, Any]) -> dict[str, Tensor]:
    """What torch.optim.SGD does to a copy's real weights, in their own layout."""
    twin, names = checks.twin(model), trained(model, settings)
    before = {name: checks.real(twin, name).detach().clone() for name in names}
    optimiser = torch.optim.SGD([checks.real(twin, name) for name in names], lr=0.05)
    size, examples = settings.get("batch_size", 1), episode.demonstrations.examples
    for _ in range(settings.get("epochs", 1)):
        for start in range(0, len(examples), size):
            batch, total, count = examples[start : start + size], torch.zeros(()), 0
            for example in batch:
                tokens = (families.BOS, *example.content, *example.label)
                first = len(tokens) - len(example.label)
                targets = tuple(range(first if "loss_on" in settings else 1, len(tokens)))
                total, count = total + loss(twin, tokens, targets), count + len(targets)
            optimiser.zero_grad()
            (total / count).backward()
            optimiser.step()
    return {name: checks.real(twin, name).detach() - before[name] for name in names}


def isolated_blocks(model: Any, tokens: tuple[int, ...], targets: tuple[int, ...]) -> Tensor:
    """Sum over layers of each block's own loss, every block run alone on a constant input."""
    inputs: list[Tensor] = []
    with torch.no_grad():
        hooks = [
            (f"blocks.{layer}.hook_resid_pre", lambda value, hook: inputs.append(value.clone()))
            for layer in range(families.N_LAYERS)
        ]
        model.run_with_hooks(torch.tensor([tokens]), fwd_hooks=hooks)
    total = torch.zeros(())
    for layer, entering in enumerate(inputs):
        leaving = model.blocks[layer](entering)
        log_p = model.unembed(model.ln_final(leaving))[0].log_softmax(-1)
        total = total - sum(log_p[target - 1, tokens[target]] for target in targets)
    return total


def same(found: ParameterDelta, model: Any, expected: dict[str, Tensor], tolerance: float) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        # b_K has a gradient of rounding alone: it is held against the change of its weight.
        scale = float(found[name.replace(".b_", ".W_")].abs().max()) if "b_K" in name else None
        checks.close(checks.in_own_layout(model, name, found[name]), value, tolerance, scale)


@pytest.mark.parametrize("settings", SETTINGS, ids=NAMED)
@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "qwen2"))
def test_gd_is_sgd_on_the_real_weights(kind: str, family: str, settings: dict[str, Any]) -> None:
    model, episode = checks.model(kind, family), checks.episode(shots=5)
    assert len({len(example.tokens) for example in episode.demonstrations.examples}) > 2
    found = gd(model, episode, lr=0.05, **settings)
    same(found, model, sgd(model, episode, checks.mean_loss, settings), 1e-4)


@pytest.mark.parametrize("settings", [{}, {"loss_on": "label"}], ids=["all", "label"])
@pytest.mark.parametrize("family", ["gemma2", "granite"])
def test_capped_and_scaled_logits_are_part_of_the_loss(
    family: str, settings: dict[str, Any]
) -> None:
    model, episode = checks.model("bridge", family), checks.episode(shots=1)
    assert Host(model).unembedding() is None
    found = gd(model, episode, lr=0.05, **settings)
    same(found, model, sgd(model, episode, checks.mean_loss, settings), 1e-4)


@pytest.mark.skipif("hooked" not in checks.kinds(), reason="blocks of a HookedTransformer")
@pytest.mark.parametrize("settings", SETTINGS, ids=NAMED)
@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_lcgd_is_autograd_on_isolated_blocks(family: str, settings: dict[str, Any]) -> None:
    model, episode = checks.model("hooked", family), checks.episode(shots=5)
    found = lcgd(model, episode, lr=0.05, **settings)
    expected = sgd(model, episode, isolated_blocks, settings)
    same(found, model, expected, 1e-4)


def test_lcgd_of_a_bridge_is_autograd_on_detached_transformers_layers() -> None:
    """No hook point and no bridge in the reference: `transformers` alone, detached by torch."""
    episode = checks.episode(shots=3)
    plain: Any = families.huggingface_model("llama")
    leaving: list[Tensor] = []
    for layer in plain.model.layers:
        layer.register_forward_pre_hook(lambda module, args: (args[0].detach(), *args[1:]))
        layer.register_forward_hook(lambda module, args, output: leaving.append(output))
    names = [f"self_attn.{letter}_proj" for letter in "kv"]
    weights = [layer.get_submodule(name).weight for layer in plain.model.layers for name in names]
    before = [weight.detach().clone() for weight in weights]
    optimiser = torch.optim.SGD(weights, lr=0.05)
    for example in episode.demonstrations.examples:
        tokens = torch.tensor([families.BOS, *example.tokens])
        leaving.clear()
        plain(tokens[None])
        losses = [
            torch.nn.functional.cross_entropy(
                plain.lm_head(plain.model.norm(x))[0, :-1], tokens[1:]
            )
            for x in leaving
        ]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
    found = lcgd(checks.model("bridge", "llama"), episode, lr=0.05)
    changes = [weight.detach() - old for weight, old in zip(weights, before, strict=True)]
    for index, change in enumerate(changes):
        name = f"blocks.{index // 2}.attn.W_{'KV'[index % 2]}"
        checks.close(torch.cat(list(found[name]), dim=1).T, change, 1e-4)


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "mistral"))
def test_what_lcgd_learns_depends_on_earlier_layers_alone(kind: str, family: str) -> None:
    episode = checks.episode()
    before = {name: rule(checks.host(kind, family), episode) for name, rule in RULES.items()}
    for kept in range(families.N_LAYERS - 1):
        other = checks.twin(checks.model(kind, family))
        for layer in range(kept + 1, families.N_LAYERS):
            families.randomise(other.blocks[layer], seed=100 + layer)
        after = {name: rule(other, episode) for name, rule in RULES.items()}
        for name in before["lcgd"]:
            layer, is_shift = int(name.split(".")[1]), name.endswith("b_K")
            if layer <= kept:
                assert torch.equal(before["lcgd"][name], after["lcgd"][name]), name
                assert is_shift or not torch.allclose(
                    before["gd"][name], after["gd"][name], rtol=1e-2, atol=1e-6
                ), name
            else:
                assert not torch.equal(before["lcgd"][name], after["lcgd"][name]), name


@BY_KIND
def test_the_last_layers_first_step_is_gds(kind: str) -> None:
    host, episode = checks.host(kind, "neox"), checks.episode(shots=1)
    one, other = gd(host, episode), lcgd(host, episode)
    last = families.N_LAYERS - 1
    for weight in ("W_K", "W_V", "b_V"):
        name = f"blocks.{last}.attn.{weight}"
        checks.close(other[name], one[name], 1e-5)
        assert not torch.allclose(other[f"blocks.0.attn.{weight}"], one[f"blocks.0.attn.{weight}"])


@BY_KIND
@BY_RULE
def test_selections_train_what_they_name(kind: str, rule: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=1)
    whole = RULES[rule](host, episode)
    assert set(whole) == {f"blocks.{i}.attn.W_{x}" for i in range(3) for x in "KV"}
    part = RULES[rule](host, episode, weights="W_V", layers=1)
    assert list(part) == ["blocks.1.attn.W_V"]
    assert torch.equal(part["blocks.1.attn.W_V"], whole["blocks.1.attn.W_V"])
    assert part.metadata["layers"] == [1]
    assert part.metadata["trained"] == ["W_V"]
    mlp = RULES[rule](host, episode, weights=["W_gate"], layers=[2, 0])
    assert list(mlp) == ["blocks.0.mlp.W_gate", "blocks.2.mlp.W_gate"]


@BY_RULE
def test_one_call_is_the_same_bytes_as_another(rule: str) -> None:
    kind = checks.kinds()[0]
    one, other = (RULES[rule](checks.fresh(kind, "gpt2"), checks.episode()) for _ in range(2))
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one.metadata == other.metadata


@BY_RULE
def test_the_order_of_training_is_the_protocols(rule: str) -> None:
    host, episode = checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=3)

    def drawn(order: str, drawn: tuple[int, ...]) -> Demonstrations:
        protocol = DEFAULT.replace(order=order)
        return dataclasses.replace(episode.demonstrations, protocol=protocol, drawn=drawn)

    examples = episode.demonstrations.examples
    moved = dataclasses.replace(drawn("prompt", ()), examples=tuple(examples[i] for i in (2, 0, 1)))
    as_drawn = RULES[rule](host, drawn("drawn", (2, 0, 1)))
    in_prompt = RULES[rule](host, drawn("prompt", (2, 0, 1)))
    reordered = RULES[rule](host, moved)
    assert all(torch.equal(as_drawn[name], reordered[name]) for name in as_drawn)
    assert not torch.equal(as_drawn["blocks.0.attn.W_K"], in_prompt["blocks.0.attn.W_K"])


@BY_KIND
@BY_RULE
def test_divergence_is_an_error(kind: str, rule: str) -> None:
    model = checks.model(kind, "gpt2")
    before = checks.photograph(model)
    with pytest.raises(DivergedError, match=rf"{rule} with lr=3e\+38 diverged: .* not finite"):
        RULES[rule](model, checks.episode(), lr=3e38)
    before.assert_same(model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, r"learning rate is 0\.0; it must be a positive"),
        ({"lr": -1.0}, "must be a positive number"),
        ({"lr": float("nan")}, "must be a positive number"),
        ({"lr": float("inf")}, "must be a positive number"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": -2}, "batch_size is -2; it must be at least 1"),
        ({"weights": "W_KK"}, r"no trainable weight 'W_KK'; .* Did you mean 'W_K'\?"),
        ({"weights": ()}, "none of the weights"),
        ({"weights": "W_gate"}, "no trainable weight 'W_gate'"),
        ({"layers": 3}, "layers 0 to 2, not 3"),
        ({"layers": [-1]}, "layers 0 to 2, not -1"),
        ({"layers": ()}, "layers is empty: name at least one"),
    ],
)
@BY_RULE
def test_settings_that_mean_nothing_are_refused(
    rule: str, settings: dict[str, Any], message: str
) -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(HypothesisError, match=message) as caught:
        RULES[rule](host, checks.episode(), **settings)
    assert "\n" not in str(caught.value)


def test_an_unknown_loss_is_refused() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(ProtocolError, match=r"'lable'; allowed: all, label\. Did you mean"):
        gd(host, checks.episode(), loss_on="lable")


def test_biases_that_a_model_lacks_are_no_weights_to_train() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    with pytest.raises(HypothesisError, match="none of the weights b_K, b_V"):
        gd(host, checks.episode(), weights=("b_K", "b_V"))


def test_a_task_without_a_learning_rate_needs_one() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    with pytest.raises(HypothesisError, match="no published learning rate: give lr="):
        gd(host, checks.episode(lr=None))


def test_a_demonstration_longer_than_the_context_is_refused() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    episode = Episode.from_tokens(
        [[7] * families.N_CTX + [5]], [[8, 9]], [5, 6], [0], bos=None, learning_rate=0.1
    )
    with pytest.raises(EpisodeError, match=r"has 129 tokens, but gpt2 reads 128; nothing is trunc"):
        gd(host, episode)


def test_a_demonstration_of_another_vocabulary_is_refused() -> None:
    host = checks.host(checks.kinds()[0], "gpt2")
    episode = Episode.from_tokens(
        [[families.VOCAB_SIZE, 5]], [[8, 9]], [5, 6], [0], bos=1, learning_rate=0.1
    )
    with pytest.raises(EpisodeError, match="Token id 101 is outside gpt2's vocabulary of 101"):
        gd(host, episode)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@BY_KIND
def test_half_precision_models_give_full_precision_deltas(kind: str, dtype: torch.dtype) -> None:
    episode = checks.episode(shots=2)
    exact = gd(checks.host(kind, "llama"), episode)
    half = checks.fresh(kind, "llama").to(dtype)
    if kind == "hooked":
        half.cfg.dtype = dtype
    found = gd(half, episode)
    for name, value in exact.items():
        assert found[name].dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(found[name].ravel(), value.ravel(), 0) > 0.97


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
@pytest.mark.parametrize("weight", ["W_K", "W_V", "W_O", "W_in"])
def test_no_step_copies_a_delta(kind: str, family: str, weight: str) -> None:
    host = checks.host(kind, family)
    name = f"blocks.1.{'mlp' if weight == 'W_in' else 'attn'}.{weight}"
    site, delta = host.site(name), zeros(host, name).requires_grad_(True)
    assert delta.shape == site.shape
    width = site.shape[0] * site.shape[1] if weight == "W_O" else site.shape[-2]
    x = torch.ones(1, 3, width, requires_grad=True)
    heads = site.shape[0] if weight in ("W_K", "W_V") else 1
    like = torch.empty(1, 3, heads * site.shape[-1])
    kept: list[int] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value.untyped_storage().data_ptr())
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        site.apply(x, delta, None, like=like)
    assert set(kept) <= {value.untyped_storage().data_ptr() for value in (delta, x)}
    assert delta.untyped_storage().data_ptr() in kept
