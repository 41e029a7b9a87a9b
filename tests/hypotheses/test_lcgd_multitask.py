"""Tasks against plain autograd, combinations against torchjd and SciPy's constrained minimum."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.errors import HypothesisError
from iclgd_lens.hypotheses.gradient_combination import pcgrad, project, upgrad
from iclgd_lens.hypotheses.lcgd import lcgd
from iclgd_lens.hypotheses.lcgd_multitask import lcgd_multitask, lcgd_shared
from tests import checks, families
from tests.hypotheses import oracles

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
LR = 0.05


def rows(tasks: int, seed: int) -> torch.Tensor:
    return torch.randn(tasks, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
def test_every_token_counted_alike_is_lcgd_on_all_tokens(kind: str, family: str) -> None:
    host, episode = checks.host(kind, family), checks.episode()
    found = lcgd_multitask(host, episode, content=1.0, per="tokens")
    plain = lcgd(host, episode, loss_on="all")
    for name in plain:
        if not name.endswith("b_K"):  # a gradient of rounding alone
            checks.close(found[name], plain[name], 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_pcgrad_of_two_tasks_is_torchjds(seed: int) -> None:
    aggregation = pytest.importorskip("torchjd.aggregation")
    pair = rows(2, seed)
    pair[1] = pair[1] - 3 * pair[0]  # they disagree
    with torch.random.fork_rng():
        expected = aggregation.PCGrad()(pair)
    torch.testing.assert_close(pcgrad(pair), expected)


@pytest.mark.parametrize("combine", [pcgrad, upgrad])
def test_gradients_that_agree_are_summed(combine: Any) -> None:
    pytest.importorskip("torchjd")
    agreeing = rows(3, 0).abs()
    torch.testing.assert_close(combine(agreeing), agreeing.sum(0))


@pytest.mark.parametrize("seed", range(4))
def test_upgrad_projects_each_gradient_and_harms_no_task(seed: int) -> None:
    pytest.importorskip("torchjd")
    optimize = pytest.importorskip("scipy.optimize")
    tasks = rows(3, seed)
    tasks[2] = -tasks[:2].sum(0) + 0.3 * tasks[2]
    gram = (tasks @ tasks.T).double().numpy()
    expected = np.zeros(3)
    for task in range(3):
        u = np.eye(3)[task]
        solved = optimize.minimize(
            lambda v: v @ gram @ v, u, jac=lambda v: 2 * gram @ v, bounds=[(x, None) for x in u],
            options={"ftol": 1e-15, "gtol": 1e-10},
        )  # fmt: skip
        own = project(torch.tensor(u), torch.tensor(gram))
        np.testing.assert_allclose(own.numpy(), solved.x, atol=1e-4)
        expected += solved.x
    found = upgrad(tasks)
    torch.testing.assert_close(found, torch.tensor(expected).float() @ tasks, atol=1e-3, rtol=1e-3)
    assert bool((tasks @ found >= -1e-4).all())


def test_upgrad_of_one_gradient_told_twice_is_its_double() -> None:
    pytest.importorskip("torchjd")
    one = rows(1, 0)
    torch.testing.assert_close(upgrad(torch.cat([one, one])), 2 * one[0])


@BY_KIND
@pytest.mark.parametrize("combine", ["sum", "pcgrad"])
def test_a_layers_tasks_are_combined_as_one_vector(kind: str, combine: str) -> None:
    model, episode = oracles.precise(kind, "llama"), checks.episode(shots=1)
    tokens, start = oracles.sequences(episode)[0]
    found = lcgd_multitask(
        checks.model(kind, "llama"), episode, content=2.0, combine=combine, lr=LR
    )
    logits = oracles.lens_logits(model, tokens, detach=True)
    for layer, own in enumerate(logits):
        names = [f"blocks.{layer}.attn.W_{x}" for x in "KV"]
        label = oracles.nll(own, tokens, start) / (len(tokens) - start)
        content = 2 * oracles.nll(own[:start], tokens[:start]) / (start - 1)
        tasks = torch.stack(
            [
                torch.cat([oracles.gradient(model, name, loss).flatten() for name in names])
                for loss in (label, content)
            ]
        )
        whole = pcgrad(tasks) if combine == "pcgrad" else tasks.sum(0)
        parts = whole.split([checks.real(model, name).numel() for name in names])
        for name, part in zip(names, parts, strict=True):
            expected = -LR * part.view(checks.real(model, name).shape)
            oracles.close(model, name, found[name], expected, 1e-4)


@BY_KIND
def test_contrast_is_infonce_over_attention_outputs(kind: str) -> None:
    episode, temperature = checks.episode(shots=4), 0.3
    model = oracles.precise(kind, "gpt2")
    read = oracles.sequences(episode)
    gold = [example.gold for example in episode.demonstrations.examples]

    def outputs(place: int) -> list[torch.Tensor]:
        tokens, start = read[place]
        return [value[start - 1] for value in oracles.isolated(model, tokens)[0]]

    with torch.no_grad():
        bank = [[value.detach() for value in outputs(place)] for place in range(4)]
    before = {
        f"blocks.{i}.attn.W_V": checks.real(model, f"blocks.{i}.attn.W_V").detach().clone()
        for i in range(families.N_LAYERS)
    }
    for place in range(4):
        for layer, own in enumerate(outputs(place)):
            cosines = torch.stack(
                [
                    torch.cosine_similarity(own, bank[other][layer], 0) / temperature
                    for other in range(4)
                ]
            )
            others = [other for other in range(4) if other != place]
            alike = [other for other in others if gold[other] == gold[place]]
            loss = cosines[others].logsumexp(0) - cosines[alike].logsumexp(0)
            name = f"blocks.{layer}.attn.W_V"
            step = oracles.gradient(model, name, loss)
            bank[place][layer] = own.detach()
            before[name + " step"] = step
        with torch.no_grad():
            for layer in range(families.N_LAYERS):
                name = f"blocks.{layer}.attn.W_V"
                checks.real(model, name).sub_(before.pop(name + " step"), alpha=LR)
    found = lcgd_multitask(
        checks.model(kind, "gpt2"), episode, label=0.0, content=0.0, contrast=1.0,
        temperature=temperature, weights="W_V", lr=LR,
    )  # fmt: skip
    for name, old in before.items():
        change = checks.real(model, name).detach() - old
        # Joint c_attn holds queries and keys too, which nothing here trains.
        oracles.close(model, name, found[name], change, 1e-3)


@BY_KIND
def test_nothing_is_alike_where_every_label_is_another(kind: str) -> None:
    episode = checks.episode(shots=2)
    found = lcgd_multitask(checks.host(kind, "llama"), episode, contrast=1.0, content=0.0)
    plain = lcgd(checks.host(kind, "llama"), episode, loss_on="label")
    for name in plain:
        checks.close(found[name], plain[name], 1e-5)


def test_gradients_are_combined_where_nothing_is_alike() -> None:
    host, episode = checks.host(checks.kinds()[0], "llama"), checks.episode(shots=2)
    found = lcgd_multitask(host, episode, contrast=1.0, content=0.0, combine="pcgrad")
    plain = lcgd(host, episode, loss_on="label")
    for name in plain:
        checks.close(found[name], plain[name], 1e-5)


@BY_KIND
def test_shared_and_specific_parts_add_up_to_lcgd(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode()
    others = [checks.episode(shots=3, labels=(8 + i, 9 + i), seed=i) for i in range(2)]
    shared = lcgd_shared(host, episode, part="shared", auxiliary=others)
    specific = lcgd_shared(host, episode, auxiliary=others)
    own = lcgd(host, episode)
    mean = 0.5 * (lcgd(host, others[0]) + lcgd(host, others[1]))
    for name in own:
        checks.close(shared[name], mean[name], 1e-6)
        checks.close(specific[name] + shared[name], own[name], 1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": -1.0}, r"label is -1\.0; it must be at least 0"),
        ({"label": 0.0, "content": 0.0}, "every task has weight 0; give one of them more"),
        ({"combine": "pcgrat"}, r"allowed: sum, pcgrad, upgrad\. Did you mean 'pcgrad'\?"),
        ({"per": "token"}, r"allowed: task, tokens\. Did you mean 'tokens'\?"),
        ({"temperature": 0.0, "contrast": 1.0}, "temperature is 0.0; it must be above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(HypothesisError, match=message):
        lcgd_multitask(checks.host(checks.kinds()[0], "gpt2"), checks.episode(), **settings)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    host, episode = checks.host(checks.kinds()[0], "gpt2"), checks.episode()
    with pytest.raises(HypothesisError, match=r"needs demonstrations of other tasks: .*auxil"):
        lcgd_shared(host, episode, part="shared")
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(HypothesisError, match=r"needs torchjd, .* 'iclgd_lens\[search\]'"):
        lcgd_multitask(host, episode, combine="upgrad")
