"""Contexts of left-out demonstrations against whole sequences read by the model itself."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from iclgd_lens.contexts import LOO, Contexts, label_losses, mean_of_others
from iclgd_lens.errors import HookError, HypothesisError
from iclgd_lens.protocol import DEFAULT, REFERENCE
from tests import checks, families

LAYER = 1
POINTS = {
    "z": f"blocks.{LAYER}.attn.hook_z",
    "stream": f"blocks.{LAYER}.hook_resid_post",
    "pattern": f"blocks.{LAYER}.attn.hook_pattern",
}
LONG = ((5,), (6, 8))
FAMILIES = checks.pairs("gpt2", "llama")


def cache_of(model: Any, tokens: list[int]) -> tuple[torch.Tensor, Any]:
    with torch.no_grad():
        logits, cache = model.run_with_cache(torch.tensor([tokens]))
    return logits[0].float(), cache


def others_of(episode: Any, place: int, loo: str) -> list[int]:
    """The tokens before a demonstration's content, written by hand."""
    tokens = [families.BOS]
    for index, example in enumerate(episode.demonstrations.examples):
        if index == place or (loo == "causal" and index > place):
            continue
        tokens += [*example.content, *example.label, checks.SEPARATOR]
    return tokens


def scores_of(model: Any, before: list[int], content: Any, labels: Any) -> list[float]:
    """Mean log-probability of each label word, by one whole pass each."""
    found: list[float] = []
    for label in labels:
        logits, _ = cache_of(model, [*before, *content, *label])
        log_p = logits.log_softmax(-1)
        at = len(before) + len(content) - 1
        found.append(sum(float(log_p[at + i, t]) for i, t in enumerate(label)) / len(label))
    return found


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
@pytest.mark.parametrize("loo", ["exact", "causal"])
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")])
def test_a_context_is_the_prompt_of_the_others(
    kind: str, family: str, loo: str, protocol: Any
) -> None:
    model = checks.model(kind, family)
    episode = checks.episode(protocol, shots=4, labels=LONG)
    contexts = Contexts(model, episode, "test")
    names = [POINTS["z"], POINTS["stream"]]
    seen = contexts.after_others(names, loo=loo, attention=True)
    assert seen.places == ((0, 1, 2, 3) if loo == "exact" else (1, 2, 3))
    assert seen.attention is not None
    for row, place in enumerate(seen.places):
        before = others_of(episode, place, loo)
        content = list(episode.demonstrations.examples[place].content)
        own = content if protocol == DEFAULT else content + list(LONG[0])
        _, cache = cache_of(model, before + own)
        for name in names:
            torch.testing.assert_close(
                seen.values[name][row].flatten(), cache[name][0, -1].flatten(),
                rtol=1e-4, atol=2e-5,
            )  # fmt: skip
        torch.testing.assert_close(
            seen.label_scores[row],
            torch.tensor(scores_of(model, before, content, LONG)),
            rtol=1e-4, atol=2e-5,
        )  # fmt: skip
        shares = cache[POINTS["pattern"]][0, :, -1]
        start = 1
        for other, example in enumerate(episode.demonstrations.examples):
            if other == place or (loo == "causal" and other > place):
                assert not seen.attention[row, :, :, other].any()
                continue
            end = start + len(example.tokens) + 1
            torch.testing.assert_close(
                seen.attention[row, LAYER, :, other], shares[:, start:end].sum(-1),
                rtol=1e-4, atol=1e-5,
            )  # fmt: skip
            start = end


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_masked_is_the_whole_prompt_with_one_demonstration_hidden(kind: str, family: str) -> None:
    model, episode = checks.model(kind, family), checks.episode(shots=3)
    seen = Contexts(model, episode, "test").after_others([POINTS["stream"]], loo="masked")
    prompt = list(episode.demonstrations.prompt())
    start = 1
    for place, example in enumerate(episode.demonstrations.examples):
        end = start + len(example.tokens) + 1

        def mask(scores: Any, hook: Any, start: int = start, end: int = end) -> Any:
            scores = scores.clone()
            scores[:, :, len(prompt) :, start:end] = -1e9
            return scores

        names = [f"blocks.{layer}.attn.hook_attn_scores" for layer in range(families.N_LAYERS)]
        kept: list[torch.Tensor] = []
        with torch.no_grad():
            model.run_with_hooks(
                torch.tensor([prompt + list(example.content)]),
                fwd_hooks=[
                    *((name, mask) for name in names),
                    (POINTS["stream"], lambda act, hook, kept=kept: kept.append(act[0, -1])),
                ],
            )
        torch.testing.assert_close(
            seen.values[POINTS["stream"]][place], kept[0], rtol=1e-4, atol=2e-5
        )
        start = end


@pytest.mark.parametrize("kind", checks.kinds())
def test_alone_is_the_content_by_itself(kind: str) -> None:
    model, episode = checks.model(kind, "llama"), checks.episode(labels=LONG)
    contexts = Contexts(model, episode.demonstrations, "test")
    seen = contexts.alone([POINTS["z"]])
    for place, example in enumerate(episode.demonstrations.examples):
        content = list(example.content)
        _, cache = cache_of(model, [families.BOS, *content])
        torch.testing.assert_close(
            seen.values[POINTS["z"]][place].flatten(), cache[POINTS["z"]][0, -1].flatten(),
            rtol=1e-4, atol=2e-5,
        )  # fmt: skip
        torch.testing.assert_close(
            seen.label_scores[place],
            torch.tensor(scores_of(model, [families.BOS], content, LONG)),
            rtol=1e-4, atol=2e-5,
        )  # fmt: skip
    assert contexts.words == LONG
    own = [float(seen.label_scores[i, g]) for i, g in enumerate(contexts.gold)]
    torch.testing.assert_close(label_losses(seen, contexts.gold), -torch.tensor(own))


@pytest.mark.parametrize("loo", LOO)
def test_the_prompt_is_read_as_few_times_as_it_can_be(
    loo: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, episode = checks.host(checks.kinds()[-1], "llama"), checks.episode(shots=4)
    run, tokens = type(host).run, [0]

    def counting(self: Any, ids: Any, *args: Any, **kwargs: Any) -> Any:
        tokens[0] += ids.numel()
        return run(self, ids, *args, **kwargs)

    monkeypatch.setattr(type(host), "run", counting)
    Contexts(host, episode, "test").after_others(loo=loo)
    shown = episode.demonstrations
    parts = [len(example.tokens) + 1 for example in shown.examples]
    rows = [len(example.content) for example in shown.examples]
    contents = len(rows) * max(rows) if loo == "masked" else sum(rows[loo == "causal" :])
    later = sum(sum(parts[place + 1 :]) for place in range(4)) if loo == "exact" else 0
    assert tokens[0] == len(shown.prompt()) + later + contents


def test_what_cannot_be_is_refused() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    with pytest.raises(HypothesisError, match="Did you mean 'exact'"):
        Contexts(host, checks.episode(), "test").after_others(loo="exakt")
    with pytest.raises(HypothesisError, match="at least 2 demonstrations, not 1"):
        Contexts(host, checks.episode(shots=1), "test").after_others()
    native = checks.host("bridge", "gptj")
    with pytest.raises(HookError, match="read but not changed"):
        Contexts(native, checks.episode(), "test").after_others(loo="masked")


def test_a_context_without_bos_and_words_of_demonstrations_alone() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    episode = checks.episode(DEFAULT.replace(bos=False), shots=3)
    for shown in (episode, episode.demonstrations):
        contexts = Contexts(host, shown, "test")
        assert contexts.after_others().places == (0, 1, 2)
        assert contexts.after_others(loo="causal").places == (1, 2)
        assert contexts.words == ((5,), (6,))
    foreign = tuple(
        dataclasses.replace(e, gold=-1, label=(9 + i % 2,))
        for i, e in enumerate(episode.demonstrations.examples)
    )
    other = Contexts(host, episode.with_demonstrations(foreign), "test")
    assert other.words == ((9,), (10,))
    assert other.gold == [0, 1, 0]


def test_the_mean_of_others_leaves_each_one_out() -> None:
    values = torch.tensor([1.0, 2.0, 6.0])
    torch.testing.assert_close(mean_of_others(values), torch.tensor([4.0, 3.5, 1.5]))
