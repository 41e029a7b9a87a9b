"""What variants of LCGD cost, against sums made by hand of layers and demonstrations."""

from __future__ import annotations

from typing import Any

import pytest

from iclgd_lens.cost import Ledger, counted
from iclgd_lens.hypotheses.registry import get_hypothesis
from tests import checks, families

BY_KIND = pytest.mark.parametrize("kind", checks.kinds())
SHOTS = 4
EPISODE = checks.episode(shots=SHOTS)
LAYERS = families.N_LAYERS
PASSES = SHOTS * LAYERS


def cost(kind: str, name: str, **settings: Any) -> Ledger:
    host = checks.host(kind, "llama")
    with counted(host) as ledger:
        get_hypothesis(name).build(host, EPISODE, **settings)
    return ledger


@BY_KIND
def test_a_horizon_carries_each_loss_through_its_blocks(kind: str) -> None:
    # Losses read after layers 1 and 2, each carried through two blocks.
    found = cost(kind, "lcgd_dynamic", horizon=1)
    assert found == Ledger(PASSES, SHOTS * 4, SHOTS * 2, SHOTS)
    assert cost(kind, "lcgd_dynamic", horizon=0) == cost(kind, "lcgd")
    assert cost(kind, "lcgd_dynamic", horizon=LAYERS - 1) == cost(kind, "gd")


@BY_KIND
def test_what_more_is_run_is_counted(kind: str) -> None:
    plain = cost(kind, "lcgd")
    assert plain == Ledger(PASSES, PASSES, PASSES, SHOTS)
    twice = cost(kind, "lcgd_dynamic", horizon=0, sequential=True)
    assert twice.block_forwards == 2 * PASSES
    assert twice.block_backwards == PASSES
    assert cost(kind, "lcgd_attention").block_forwards == PASSES + LAYERS
    kl = cost(kind, "lcgd_regularized", kl=1.0)
    assert (kl.block_forwards, kl.block_backwards, kl.unembeddings) == (
        2 * PASSES, PASSES, 3 * PASSES,
    )  # fmt: skip
    assert cost(kind, "lcgd_reinforce") == plain
    assert cost(kind, "lcgd_reinforce", causal=False) == cost(kind, "gd")
    assert cost(kind, "lcgd_multitask").unembeddings == 2 * PASSES
    assert cost(kind, "newton").block_forwards == 2 * PASSES


@BY_KIND
def test_a_meta_step_costs_one_more_lcgd_on_the_label(kind: str) -> None:
    """Gradients at no change once, then one pass over the left-out ones a step, then LCGD."""
    found = cost(kind, "lcgd_meta", steps=3)
    assert found == Ledger(5 * PASSES, 5 * PASSES, 5 * PASSES, 5 * SHOTS)


@BY_KIND
def test_evolution_costs_its_trials(kind: str) -> None:
    """LCGD, the first centre, and each round its trials and its new centre."""
    found = cost(kind, "evolution", generations=3, population=6)
    assert found.block_backwards == PASSES
    assert found.block_forwards == PASSES * (1 + 1 + 3 * 7)
    assert found.unembeddings == PASSES + SHOTS * (1 + 3 * 7)


@BY_KIND
def test_bounds_cost_the_passes_that_they_are_fitted_to(kind: str) -> None:
    # One prompt a left-out demonstration, then all demonstrations at once.
    assert cost(kind, "distilled") == Ledger(2 * PASSES, 0, 0, 2 * SHOTS)
