"""The one verdict rule: its cases, and every way found in which noise could be called yes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats

from iclgd_lens.errors import VerdictError
from iclgd_lens.verdicts.evidence import ControlEvidence, Evidence
from iclgd_lens.verdicts.resampling import sign_flip
from iclgd_lens.verdicts.statistics import holm
from iclgd_lens.verdicts.verdict import OVERALL, Verdict, decide

NOISE = np.array([-1.2, 0.4, 0.9, -0.6, 0.5, 0.1, -0.7, 0.6, 1.1, -1.1])
"""Ten numbers of mean 0: draws' and networks' own whims."""


def drawn(mean: float, draws: int = 5, spread: float = 0.05, seed: int = 0) -> np.ndarray:
    return mean + spread * np.random.default_rng(seed).normal(size=draws)


def draw(values: Any, **fields: Any) -> ControlEvidence:
    return ControlEvidence("draw", values, **fields)


def networks(values: Any, **fields: Any) -> ControlEvidence:
    return ControlEvidence("network", values, **fields)


def evidence(values: Any, hypothesis: str = "gd", **controls: ControlEvidence) -> Evidence:
    return Evidence(hypothesis=hypothesis, score="SimAOU_label", values=values, controls=controls)


def by_control(found: list[Verdict], hypothesis: str = "gd") -> dict[str, Verdict]:
    return {each.control: each for each in found if each.hypothesis == hypothesis}


def one(given: Evidence, **options: Any) -> Verdict:
    """The overall verdict of one piece of evidence."""
    return by_control(decide([given], **options), given.hypothesis)[OVERALL]


GOOD = evidence(
    drawn(0.45),
    random=draw(drawn(0.0, seed=1)),
    shuffled=draw(drawn(0.05, seed=2)),
    untrained=networks(drawn(0.02, 8, seed=3)),
)


# -- the four answers ----------------------------------------------------------------------------


def test_yes_needs_each_control() -> None:
    found = by_control(decide([GOOD]))
    assert [each.verdict for each in found.values()] == ["yes"] * 4
    assert list(found) == ["random", "shuffled", "untrained", OVERALL]
    assert found[OVERALL].p_corrected == max(
        found[name].p_corrected for name in ("random", "shuffled", "untrained")
    )


def test_the_numbers_are_those_of_the_rules() -> None:
    found = by_control(decide([GOOD]))
    values, controls = np.asarray(GOOD.values), GOOD.controls
    paired = scipy.stats.ttest_rel(values, controls["random"].values)
    assert found["random"].p == pytest.approx(paired.pvalue)
    assert found["random"].interval == pytest.approx(tuple(paired.confidence_interval()))
    twins = np.asarray(controls["untrained"].values)
    own, error = twins.var(ddof=1) * (1 + 1 / 8), values.var(ddof=1) / len(values)
    welch = (own + error) ** 2 / (own**2 / 7 + error**2 / (len(values) - 1))
    t = (values.mean() - twins.mean()) / (own + error) ** 0.5
    assert found["untrained"].p == pytest.approx(2 * scipy.stats.t.sf(t, min(welch, 7)))
    plain = (values.mean() - twins.mean()) / own**0.5
    assert found["untrained"].p > 2 * scipy.stats.t.sf(plain, 7)


def test_a_model_that_varies_over_draws_is_not_told_apart_from_twins_that_do_not() -> None:
    """Truly equal to twins, which vary little: its own draws are the uncertainty."""
    generator = np.random.default_rng(0)
    answers: list[str] = []
    for _ in range(300):
        values, twins = 0.1 * generator.normal(size=5), 0.01 * generator.normal(size=8)
        answers.append(one(evidence(values, untrained=networks(twins))).verdict)
    assert answers.count("yes") <= 0.05 * 300
    better: list[str] = []
    for _ in range(300):  # truly better by more than the margin
        values, twins = 0.12 + 0.1 * generator.normal(size=5), 0.02 * generator.normal(size=8)
        better.append(one(evidence(values, untrained=networks(twins))).verdict)
    assert better.count("no") <= 0.05 * 300
    # Two draws far apart, whose mean happens to be that of twins that all but agree.
    split = one(evidence([0.25, -0.2], untrained=networks(0.002 * NOISE)))
    assert split.verdict == "undecided"
    assert one(evidence([0.025, 0.0251], untrained=networks(0.002 * NOISE))).verdict == "no"


@pytest.mark.parametrize("name", ["random", "shuffled", "untrained"])
def test_one_control_that_is_not_beaten_is_enough(name: str) -> None:
    same = drawn(0.45, 5 if name != "untrained" else 8, spread=0.3, seed=9)
    controls = {**GOOD.controls, name: replace(GOOD.controls[name], values=same)}
    found = by_control(decide([replace(GOOD, controls=controls)]))
    assert found[OVERALL].verdict == found[name].verdict == "undecided"
    assert f"not shown to be better than {name}" in found[OVERALL].why


def test_no_where_a_control_is_higher() -> None:
    found = by_control(decide([evidence(drawn(0.1), random=draw(drawn(0.5, seed=1)))]))
    assert found["random"].verdict == found[OVERALL].verdict == "no"
    assert found["random"].why.startswith("random does better: ")
    assert found["random"].interval[1] < 0


def test_no_where_the_difference_is_surely_next_to_nothing() -> None:
    control = drawn(0.3, spread=0.2)
    found = one(evidence(control + 0.01 * NOISE[:5], shuffled=draw(control)))
    assert found.verdict == "no"
    assert "As good as shuffled" in found.why
    assert "; it is shown to be smaller than 0.05" in found.why
    wide = one(evidence(control + 0.5 * NOISE[:5], shuffled=draw(control)))
    assert wide.verdict == "undecided"


def test_no_against_networks_is_about_their_mean() -> None:
    twins = 0.3 + 0.04 * NOISE
    found = one(evidence(0.31 + 0.001 * NOISE[:5], untrained=networks(twins)))
    assert found.verdict == "no"
    # One more network might lie further off than the margin, and the words do not deny it.
    assert found.interval is not None
    low, high = found.interval
    assert low < -0.05 < 0.05 < high
    assert "; its distance from their mean is shown to be smaller than 0.05" in found.why
    few = one(evidence(0.31 + 0.001 * NOISE[:5], untrained=networks(twins[:3])))
    assert few.verdict == "undecided"


def test_undecided_says_how_many_would_do() -> None:
    control = drawn(0.1, seed=4)
    found = one(evidence(control + 0.15 + 0.2 * NOISE[:5], random=draw(control)))
    assert found.verdict == "undecided"
    assert found.needed is not None
    assert 6 <= found.needed <= 30
    assert f"about {found.needed} draws would do" in found.why
    # And they do, mostly, if the world is as it seems.
    shown = 0
    for seed in range(100):
        more = np.random.default_rng(seed).normal(0.15, 0.2 * NOISE[:5].std(ddof=1), found.needed)
        shown += one(evidence(more, random=draw(np.zeros(found.needed)))).verdict == "yes"
    assert shown > 65


def test_more_networks_do_not_help_a_value_within_their_spread() -> None:
    twins = 0.2 * NOISE
    found = one(evidence(0.2 + 0.001 * NOISE[:5], untrained=networks(twins)))
    assert found.verdict == "undecided"
    assert found.needed is None
    assert "more networks would not do" in found.why


@pytest.mark.parametrize("kind", ["fitted", "check", "control"])
def test_what_is_no_explanation_gets_no_verdict(kind: str) -> None:
    for gate in (True, False):
        found = decide([replace(GOOD, kind=kind)], gate=gate)
        assert {each.verdict for each in found} == {"not applicable"}
        assert all(each.interval is None for each in found)


def test_a_reason_makes_all_verdicts_not_applicable_and_is_told() -> None:
    reason = "no in-context learning is shown: AUC 0.51 in ICL"
    found = decide([replace(GOOD, inapplicable=reason)])
    assert {each.verdict for each in found} == {"not applicable"}
    assert {each.why for each in found} == {"No in-context learning is shown: AUC 0.51 in ICL."}
    off = decide([replace(GOOD, inapplicable=reason)], gate=False)
    assert {each.verdict for each in off} == {"yes"}
    for gate in (True, False):
        never = decide([replace(GOOD, incomparable="queries of its own")], gate=gate)
        assert {each.verdict for each in never} == {"not applicable"}
        assert {each.why for each in never} == {"Queries of its own."}


def test_lower_scores_can_be_better() -> None:
    given = Evidence(
        hypothesis="gd", score="KL_ICL", values=drawn(0.1),
        controls={"random": draw(drawn(0.9, seed=1))}, better="lower",
    )  # fmt: skip
    found = one(given)
    assert found.verdict == "yes"
    assert found.interval[0] > 0
    assert one(replace(given, better="higher")).verdict == "no"


# -- one draw ------------------------------------------------------------------------------------


def test_one_draw_takes_twenty_realisations() -> None:
    twenty = drawn(0.0, 20, seed=5)
    found = one(evidence([0.4], random=draw(twenty[None])))
    assert found.verdict == "yes"
    assert "one draw" in found.why
    t = (0.4 - twenty.mean()) / (twenty.std(ddof=1) * (1 + 1 / 20) ** 0.5)
    assert found.p == pytest.approx(2 * scipy.stats.t.sf(t, 19))
    few = one(evidence([0.4], random=draw(twenty[None, :19])))
    assert few.verdict == "undecided"
    assert "one draw and 19 realisations" in few.why
    assert few.needed == 5
    assert one(evidence([0.4], random=draw([0.0]))).verdict == "undecided"


def test_one_draw_against_networks_says_so() -> None:
    found = one(evidence([0.4], untrained=networks(drawn(0.0, 8))))
    assert found.verdict == "yes"
    assert "on one draw" in found.why


def test_realisations_within_a_draw_are_averaged() -> None:
    several = 0.02 + 0.05 * np.random.default_rng(6).normal(size=(5, 4))
    found = by_control(decide([evidence(drawn(0.4), random=draw(several))]))["random"]
    theirs = scipy.stats.ttest_rel(drawn(0.4), several.mean(1))
    assert found.p == pytest.approx(theirs.pvalue)


# -- ways in which noise could be called yes -----------------------------------------------------


def test_without_controls_nothing_is_shown() -> None:
    found = decide([evidence(drawn(0.9))])
    assert [(each.control, each.verdict) for each in found] == [(OVERALL, "undecided")]
    assert "No control was asked for" in found[0].why


def test_a_control_that_was_asked_for_and_left_out_is_missing() -> None:
    assert one(GOOD, asked=["random", "untrained"]).verdict == "yes"
    found = by_control(decide([GOOD], asked=["other_task"]))
    assert found["other_task"].verdict == found[OVERALL].verdict == "undecided"
    assert "other_task was not measured" in found[OVERALL].why


def test_a_control_that_failed_is_named_and_allows_no_yes() -> None:
    controls = {**GOOD.controls, "untrained": networks(None, failed="it diverged at every rate")}
    found = by_control(decide([replace(GOOD, controls=controls)]))
    assert found["random"].verdict == "yes"
    assert found[OVERALL].verdict == "undecided"
    assert "untrained failed (it diverged at every rate)" in found[OVERALL].why


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["random", "untrained"])
def test_one_value_that_is_not_finite_allows_no_yes(name: str, value: float) -> None:
    # -inf would be the easiest of all controls to beat.
    lost = np.array(GOOD.controls[name].values)
    lost[2] = value
    controls = {**GOOD.controls, name: replace(GOOD.controls[name], values=lost)}
    found = by_control(decide([replace(GOOD, controls=controls)]))
    assert found[name].verdict == found[OVERALL].verdict == "undecided"
    assert f"{name} is undefined in 1 of" in found[name].why


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_draw_in_which_the_hypothesis_failed_allows_no_yes(value: float) -> None:
    values = drawn(0.45)
    values[3] = value
    found = by_control(decide([replace(GOOD, values=values)]))
    assert {each.verdict for each in found.values()} == {"undecided"}
    nothing = decide([replace(GOOD, values=np.full(5, np.nan))])
    assert {each.verdict for each in nothing} == {"undecided"}
    assert "has no SimAOU_label in any draw" in nothing[0].why


def test_one_realisation_that_failed_is_not_averaged_away() -> None:
    several = np.zeros((5, 4)) + drawn(0.0)[:, None]
    several[1, 2] = np.nan
    assert one(evidence(drawn(0.45), random=draw(several))).verdict == "undecided"
    lost = drawn(0.0, 21)
    lost[4] = np.nan
    assert one(evidence([0.45], random=draw(lost[None]))).verdict == "undecided"


def test_a_failed_control_still_loses_nothing_that_it_won() -> None:
    values, better = drawn(0.1), drawn(0.6, seed=1)
    better[0] = np.nan
    found = one(evidence(values, random=draw(better)))
    assert found.verdict == "no"


def test_incomplete_draws_are_never_equivalent() -> None:
    control = drawn(0.3)
    values = control + 0.001 * NOISE[:5]
    values[0] = np.nan
    assert one(evidence(values, random=draw(control))).verdict == "undecided"


def test_the_same_draw_five_times_over_is_no_evidence() -> None:
    found = one(evidence(np.full(5, 0.5), random=draw(np.full(5, 0.1))))
    assert found.verdict == "undecided"
    assert "same in every draw" in found.why
    nearly = 0.5 + 1e-8 * NOISE[:5]
    assert one(evidence(nearly, random=draw(np.full(5, 0.1)))).verdict == "undecided"


def test_twins_that_are_one_network_are_no_evidence() -> None:
    found = one(evidence(drawn(0.5), untrained=networks(np.full(8, 0.1))))
    assert found.verdict == "undecided"
    assert "score the same" in found.why


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_networks(count: int) -> None:
    found = one(evidence(drawn(0.9), untrained=networks(drawn(0.0, count))))
    assert found.verdict == "undecided"
    assert found.needed == 8
    lost = [0.01, -0.02, *[np.nan] * 6]
    assert one(evidence(drawn(0.9), untrained=networks(lost))).verdict == "undecided"


def test_both_budgets_of_the_twins_have_to_be_beaten() -> None:
    low, high = drawn(0.0, 8, seed=3), drawn(0.43, 8, spread=0.1, seed=4)
    both = {"at the model's budget": low, "at their own budget": high}
    found = one(evidence(drawn(0.45), untrained=networks(None, variants=both)))
    assert found.verdict == "undecided"
    assert "at their own budget" in found.why
    assert found.p == one(evidence(drawn(0.45), untrained=networks(high))).p
    fine = {"at the model's budget": low, "at their own budget": low + 0.01}
    assert one(evidence(drawn(0.45), untrained=networks(None, variants=fine))).verdict == "yes"
    lost = {"at the model's budget": low, "at their own budget": np.full(8, np.nan)}
    found = one(evidence(drawn(0.45), untrained=networks(None, variants=lost)))
    assert found.verdict == "undecided"


def test_a_variant_that_is_surely_worse_does_not_hide_behind_its_small_p() -> None:
    # Two-sided p is small in both directions: the direction of each variant counts.
    above = drawn(0.9, 8, spread=0.01, seed=5)
    both = {"at the model's budget": drawn(0.0, 8, seed=3), "at their own budget": above}
    found = one(evidence(drawn(0.45), untrained=networks(None, variants=both)))
    assert found.verdict == "no"


def test_a_sure_but_tiny_difference_is_no_yes() -> None:
    control = drawn(0.3)
    found = one(evidence(control + 0.01 + 1e-4 * NOISE[:5], random=draw(control)))
    assert found.verdict == "no"
    assert "by next to nothing" in found.why
    assert found.p_corrected < 1e-4
    free = one(evidence(control + 0.01 + 1e-4 * NOISE[:5], random=draw(control)), margin=0.0)
    assert free.verdict == "yes"


def test_margins_are_by_score() -> None:
    control = drawn(0.3)
    given = evidence(control + 0.08 + 1e-3 * NOISE[:5], random=draw(control))
    assert one(given).verdict == "yes"
    assert one(given, margin={"SimAOU_label": 0.2}).verdict == "no"
    assert one(given, margin={"KL_ICL": 0.2}).verdict == "yes"


def test_many_hypotheses_of_noise_are_corrected_for() -> None:
    """Thirty hypotheses of noise against the same control: the chance of even one yes."""
    wrong, alone = 0, 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        given = [
            evidence(generator.normal(size=5), f"noise{i}", random=draw(generator.normal(size=5)))
            for i in range(30)
        ]
        wrong += any(each.verdict == "yes" for each in decide(given))
        alone += any(one(each).verdict == "yes" for each in given)
    assert wrong / 40 <= 0.05
    assert alone / 40 > 0.3


def family(*ps: float) -> list[Evidence]:
    """One hypothesis for each p-value that a paired test of it should give."""
    return [evidence(_with_p(p), f"h{i}", random=draw(np.zeros(5))) for i, p in enumerate(ps)]


def _with_p(p: float) -> np.ndarray:
    t = scipy.stats.t.isf(p / 2, 4)
    unit = (NOISE[:5] - NOISE[:5].mean()) / NOISE[:5].std(ddof=1)
    return 0.5 + 0.5 / t * 5**0.5 * unit


def corrected(found: list[Verdict]) -> list[float]:
    return [each.p_corrected for each in found if each.control == "random"]


def test_the_correction_is_holms_within_the_question() -> None:
    ps = [0.001, 0.02, 0.03, 0.2]
    assert corrected(decide(family(*ps))) == pytest.approx(holm(ps).tolist())
    # Another question has its own family.
    more = [
        replace(each, controls={**each.controls, "shuffled": draw(np.zeros(5))})
        for each in family(*ps)
    ]
    assert corrected(decide(more)) == pytest.approx(holm(ps).tolist())


@pytest.mark.parametrize("how", ["failed", "undefined", "unlearned", "not measured"])
def test_what_fails_does_not_make_the_others_easier(how: str) -> None:
    given = family(0.03, 0.001)
    if how == "failed":
        given[1] = replace(given[1], controls={"random": draw(None, failed="out of memory")})
    elif how == "undefined":
        given[1] = replace(given[1], values=np.full(5, np.nan))
    elif how == "unlearned":
        given[1] = replace(given[1], inapplicable="it has not learned")
    else:
        given[1] = replace(given[1], controls={})
    found = by_control(decide(given, asked=["random"]), "h0")
    assert found["random"].p_corrected == pytest.approx(0.06)
    assert found["random"].verdict == "undecided"


def test_what_is_no_explanation_asks_nothing() -> None:
    given = family(0.03, 0.001)
    given[1] = replace(given[1], kind="check")
    assert by_control(decide(given), "h0")["random"].p_corrected == pytest.approx(0.03)


def test_evidence_given_twice_is_refused() -> None:
    with pytest.raises(VerdictError, match="twice for gd on SimAOU_label"):
        decide([GOOD, GOOD])


def test_nearly_significant_is_not_rounded_to_yes() -> None:
    found = decide(family(0.0500001))
    assert found[0].verdict == "undecided"
    assert found[0].interval[0] < 0
    assert decide(family(0.0499999))[0].verdict == "yes"


@pytest.mark.parametrize("seed", range(5))
def test_every_yes_has_its_p_and_its_interval(seed: int) -> None:
    generator = np.random.default_rng(seed)
    given = [
        evidence(
            generator.normal(0.4, 0.2, 5),
            f"h{i}",
            random=draw(generator.normal(0, 0.2, 5)),
            untrained=networks(generator.normal(0, 0.1, 8)),
        )
        for i in range(20)
    ]
    answers = decide(given)
    assert {each.verdict for each in answers} >= {"yes", "undecided"}
    for each in answers:
        if each.verdict == "yes":
            assert each.p <= each.p_corrected < 0.05
            assert each.interval[0] > 0
        assert each.why
        json.dumps(each.as_dict(), allow_nan=False)


def damaged(given: Evidence, generator: np.random.Generator) -> Evidence:
    """The evidence with one thing lost: a value, a control, or a control's name."""
    lost = generator.choice([np.nan, np.inf, -np.inf])
    name = str(generator.choice(list(given.controls)))
    control, others = given.controls[name], {k: v for k, v in given.controls.items() if k != name}
    how = generator.integers(4)
    if how == 0:
        values = np.array(given.values)
        values[generator.integers(len(values))] = lost
        return replace(given, values=values)
    if how == 1:
        values = np.array(control.values)
        values.flat[generator.integers(values.size)] = lost
        return replace(given, controls={**others, name: replace(control, values=values)})
    if how == 2:
        failed = replace(control, failed="it diverged")
        return replace(given, controls={**others, name: failed})
    return replace(given, controls=others)


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_lost_no_verdict_gets_easier(seed: int) -> None:
    generator = np.random.default_rng(seed)
    given = [
        evidence(
            generator.normal(0.3, 0.15, 5),
            f"h{i}",
            random=draw(generator.normal(0, 0.1, (5, 2))),
            untrained=networks(generator.normal(0, 0.1, 8)),
        )
        for i in range(4)
    ]
    place = int(generator.integers(4))
    before = decide(given, asked=["random", "untrained"])
    given[place] = damaged(given[place], generator)
    after = decide(given, asked=["random", "untrained"])
    harmed = by_control(after, f"h{place}")
    assert harmed[OVERALL].verdict != "yes"
    old = {(each.hypothesis, each.control): each for each in before}
    for each in after:
        was = old[each.hypothesis, each.control]
        if each.hypothesis != f"h{place}":
            assert each.p_corrected >= was.p_corrected - 1e-12
            assert not (each.verdict == "yes" and was.verdict != "yes")


# -- what is shown beside ------------------------------------------------------------------------


def test_sign_flips_are_shown_from_eight_draws() -> None:
    values, control = drawn(0.4, 8), drawn(0.0, 8, seed=1)
    found = by_control(decide([evidence(values, random=draw(control))]))["random"]
    p = sign_flip((values - control)[:, None])[0]
    assert f"sign flips p = {p:.3f}" in found.why
    seven = by_control(decide([evidence(values[:7], random=draw(control[:7]))]))["random"]
    assert "sign flips" not in seven.why


def test_ranks_are_shown_from_nineteen_networks() -> None:
    found = one(evidence(drawn(0.5), untrained=networks(drawn(0.0, 19))))
    assert "rank p = 0.050" in found.why
    assert "rank" not in one(evidence(drawn(0.5), untrained=networks(drawn(0.0, 18)))).why


def test_networks_may_come_by_draw() -> None:
    by_draw = drawn(0.0, 8)[:, None] + 0.01 * NOISE[:5]
    found = one(evidence(drawn(0.4), untrained=networks(by_draw)))
    assert found.p == one(evidence(drawn(0.4), untrained=networks(by_draw.mean(1)))).p


# -- rates ---------------------------------------------------------------------------------------


def at(values: Any) -> Evidence:
    return replace(GOOD, values=values)


def test_the_verdict_holds_over_a_range_of_rates() -> None:
    rates = {
        0.001: at(drawn(0.45)),
        0.01: at(drawn(0.0)),
        0.03: at(drawn(0.40)),
        0.1: at(drawn(0.45)),
        0.3: at(drawn(0.50)),
        1.0: at(np.full(5, np.nan)),
    }
    found = by_control(decide([replace(GOOD, rate=0.1, rates=rates)]))
    # The range around the chosen rate, which the yes at .001 beyond a gap does not widen.
    assert found[OVERALL].robust == (0.03, 0.3)
    assert found["random"].robust == (0.03, 0.3)
    assert by_control(decide([GOOD]))[OVERALL].robust is None
    alone = replace(GOOD, rate=0.1, rates={1.0: at(np.full(5, np.nan))})
    assert one(alone).robust == (0.1, 0.1)


# -- json and errors -----------------------------------------------------------------------------


def test_json_has_exactly_the_keys_that_are_promised() -> None:
    found = decide([replace(GOOD, rate=0.1, rates={0.3: at(drawn(0.5))}), *family(0.2)])
    for each in found:
        line = json.loads(json.dumps(each.as_dict(), allow_nan=False))
        assert list(line) == [
            "hypothesis", "score", "control", "verdict", "p", "interval", "why", "robust",
            "over_queries",
        ]  # fmt: skip
        assert line["p"] == pytest.approx(each.p_corrected)
    assert found[0].as_dict()["robust"] == [0.1, 0.3]
    lost = decide([replace(GOOD, values=np.full(5, np.nan))])[0].as_dict()
    assert (lost["p"], lost["interval"]) == (None, None)
    told = replace(found[0], over_queries=(0.1, 0.2)).as_dict()
    assert json.loads(json.dumps(told))["over_queries"] == [0.1, 0.2]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"alpha": 5.0}, "alpha"),
        ({"margin": -0.1}, "margin"),
        ({"margin": {"SimAOU_label": float("nan")}}, "margin"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(VerdictError, match=match):
        decide([GOOD], **options)


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(VerdictError, match="shape"):
        decide([evidence(drawn(0.4), random=draw(drawn(0.0, 4)))])
    with pytest.raises(VerdictError, match="one value per draw"):
        decide([evidence(np.zeros((5, 2)), random=draw(drawn(0.0)))])
    with pytest.raises(VerdictError, match="one per network"):
        decide([evidence(drawn(0.4), untrained=networks(np.zeros((2, 2, 2))))])


def test_nothing_given_gives_nothing() -> None:
    assert decide([]) == []
