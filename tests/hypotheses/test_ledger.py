"""What hypotheses cost, against sums made by hand of tokens, layers and demonstrations."""

from __future__ import annotations

from typing import Any

import pytest

from iclgd_lens.host import Host
from iclgd_lens.hypotheses.ledger import Ledger, counted, counting
from iclgd_lens.hypotheses.registry import get_hypothesis
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
EPISODE = checks.episode(shots=4)
TOKENS = sum(1 + len(example.tokens) for example in EPISODE.demonstrations.examples)
PREDICTED = TOKENS - 4
PASSES = TOKENS * families.N_LAYERS


def cost(kind: str, name: str, **settings: Any) -> Ledger:
    return counted(get_hypothesis(name), checks.host(kind, "llama"), EPISODE, **settings)[1]


@BY_KIND
def test_lcgd_reads_every_layers_output_and_gd_the_last(kind: str) -> None:
    assert cost(kind, "lcgd") == Ledger(PASSES, PASSES, PREDICTED * families.N_LAYERS, 4)
    assert cost(kind, "gd") == Ledger(PASSES, PASSES, PREDICTED, 4)
    two = cost(kind, "lcgd", epochs=2)
    assert two.factor(cost(kind, "lcgd")) == 2.0
    # Labels alone: as many passes, fewer words predicted.
    assert cost(kind, "lcgd", loss_on="label").unembeddings == 4 * families.N_LAYERS


@BY_KIND
def test_a_horizon_carries_each_loss_through_its_blocks(kind: str) -> None:
    """Layer l is reached through min(m, L - 1 - l) + 1 blocks; the last loss goes back once."""
    found = cost(kind, "lcgd_dynamic", horizon=1)
    # Losses read after layers 1 and 2, each carried through two blocks.
    assert found == Ledger(PASSES, 4 * TOKENS, 2 * PREDICTED, 4)
    assert cost(kind, "lcgd_dynamic", horizon=0) == cost(kind, "lcgd")
    assert cost(kind, "lcgd_dynamic", horizon=2) == cost(kind, "gd")


@BY_KIND
def test_what_more_is_run_is_counted(kind: str) -> None:
    plain = cost(kind, "lcgd")
    twice = cost(kind, "lcgd_dynamic", horizon=0, sequential=True)
    assert twice.block_forwards == 2 * plain.block_forwards
    assert twice.block_backwards == plain.block_backwards
    prompt = len(EPISODE.demonstrations.prompt()) * families.N_LAYERS
    assert cost(kind, "lcgd_attention").block_forwards == plain.block_forwards + prompt
    kl = cost(kind, "lcgd_regularized", kl=1.0)
    assert kl.block_forwards == 2 * plain.block_forwards
    assert kl.unembeddings == 3 * plain.unembeddings
    policy = cost(kind, "lcgd_reinforce")
    assert policy == Ledger(PASSES, PASSES, 4 * families.N_LAYERS, 4)


@BY_KIND
def test_a_meta_step_costs_one_more_lcgd_on_the_label(kind: str) -> None:
    """Gradients at no change once, then one pass over the left-out ones a step, then LCGD."""
    found = cost(kind, "lcgd_meta", steps=3)
    assert found.block_forwards == (1 + 3 + 1) * PASSES
    assert found.block_backwards == (1 + 3 + 1) * PASSES
    other = checks.episode(shots=3, labels=(8, 9), seed=5)
    shown = cost(kind, "lcgd_initial", auxiliary=[other])
    assert shown.demonstrations == 7


@BY_KIND
def test_the_count_is_in_the_metadata_and_the_host_as_before(kind: str) -> None:
    model = checks.fresh(kind, "llama")
    host = Host(model)
    before = dict(host.__dict__)
    delta, ledger = counted(get_hypothesis("lcgd"), host, EPISODE)
    assert getattr(delta, "metadata")["cost"] == ledger.as_dict()  # noqa: B009
    assert host.__dict__ == before
    photograph = checks.photograph(model)

    def interrupted() -> None:
        with counting(host):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert host.__dict__ == before
    photograph.assert_same(model)


def test_the_factor_weighs_the_way_back_and_the_vocabulary() -> None:
    assert Ledger(2, 3, 10).factor(Ledger(1, 1, 0), vocabulary=0.5) == (2 + 6 + 5) / 3
