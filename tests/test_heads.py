"""Heads found by what they do, against attention maps and head by head replacement."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from iclgd_lens.errors import HypothesisError, LensError
from iclgd_lens.heads import HeadScores, indirect_effects, induction_scores
from iclgd_lens.protocol import DEFAULT, REFERENCE
from tests import checks, families

FAMILIES = checks.pairs("gpt2", "llama")
EPISODE = checks.episode(shots=4, labels=((5,), (6, 8)))


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_induction_is_attention_to_what_followed(kind: str, family: str) -> None:
    model = checks.model(kind, family)
    found = induction_scores(model, length=9, sequences=2, bos=families.BOS, seed=3)
    drawn = np.random.default_rng(3).choice(np.arange(families.VOCAB_SIZE), size=(2, 9))
    expected = torch.zeros(families.N_LAYERS, families.N_HEADS)
    for row in drawn.tolist():
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([[families.BOS, *row, *row]]))
        for layer in range(families.N_LAYERS):
            pattern = cache[f"blocks.{layer}.attn.hook_pattern"][0]
            for j in range(8):
                expected[layer] += pattern[:, 1 + 9 + j, 1 + j + 1] / 16
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)


def without(episode: Any, place: int, labels: list[Any]) -> list[int]:
    tokens = [families.BOS]
    for other, example in enumerate(episode.demonstrations.examples):
        if other != place:
            tokens += [*example.content, *labels[other], checks.SEPARATOR]
    return tokens


@pytest.mark.parametrize(("kind", "family"), FAMILIES)
def test_an_indirect_effect_is_that_of_one_replaced_head(kind: str, family: str) -> None:
    model = checks.model(kind, family)
    examples = EPISODE.demonstrations.examples
    right = [example.label for example in examples]
    order = np.random.default_rng(0).permutation(4)
    wrong = [right[i] for i in order]
    assert wrong != right
    means = torch.zeros(families.N_LAYERS, families.N_HEADS, 8)
    for place, example in enumerate(examples):
        tokens = [*without(EPISODE, place, right), *example.content]
        with torch.no_grad():
            _, cache = model.run_with_cache(torch.tensor([tokens]))
        for layer in range(families.N_LAYERS):
            z = cache[f"blocks.{layer}.attn.hook_z"][0, -1].reshape(families.N_HEADS, 8)
            means[layer] += z / 4
    expected = torch.zeros(families.N_LAYERS, families.N_HEADS)
    for place in range(2):
        tokens = torch.tensor([[*without(EPISODE, place, wrong), *examples[place].content]])
        label = right[place][0]

        def p(hooks: Any, tokens: Any = tokens, label: int = label) -> float:
            with torch.no_grad():
                logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
            return float(logits[0, -1].softmax(-1)[label])

        for layer in range(families.N_LAYERS):
            for head in range(families.N_HEADS):

                def put(z: Any, hook: Any, layer: int = layer, head: int = head) -> Any:
                    z = z.clone()
                    z[0, -1].view(families.N_HEADS, 8)[head] = means[layer, head]
                    return z

                name = f"blocks.{layer}.attn.hook_z"
                expected[layer, head] += (p([(name, put)]) - p([])) / 2
    found = indirect_effects(model, EPISODE, trials=2, seed=0)
    checks.close(found.values, expected, 1e-3)


def test_the_readout_of_the_protocol_has_no_say_and_small_batches_neither(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    default, reference = (
        checks.episode(protocol, shots=3)
        for protocol in (DEFAULT, REFERENCE.replace(separator="\n"))
    )
    expected = indirect_effects(host, default).values
    torch.testing.assert_close(indirect_effects(host, reference).values, expected)
    monkeypatch.setattr("iclgd_lens.heads.PATCHED_TOKENS_AT_ONCE", 100)
    torch.testing.assert_close(indirect_effects(host, default).values, expected)


def test_labels_that_a_shuffle_leaves_in_place_are_moved_on() -> None:
    from iclgd_lens.heads import _shuffled

    shown = checks.episode(shots=2).demonstrations
    for seed in range(4):
        assert [e.gold for e in _shuffled(shown, seed).examples] == [1, 0]


def test_the_largest_come_first_and_of_equals_the_earlier() -> None:
    scores = HeadScores("x", torch.tensor([[0.0, 2.0], [2.0, 1.0]]))
    assert scores.top(3) == [(0, 1), (1, 0), (1, 1)]
    assert len(scores.top()) == 4


def test_heads_without_a_value_come_last() -> None:
    nan = math.nan
    scores = HeadScores("x", torch.tensor([[nan, 0.9, -math.inf], [0.5, nan, math.inf]]))
    assert scores.top(6) == [(1, 2), (0, 1), (1, 0), (0, 2), (0, 0), (1, 1)]


def test_numbers_without_meaning_are_refused() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    for length, sequences in ((0, 1), (1, 4), (50, 0)):
        with pytest.raises(LensError, match="the token after a repeated one"):
            induction_scores(host, length=length, sequences=sequences)
    assert induction_scores(host, length=2).values.isfinite().all()
    with pytest.raises(LensError, match="trials is 0"):
        indirect_effects(host, EPISODE, trials=0)
    with pytest.raises(HypothesisError, match="at least 2 demonstrations"):
        indirect_effects(host, checks.episode(shots=1))


def test_no_query_is_read() -> None:
    host = checks.host(checks.kinds()[-1], "llama")
    other = dataclasses.replace(EPISODE, queries=checks.episode(queries=2, seed=5).queries)
    one, two = (indirect_effects(host, each, trials=2).values for each in (EPISODE, other))
    assert torch.equal(one, two)


def test_the_induction_head_is_the_one_that_a_world_was_built_with() -> None:
    """Its only head of layer 1 attends to the label after a word's earlier occurrence."""
    worlds = pytest.importorskip("iclgd_lens.worlds", reason="worlds are not in this checkout")
    model, episode = worlds.lcgd_world(0.0)
    words = sorted({token for query in episode.queries for token in query.content})
    scores = induction_scores(model, tokens=words, bos=0)
    assert scores.top(1) == [(1, 0)]


def test_where_memory_does_not_suffice_halves_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    host, episode = checks.host(checks.kinds()[0], "llama"), checks.episode(shots=4)
    expected = indirect_effects(host, episode, trials=1).values
    run, rows = host.run, list[int]()

    def little(tokens: torch.Tensor, prefix: Any = None, *rest: Any, **more: Any) -> Any:
        rows.append(len(tokens))
        if len(tokens) > 5:
            raise torch.OutOfMemoryError("out of memory")
        return run(tokens, prefix, *rest, **more)

    monkeypatch.setattr(host, "run", little)
    checks.close(indirect_effects(host, episode, trials=1).values, expected, 1e-5)
    assert max(rows) == 1 + expected.numel(), "all at once are tried first"

    def none(tokens: torch.Tensor, prefix: Any = None, *rest: Any, **more: Any) -> Any:
        if prefix is not None and tokens.shape[1] == 1:
            raise torch.OutOfMemoryError("out of memory")
        return run(tokens, prefix, *rest, **more)

    monkeypatch.setattr(host, "run", none)
    with pytest.raises(LensError, match="One row alone does not fit into memory"):
        indirect_effects(host, episode, trials=1)
