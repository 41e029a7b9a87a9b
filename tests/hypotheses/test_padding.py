"""Queries that are read together answer as queries that are read alone, under every hypothesis.

Shorter rows are continued at their end, so what acts at the last position would act on padding.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

from iclgd_lens.hypotheses.constant_shift import head_outputs
from iclgd_lens.hypotheses.registry import list_hypotheses
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import DEFAULT, REFERENCE
from iclgd_lens.readout.reader import Reader
from tests import checks
from tests.hypotheses.zoo import OTHER_TASK, ZOO

NAMES = sorted(
    name
    for name, found in list_hypotheses().items()
    if found.made_by().__module__.startswith("iclgd_lens")
)
SMALL: dict[str, Any] = {"partial_oracle": {"heads": "0.1,2.3"}}
PARTS = ("attention_output", "z", "scores", "label_scores")


CHOOSE_A_LAYER = ("function_vector", "task_vector", "state_vector")
"""By label words, which what is done at the first label word does not move."""


def built(name: str, host: Any, episode: Any) -> Intervention:
    entry = ZOO.get(name)
    if entry is not None and entry.extra and importlib.util.find_spec(entry.extra) is None:
        pytest.skip(f"{name} needs {entry.extra}, of the extra search")
    settings = dict(entry.quick) if entry is not None else SMALL.get(name, {})
    if entry is not None and entry.auxiliary:
        settings["auxiliary"] = [OTHER_TASK.demonstrations]
    if name in CHOOSE_A_LAYER and episode.protocol.readout == "first_label_word":
        settings.setdefault("layer", 1)
    return list_hypotheses()[name].build(host, episode, **settings)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("protocol", [DEFAULT, REFERENCE.replace(separator="\n")], ids=["", "ref"])
@pytest.mark.parametrize("name", NAMES)
def test_padding_is_seen_by_no_hypothesis(name: str, protocol: Any, kind: str) -> None:
    host = checks.host(kind, "llama")
    episode = checks.episode(protocol, shots=4, queries=5, labels=((5,), (6, 8)))
    assert len(episode.lengths()) > 1
    intervention = built(name, host, episode)
    together, alone = (
        Reader(host, episode, pad_queries=pad).ftzs(intervention) for pad in (True, False)
    )
    for part in PARTS:
        one, other = getattr(together, part), getattr(alone, part)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_can_be_read_alone_under_every_hypothesis(name: str, kind: str) -> None:
    """Tok2Attn asks for their keys; what shares a prefix with queries shares none with them."""
    host = checks.host(kind, "llama")
    episode = checks.episode(shots=4, queries=3, labels=((5,), (6, 8)))
    intervention = built(name, host, episode)
    keys, alone = (
        Reader(host, episode, first=2, batch_size=size).training_keys(intervention)
        for size in (None, 1)
    )
    assert keys is not None
    assert alone is not None
    for one, other in zip(keys, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * float(other.abs().max()))
    tokens = sum(len(example.tokens) for example in episode.demonstrations.examples)
    for layer in keys:
        assert layer.shape == (tokens, host.n_key_value_heads, host.d_head)
        assert torch.isfinite(layer).all()


@pytest.mark.parametrize("kind", checks.kinds())
def test_heads_of_sequences_read_together_are_those_of_each_alone(kind: str) -> None:
    host = checks.host(kind, "llama")
    episode = checks.episode(shots=4, queries=3)
    contents = [example.content for example in episode.demonstrations.examples]
    assert len(set(map(len, contents))) > 1
    together = head_outputs(host, contents)
    for place, ids in enumerate(contents):
        alone = head_outputs(host, [ids])[:, 0]
        torch.testing.assert_close(together[:, place, : len(ids)], alone, rtol=1e-4, atol=1e-5)
