"""Sweeps: alterations, values against comparisons of their own, what is read once, claims."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import iclgd_lens as lens
from iclgd_lens.errors import ComparisonError, EpisodeError, HypothesisError, PlanError
from iclgd_lens.host import Host
from iclgd_lens.readout.reader import Reader
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.scores import RECOVERY_MOMENTS
from iclgd_lens.sweeps import claims
from iclgd_lens.sweeps.alterations import (
    in_order,
    with_early_flips,
    with_flips,
    with_label_noise,
    with_neutral_text,
)
from iclgd_lens.sweeps.claims import Claim, load_claim
from iclgd_lens.sweeps.factors import FACTORS, get_factor
from iclgd_lens.sweeps.sweep_result import Point, Sweep, where_equal
from iclgd_lens.tasks import get_task, load_rows
from iclgd_lens.training.folds import balanced_folds
from tests import checks

KIND = checks.kinds()[0]
LABELS = ((5,), (6,), (8,))
SMALL: dict[str, Any] = {"realisations": 1, "resamples": 20}
CLAIMS = sorted((Path(__file__).resolve().parents[2] / "benchmarks" / "claims").glob("*.yaml"))


@pytest.fixture(autouse=True)
def untyped() -> Iterator[None]:
    with checks.untyped():
        yield


def episode(**changes: Any) -> Any:
    fields: dict[str, Any] = {"labels": LABELS, "queries": 4, "shots": 6, **changes}
    return checks.episode(**fields)


def golds(one: Any) -> list[int]:
    return [example.gold for example in one.demonstrations.examples]


# -- alterations ---------------------------------------------------------------------------------


def test_noise_gives_a_share_other_labels_and_larger_shares_contain_smaller_ones() -> None:
    shown = episode()
    changed = [
        {(i, gold) for i, gold in enumerate(golds(with_label_noise(shown, share)))
         if gold != golds(shown)[i]}
        for share in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    assert [len(each) for each in changed] == [0, 3, 6]
    assert changed[0] <= changed[1] <= changed[2]
    noisy = with_label_noise(shown, 1.0)
    for example in noisy.demonstrations.examples:
        assert example.label == shown.label_tokens[example.gold]
    assert noisy.queries == shown.queries


def test_label_noise_is_drawn_anew_for_each_draw() -> None:
    factor, places = get_factor("label_noise"), list[list[int]]()
    for seed in range(4):
        shown = episode(shots=12)
        shown = replace(shown, provenance={**shown.provenance, "seed": seed})
        noisy = golds(factor.altered(shown, 0.5))
        places.append([i for i, gold in enumerate(noisy) if gold != golds(shown)[i]])
    assert len({str(each) for each in places}) > 1
    assert all(len(each) == 6 for each in places)


def test_flips_begin_where_they_are_asked_to() -> None:
    shown = episode()
    before = golds(shown)
    assert golds(with_flips(shown, 1.0)) == before
    half = golds(with_flips(shown, 0.5))
    assert half[:3] == before[:3]
    assert half[3:] == [(gold + 1) % 3 for gold in before[3:]]
    assert golds(with_flips(shown, 0.0)) == [(gold + 1) % 3 for gold in before]


def test_early_flips_are_the_other_half_of_late_ones() -> None:
    shown = episode()
    before = golds(shown)
    flipped = [(gold + 1) % 3 for gold in before]
    assert golds(with_early_flips(shown, 0.0)) == before
    assert golds(with_early_flips(shown, 0.5)) == flipped[:3] + before[3:]
    assert golds(with_early_flips(shown, 1.0)) == flipped
    with pytest.raises(EpisodeError, match=r"share of flipped labels is 1\.5"):
        with_early_flips(shown, 1.5)


def test_every_number_of_demonstrations_is_asked_the_same_queries() -> None:
    """Of one table, each point's own demonstrations would leave queries of its own."""
    before, _, after = get_task("sst2").prompt.partition("{sentence}")
    table = [
        {"sentence": row.prompt.removeprefix(before).removesuffix(after), "label": row.label}
        for row in load_rows("sst2", "train", "embedded").examples[:60]
    ]
    found = lens.sweep(
        lens.load_model("embedded"), "sst2", "shots", [2, 8], hypotheses=["oracle"], controls=(),
        queries=6, draws=2, data=table, tok2attn_queries=0,
    )  # fmt: skip
    episodes = [point.comparison.provenance["draws"] for point in found.points]
    asked = [[each["queries_hash"] for each in own] for own in episodes]
    assert asked[0] == asked[1]
    rows = [[part.queries for part in point.comparison.parts] for point in found.points]
    assert rows[0] == rows[1]
    for own in episodes:
        assert all(len(each["demonstration_rows"]) in (2, 8) for each in own)


def test_neutral_text_makes_the_prompt_longer_and_nothing_else() -> None:
    shown = episode()
    longer = with_neutral_text(shown, 5)
    prompt, own = longer.demonstrations.prompt(), shown.demonstrations.prompt()
    assert prompt == own[:1] + tuple(shown.demonstrations.separator) * 5 + own[1:]
    assert with_neutral_text(shown, 0).hash == shown.hash


def test_an_order_is_a_permutation_and_0_is_the_prompts() -> None:
    shown = episode()
    assert in_order(shown, 0) is shown
    other = in_order(shown, 3).demonstrations.examples
    assert other != shown.demonstrations.examples
    assert sorted(other, key=str) == sorted(shown.demonstrations.examples, key=str)


@pytest.mark.parametrize("drawn", [(), (2, 0, 5, 1, 4, 3)])
def test_every_order_leaves_out_the_same_demonstrations(drawn: tuple[int, ...]) -> None:
    """A budget is chosen on what was drawn, whatever order the prompt has it in."""
    shown = episode()
    first = shown.with_demonstrations(shown.demonstrations.examples, drawn or None)
    by_order = [in_order(first, number).demonstrations for number in range(4)]
    left_out = [[set(fold.left_out.examples) for fold in balanced_folds(each)] for each in by_order]
    assert all(each == left_out[0] for each in left_out[1:])
    in_drawn_order = [[each.examples[place] for place in each.drawn] for each in by_order[1:]]
    assert all(each == in_drawn_order[0] for each in in_drawn_order)
    assert len({each.examples for each in by_order}) == 4


def test_values_out_of_range_are_refused() -> None:
    shown = episode()
    with pytest.raises(EpisodeError, match=r"share of wrong labels is 1\.5"):
        with_label_noise(shown, 1.5)
    with pytest.raises(EpisodeError, match=r"share of kept labels is -0\.1"):
        with_flips(shown, -0.1)
    with pytest.raises(EpisodeError, match="-1 tokens"):
        with_neutral_text(shown, -1)
    with pytest.raises(EpisodeError, match="order is -1"):
        in_order(shown, -1)


# -- along a factor ------------------------------------------------------------------------------


def values(frame: Any, name: str, score: str) -> Any:
    own = frame[(frame["hypothesis"] == name) & (frame["score"] == score)]
    return own.sort_values(["layer", "head"], na_position="first")["value"].to_numpy(float)


def test_a_rules_values_are_those_of_comparisons_of_their_own() -> None:
    host, shown = checks.host(KIND, "llama"), episode()
    found = lens.sweep(
        host, shown, "lr", [0.1, 1.0], hypotheses=["lcgd"], controls="random", **SMALL
    )
    for rate in (0.1, 1.0):
        alone = lens.compare(
            host, shown, ["lcgd"], lr=rate, controls="random", tok2attn_queries=0, **SMALL
        ).frame()
        frame = found.frame()
        there = frame[frame["value_of_factor"] == rate]
        for name in ("lcgd", "random[lcgd]", "ICL"):
            assert np.allclose(
                values(there, name, "SimAOU") if name != "ICL" else values(there, name, "AUC"),
                values(alone, name, "SimAOU") if name != "ICL" else values(alone, name, "AUC"),
                atol=1e-6, equal_nan=True,
            ), (rate, name)  # fmt: skip
    assert set(found.frame()["hypothesis"]) == {"ZS", "ICL", "lcgd", "random[lcgd]"}
    assert found.points[0].comparison is found.points[1].comparison


def test_zs_is_read_once_where_queries_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    own = Reader.zs

    def counted(self: Reader) -> Any:
        read.append(1)
        return own(self)

    monkeypatch.setattr(Reader, "zs", counted)
    host = checks.host(KIND, "llama")
    found = lens.sweep(
        host,
        episode(),
        "label_noise",
        [0.0, 1.0],
        hypotheses=["lcgd"],
        lr=0.5,
        controls=(),
        **SMALL,
    )
    assert len(read) == 1
    curve = found.curve("SimAOU")
    assert curve["value_of_factor"].tolist() == [0.0, 1.0]
    assert found.spread().set_index("hypothesis").loc["ZS", "spread"] == 0
    assert found.spread().set_index("hypothesis").loc["ICL", "spread"] > 0


def test_a_full_batch_step_does_not_know_the_order() -> None:
    host = checks.host(KIND, "llama")
    found = lens.sweep(
        host, episode(), "order", [0, 1, 2], hypotheses=["gd"], lr=0.5, controls=(),
        settings={"gd": {"batch_size": 6}}, **SMALL,
    )  # fmt: skip
    spread = found.spread().set_index("hypothesis")["spread"]
    assert spread["gd"] < 1e-4 < spread["ICL"]


def test_words_stand_for_groups_of_weights() -> None:
    host: Host = checks.host(KIND, "llama")
    found = lens.sweep(
        host, episode(), "weights", ["V", "MLP"], hypotheses=["gd"], lr=0.1, controls=(), **SMALL
    )
    rules = found.points[0].comparison.provenance["hypotheses"]
    assert "W_V" in rules["gd:0"]["settings"]["weights"]
    assert "W_out" in rules["gd:1"]["settings"]["weights"]
    assert found.figure().layout.xaxis.type == "category"


def test_matched_change_is_interpolated_where_the_ratio_is_one() -> None:
    assert where_equal([-1.0, 1.0], [0.2, 0.6]) == pytest.approx(0.4)
    assert np.isnan(where_equal([-2.0, -1.0], [0.2, 0.6]))


def rates(order: Sequence[float], score: float = 0.5, lost: float = math.nan) -> Sweep:
    """A sweep of rates at which GD's change is as large as the rate, and ICL's is 1."""
    points: list[Point] = []
    for rate in order:
        moments = np.tile([[rate, rate**2, 1.0]], (4, 1))
        if rate == lost:
            moments[0, :2], moments[0, 2] = np.nan, 1e6  # GD overflowed on one query
        values = {"gd": {"SimAOU": np.full((4, 1), score * rate), RECOVERY_MOMENTS: moments}}
        points.append(Point(rate, Comparison.of(values, np.zeros(4), resamples=5)))
    return Sweep(get_factor("lr"), tuple(points))


@pytest.mark.parametrize("order", [(0.1, 0.5, 2.0, 8.0), (8.0, 0.1, 2.0, 0.5), (2.0, 8.0, 0.5)])
def test_a_matched_change_lies_between_neighbouring_rates_in_whatever_order(
    order: tuple[float, ...],
) -> None:
    score, share = rates(order).matched_change("gd")
    # Half-way between .5 and 2 on a logarithmic scale; the score half-way between theirs.
    assert (score, share) == (pytest.approx(0.625), pytest.approx(1.0))


def test_queries_on_which_one_change_is_lost_have_no_part_in_either_norm() -> None:
    assert rates((0.5, 2.0), lost=2.0).matched_change("gd") == pytest.approx((0.625, 1.0))


def test_a_matched_change_whose_score_is_undefined_is_still_reached() -> None:
    said = rates((0.5, 1.5, 2.0), score=math.nan).sentence()
    assert "undefined at every value" in said
    mixed = Sweep(get_factor("lr"), (*rates((0.5,)).points, *rates((2.0,), score=math.nan).points))
    assert "as much as in-context learning, undefined (of that change it makes 100%)" in (
        mixed.sentence()
    )


def test_values_that_are_lists_are_said_and_drawn() -> None:
    host = checks.host(KIND, "llama")
    found = lens.sweep(
        host, episode(), "weights", [["W_V", "b_V"], ["W_K"], "KV"], hypotheses=["gd"], lr=0.1,
        **SMALL,
    )  # fmt: skip
    assert "along trained weights, highest at" in found.sentence()
    assert list(found.figure().data[0].x) == ["W_V, b_V", "W_K", "KV"]
    assert set(found.frame()["value_of_factor"]) == {"W_V, b_V", "W_K", "KV"}
    with pytest.raises(ComparisonError, match="none of the scores SimAUO"):
        found.figure(["SimAUO"])


def test_settings_of_what_is_not_measured_are_refused() -> None:
    host = checks.host(KIND, "llama")
    with pytest.raises(ComparisonError, match=r"given for 'lcdg'.*lcgd"):
        lens.sweep(
            host, episode(), "order", [0, 1], hypotheses=["lcgd"], lr=0.1,
            settings={"lcdg": {"epochs": 2}}, **SMALL,
        )  # fmt: skip


def test_a_value_is_not_given_twice_as_another_kind_of_number() -> None:
    host = checks.host(KIND, "llama")
    with pytest.raises(ComparisonError, match="given twice"):
        lens.sweep(host, episode(), "lr", [1, 1.0], hypotheses=["gd"], **SMALL)


def test_a_sweep_says_what_it_found_and_draws_it() -> None:
    host = checks.host(KIND, "llama")
    found = lens.sweep(host, episode(), "epochs", [1, 2], hypotheses=["lcgd"], lr=0.1, **SMALL)
    assert "along epochs" in found.sentence()
    assert found.sentence().startswith("In-context learning is shown at")
    figure = found.figure()
    assert [figure.layout[f"yaxis{n}"].title.text for n in ("", "2", "3")] == [
        "AUC", "SimAOU_label", "logit_recovery"
    ]  # fmt: skip


def test_values_over_other_layers_are_said_to_be_no_curve() -> None:
    def score(*layers: int) -> dict[str, Any]:
        value = np.full((4, 3), np.nan)
        value[:, list(layers)] = 0.5
        return {"SimAOU": value}

    def swept(**where: tuple[int, ...]) -> Sweep:
        values = {name.replace("_", ":"): score(*layers) for name, layers in where.items()}
        one = Comparison.of(values, np.zeros(4), resamples=5)
        points = [Point(value, one, {"lcgd": f"lcgd:{n}"}) for n, value in enumerate((1, 2, 4))]
        return Sweep(get_factor("epochs"), tuple(points))

    found = swept(lcgd_0=(0, 1, 2), lcgd_1=(1, 2), lcgd_2=(1, 2))
    assert found.partial_layers().to_dict("records") == [
        {"value_of_factor": v, "hypothesis": "lcgd", "score": "SimAOU", "layer": 0,
         "lacking": "lcgd"} for v in (2, 4)
    ]  # fmt: skip
    said = "; not over the same layers: layers 0 to 2 at 1, layers 1 and 2 at 2 and 4."
    assert said in found.sentence()
    # Values of most factors are comparisons of their own, in which nothing else has the layer.
    apart = [
        Point(value, Comparison.of({"lcgd": score(*layers)}, np.zeros(4), resamples=5))
        for value, layers in ((4, (0, 1, 2)), (16, (2,)))
    ]
    said = "; not over the same layers: layers 0 to 2 at 4, layer 2 at 16."
    assert said in Sweep(get_factor("shots"), tuple(apart)).sentence()
    alike = swept(lcgd_0=(1, 2), lcgd_1=(1, 2), lcgd_2=(1, 2))
    assert alike.partial_layers().empty
    assert "layers:" not in alike.sentence()


def test_what_cannot_be_swept_is_refused() -> None:
    host = checks.host(KIND, "llama")
    with pytest.raises(ComparisonError, match="Did you mean 'shots'"):
        lens.sweep(host, episode(), "shot")
    with pytest.raises(ComparisonError, match="give a task"):
        lens.sweep(host, episode(), "shots", [1, 2])
    with pytest.raises(ComparisonError, match="given twice"):
        lens.sweep(host, episode(), "lr", [0.1, 0.1])
    for factor, value, wanted in (
        ("lr", "abc", "a number"), ("lr", True, "a number"), ("epochs", 1.5, "a whole number"),
        ("loss_on", 3, "a word"), ("model", 3, "a word"), ("label_noise", None, "a number"),
    ):  # fmt: skip
        with pytest.raises(ComparisonError, match=f"{factor} takes {wanted}, not {value!r}"):
            lens.sweep(host, episode(), factor, [value])
    get_factor("lr").check(np.float64(0.1))
    get_factor("shots").check(np.int64(4))
    with pytest.raises(HypothesisError, match="horizon"):
        lens.sweep(host, episode(), "horizon", [0, 1], hypotheses=["gd"], lr=0.1)
    with pytest.raises(ComparisonError, match="no score"):
        lens.sweep(
            host, episode(), "epochs", [1], hypotheses=["lcgd"], lr=0.1, controls=(), **SMALL
        ).curve("nothing")


def test_ranks_are_swept_where_they_are_heeded() -> None:
    host, ranks = checks.host(KIND, "llama"), [1, 2]
    asked: dict[str, Any] = {"hypotheses": ["ladder"], "controls": (), **SMALL}
    found = lens.sweep(host, episode(), "rank", ranks, **asked)
    one, other = (
        point.comparison.tensor("SimAOU", point.names["ladder"]) for point in found.points
    )
    assert not np.allclose(one.numpy(), other.numpy(), equal_nan=True)  # rung 4, not a flat line
    alone = lens.sweep(host, episode(), "rank", ranks, hypotheses=["dual_linear"], controls=())
    assert len(alone.points) == 2  # has ranks, and no rungs
    with pytest.raises(HypothesisError, match="ladder: rank=2 does nothing beside rung=2"):
        lens.sweep(host, episode(), "rank", ranks, settings={"ladder": {"rung": 2}}, **asked)


def test_a_fixed_setting_has_to_act_at_some_value() -> None:
    host = checks.host(KIND, "llama")
    asked: dict[str, Any] = {"hypotheses": ["partial_oracle"], "controls": (), **SMALL}
    top = {"partial_oracle": {"top": 1}}
    found = lens.sweep(host, episode(), "heads", ["none", "induction"], settings=top, **asked)
    rules = found.points[0].comparison.provenance["hypotheses"]
    assert [set(each["settings"]) for each in rules.values()] == [{"heads"}, {"heads", "top"}]
    with pytest.raises(HypothesisError, match="top=1 does nothing beside heads='none'"):
        lens.sweep(host, episode(), "heads", ["none", "all"], settings=top, **asked)


# -- claims --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CLAIMS, ids=lambda path: path.stem)
def test_every_claim_says_what_would_refute_it_and_can_be_run(path: Path) -> None:
    claim = load_claim(path)
    assert claim.refuted_by
    assert re.search(r"\(2\d{3}\.\d{5}|OpenReview \w{10}\)", claim.paper)
    for spec in claim.sweeps:
        factor = FACTORS[spec.factor]
        for name in spec.hypotheses:
            hypothesis = lens.get_hypothesis(name)
            fixed = spec.settings.get(name, {})
            hypothesis.check_settings(fixed)
            if factor.kind == "rule":
                varied = map(factor.settings, spec.values or factor.values)
                hypothesis.settings_at({**(factor.beside or {}), **fixed}, varied, searched=False)
        lens.CONTROLS.check(spec.controls)


def test_a_claim_that_is_none_is_refused_with_its_faults(tmp_path: Path) -> None:
    path = tmp_path / "claim.yaml"
    path.write_text("paper: a\nclaim: b\nsweeps: [{factor: nothing, hypotheses: [gd]}]\n")
    with pytest.raises(PlanError, match="refuted_by"):
        load_claim(path)
    with pytest.raises(PlanError, match=r"cannot be read .*Did you mean 'claim\.yaml'"):
        load_claim(tmp_path / "clam.yaml")
    for text, told in (
        ("paper: a\npaper: b\n", r"claim\.yaml: the key 'paper' occurs twice \(line 2\)"),
        ("- paper\n", "a claim is a mapping"),
        ("paper: [", "not valid YAML"),
    ):
        path.write_text(text)
        with pytest.raises(PlanError, match=told):
            load_claim(path)


def test_a_claims_values_without_a_dot_are_numbers(tmp_path: Path) -> None:
    path = tmp_path / "claim.yaml"
    sweeps = "[{factor: lr, values: [1e-3, 3], hypotheses: [gd], settings: {gd: {decay: 5e-4}}}]"
    path.write_text(f"paper: a\nclaim: b\nrefuted_by: c\nsweeps: {sweeps}\n")
    (spec,) = load_claim(path).sweeps
    assert (spec.values, spec.settings) == ([1e-3, 3], {"gd": {"decay": 5e-4}})


def a_claim(*factors: str) -> Claim:
    sweeps = [{"factor": name, "hypotheses": ["gd"], "lr": 0.3} for name in factors]
    return Claim.model_validate({"paper": "p", "claim": "c", "refuted_by": "r", "sweeps": sweeps})


def test_another_model_takes_other_values_and_numbers_and_the_file_keeps_the_rest() -> None:
    claim = a_claim("order", "order")
    other = claim.at(values=[0, 2], hypotheses=["lcgd"], controls=[], draws=1, queries=4)
    assert (other.draws, other.queries, other.shots) == (1, 4, claim.shots)
    for spec in other.sweeps:
        assert (spec.values, spec.hypotheses, spec.controls) == ([0, 2], ["lcgd"], ())
        assert spec.lr == 0.3
    assert claim.at() == claim
    assert claim.sweeps[0].hypotheses == ["gd"]
    with pytest.raises(PlanError, match=r"draws: .*greater than or equal to 1"):
        claim.at(draws=0)


@pytest.mark.parametrize(
    ("given", "rate", "budget"),
    [({}, 0.3, None), ({"lr": 1e-3}, 1e-3, None), ({"budget": "matched"}, None, "matched")],
    ids=["the file's", "another", "matched"],
)
def test_a_rate_takes_the_place_of_the_files(
    given: Any, rate: float | None, budget: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def swept(*_: Any, **options: Any) -> None:
        seen.append(options)

    monkeypatch.setattr(claims, "sweep", swept)
    a_claim("order", "label_noise").run(None, **given)
    assert [(each["lr"], each["budget"]) for each in seen] == [(rate, budget)] * 2
    assert not any(each["collapse"] for each in seen)


def test_a_claim_about_collapse_has_it_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def swept(*_: Any, **options: Any) -> None:
        seen.append(options)

    monkeypatch.setattr(claims, "sweep", swept)
    (path,) = (each for each in CLAIMS if each.stem == "label_axis_collapse")
    load_claim(path).run(None)
    assert [each["collapse"] for each in seen] == [True]


def test_shots_and_models_are_comparisons_of_their_own() -> None:
    model = lens.load_model("embedded")
    options: dict[str, Any] = {"hypotheses": ["lcgd"], "lr": 0.1, "controls": (), "queries": 4}
    found = lens.sweep(model, "sst2", "shots", [2, 4], draws=1, **options, **SMALL)
    assert [
        point.comparison.provenance["episode"]["shots"] for point in found.points
    ] == [2, 4]  # fmt: skip
    protocol = lens.DEFAULT.replace(separator=lens.EOS)
    (point,) = lens.sweep(
        model, get_task("sst2"), "shots", [2], draws=1, protocol=protocol, **options, **SMALL
    ).points  # fmt: skip
    assert point.comparison.provenance["episode"]["shots"] == 2
    assert point.comparison.provenance["protocol"]["separator"] == lens.EOS
    loaded: list[str] = []

    def load(name: str) -> Any:
        loaded.append(name)
        return model

    names = ["one", "two"]
    found = lens.sweep(None, "sst2", "model", names, load=load, draws=1, shots=2, **options)
    assert loaded == names
    assert found.curve("AUC")["value_of_factor"].unique().tolist() == names


def test_the_initial_change_starts_at_no_change_and_needs_other_tasks() -> None:
    embedded = lens.load_model("embedded")
    asked: dict[str, Any] = {
        "hypotheses": ["lcgd_initial"], "controls": (), "lr": 0.3, "shots": 4, "queries": 6,
        "twins": 0,
    }  # fmt: skip
    found = lens.sweep(embedded, "sst2", "initial", [0, 2], auxiliary=["subj"], **asked)
    values = found.curve("SimAOU").set_index("value_of_factor")["value"]
    plain = lens.sweep(embedded, "sst2", "lr", [0.3], **(asked | {"hypotheses": ["lcgd"]}))
    assert values[0] == pytest.approx(plain.curve("SimAOU")["value"].iloc[0], abs=1e-6)
    assert values[2] != pytest.approx(values[0], abs=1e-3)
    with pytest.raises(HypothesisError, match="demonstrations of other tasks"):
        lens.sweep(embedded, "sst2", "initial", [1], **asked)


def test_a_point_drops_other_points_hypotheses_and_no_name_that_only_looks_like_one() -> None:
    point = Point(0.1, cast("Any", None), {"gd": "gd:0"})
    shown = {name: point.renamed(name) for name in ("gd:0", "random[gd:0]", "gd:1", "a:b", "ICL")}
    assert shown == {
        "gd:0": "gd", "random[gd:0]": "random[gd]", "gd:1": None, "a:b": "a:b", "ICL": "ICL",
    }  # fmt: skip
