"""The race for a budget finds what an exhaustive search finds, for a few trainings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from iclgd_lens.budget import race, trials
from iclgd_lens.budget.budget import choose_budget
from iclgd_lens.budget.held_out import row_losses
from iclgd_lens.budget.race import Race
from iclgd_lens.budget.training_rows import Training, row_trainings
from iclgd_lens.budget.trials import Course
from iclgd_lens.episode import Episode
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.registry import Hypothesis, get_hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.training import shared_batches
from iclgd_lens.training.folds import balanced_folds
from iclgd_lens.training.label_losses import label_losses
from tests import checks

RATES, PASSES, LOSSES = (0.01, 0.05), (1, 2), ("label", "all")
Loss = Callable[[float, int, str], float]


@pytest.fixture(scope="module")
def host() -> Host:
    return as_host(checks.model(checks.kinds()[0], "gpt2"))


@pytest.fixture(scope="module")
def episode() -> Episode:
    return checks.episode(shots=8, queries=2)


@pytest.fixture
def to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything may go on."""
    monkeypatch.setattr(race, "GO_ON", (99,) * 9)
    monkeypatch.setattr(race, "GAIN", -math.inf)
    monkeypatch.setattr(race, "FORGETS", math.inf)


def course_of(host: Host, episode: Episode, name: str = "gd", **given: Any) -> Course:
    folds = balanced_folds(episode.demonstrations)
    return Course(host, episode, get_hypothesis(name), given, folds)


def run(course: Course, *, rates: Any = RATES, passes: Any = PASSES, losses: Any = LOSSES) -> Race:
    before = course.unchanged()
    found = Race(course, sum(before) / len(before))
    shared_batches.alone(found.search(rates, passes, losses))
    return found


@pytest.fixture(scope="module")
def exhaustive(host: Host, episode: Episode) -> dict[Any, tuple[float, ...]]:
    """Every budget by itself: an update built from each fold, asked for what is left out."""
    course = course_of(host, episode)
    found: dict[Any, tuple[float, ...]] = {}
    for rate, count, loss_on in itertools.product(RATES, PASSES, ("label",)):
        each: list[float] = []
        for fold in course.folds:
            delta = course.hypothesis.build(
                host, fold.train, lr=rate, epochs=count, loss_on=loss_on
            )
            each += label_losses(host, fold.left_out, delta, per="word").tolist()
        found[rate, count, loss_on] = tuple(each)
    return found


@pytest.mark.usefixtures("to_the_end")
@pytest.mark.parametrize("room", [None, 1])
def test_it_finds_what_an_exhaustive_search_finds(
    host: Host, episode: Episode, exhaustive: dict[Any, tuple[float, ...]],
    room: int | None, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Also where memory holds few rows, so that trainings begin anew."""
    held: list[int] = []
    advance = Training.hooks

    def spy(self: Training) -> Any:
        held.append(self.rows)
        return advance(self)

    monkeypatch.setattr(Training, "hooks", spy)
    if room is not None:
        monkeypatch.setattr(Course, "rates_at_once", room)
    found = run(course_of(host, episode), losses=("label",)).found
    assert set(found) >= set(exhaustive)
    for point, each in exhaustive.items():
        assert found[point].each == pytest.approx(each, rel=2e-3, abs=2e-3)
    best = min(exhaustive, key=lambda point: sum(exhaustive[point]))
    widened = [point for point in found if point[0] not in RATES]
    assert min(set(found) - set(widened), key=lambda point: found[point].mean) == best
    assert max(held) <= 2 * (room or 99), "two folds"


def test_memory_is_bounded_by_the_models_own(
    host: Host, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert course_of(host, episode).rates_at_once > len(race.GRID), "a small model's all at once"
    monkeypatch.setattr(trials, "ROOM", 0)
    course = course_of(host, episode)
    weights = sum(each.numel() for each in host.model.parameters())
    delta = course.hypothesis.build(host, episode.demonstrations, lr=0.1)
    assert course.rates_at_once == weights // (2 * sum(each.numel() for _, each in delta.items()))
    assert course_of(host, episode, weights="W_V").rates_at_once > course.rates_at_once
    everything = course_of(host, episode, weights=("W_Q", "W_K", "W_V", "W_O"))
    assert 1 <= everything.rates_at_once < course.rates_at_once


@pytest.mark.parametrize("name", ["gd", "lcgd"])
def test_folds_learn_side_by_side_as_they_do_alone(host: Host, episode: Episode, name: str) -> None:
    """Sequences of unlike length, in one batch, each row at its own rate."""
    course = course_of(host, episode, name)
    sets = [fold.train for fold in course.folds]
    left_out = [fold.left_out for fold in course.folds]
    lengths = [[len(each.tokens) for each in own.sequences("all")] for own in sets]
    assert lengths[0] != lengths[1]
    rule = course.hypothesis.rows
    assert rule is not None
    rates = [0.01, 0.03]
    for loss_on in LOSSES:
        (both,) = row_trainings(rule, host, sets, rates, 1, loss_on=loss_on)
        losses = row_losses(host, both, left_out)
        for (place, own), (row, rate) in itertools.product(enumerate(sets), enumerate(rates)):
            alone = course.hypothesis.build(host, own, lr=rate, loss_on=loss_on)
            for key, value in alone.items():
                torch.testing.assert_close(
                    both.delta[key][2 * place + row].detach(), value, rtol=1e-3, atol=1e-5
                )
            expected = label_losses(host, left_out[place], alone, per="word").tolist()
            size = len(expected)
            mine = losses[place * size : (place + 1) * size, row]
            assert mine.tolist() == pytest.approx(expected, rel=1e-3)


@pytest.mark.usefixtures("to_the_end")
def test_a_model_that_cannot_be_padded_trains_fold_by_fold(
    host: Host, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = run(course_of(host, episode), passes=(1,), losses=("label",)).found
    monkeypatch.setattr(type(host), "can_pad", False)
    course = course_of(host, episode)
    assert [len(bundle) for bundle in course.bundles] == [1, 1]
    apart = run(course, passes=(1,), losses=("label",)).found
    assert set(apart) == set(together)
    for point, outcome in apart.items():
        assert outcome.each == pytest.approx(together[point].each, rel=1e-3)


def test_a_row_that_diverges_spoils_no_other(host: Host, episode: Episode) -> None:
    search: dict[str, Any] = {"passes": (1,), "losses": ("label",)}
    alone = run(course_of(host, episode), rates=(0.03, 0.1, 0.3), **search).found
    found = run(course_of(host, episode), rates=(0.03, 0.1, 0.3, 1e38), **search).found
    assert found[1e38, 1, "label"].mean == math.inf
    for rate in (0.03, 0.1, 0.3):
        assert found[rate, 1, "label"].each == pytest.approx(alone[rate, 1, "label"].each, rel=1e-3)


# -- a landscape of one's own ----------------------------------------------------------------------


@pytest.fixture
def landscape(
    host: Host, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Race, bool, int]]:
    """Race over losses that a function gives; returns it, whether it ends on the edge, and what
    was trained: rates times passes."""

    def go(loss: Loss, *, alone: float = 5.0, rates: Any = race.GRID) -> tuple[Race, bool, int]:
        spent = 0

        def losses(self: trials.Built, count: int | None) -> list[tuple[float, ...]]:
            nonlocal spent
            spent += len(self.rates) * (count or 1)
            each = [loss(rate or 0.0, count or 1, self.loss_on or "") for rate in self.rates]
            return [(value, value) for value in each]

        monkeypatch.setattr(trials.Built, "losses", losses)
        monkeypatch.setattr(Course, "unchanged", lambda self: [alone])
        spy = Hypothesis(name="spy", build=lambda host, episode, *, lr: Intervention())
        found = Race(Course(host, episode, spy, {}, ()), alone)
        edge = shared_batches.alone(found.search(rates, (1, 2, 4, 8, 16), LOSSES))
        return found, edge, spent

    return go


def bowl(best: float, passes: int = 1, floor: float = 0.5) -> Loss:
    """Lowest at one rate, and falling until so many passes."""

    def loss(rate: float, count: int, loss_on: str) -> float:
        away = abs(math.log10(rate / best))
        return floor + away + max(0, passes - count) * 0.3 + (loss_on == "all")

    return loss


@pytest.mark.parametrize("best", [1e-5, 1e-4, 0.03, 10.0])
def test_the_grid_widens_while_the_best_lies_on_its_edge(landscape: Any, best: float) -> None:
    found, edge, _ = landscape(bowl(best))
    assert found.best[0] == (pytest.approx(best, rel=0.1), 1, "label")
    assert not edge
    rates = sorted({rate for rate, _, tokens in found.found if tokens == "label"})
    assert all(b / a < 10**0.55 for a, b in itertools.pairwise(rates)), "no hole"


@pytest.mark.parametrize("best", [1e-9, 1e9])
def test_the_widest_grid_has_bounds_and_says_so(landscape: Any, best: float) -> None:
    found, edge, _ = landscape(bowl(best), alone=50.0)
    assert edge
    assert race.LOWEST <= found.best[0][0] <= race.HIGHEST


def test_rates_that_do_nothing_are_no_edge(landscape: Any) -> None:
    """The lowest rate is best since it changes nothing: lower ones come nearer to that, no more."""
    found, edge, _ = landscape(lambda rate, count, loss_on: 5.0 + rate * count)
    assert not edge
    assert {rate for rate, _, tokens in found.found if tokens == "label"} == set(race.GRID)
    assert {count for _, count, _ in found.found} == {1, 2}, "where nothing gains it ends"


def test_it_ends_where_more_passes_gain_nothing(landscape: Any) -> None:
    for passes, last in ((1, 4), (4, 8), (8, 16), (16, 16)):
        found, _, _ = landscape(bowl(0.03, passes))
        assert max(count for _, count, _ in found.found) == last
        assert found.best[0][:2] == (0.03, passes)


def test_it_ends_where_the_task_is_solved_or_all_forget(landscape: Any) -> None:
    found, _, _ = landscape(bowl(0.03, floor=0.01))
    assert {(count, tokens) for _, count, tokens in found.found} == {(1, "label")}
    found, _, _ = landscape(lambda rate, count, loss_on: 1.0 + 0.6 * (count > 1))
    assert max(count for _, count, _ in found.found) == 2


def test_few_go_on(landscape: Any) -> None:
    found, _, spent = landscape(bowl(0.03, 16))
    by_pass = {n: len({p for p in found.found if p[1] == n}) for n in (1, 2, 4, 8, 16)}
    assert by_pass == {1: 7 + 4, 2: 4 + 4, 4: 2, 8: 1, 16: 1}
    assert spent < 4 * 16


def test_other_tokens_are_tried_where_the_labels_do_not_do_well(landscape: Any) -> None:
    def loss(rate: float, count: int, loss_on: str) -> float:
        return bowl(0.01)(rate, count, "") + (loss_on == "label")

    found, _, _ = landscape(loss)
    assert found.best[0] == (0.01, 1, "all")
    found, _, _ = landscape(bowl(0.01, floor=0.2))
    assert {tokens for _, _, tokens in found.found} == {"label"}


@pytest.mark.parametrize("name", ["gd", "lcgd"])
def test_what_a_search_costs_is_counted(host: Host, episode: Episode, name: str) -> None:
    """By hand: of 8 demonstrations two folds of 6 are learned from and 2 are asked, twice."""
    given = {"lr": 0.1, "loss_on": "label"}
    found = choose_budget(host, episode, get_hypothesis(name), given, epochs=(2,))
    learned, asked = 2 * 6 * 2 * 2, 2 * 2 * 2
    assert found.trainings == pytest.approx((learned + asked) / (2 * 8 * 2))


def test_rates_that_do_as_well_are_told(host: Host, episode: Episode) -> None:
    found = choose_budget(host, episode, get_hypothesis("gd"), grid=RATES, epochs=(1, 2))
    assert found.rates is not None
    low, high = found.rates
    assert low <= found.settings["lr"] <= high
    assert found.as_dict()["rates"] == [low, high]
