"""What is missing, failed or counted twice makes no verdict easier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from iclgd_lens.comparing import check_draws
from iclgd_lens.errors import ComparisonError
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Part
from iclgd_lens.scores import KL_MOMENTS, LABEL_SCORES, SCORES
from iclgd_lens.verdicts.behaviour import Behaviour
from iclgd_lens.verdicts.classification import auc
from iclgd_lens.verdicts.draws_and_queries import Compared
from iclgd_lens.verdicts.evidence import ControlEvidence, Evidence
from iclgd_lens.verdicts.gate import Gate
from iclgd_lens.verdicts.verdict import OVERALL, Verdict, decide
from tests import checks

Q = 16
GOLD = np.zeros(Q, np.int64)
SCORE = "SimAOU_label"


def noisy(mean: float, seed: list[int], layers: int = 3) -> np.ndarray[Any, Any]:
    return (mean + 0.02 * np.random.default_rng(seed).normal(size=(Q, layers))).astype(np.float32)


def said(
    parts: list[Part], control: str, score: str = SCORE, controls: tuple[str, ...] = ()
) -> Verdict:
    found = Comparison(tuple(parts), {"controls": list(controls or (control, "shuffled"))})
    verdicts = found.verdicts([score], gate=False)
    return next(each for each in verdicts if each.control == control)


# -- networks ------------------------------------------------------------------------------------


def with_twins(own: str) -> list[Part]:
    """gd at .5, twins at the model's budget near 0, and at their own as named."""
    parts = [Part({"gd": {SCORE: noisy(0.5, [0, draw])}}, GOLD, draw) for draw in range(5)]
    for j in range(8):
        there: dict[str, Mapping[str, Any]] = {"gd": {SCORE: noisy(0.0, [1, j])}}
        parts.append(Part(there, GOLD, j % 5, network="untrained", index=j))
        there = {"gd": {SCORE: noisy(0.5 if own == "as good" else 0.0, [2, j])}}
        failed = own == "failed" or (own == "one failed" and j == 3)
        parts.append(
            Part({} if failed else there, GOLD, j % 5, network="untrained", index=j, budget="own",
                 failures={"gd": "out of memory"} if failed else {})
        )  # fmt: skip
    return parts


@pytest.mark.parametrize(
    ("own", "answer"),
    [("worse", "yes"), ("as good", "no"), ("failed", "undecided"), ("one failed", "undecided")],
)
def test_twins_whose_own_budget_failed_do_not_drop_that_question(own: str, answer: str) -> None:
    assert said(with_twins(own), "untrained").verdict == answer


def test_twins_at_a_budget_of_their_own_that_were_not_measured_are_missed() -> None:
    parts = [part for part in with_twins("worse") if part.budget == ""]
    assert said(parts, "untrained").verdict == "yes", "no rule chose a budget"
    budget = {"settings": {"lr": 0.1}, "improves": True}
    searched = {"rules": {"gd": {"kind": "explanation", "budget": budget}}}
    chosen = [replace(part, facts=searched if part.network == "trained" else {}) for part in parts]
    assert said(chosen, "untrained").verdict == "undecided"


# -- orders --------------------------------------------------------------------------------------


def with_orders(label: str | None) -> list[Part]:
    """Three orders a draw; in the third one label failed."""
    parts: list[Part] = []
    for draw in range(5):
        for order in range(3):
            seed = [draw, order]
            values: dict[str, Mapping[str, Any]] = {
                "gd": {SCORE: noisy(0.5, [*seed, 0])},
                "random[gd]": {SCORE: noisy(0.0, [*seed, 1])},
            }
            if order == 2:
                values.pop(label, None)  # type: ignore[arg-type]
            parts.append(Part(values, GOLD, draw, order, queries=tuple(range(Q))))
    return parts


@pytest.mark.parametrize("label", ["gd", "random[gd]"])
def test_an_order_that_failed_is_not_averaged_away(label: str) -> None:
    assert said(with_orders(None), "random").verdict == "yes"
    lost = said(with_orders(label), "random")
    assert lost.verdict == "undecided"
    assert lost.over_queries is None


def test_orders_of_one_draw_are_no_more_queries() -> None:
    """An interval over queries is as wide however often the same ones were asked."""
    value = np.random.default_rng(0).normal(size=(Q, 3)).astype(np.float32)
    scores = np.random.default_rng(1).normal(size=(Q, 2)).astype(np.float32)
    moments = np.abs(np.random.default_rng(2).normal(size=(Q, 2))).astype(np.float32)
    gold = np.arange(Q) % 2
    measured = {SCORE: value, LABEL_SCORES: scores, KL_MOMENTS: moments}
    frames = []
    for orders in (1, 4):
        parts = tuple(Part({"gd": measured}, gold, 0, order) for order in range(orders))
        lines = Comparison(parts, {}, resamples=200).frame()
        frames.append(lines[lines["ci_low"].notna()])
    one, four = frames
    assert {SCORE, "AUC", "KL_removed"} <= set(one["score"])
    for bound in ("value", "ci_low", "ci_high"):
        assert np.allclose(one[bound], four[bound], atol=1e-6), bound


def without_learning(seed: int, orders: int) -> Comparison:
    """Every prompt knows as much of a query and adds its own noise: demonstrations help nobody."""
    generator = np.random.default_rng(seed)
    gold = np.arange(64) % 2
    known = 0.5 * (2 * gold - 1) + generator.normal(size=64)

    def prompt() -> dict[str, Any]:
        odds = known + 1.5 * generator.normal(size=64)
        return {LABEL_SCORES: np.stack([-odds / 2, odds / 2], 1).astype(np.float32)}

    zs = prompt()
    return Comparison(
        tuple(
            Part({"ZS": zs, "ICL": prompt()}, gold, draw, order)
            for draw in range(5) for order in range(orders)
        ),
        {},
    )  # fmt: skip


def test_the_gate_judges_single_prompts_and_no_ensemble_of_orders() -> None:
    learns = 0
    for seed in range(40):
        found = without_learning(seed, 3)
        gate = found.gate()
        assert gate is not None
        single = [auc(part.values["ICL"][LABEL_SCORES], part.gold) for part in found.parts]
        assert gate.settings["ICL"]["AUC"].value == pytest.approx(np.mean(single))
        learns += gate.learns
    assert learns <= 3


def test_draws_with_different_numbers_of_orders_weigh_the_same() -> None:
    found = without_learning(0, 3)
    fewer = Comparison(tuple(p for p in found.parts if p.draw != 0 or p.order < 2), {})
    gate = fewer.gate()
    assert gate is not None
    by_draw = [
        np.mean([auc(p.values["ICL"][LABEL_SCORES], p.gold) for p in fewer.parts if p.draw == draw])
        for draw in range(5)
    ]
    assert gate.settings["ICL"]["AUC"].value == pytest.approx(np.mean(by_draw))


# -- queries -------------------------------------------------------------------------------------


def half_undefined(share: float) -> list[Part]:
    """As good as random wherever it is defined, which is where a task is easy."""
    parts: list[Part] = []
    for draw in range(5):
        generator = np.random.default_rng(draw)
        kl = np.where(np.arange(Q) < share * Q, 0.1, 2.0)
        own, other = (kl * (1 + 0.02 * generator.normal(size=Q)) for _ in range(2))
        own = np.where(np.arange(Q) < share * Q, own, np.nan)
        values = {
            label: {
                "KL_ICL": each.astype(np.float32),
                KL_MOMENTS: np.stack([each, np.full(Q, 2.0)], 1).astype(np.float32),
            }
            for label, each in (("gd", own), ("random[gd]", other))
        }
        parts.append(Part(values, GOLD, draw, queries=tuple(range(Q))))
    return parts


@pytest.mark.parametrize("score", ["KL_ICL", "KL_removed"])
@pytest.mark.parametrize("share", [0.75, 0.25])
def test_queries_that_one_side_lacks_count_on_neither(score: str, share: float) -> None:
    parts = half_undefined(share)
    assert said(parts, "random", score).verdict in ("no", "undecided")
    found = Comparison(tuple(parts), {"controls": ["random"]}).data
    mine, theirs = (found.per_draw(score, label)[:, 0] for label in ("gd", "random[gd]"))
    if share < 0.5:
        assert np.isnan(mine).all()
        assert np.isnan(theirs).all()
    else:
        assert np.allclose(mine, theirs, atol=0.02)


@pytest.mark.parametrize(("lost", "answer"), [(0, "yes"), (1, "yes"), (6, "undecided")])
def test_a_yes_needs_the_queries_that_the_hypothesis_has(lost: int, answer: str) -> None:
    parts: list[Part] = []
    for draw in range(5):
        own, other = noisy(0.5, [draw, 0]), noisy(0.0, [draw, 1])
        own[:lost] = -1.0  # where the control has none
        other[:lost] = np.nan
        parts.append(Part({"gd": {SCORE: own}, "random[gd]": {SCORE: other}}, GOLD, draw))
    found = said(parts, "random")
    assert found.verdict == answer
    if answer == "undecided":
        assert found.why.startswith("Cannot be a yes: the means leave out 38% of the queries and")


def test_a_yes_needs_the_layers_that_the_hypothesis_has() -> None:
    """One of eight twins has a score in the first layer alone, where the hypothesis does well."""
    parts = [part for part in with_twins("worse") if part.budget == ""]
    assert said(parts, "untrained").verdict == "yes"
    for part in parts:
        if part.network == "trained":
            part.values["gd"][SCORE][:, 1:] = 0.0
        elif part.index == 2:
            part.values["gd"][SCORE][:, 1:] = np.nan
    found = said(parts, "untrained")
    assert found.verdict == "undecided"
    assert "leave out 67%" in found.why


def test_one_number_a_draw_says_nothing_of_other_queries() -> None:
    parts = [
        Part({"gd": {"SimAOU_common": np.full(Q, 0.3 + 0.01 * draw, np.float32)},
              "random[gd]": {"SimAOU_common": np.full(Q, 0.01 * draw, np.float32)}},
             GOLD, draw, queries=tuple(range(Q)))
        for draw in (0, 2, 1, 5, 3)
    ]  # fmt: skip
    assert SCORES["SimAOU_common"].per_draw
    assert said(parts, "random", "SimAOU_common").over_queries is None


def test_scores_over_queries_of_each_subjects_own_are_no_comparison() -> None:
    assert {each.name for each in SCORES.all().values() if each.own_queries} == {
        "SimAOU_f2t", "SimAM_f2t", "Rec2FTP",
    }  # fmt: skip


# -- draws ---------------------------------------------------------------------------------------


def test_a_draw_is_counted_once() -> None:
    first, second = (checks.episode(shots=4, queries=2, seed=seed) for seed in (0, 1))
    check_draws([first, second], 0)
    with pytest.raises(ComparisonError, match="Episodes 0 and 2 have the same demonstrations"):
        check_draws([first, second, first], 0)
    shown = first.demonstrations
    turned = replace(first, demonstrations=replace(shown, examples=shown.examples[::-1], drawn=()))
    with pytest.raises(ComparisonError, match="orders of one draw"):
        check_draws([first, turned], 0)


# -- levels --------------------------------------------------------------------------------------


def test_coverage_of_intervals_moves_no_answer() -> None:
    base = without_learning(5, 1)
    gates = [Comparison(base.parts, {}, confidence=each).gate() for each in (0.95, 0.5)]
    assert gates[0] is not None
    assert gates[1] is not None
    assert gates[0].as_dict() == gates[1].as_dict()


def test_few_queries_of_one_label_are_little_evidence() -> None:
    """Answers are noise that is the same in every draw, as an untrained model's are."""

    def learns(seed: int) -> bool:
        generator = np.random.default_rng(seed)
        gold = np.repeat([1, 0], (3, 29))
        zs, own = generator.normal(size=(2, 32))
        icl = 0.95 * own + 0.3 * generator.normal(size=(5, 32))
        two = [np.stack([-each / 2, each / 2], -1) for each in (np.stack([zs] * 5), icl)]
        return Gate.of(*two, gold, resamples=60).learns

    assert sum(learns(seed) for seed in range(200)) <= 10


def test_what_is_as_good_as_none_is_known_of_cosines_and_not_of_nats() -> None:
    parts: list[Part] = []
    for draw in range(5):
        generator = np.random.default_rng(draw)
        own, other = ((m * (1 + 0.02 * generator.normal(size=Q))).astype(np.float32)
                      for m in (0.001, 0.045))  # fmt: skip
        parts.append(Part({"gd": {"KL_ICL": own}, "random[gd]": {"KL_ICL": other}}, GOLD, draw))
    assert said(parts, "random", "KL_ICL").verdict == "yes", "45 times as near is not nothing"
    cosine = [
        Part({"gd": {SCORE: noisy(0.03, [draw, 0])}, "random[gd]": {SCORE: noisy(0.0, [draw, 1])}},
             GOLD, draw) for draw in range(5)
    ]  # fmt: skip
    assert said(cosine, "random").verdict == "no"


@pytest.mark.parametrize("controls", [1, 5])
def test_the_surest_no_of_several_controls_is_asked_as_often(controls: int) -> None:
    """Truly a little more than the margin better than each of its controls."""
    wrong, trials = 0, 300
    for seed in range(trials):
        generator = np.random.default_rng(seed)
        others = {
            f"control {n}": ControlEvidence("draw", 0.05 * generator.normal(size=(10, 1)))
            for n in range(controls)
        }
        own = 0.0501 + 0.02 * generator.normal(size=10)
        evidence = Evidence(hypothesis="gd", score=SCORE, values=own, controls=others)
        wrong += decide([evidence])[-1].verdict == "no"
    assert wrong / trials <= 0.075


def test_a_no_against_one_control_alone_says_so() -> None:
    """Sure by itself, and not as the surest of four."""
    generator = np.random.default_rng(0)
    own = 0.02 * generator.normal(size=10)
    steps = np.linspace(-1, 1, 10)[:, None]
    near = own[:, None] + 0.11 * steps  # TOST at about p = .02
    far = own[:, None] + 0.5 * steps
    others = {"near": ControlEvidence("draw", near)}
    others |= {f"far {n}": ControlEvidence("draw", far) for n in range(3)}
    four = Evidence(hypothesis="gd", score=SCORE, values=own, controls=others)
    found = {each.control: each for each in decide([four])}
    assert found["near"].verdict == "no"
    assert found[OVERALL].verdict == "undecided"
    assert "no better than near taken alone; as the surest of 4 controls" in found[OVERALL].why
    alone = decide([replace(four, controls={"near": others["near"]})])
    assert alone[-1].verdict == "no"


@pytest.mark.parametrize(("high", "answer"), [(0.04, "no"), (0.06, "undecided")])
def test_next_to_nothing_is_said_only_where_it_is_sure(high: float, answer: str) -> None:
    """Two hundredths of the KL are removed: surely less than five, or perhaps six."""
    none = Compared(0.0, -0.1, 0.1, 1.0, "draws and queries")
    nearer = Compared(0.01, 0.005, 0.02, 0.01, "draws and queries")
    share = Compared(0.02, 0.01, high, 0.01, "draws and queries")
    found = Behaviour("gd", {"gd": 0.5, "ZS": 0.5, "ICL": 0.9}, none, nearer, share, False)
    assert found.comes_nearer == answer
    words = {"no": "comes no nearer to ICL", "undecided": "is not shown to come nearer to ICL"}
    assert words[answer] in found.sentence


def test_differences_and_verdicts_give_one_answer() -> None:
    parts = [
        Part(
            {name: {SCORE: noisy(mean + 0.1 * draw * (name == "gd"), [draw, 7]),
                    "SimAOU": noisy(mean, [draw, 8]), "KL_ICL": noisy(1.0, [draw, 9])[:, 0]}
             for name, mean in (("gd", 0.2), ("random[gd]", 0.0))},
            GOLD, draw,
        )
        for draw in range(5)
    ]  # fmt: skip
    found = Comparison(tuple(parts), {"controls": ["random"]})
    own = {(v.score, v.control): (v.verdict, v.p_corrected) for v in found.verdicts()
           if v.control != OVERALL}  # fmt: skip
    table = found.differences().to_dict("records")
    there = {(each["score"], "random"): (each["verdict"], each["p_corrected"]) for each in table
             if each["kind"] == "control"}  # fmt: skip
    assert 0 < own[SCORE, "random"][1] < 0.1
    for place, answer in own.items():
        assert there[place][0] == answer[0]
        assert there[place][1] == pytest.approx(answer[1], nan_ok=True)
