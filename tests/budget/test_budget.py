"""Budgets are chosen on left-out demonstrations, and on nothing else."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import pytest
import torch

from iclgd_lens.budget.budget import Budget, choose_budget, with_budget
from iclgd_lens.episode import Episode, Query
from iclgd_lens.errors import DivergedError, LensError
from iclgd_lens.host import as_host, copied
from iclgd_lens.hypotheses.gd import gd
from iclgd_lens.hypotheses.registry import Hypothesis, get_hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.rules import Rule
from iclgd_lens.training.folds import balanced_folds
from iclgd_lens.training.label_losses import label_losses
from tests import checks

GRID = (1e-3, 1e-1, 1.0)
GD = get_hypothesis("gd")


@pytest.fixture(scope="module")
def model() -> Any:
    return checks.model(checks.kinds()[0], "gpt2")


@pytest.fixture(scope="module")
def episode() -> Episode:
    return checks.episode(shots=8, queries=4)


def few(model: Any, episode: Episode, rule: Hypothesis = GD, **settings: Any) -> Budget:
    usual: dict[str, Any] = {"grid": GRID, "epochs": (1, 2), "losses": ("label",)}
    return choose_budget(model, episode, rule, **{**usual, **settings})


def test_the_budget_with_the_lowest_label_loss_wins(model: Any, episode: Episode) -> None:
    chosen = few(model, episode)
    losses = {tuple(each.settings.values()): each.loss for each in chosen.tried}
    assert {rate for rate, _, _ in losses} >= set(GRID)
    assert chosen.loss == min(losses.values()) == losses[tuple(chosen.settings.values())]
    # Independently: the weights themselves are changed, in a copy.
    for rate, epochs in ((1e-3, 1), (1e-1, 1), (1e-1, 2)):
        found: list[float] = []
        for fold in balanced_folds(episode.demonstrations):
            host = as_host(copied(model))
            delta = gd(model, fold.train, lr=rate, epochs=epochs, loss_on="label")
            for name, change in delta.items():
                weight = host.parameter(name)
                assert weight is not None
                host.write_parameter(name, weight + change)
            for example in fold.left_out.examples:
                ids = [fold.left_out.bos, *example.tokens]
                label = episode.label_tokens[example.gold]
                with torch.no_grad():
                    log_p = host.logits(host.run(host.tensor(ids)).residual)[0].log_softmax(-1)
                places = range(len(ids) - len(label), len(ids))
                assert [ids[i] for i in places] == list(label)
                found.append(-sum(float(log_p[i - 1, ids[i]]) for i in places))
        expected = sum(found) / len(found)
        assert losses[rate, epochs, "label"] == pytest.approx(expected, rel=1e-3)


def test_queries_have_no_say(model: Any, episode: Episode) -> None:
    seen: list[Episode] = []

    def spy(host: Any, shown: Episode, *, lr: float) -> Intervention:
        seen.append(shown)
        return Intervention()

    other = dataclasses.replace(episode, queries=(Query((7, 8, 9), 0),))
    for each in (episode, other):
        few(model, each, Hypothesis(name="spy", build=spy))
    left_out = [
        {e.content for e in f.left_out.examples} for f in balanced_folds(other.demonstrations)
    ]
    for shown in seen:
        assert {query.content for query in shown.queries} in left_out
        assert len(shown.demonstrations) == 6
    assert few(model, episode) == few(model, other)


def test_every_order_of_a_draw_leaves_out_the_same(episode: Episode) -> None:
    held: set[frozenset[Any]] = set()
    for order in ((0, 1, 2, 3, 4, 5, 6, 7), (7, 2, 5, 0, 1, 6, 3, 4), (4, 3, 2, 1, 0, 7, 6, 5)):
        examples = tuple(episode.demonstrations.examples[place] for place in order)
        drawn = tuple(order.index(place) for place in range(8))
        shown = dataclasses.replace(episode.demonstrations, examples=examples, drawn=drawn)
        for fold in balanced_folds(shown):
            held.add(frozenset(example.content for example in fold.left_out.examples))
            # Both parts keep the prompt's order.
            places = [shown.examples.index(example) for example in fold.train.examples]
            assert places == sorted(places)
            assert len(fold.train) + len(fold.left_out) == 8
    assert len(held) == 2, "one set a fold"


@pytest.mark.parametrize(("count", "share", "out"), [(2, 0.01, 1), (2, 0.99, 1), (8, 0.5, 4)])
def test_both_parts_have_at_least_one(episode: Episode, count: int, share: float, out: int) -> None:
    whole = episode.demonstrations
    shown = dataclasses.replace(whole, examples=whole.examples[:count], drawn=tuple(range(count)))
    for fold in balanced_folds(shown, share=share):
        assert (len(fold.train), len(fold.left_out)) == (count - out, out)
    with pytest.raises(LensError, match="at least 2"):
        balanced_folds(dataclasses.replace(shown, examples=shown.examples[:1], drawn=(0,)))


def wild(host: Any, shown: Episode, *, lr: float) -> Intervention:
    if lr > 0.2:
        raise DivergedError(f"lr={lr:g} diverged")
    return gd(host, shown, lr=lr)


def test_a_rate_that_diverges_cannot_win(model: Any, episode: Episode) -> None:
    chosen = few(model, episode, Hypothesis(name="wild", build=wild), grid=(1e-2, 2.0))
    assert chosen.settings["lr"] <= 0.2
    losses = {each.settings["lr"]: each.loss for each in chosen.tried}
    assert losses[2.0] == math.inf
    with pytest.raises(DivergedError, match="diverges at every learning rate tried, down to 2"):
        few(model, episode, Hypothesis(name="wild", build=wild), grid=(2.0, 3.0))


def test_a_rule_keeps_its_defaults_where_no_budget_can_be_chosen(
    model: Any, episode: Episode
) -> None:
    def never(host: Any, shown: Episode, *, lr: float = 0.5) -> Intervention:
        raise DivergedError("never")

    rule = with_budget(
        Rule("never", Hypothesis(name="never", build=never)), as_host(model), episode
    )
    assert dict(rule.settings) == {}
    assert "diverges at every learning rate" in rule.facts["budget"]["problem"]
    given = Rule("gd", GD, {"lr": 0.1})
    assert with_budget(given, as_host(model), episode) is given


def test_the_share_that_is_left_out_is_the_one_asked_for(model: Any, episode: Episode) -> None:
    shown = episode.demonstrations
    (fold,) = balanced_folds(shown, 1, 0.5)
    assert len(fold.train) == len(fold.left_out) == len(shown) // 2
    found = few(model, episode, folds=1, left_out=0.5)
    assert found.left_out == len(shown) // 2
    for each in found.tried[:2]:
        delta = gd(model, fold.train, **each.settings)
        losses = label_losses(as_host(model), fold.left_out, delta, per="word").tolist()
        assert each.loss == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert found.trainings < few(model, episode).trainings


@pytest.mark.parametrize(
    ("search", "told"),
    [
        ({"folds": 0}, "budget: folds must be 1 or more, not 0"),
        ({"left_out": 0.0}, "budget: left_out must be between 0 and 1, not 0.0"),
        ({"left_out": 1.0}, "budget: left_out must be between 0 and 1, not 1.0"),
        ({"epochs": ()}, "budget: epochs must be one number of 1 or more"),
        ({"epochs": (0,)}, "budget: epochs must be one number of 1 or more"),
        ({"grid": (0.1, -1.0)}, "budget: grid must be one positive number or more"),
        ({"grid": (math.nan,)}, "budget: grid must be one positive number or more"),
        ({"losses": ("labels",)}, "budget: losses must be of all, label, one or more"),
    ],
)
def test_a_search_that_cannot_be_is_refused(
    model: Any, episode: Episode, search: dict[str, Any], told: str
) -> None:
    with pytest.raises(LensError, match=re.escape(told)):
        few(model, episode, **search)


def test_choosing_changes_neither_model_nor_random_state(model: Any, episode: Episode) -> None:
    before = checks.photograph(model)
    few(model, episode)
    before.assert_same(model)


def test_loss_tokens_that_are_given_search_as_those_that_are_named(
    model: Any, episode: Episode
) -> None:
    """Side by side all the same: what is given costs no training more."""
    search: dict[str, Any] = {"grid": (0.01, 0.1), "epochs": (1, 2)}
    rule = get_hypothesis("gd")
    given = choose_budget(model, episode, rule, {"loss_on": "label"}, **search)
    named = choose_budget(model, episode, rule, losses=("label",), **search)
    assert [each.loss for each in given.tried] == [each.loss for each in named.tried]
    assert given.settings == {k: v for k, v in named.settings.items() if k != "loss_on"}


def test_passes_are_tried_in_order_however_they_are_named(model: Any, episode: Episode) -> None:
    rule = get_hypothesis("gd")
    search: dict[str, Any] = {"grid": (0.003, 0.003, 0.03), "losses": ("label",), "folds": 1}
    in_order, turned = (
        choose_budget(model, episode, rule, epochs=epochs, **search)
        for epochs in ((1, 8), (8, 1, 8))
    )
    assert turned.settings == in_order.settings
    assert turned.loss == in_order.loss


def test_no_search_runs_inside_a_search(model: Any, episode: Episode) -> None:
    """What chooses its rate itself keeps its own; what searches else is searched without that."""
    bayes = Rule("bayes_lcgd", get_hypothesis("bayes_lcgd"))
    assert with_budget(bayes, as_host(model), episode) is bayes
    asked: list[Any] = []

    def build(host: Any, shown: Any, *, lr: float, generations: int = 8) -> Any:
        asked.append(generations)
        return gd(host, shown, lr=lr)

    own = Hypothesis(name="own", build=build, budgeted_at={"generations": 0})
    few(model, episode, own)
    few(model, episode, own, settings={"generations": 3})
    assert set(asked) == {0}
    assert get_hypothesis("evolution").budgeted_at == {"generations": 0}


def test_rows_train_at_a_setting_of_their_own(model: Any, episode: Episode) -> None:
    """A horizon is no reason to build anew for each rate."""
    rule = get_hypothesis("lcgd_dynamic")
    usual: dict[str, Any] = {"grid": (1e-2,), "epochs": (1,), "losses": ("label",)}
    together = choose_budget(model, episode, rule, {"horizon": 2}, **usual)
    alone = choose_budget(
        model, episode, dataclasses.replace(rule, rows=None), {"horizon": 2}, **usual
    )
    assert together.loss == pytest.approx(alone.loss, rel=1e-4)
