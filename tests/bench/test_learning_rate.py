"""The learning rate is chosen on held-out demonstrations, and on nothing else."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from iclgd_lens.bench.frames import load_run
from iclgd_lens.bench.learning_rate import choose_rate, held_out_loss, split
from iclgd_lens.bench.plan import RateChoice, parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.episode import Episode, Query
from iclgd_lens.errors import DivergedError, LensError
from iclgd_lens.host import as_host
from iclgd_lens.host.loading import load_model
from iclgd_lens.hypotheses.registry import (
    _REGISTERED,
    Hypothesis,
    get_hypothesis,
    hypothesis,
)
from iclgd_lens.intervention import Intervention
from iclgd_lens.protocol import REFERENCE
from iclgd_lens.writing import load_episode

CHOICE = RateChoice(grid=(1e-3, 1e-1, 1.0), held_out=0.25)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return load_model(model_folder)


@pytest.fixture(scope="module")
def episode(model: Any, data_folder: Path) -> Episode:
    return load_episode(
        "sst2", model, shots=8, queries=4, data=data_folder, protocol=REFERENCE, permutation=1
    )


def test_the_rate_with_the_lowest_held_out_loss_wins(model: Any, episode: Episode) -> None:
    chosen = choose_rate(model, episode, get_hypothesis("gd"), CHOICE)
    assert set(chosen.losses) == set(CHOICE.grid)
    assert chosen.losses[chosen.lr] == min(chosen.losses.values())
    train, held_out = split(episode.demonstrations, 0.25)
    from iclgd_lens import gd

    for rate in CHOICE.grid:
        # Independently: the weights themselves are changed, in a copy.
        host = as_host(copy.deepcopy(model))
        for name, change in gd(model, train, lr=rate).items():
            weight = host.parameter(name)
            assert weight is not None
            host.write_parameter(name, weight + change)
        total, count = 0.0, 0
        for example in held_out.examples:
            ids = [held_out.bos, *example.tokens]
            with torch.no_grad():
                residual = host.run(host.tensor(ids)).residual
                log_p = host.logits(residual)[0].log_softmax(-1)
            total -= sum(float(log_p[i - 1, ids[i]]) for i in range(1, len(ids)))
            count += len(ids) - 1
        assert chosen.losses[rate] == pytest.approx(total / count, rel=1e-4)


def test_queries_have_no_say(model: Any, episode: Episode) -> None:
    seen: list[Episode] = []

    def spy(host: Any, shown: Episode, *, lr: float) -> Intervention:
        seen.append(shown)
        return Intervention()

    other = dataclasses.replace(episode, queries=(Query((7, 8, 9), 0),))
    for each in (episode, other):
        choose_rate(model, each, Hypothesis("spy", spy), CHOICE)
    held_out = {example.content for example in split(episode.demonstrations, 0.25)[1].examples}
    for shown in seen:
        assert {query.content for query in shown.queries} == held_out
        assert len(shown.demonstrations) == 6
    plain = choose_rate(model, episode, get_hypothesis("gd"), CHOICE)
    assert plain == choose_rate(model, other, get_hypothesis("gd"), CHOICE)


def test_every_order_of_a_draw_holds_out_the_same(model: Any, data_folder: Path) -> None:
    held: set[frozenset[Any]] = set()
    for permutation in range(4):
        shown = load_episode(
            "sst2", model, shots=8, queries=2, data=data_folder, protocol=REFERENCE,
            permutation=permutation,
        ).demonstrations  # fmt: skip
        train, out = split(shown, 0.25)
        held.add(frozenset(example.content for example in out.examples))
        # Both parts keep the prompt's order, and still know the order in which they were drawn.
        places = [shown.examples.index(example) for example in train.examples]
        assert places == sorted(places)
        drawn = [shown.examples[place] for place in shown.drawn]
        assert [train.examples[place] for place in train.drawn] == drawn[:6]
    assert len(held) == 1


@pytest.mark.parametrize(("count", "share", "out"), [(2, 0.01, 1), (2, 0.99, 1), (8, 0.5, 4)])
def test_both_parts_have_at_least_one(episode: Episode, count: int, share: float, out: int) -> None:
    shown = dataclasses.replace(
        episode.demonstrations,
        examples=episode.demonstrations.examples[:count],
        drawn=tuple(range(count)),
    )
    train, held = split(shown, share)
    assert (len(train), len(held)) == (count - out, out)
    with pytest.raises(LensError, match="at least 2"):
        split(dataclasses.replace(shown, examples=shown.examples[:1], drawn=(0,)), share)


def wild(host: Any, shown: Episode, *, lr: float) -> Intervention:
    if lr > 1:
        raise DivergedError(f"lr={lr:g} diverged")
    return get_hypothesis("gd").build(host, shown, lr=lr)


def test_a_rate_that_diverges_cannot_win(model: Any, episode: Episode) -> None:
    chosen = choose_rate(model, episode, Hypothesis("wild", wild), RateChoice(grid=(1e-2, 2.0)))
    assert (chosen.lr, chosen.losses[2.0]) == (1e-2, math.inf)
    with pytest.raises(DivergedError, match=r"every learning rate of the grid, down to 2:"):
        choose_rate(model, episode, Hypothesis("wild", wild), RateChoice(grid=(2.0, 3.0)))


def test_an_injection_has_no_held_out_loss(model: Any, episode: Episode) -> None:
    oracle = get_hypothesis("oracle").build(as_host(model), episode)
    with pytest.raises(LensError, match="prefix"):
        held_out_loss(as_host(model), oracle, episode.demonstrations)


def test_choosing_changes_neither_model_nor_random_state(model: Any, episode: Episode) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    choose_rate(model, episode, get_hypothesis("gd"), CHOICE)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_chosen_rates_are_used_and_recorded(fields: dict[str, Any], tmp_path: Path) -> None:
    own = {"hypothesis": "gd", "settings": {"lr": 0.2}}
    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "seeds": [0], "controls": ["untrained"]}
        | {"lr": {"grid": [0.01, 0.1]}, "hypotheses": {"lcgd": None, "fixed": own}}
    )
    assert not run_plan(plan, tmp_path / "run").failed
    facts = load_run(tmp_path / "run").provenance
    (cell,) = facts["chosen_rates"]
    assert set(cell["rates"]) == {"lcgd"}
    chosen = cell["rates"]["lcgd"]["lr"]
    assert set(cell["rates"]["lcgd"]["held_out_loss"]) == {"0.01", "0.1"}
    assert facts["hypotheses"]["lcgd"]["delta"]["lr"] == chosen
    assert facts["hypotheses"]["fixed"]["delta"]["lr"] == 0.2


def test_divergence_everywhere_is_the_hypothesis_failure(
    fields: dict[str, Any], tmp_path: Path
) -> None:
    plan = parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "seeds": [0], "controls": ["untrained"]}
        | {"lr": {"grid": [2.0]}, "hypotheses": ["wild"]}
    )
    hypothesis("wild")(wild)
    try:
        (reason,) = run_plan(plan, tmp_path / "run").failed.values()
        assert "every learning rate" in reason
    finally:
        _REGISTERED.pop("wild")
    failures = load_run(tmp_path / "run").failures()
    assert set(failures["hypothesis"]) == {"wild", "wild@untrained"}
    assert failures["reason"].str.contains("every learning rate").all()
