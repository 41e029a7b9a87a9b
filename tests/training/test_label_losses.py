"""Label losses of demonstrations read alone: those of each by itself, from what must run alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from iclgd_lens.host import frozen
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.intervention import Batch, Injection, Intervention
from iclgd_lens.training.label_losses import label_losses
from tests import checks, families
from tests.host.test_last_mlp import counted

ONE, SEVERAL = ((5,), (6,)), ((5, 9, 3), (6,))


def by_hand(host: Any, episode: Any, prefix: Any = None) -> list[float]:
    """Sums over each word's tokens, from all logits of one demonstration at a time."""
    found: list[float] = []
    head = [] if prefix is not None else [episode.demonstrations.bos]
    for example in episode.demonstrations.examples:
        ids = host.tensor([*head, *example.tokens])
        with frozen(host.model), torch.no_grad():
            log_p = host.logits(host.run(ids, prefix).residual)[0].log_softmax(-1)
        count = len(example.label)
        found.append(-sum(float(log_p[-1 - i, ids[0, -i]]) for i in range(1, count + 1)))
    return found


@pytest.mark.parametrize(("kind", "family"), checks.pairs("gpt2", "llama"))
@pytest.mark.parametrize("labels", [ONE, SEVERAL])
def test_they_are_those_of_each_by_itself(kind: str, family: str, labels: Any) -> None:
    host, episode = checks.host(kind, family), checks.episode(shots=5, labels=labels)
    shown = episode.demonstrations
    assert len({len(example.tokens) for example in shown.examples}) > 1
    expected = torch.tensor(by_hand(host, episode))
    checks.close(label_losses(host, shown, Intervention(), per="word"), expected, 1e-5)
    words = torch.tensor([len(example.label) for example in shown.examples])
    checks.close(label_losses(host, shown, Intervention()), expected / words, 1e-5)


@pytest.mark.parametrize("kind", checks.kinds())
@pytest.mark.parametrize("labels", [ONE, SEVERAL])
def test_words_of_one_token_need_the_last_mlp_there_alone(kind: str, labels: Any) -> None:
    host, episode = checks.host(kind, "gpt2"), checks.episode(shots=5, labels=labels)
    with counted(host) as seen:
        label_losses(host, episode.demonstrations, gd(host, episode, lr=0.1))
    assert seen[-1] == 1 if labels is ONE else seen[-1] > 3


@pytest.mark.parametrize("kind", checks.kinds())
def test_a_prefix_takes_the_place_of_bos(kind: str) -> None:
    host, episode = checks.host(kind, "llama"), checks.episode(shots=4, labels=SEVERAL)
    with frozen(host.model), torch.no_grad():
        prefix = host.prefix(host.tensor([families.BOS, 7, 8, 9]))
    found = label_losses(host, episode.demonstrations, Injection(prefix), per="word")
    checks.close(found, torch.tensor(by_hand(host, episode, prefix)), 1e-5)


class Counting(Intervention):
    """Notes the rows of each pass; told of them, or not (as a plugin's may be)."""

    def __init__(self) -> None:
        self.rows: list[Batch] = []

    def hooks(self, host: Any, batch: Batch = Batch()) -> Any:  # noqa: B008
        self.rows.append(batch)
        return []


class Untold(Counting):
    def hooks(self, host: Any) -> Any:  # type: ignore[override]
        self.rows.append(Batch())
        return []


def test_an_intervention_is_told_of_its_rows_or_sees_none_that_is_continued() -> None:
    host, episode = checks.host(checks.kinds()[0], "gpt2"), checks.episode(shots=5, labels=SEVERAL)
    shown = episode.demonstrations
    told, untold = Counting(), Untold()
    torch.testing.assert_close(label_losses(host, shown, told), label_losses(host, shown, untold))
    (batch,) = told.rows
    assert batch.lengths is not None
    assert batch.readout is not None
    assert batch.tokens is not None
    rows = zip(batch.tokens.tolist(), batch.lengths.tolist(), batch.readout.tolist(), strict=True)
    read = {(tuple(ids[1:length]), tuple(ids[1 : at + 1])) for ids, length, at in rows}
    assert read == {(example.tokens, example.content) for example in shown.examples}
    assert len(untold.rows) == len({len(example.tokens) for example in shown.examples})
