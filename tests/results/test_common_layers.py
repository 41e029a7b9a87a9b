"""A mean's layers are those of the hypothesis and its controls; no other hypothesis moves it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from numpy.typing import NDArray

from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.frames import null_frame
from iclgd_lens.results.parts import Part
from iclgd_lens.verdicts.verdict import OVERALL

Q, L, DRAWS, TWINS = 10, 4, 3, 4
CONTROLS = ("random", "untrained", "gaussian")
Given = dict[str, NDArray[np.float32]]


def drawn(generator: np.random.Generator, layers: Any = range(L)) -> Given:
    """Two scores, each in these layers alone."""
    found: Given = {}
    for score in ("SimAOU", "SimAOU_label"):
        value = np.full((Q, L), np.nan, np.float32)
        value[:, list(layers)] = generator.normal(size=(Q, len(list(layers))))
        found[score] = value
    return found


def compared(layers: dict[str, Any], networks: dict[str, Any] | None = None) -> Comparison:
    """Each label's scores in the layers named, in every draw; a twin's in every network.

    A label's numbers are the same whatever else is there.
    """
    gold = np.arange(Q) % 2
    parts: list[Part] = []
    for draw in range(DRAWS):
        own = {
            label: drawn(np.random.default_rng([draw, *label.encode()]), where)
            for label, where in layers.items()
        }
        parts.append(Part(own, gold, draw))
    for twin in range(TWINS):
        own = {
            label: drawn(np.random.default_rng([99, twin, *label.encode()]), where)
            for label, where in (networks or {}).items()
        }
        if own:
            parts.append(Part(own, gold, twin % DRAWS, network="untrained", index=twin))
    return Comparison(tuple(parts), {"controls": list(CONTROLS)}, resamples=10)


def means(comparison: Comparison, score: str = "SimAOU") -> dict[str, float]:
    frame = comparison.frame()
    chosen = frame[(frame["score"] == score) & (frame["level"] == "all")]
    return {str(name): float(v) for name, v in zip(chosen.hypothesis, chosen.value, strict=True)}


def by_hand(comparison: Comparison, label: str, layers: list[int]) -> float:
    values = comparison.tensor("SimAOU", label).double().numpy()[:, layers]
    return float(np.nanmean(np.nanmean(values, 1).reshape(-1, Q).mean(1)))


GD: dict[str, Any] = {"gd": range(L), "random[gd]": range(L)}
LATE: dict[str, Any] = {"task_vector": [3], "random[task_vector]": [3]}
ALONE: dict[str, Any] = {"gaussian": range(L)}


def test_a_hypothesis_reads_the_same_whatever_else_was_measured() -> None:
    alone = compared({**GD, **ALONE}, {"gd": range(L)})
    beside = compared(
        {**GD, **LATE, "lcgd": [0, 1], **ALONE}, {"gd": range(L), "task_vector": [3], "lcgd": [1]}
    )
    own = alone.frame()
    there = beside.frame()
    for label in own["hypothesis"].unique():
        pd.testing.assert_frame_equal(
            own[own["hypothesis"] == label].reset_index(drop=True),
            there[there["hypothesis"] == label].reset_index(drop=True),
        )

    def tests(comparison: Comparison) -> list[tuple[Any, ...]]:
        return [
            (each.score, each.control, each.interval, each.p)
            for each in comparison.verdicts(["SimAOU", "SimAOU_label"])
            if each.hypothesis == "gd" and each.control != OVERALL
        ]  # fmt: skip

    assert len(tests(alone)) == 2 * 3
    assert tests(alone) == tests(beside)
    assert [line.tolist() for line in _nulls(alone)] == [line.tolist() for line in _nulls(beside)]


def over_both(comparison: Comparison, control: str) -> tuple[float, float]:
    """The interval of GD less a control over draws and queries, in layers 1 to 3, by hand."""
    mine, theirs = (
        comparison.tensor("SimAOU", label).double().numpy()[:, [1, 2, 3]].mean(1).reshape(DRAWS, Q)
        for label in ("gd", control)
    )
    change = mine - theirs
    error = math.sqrt(change.mean(1).var(ddof=1) / DRAWS + change.mean(0).var(ddof=1) / Q)
    half = scipy.stats.t.ppf(0.975, DRAWS - 1) * error
    return change.mean() - half, change.mean() + half


def asked_to_explain(kind: str, shift: float = 3.0, score: str = "SimAOU") -> Comparison:
    """GD is better by `shift` than random directions; beside it one of another kind."""
    comparison = compared({"gd": range(L), "random[gd]": range(L), **{
        name: range(L) for name in ("lcgd", "random[lcgd]")
    }})  # fmt: skip
    parts = []
    for part in comparison.parts:
        values = {
            label: {score: found["SimAOU"] * 0.1 + shift * (label == "gd")}
            for label, found in part.values.items()
        }
        rules = {"gd": {"kind": "explanation"}, "lcgd": {"kind": kind}}
        parts.append(replace(part, values=values, facts={"rules": rules}))
    return Comparison(tuple(parts), {"controls": ["random"]}, resamples=10)


@pytest.mark.parametrize(("kind", "family"), [("explanation", 2), ("fitted", 1)])
def test_only_explanations_are_questions_about_other_queries(kind: str, family: int) -> None:
    line = asked_to_explain(kind).conclusions.verdicts(["SimAOU"], gate=False)[0]
    assert (line.hypothesis, line.verdict) == ("gd", "yes")
    assert "Against random it is shown for other queries, too" in line.why
    assert ("corrected for 2 questions)." in line.why) == (family == 2)


def test_lower_is_better_for_other_queries_too() -> None:
    comparison = asked_to_explain("fitted", shift=-3.0, score="KL_ICL")
    line = comparison.conclusions.verdicts(["KL_ICL"], gate=False)[0]
    assert (line.hypothesis, line.verdict) == ("gd", "yes")
    assert line.over_queries is not None
    assert line.over_queries[0] > 2
    assert "is shown for other queries" in line.why


def test_verdicts_tell_what_other_queries_would_give() -> None:
    layers = {"gd": range(L), "random[gd]": [1, 2, 3], **ALONE}
    comparison = compared(layers, {"gd": range(L)})
    found = {each.control: each for each in comparison.verdicts(["SimAOU"])}
    expected = over_both(comparison, "random[gd]")
    assert found["random"].over_queries == pytest.approx(expected)
    # Which has all layers, but stands beside what has three.
    assert found["gaussian"].over_queries == pytest.approx(over_both(comparison, "gaussian"))
    assert found["untrained"].over_queries is None  # these networks answer queries of their own
    known = [each.over_queries for name, each in found.items() if name in ("random", "gaussian")]
    assert found[OVERALL].over_queries == min(each for each in known if each)
    strict = comparison.conclusions.verdicts(["SimAOU"], alpha=0.01)[0].over_queries
    assert strict is not None
    assert strict[0] < expected[0]
    one = Comparison((comparison.parts[0],), comparison.provenance, resamples=10)
    assert all(each.over_queries is None for each in one.verdicts(["SimAOU"]))
    other = replace(comparison.parts[0], queries=tuple(range(Q)))
    rows = Comparison((other, *comparison.parts[1:]), comparison.provenance, resamples=10)
    assert all(each.over_queries is None for each in rows.verdicts(["SimAOU"]))


def _nulls(comparison: Comparison) -> list[NDArray[np.float64]]:
    frame = null_frame(comparison.data)
    own = frame[frame["hypothesis"] == "gd"]
    return [lines["value"].to_numpy() for _, lines in own.groupby(["score", "control"])]


def test_a_family_is_read_on_the_layers_that_all_of_it_has() -> None:
    found = compared(
        {"gd": [0, 1, 2], "random[gd]": [1, 2, 3], "gd@shuffled": [0, 1, 2, 3], **LATE, **ALONE},
        {"gd": [0, 1, 2, 3], "gd(budget=own)": [0, 2]},
    )
    family = ("gd", "random[gd]", "gd@shuffled", "gd@untrained", "gd(budget=own)@untrained")
    for label in family:
        assert found.data.common_layers.of("SimAOU", label) == [2]
        assert means(found)[label] == pytest.approx(by_hand(found, label, [2]))
    for label in LATE:
        assert means(found)[label] == pytest.approx(by_hand(found, label, [3]))
    # A control of no hypothesis stands in the table over its own layers, and is held against each
    # hypothesis on that one's.
    assert means(found)["gaussian"] == pytest.approx(by_hand(found, "gaussian", [0, 1, 2, 3]))
    for label, layers in (("gd", [2]), ("task_vector", [3])):
        (evidence,) = [
            e for e in found.conclusions.evidence(["SimAOU"]) if e.hypothesis == label
        ]  # fmt: skip
        shift = np.asarray(evidence.controls["gaussian"].values)
        assert shift.mean() == pytest.approx(by_hand(found, "gaussian", layers))
        assert np.asarray(evidence.values).mean() == pytest.approx(means(found)[label])
        nulls = null_frame(found.data)
        own = nulls[(nulls["hypothesis"] == label) & (nulls["score"] == "SimAOU")]
        shown = own.loc[own["control"] == "gaussian", "value"].tolist()
        assert shown == pytest.approx(shift[:, 0].tolist())


def test_a_control_of_no_hypothesis_takes_its_missing_layers_from_every_hypothesis() -> None:
    found = compared(
        {**GD, "lcgd": range(L), "gaussian": [1, 3], "oracle": [0], "constant_shift": [0]}
    )
    for label in ("gd", "random[gd]", "lcgd"):
        assert means(found)[label] == pytest.approx(by_hand(found, label, [1, 3]))
    # A check or a reference is no rival: it takes nothing away, and is read on its own.
    for label in ("oracle", "constant_shift"):
        assert means(found)[label] == pytest.approx(by_hand(found, label, [0]))
    lines = found.partial_layers()
    assert set(lines["lacking"]) == {"gaussian"}
    assert sorted(set(zip(lines["hypothesis"], lines["layer"], strict=True))) == [
        ("gd", 0), ("gd", 2), ("lcgd", 0), ("lcgd", 2),
    ]  # fmt: skip


def test_two_hypotheses_differ_on_the_layers_of_both() -> None:
    found = compared({"gd": [0, 1, 3], "lcgd": [1, 2, 3], "random[lcgd]": [2, 3], **LATE})
    lines = found.differences(["SimAOU"])
    between = lines[lines["kind"] == "hypotheses"]
    pairs = zip(between["a"], between["b"], strict=True)
    told = dict(zip(pairs, between["difference"], strict=True))
    expected = {("lcgd", "gd"): [3], ("task_vector", "gd"): [3], ("task_vector", "lcgd"): [3]}
    assert told == {
        pair: pytest.approx(by_hand(found, pair[0], layers) - by_hand(found, pair[1], layers))
        for pair, layers in expected.items()
    }


def test_without_a_layer_in_common_there_is_no_mean_and_no_yes() -> None:
    found = compared({"gd": [0, 1], "random[gd]": [2, 3], "lcgd": [0, 1], **LATE, **ALONE})
    for label in ("gd", "random[gd]"):
        assert math.isnan(means(found)[label])
        assert math.isfinite(found.tensor("SimAOU", label).nansum())
        assert bool(found.tensor("SimAOU", label, by="query").isnan().all())
    said = {each.hypothesis: each for each in found.verdicts(["SimAOU"], gate=False)
            if each.control == "random"}  # fmt: skip
    assert said["gd"].verdict == "undecided"
    assert said["gd"].why.startswith("Cannot be a yes")
    lines = found.differences(["SimAOU"])
    apart = lines[(lines["a"] == "task_vector") & (lines["b"] == "lcgd")]
    assert apart["difference"].isna().all()
    assert len(apart) == 1


def test_what_keeps_a_layer_out_of_a_mean_is_named() -> None:
    found = compared({**GD, **LATE, "lcgd": range(L)}, {"gd": [1, 2, 3], "lcgd": range(L)})
    lines = found.partial_layers()
    assert list(lines.columns) == ["hypothesis", "score", "layer", "lacking"]
    own = lines[lines["score"] == "SimAOU"]
    assert own[own["hypothesis"] == "gd"].to_dict("records") == [
        {"hypothesis": "gd", "score": "SimAOU", "layer": 0, "lacking": "gd@untrained"}
    ]
    late = own[own["hypothesis"] == "task_vector"]
    assert set(late["layer"]) == {0, 1, 2}
    assert set(late["lacking"]) == {"task_vector", "random[task_vector]"}
    assert "lcgd" not in set(lines["hypothesis"])
    nobody = compared({"gd": [1, 2, 3], "random[gd]": [1, 2, 3], "lcgd": [1, 2, 3]})
    assert nobody.partial_layers().empty


def holed(share: float, where: tuple[str, ...] = ("gd",)) -> Comparison:
    """Everything reads .1 in layer 0 and .9 in layer 1; some lack layer 0 for some queries."""
    parts: list[Part] = []
    for draw in range(DRAWS):
        generator = np.random.default_rng(draw)
        values: dict[str, Given] = {}
        for label in ("gd", "random[gd]", "lcgd"):
            value = np.tile(np.float32([0.1, 0.9]), (Q, 1))
            if label in where:
                value[generator.permutation(Q)[: round(share * Q)], 0] = np.nan
            values[label] = {"SimAOU": value}
        parts.append(Part(values, np.arange(Q) % 2, draw))
    return Comparison(tuple(parts), {"controls": ["random"]}, resamples=10)


@pytest.mark.parametrize("where", [("gd",), ("random[gd]",), ("gd", "random[gd]")])
def test_a_query_that_one_of_a_family_lacks_is_in_no_mean_of_it(where: tuple[str, ...]) -> None:
    found = holed(0.2, where)
    data = found.data
    assert data.common_layers.of("SimAOU", "gd") == [0, 1]
    np.testing.assert_allclose(
        data.per_draw("SimAOU", "gd"), data.per_draw("SimAOU", "random[gd]"), atol=1e-7
    )
    # One of Q queries or more stands on layer 1 alone, in both.
    assert means(found)["gd"] == pytest.approx(means(found)["random[gd]"])
    assert means(found)["gd"] > 0.5
    assert means(found)["lcgd"] == pytest.approx(0.5)
    lines = found.differences(["SimAOU"])
    (apart,) = lines[lines["kind"] == "hypotheses"]["difference"]
    assert apart == pytest.approx(0, abs=1e-7)
    assert found.partial_layers().empty


def test_a_layer_counts_where_half_of_its_queries_are_left() -> None:
    assert holed(0.5).data.common_layers.of("SimAOU", "gd") == [0, 1]
    found = holed(0.6)
    assert found.data.common_layers.of("SimAOU", "gd") == [1]
    assert [means(found)[label] for label in ("gd", "random[gd]")] == pytest.approx([0.9, 0.9])
    assert found.partial_layers().to_dict("records") == [
        {"hypothesis": "gd", "score": "SimAOU", "layer": 0, "lacking": "gd"}
    ]
    # A query that all lack tells nothing of the family.
    both = holed(0.0)
    for part in both.parts:
        for label in part.values:
            part.values[label]["SimAOU"][: Q - 1, 0] = np.nan
    assert both.data.common_layers.of("SimAOU", "gd") == [0, 1]


def test_a_layer_that_one_draw_lacks_is_told_though_every_label_lacks_it_there() -> None:
    found = holed(0.0)
    for label in found.parts[1].values:
        found.parts[1].values[label]["SimAOU"][:, 1] = np.nan
    assert found.data.common_layers.of("SimAOU", "gd") == [0]
    lines = found.partial_layers()
    assert set(lines["layer"]) == {1}
    assert set(lines["hypothesis"]) == {"gd", "lcgd"}
    whys = [v.why for v in found.verdicts(["SimAOU"], gate=False) if v.control == OVERALL]
    assert all(why.endswith("Means leave out layer 1.") for why in whys)


@pytest.mark.parametrize(("layers", "answer"), [(4, "undecided"), (20, "no")])
def test_a_no_needs_the_layers_that_the_hypothesis_has(layers: int, answer: str) -> None:
    """Random directions are below rounding in the last layer, where the hypothesis does well."""
    parts: list[Part] = []
    for draw in range(5):
        generator = np.random.default_rng(draw)
        own, other = 0.001 * generator.normal(size=(2, Q, layers)).astype(np.float32)
        own[:, -1] += 0.8
        other[:, -1] = np.nan
        values = {"gd": {"SimAOU": own}, "random[gd]": {"SimAOU": other}}
        parts.append(Part(values, np.arange(Q) % 2, draw))
    found = Comparison(tuple(parts), {"controls": ["random"]}, resamples=10)
    said = {each.control: each for each in found.verdicts(["SimAOU"], gate=False)}
    assert said["random"].verdict == said[OVERALL].verdict == answer
    if answer == "undecided":
        assert said["random"].why.startswith(
            "Cannot be a no: the means leave out 25% of the queries and layers"
        )
    assert said[OVERALL].why.endswith(f"Means leave out layer {layers - 1}.")


def test_a_verdict_says_which_layers_it_is_not_over() -> None:
    found = compared({**GD, **LATE}, {"gd": [1, 2, 3], "task_vector": [3]})
    said = {each.hypothesis: each.why for each in found.verdicts(["SimAOU"], gate=False)
            if each.control == OVERALL}  # fmt: skip
    assert " Means leave out layer 0. gaussian has nothing to say" in said["gd"]
    assert said["gd"].count("Means leave out") == 1
    by_control = [each.why for each in found.verdicts(["SimAOU"], gate=False)
                  if each.hypothesis == "gd" and each.control != OVERALL]  # fmt: skip
    assert by_control
    assert all(why.endswith(" Means leave out layer 0.") for why in by_control)
    assert " Means leave out layers 0 to 2." in said["task_vector"]
    whole = compared(GD, {"gd": range(L)})
    (why,) = [v.why for v in whole.verdicts(["SimAOU"], gate=False) if v.control == OVERALL]
    assert "leave out" not in why


def test_a_layer_that_one_draw_or_one_network_lacks_is_in_no_mean() -> None:
    whole = compared({**GD}, {"gd": range(L)})
    parts = list(whole.parts)
    twin = parts[-1]
    holed = {score: value.copy() for score, value in twin.values["gd"].items()}
    holed["SimAOU"][:, 1] = np.nan
    parts[-1] = Part({"gd": holed}, twin.gold, twin.draw, network="untrained", index=twin.index)
    found = Comparison(tuple(parts), whole.provenance, resamples=10)
    for label in ("gd", "random[gd]", "gd@untrained"):
        assert found.data.common_layers.of("SimAOU", label) == [0, 2, 3]
        assert found.data.common_layers.of("SimAOU_label", label) == [0, 1, 2, 3]


def test_what_failed_altogether_takes_no_layer_away() -> None:
    found = compared({**GD, "gd@shuffled": []}, {"gd": []})
    assert found.data.common_layers.of("SimAOU", "gd") == [0, 1, 2, 3]
    assert found.data.common_layers.of("SimAOU", "nothing") == []
    assert found.data.common_layers.of("AUC", "gd") == []
    assert found.partial_layers().empty


def test_settings_that_differ_are_families_of_their_own() -> None:
    found = compared({"gd": range(L), "gd(lr=0.1)": [0], "random[gd(lr=0.1)]": [0, 1]})
    assert found.data.common_layers.of("SimAOU", "gd") == [0, 1, 2, 3]
    assert found.data.common_layers.of("SimAOU", "random[gd(lr=0.1)]") == [0]


def test_queries_of_each_subjects_own_are_no_comparison() -> None:
    parts: list[Part] = []
    for draw in range(DRAWS):
        values: dict[str, Given] = {}
        for place, label in enumerate(("gd", "random[gd]", "gd@shuffled")):
            value = np.full((Q, L), np.nan, np.float32)
            value[place : place + 2] = 0.1 * (place + 1)
            values[label] = {"SimAOU_f2t": value, "SimAOU": np.ones((Q, L), np.float32)}
        parts.append(Part(values, np.arange(Q) % 2, draw))
    found = Comparison(tuple(parts), {"controls": ["random", "shuffled"]}, resamples=10)
    assert found.partial_layers().empty
    read = means(found, "SimAOU_f2t")
    assert [read[label] for label in ("gd", "random[gd]", "gd@shuffled")] == pytest.approx(
        [0.1, 0.2, 0.3]
    )
    both = Comparison(
        tuple(replace(p, values={**p.values, "lcgd": p.values["gd"]}) for p in parts), resamples=10
    )
    assert not (both.differences(["SimAOU_f2t"])["kind"] == "hypotheses").any()
    assert (both.differences(["SimAOU"])["kind"] == "hypotheses").any()
    for line in found.verdicts(["SimAOU_f2t"]):
        assert line.verdict == "not applicable"
        assert "queries of each subject's own" in line.why
