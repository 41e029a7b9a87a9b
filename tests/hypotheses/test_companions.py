"""Settings that do nothing beside others: declared, true to the bit, refused however given."""

from __future__ import annotations

import importlib.util
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import iclgd_lens as lens
from iclgd_lens.bench.plan import load_plan
from iclgd_lens.bench.plan_check import check_plan
from iclgd_lens.errors import HypothesisError, PlanError
from iclgd_lens.hypotheses.companions import (
    asked_for_company,
    check_table,
    idle,
    in_words,
    other_than,
)
from iclgd_lens.hypotheses.ladder import ladder
from iclgd_lens.hypotheses.registry import HYPOTHESES, Hypothesis
from iclgd_lens.intervention import Intervention
from tests import checks
from tests.hypotheses.test_zoo import fingerprint, same
from tests.hypotheses.zoo import OTHERS

Settings = Mapping[str, Any]
EPISODE = checks.episode(shots=4, queries=3)


class Case(NamedTuple):
    """A setting, the company in which it acts, and companies in which it does nothing."""

    rule: str
    given: Settings
    acts: Settings
    idle: tuple[Settings, ...]


def cases(rule: str, given: Settings, acts: Settings, *without: Settings) -> list[Case]:
    """One case for each of some settings that need the same company."""
    return [Case(rule, {name: value}, acts, without) for name, value in given.items()]


KEYS = {"weights": ("W_K", "b_K")}
CASES: list[Case] = [
    *cases("lcgd_dynamic", {"trust": 0.5}, {"rates": "norm"}, {}, {"rates": "rms"}),
    *cases("lcgd_dynamic", {"beta": 0.9}, {"rates": "hyper"}, {}, {"rates": "norm"}),
    *cases("lcgd_attention", {"weighted_by": "recency"}, {}, {"gamma": 0}),
    *cases("lcgd_attention", {"tau": 1.0}, {"weighted_by": "recency"}, {},
           {"weighted_by": "permuted"}, {"weighted_by": "recency", "gamma": 0.0}),
    *cases("lcgd_attention", {"seed": 3}, {"weighted_by": "permuted"}, {},
           {"weighted_by": "recency"}, {"weighted_by": "permuted", "gamma": 0.0}),
    *cases("lcgd_meta", {"fold_count": 2, "meta_lr": 0.5, "per": "weight", "validate": "final"},
           {}, {"steps": 0}),
    *cases("lcgd_initial", {**OTHERS, "rate": 0.5}, {"steps": 2}, {"steps": 0}),
    *cases("lcgd_multitask", {"temperature": 0.5}, {"contrast": 1.0}, {}),
    *cases("lcgd_multitask", {"combine": "pcgrad"}, {"contrast": 1.0}, {"content": 0.0}),
    *cases("lcgd_multitask", {"per": "tokens"}, {"content": 0.0},
           {"label": 0.0, "content": 0.0, "contrast": 1.0}),
    *cases("lcgd_regularized", {"early_stop": True}, {"epochs": 2}, {}, {"epochs": 1}),
    *cases("lcgd_reinforce", {"weight_power": 2.0}, {}, {"estimator": "group"}),
    *cases("lcgd_reinforce", {"samples": 3, "seed": 3}, {"estimator": "sample"}, {},
           {"estimator": "group"}),
    *cases("lcgd_reinforce", {"entropy": 0.5}, {}, {"policy": "vocabulary"}),
    *cases("evolution", {"method": "cma", "population": 4, "sigma": 0.3, "seed": 3},
           {"generations": 2}, {"generations": 0}),
    *cases("evolution", {"rate": 0.3}, {"generations": 2}, {"generations": 0},
           {"generations": 1, "method": "cma"}),
    *cases("bayes_lcgd", {"fold_count": 2, "budget": "matched", "seed": 3}, {}, {"trials": 1}),
    *cases("bayes_lcgd", {"trials": 12}, {}, {"budget": "matched", "fold_count": 2}),
    *cases("newton", {"damping": 3.0}, {"weights": "W_V"}, KEYS),
    *cases("gd_plus_plus", {"gamma": 0.9}, {}, KEYS),
    *cases("ladder", {"rank": 2}, {"rung": 4}, {}, {"rung": 0}, {"rung": 3}),
    *cases("ladder", {"rope": "none"}, {"rung": 3}, {"rung": 0}, {"rung": 5}),
    *cases("ladder", {"loo": "causal"}, {"rung": 2}, {}, {"rung": 0}, {"rung": 5}),
    *cases("dual_linear", {"loo": "causal"}, {"scale": "lstsq"}, {"scale": 1.0}, {"scale": 2}),
    *cases("distilled", {"ridge": 1.0}, {}, {"fit": "sgd"}),
    *cases("distilled", {"mu": 0.5, "lr": 0.3, "epochs": 2, "batch_size": 2, "loss_on": "label",
                         "weights": "W_V"}, {"fit": "sgd"}, {}),
    *cases("context_vector", {"step_size": 0.1, "seed": 3}, {"epochs": 1}, {}),
    *cases("learned_vector", {"step_size": 0.1}, {"steps": 2}, {"steps": 0, "start": 0.1}),
    *cases("learned_vector", {"seed": 3}, {"start": 0.1}, {}),
    *cases("attention_kernel", {"loo": "causal"}, {}, {"head": "mean"}, {"head": "1.0"}),
    *cases("kernel_regression", {"layer": 1, "kernel": "rbf"}, {"tau": 1.0}, {"tau": math.inf}),
    *cases("label_bayes", {"temperature": 2.0}, {"prior": 2.0}, {"prior": math.inf}),
    *cases("partial_oracle", {"top": 2, "seed": 3}, {"heads": "induction"}, {"heads": "all"},
           {"heads": "none"}, {"heads": "0.1"}, {"heads": [(0, 1), (1, 0)]}),
    *cases("state_vector", {"momentum": 1.0}, {}, {"inner": 1}),
    *cases("random", {"lr": 0.3}, {}, {"like": checks.episode}),
]  # fmt: skip
IDS = [f"{case.rule}-{next(iter(case.given))}" for case in CASES]
NEEDS = {("evolution", "method"): "cmaes", ("evolution", "rate"): "cmaes", "bayes_lcgd": "optuna"}
"""Optional libraries by rule, or by rule and setting."""


@pytest.fixture(autouse=True)
def untyped() -> Iterator[None]:
    with checks.untyped():
        yield


def rule(case: Case) -> tuple[Hypothesis, str]:
    name = next(iter(case.given))
    extra = NEEDS.get(case.rule) or NEEDS.get((case.rule, name))
    if extra and importlib.util.find_spec(extra) is None:
        pytest.skip(f"{case.rule} needs {extra}, of the extra search")
    return HYPOTHESES.known()[case.rule], name


def test_every_declared_pair_has_its_case() -> None:
    declared = {
        (name, setting)
        for name, found in HYPOTHESES.known().items()
        if found.made_by().__module__.startswith("iclgd_lens")
        for setting in found.only_with
    }
    assert declared == {(case.rule, next(iter(case.given))) for case in CASES}
    for case in CASES:
        found, name = HYPOTHESES.known()[case.rule], next(iter(case.given))
        for key, wanted in found.only_with[name].items():  # each companion is missed by some
            one = {name: {key: wanted}}
            missed = [idle(one, {**own, **case.given}, found.settings()) for own in case.idle]
            assert any(missed), (case.rule, name, key)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_a_setting_without_its_company_is_refused_and_with_it_is_not(case: Case) -> None:
    found, name = rule(case)
    found.check_settings({**case.acts, **case.given}, searched=False)
    for company in case.idle:
        given = {**case.given, **company}
        said = f"{case.rule}: {name}=.* does nothing beside .*: it needs "
        said += re.escape(in_words(found.only_with[name]))
        with pytest.raises(HypothesisError, match=said) as raised:
            found.check_settings(given, searched=False)
        assert "\n" not in str(raised.value)
        with pytest.raises(HypothesisError, match=said):  # before anything is read
            found.build(None, None, **given)
        at_default = {name: found.settings()[name], **company}
        assert name not in idle(found.only_with, at_default, found.settings())


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_what_is_refused_does_nothing_to_the_bit(case: Case) -> None:
    found, _ = rule(case)
    host = checks.host(checks.kinds()[0], "llama")
    others = OTHERS if "auxiliary" in found.needs else {}
    for company in case.idle:
        own = dict(company)
        if "like" in own:
            own["like"] = HYPOTHESES.known()["gd"].build(host, EPISODE, lr=0.1)
        without = found.built(host, EPISODE, **{**others, **own})
        with_it = found.built(host, EPISODE, **{**others, **own, **case.given})
        assert same(fingerprint(host, without), fingerprint(host, with_it)), company


def test_two_settings_that_did_nothing_are_refused_in_python() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    with pytest.raises(HypothesisError, match=r"rank=4 does nothing beside rung=1: .* rung=4\.$"):
        ladder(host, EPISODE, rank=4)
    with pytest.raises(HypothesisError, match="ladder: rank=4 does nothing beside rung=1"):
        lens.compare(host, EPISODE, ["ladder"], settings={"ladder": {"rank": 4}}, controls=())
    with pytest.raises(HypothesisError, match="mine: rank=4 does nothing beside rung=1"):
        lens.compare(host, EPISODE, {"mine": ladder}, settings={"mine": {"rank": 4}}, controls=())
    with pytest.raises(HypothesisError, match=r"mu=0\.5 does nothing .* fit='ridge'"):
        lens.compare(host, EPISODE, ["distilled"], settings={"distilled": {"mu": 0.5}})
    # A rate for all hypotheses is not given to this one.
    lens.compare(host, EPISODE, ["distilled"], lr=0.1, controls=(), resamples=2)


def test_passes_that_are_searched_for_may_be_enough() -> None:
    found, asked = HYPOTHESES.known()["lcgd_regularized"], {"early_stop": True}
    found.check_settings(asked)
    for given in ({"lr": 0.1}, {"epochs": 1}, {"epochs": 1, "lr": 0.1}):
        with pytest.raises(HypothesisError, match=r"early_stop=True .* needs epochs above 1\."):
            found.check_settings({**asked, **given})
    host, settings = checks.host(checks.kinds()[0], "llama"), {"lcgd_regularized": asked}
    with pytest.raises(HypothesisError, match="early_stop=True does nothing beside epochs=1"):
        lens.compare(host, EPISODE, ["lcgd_regularized"], settings=settings, lr=0.1)
    lens.compare(
        host, EPISODE, ["lcgd_regularized"], settings=settings, controls=(), resamples=2,
        budget={"grid": [0.1], "epochs": [1]}, trajectory=(1, 2),
    )  # fmt: skip


def test_a_search_at_other_settings_refuses_nothing() -> None:
    host = checks.host(checks.kinds()[0], "llama")
    settings = {"lcgd_meta": {"steps": 1, "fold_count": 2, "per": "weight"}}
    found = lens.compare(
        host, EPISODE, ["lcgd_meta"], settings=settings, controls=(), resamples=2,
        budget={"grid": [0.1], "epochs": [1]},
    )  # fmt: skip
    assert not found.failures


PLAN = """
models: [embedded]
tasks: [sst2]
shots: 4
lr: 0.1
hypotheses: [{ladder: {hypothesis: ladder, settings: %s, vary: %s}}]
"""


@pytest.mark.parametrize(
    ("settings", "vary", "fault"),
    [
        ("{rank: 4}", "{}", "rank=4 does nothing beside rung=1"),
        ("{rank: 4}", "{rung: [1, 2]}", "rank=4 does nothing beside rung=1"),
        ("{rung: 2}", "{rank: [1, 4]}", "rank=4 does nothing beside rung=2"),
        ("{rank: 4}", "{rung: [1, 4]}", ""),
        ("{rung: 4}", "{rank: [1, 4]}", ""),
        ("{rank: 1}", "{}", ""),
    ],
)
def test_plans_say_it_before_anything_runs(
    settings: str, vary: str, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN % (settings, vary))
    if not fault:
        check_plan(load_plan(path))
        return
    with pytest.raises(PlanError, match=fault):
        check_plan(load_plan(path))


def test_a_table_that_names_no_setting_is_refused() -> None:
    with pytest.raises(HypothesisError, match="only_with names 'rung', which is no setting of it"):
        check_table("mine", {"rank": {"rung": 4}}, ["rank"])


def test_a_function_of_ones_own_keeps_its_page_and_its_errors() -> None:
    def own(host: Any, episode: Any, *, steps: int = 1, rate: float = 0.5) -> Intervention:
        """Do as I say.

        Args:
            host: The model.
            episode: The demonstrations.
            steps: How often.
            rate: How far.
        """
        return Intervention()

    found = Hypothesis(
        name="mine", build=asked_for_company("mine", own, {"rate": {"steps": other_than(0)}})
    )
    assert [each.meaning for each in found.described_settings()] == [
        "How often.",
        "How far. Needs steps other than 0.",
    ]
    with pytest.raises(HypothesisError, match=r"mine: rate=0\.1 does nothing beside steps=0"):
        found.build(None, None, steps=0, rate=0.1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'rates'"):
        found.build(None, None, rates=0.1)
    assert type(found.built(None, None, steps=0, rate=0.1)) is Intervention
