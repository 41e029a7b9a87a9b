"""A comparison's table, files and figures say what its per-query values say."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import scipy.stats
import torch

from iclgd_lens.errors import ComparisonError
from iclgd_lens.measures import similarity
from iclgd_lens.results.aggregates import COLUMNS
from iclgd_lens.results.archive import FORMAT
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Part
from iclgd_lens.sealed_files import sealed

Q, L, H, K = 12, 3, 4, 2


def values(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(*shape, generator=generator) - 1

    by_head = draw(Q, L, H)
    by_head[1, 0, :] = math.nan  # undefined for every head
    by_head[2, 1, 3] = math.nan
    layer = draw(Q, L)
    layer[0, 2] = math.nan
    layer[:, 1] = math.nan  # a layer that is undefined throughout
    tau = draw(Q, L, H)
    tau[5:] = math.nan  # measured on the first queries alone
    labels = draw(3, Q, K)
    return {
        "SimAOU": layer,
        "SimAOU/head": draw(Q, L, H),
        "SimAM": by_head.nanmean(-1),
        "SimAM/head": by_head,
        "Tok2Attn": tau.nanmean(-1),
        "Tok2Attn/head": tau,
        "accuracy": (draw(Q) > 0).float(),
        "KL_ICL": draw(Q).abs(),
        "Rec2FTP": torch.where(draw(Q) > 0, 1.0, math.nan),
        "recovery_moments": similarity.recovery_moments(*labels),
        "label_scores": labels[2],
    }


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    accuracy = {name: (torch.arange(Q) % (i + 2) == 0).float() for i, name in enumerate("ab")}
    return Comparison.of(
        {
            "ZS": {"accuracy": accuracy["a"], "KL_ICL": torch.rand(Q, generator=torch.Generator())},
            "ICL": {"accuracy": accuracy["b"]},
            "gd": values(1),
            "lcgd": values(2),
            "gaussian": {"SimAOU": values(3)["SimAOU"]},
        },
        torch.arange(Q) % 2,
        failures={"far": "diverged"},
        provenance={"model": {"name": "tiny"}, "protocol": {"name": "default"}},
        resamples=200,
        confidence=0.9,
        seed=4,
    )


@pytest.fixture(scope="module")
def frame(comparison: Comparison) -> pd.DataFrame:
    return comparison.frame()


def select(frame: pd.DataFrame, hypothesis: str, score: str) -> pd.DataFrame:
    return frame[(frame.hypothesis == hypothesis) & (frame.score == score)]


def test_the_frame_is_tidy(frame: pd.DataFrame) -> None:
    assert tuple(frame.columns) == COLUMNS
    assert str(frame["layer"].dtype) == str(frame["head"].dtype) == "Int64"
    assert not frame.duplicated(["hypothesis", "score", "layer", "head"]).any()
    assert set(frame.hypothesis) == {"ZS", "ICL", "gd", "lcgd", "gaussian"}
    assert not set(frame.score) & {"recovery_moments", "label_scores"}
    assert (frame["n"] + frame["undefined"] == Q).all()
    assert not (frame["head"].notna() & frame["layer"].isna()).any()
    inside = frame.dropna(subset=["value", "ci_low", "ci_high"])
    assert (inside.ci_low <= inside.ci_high).all()
    plain = inside[~inside.score.str.startswith("logit")]
    assert (
        (plain.ci_low <= plain.value + 1e-9) & (plain.value <= plain.ci_high + 1e-9)
    ).mean() > 0.95


@pytest.mark.parametrize("score", ["SimAOU", "SimAM", "Tok2Attn"])
@pytest.mark.parametrize("hypothesis", ["gd", "lcgd"])
def test_values_and_counts_equal_numpy(
    comparison: Comparison, frame: pd.DataFrame, hypothesis: str, score: str
) -> None:
    by_layer = comparison.values[hypothesis][score].double().numpy()
    by_head = comparison.values[hypothesis][f"{score}/head"].double().numpy()
    rows = select(frame, hypothesis, score)
    assert len(rows) == 1 + L + L * H
    for row in rows.itertuples():
        if pd.isna(row.layer):
            with np.errstate(invalid="ignore"):
                counts = (~np.isnan(by_layer)).sum(1)
                column = np.where(counts > 0, np.nansum(by_layer, 1) / counts, np.nan)
        elif pd.isna(row.head):
            column = by_layer[:, row.layer]
        else:
            column = by_head[:, row.layer, row.head]
        defined = column[~np.isnan(column)]
        assert row.n == len(defined)
        assert row.undefined == Q - len(defined)
        if len(defined):
            assert row.value == pytest.approx(defined.mean(), abs=1e-6)
        else:
            assert math.isnan(row.value)
            assert math.isnan(row.ci_low)
            assert math.isnan(row.ci_high)


def test_intervals_equal_scipys(comparison: Comparison, frame: pd.DataFrame) -> None:
    from scipy.stats import bootstrap

    column = comparison.values["gd"]["KL_ICL"].double().numpy()
    expected = bootstrap(
        (column,), np.mean, n_resamples=200, confidence_level=0.9, method="percentile",
        random_state=np.random.default_rng(4),
    ).confidence_interval  # fmt: skip
    (row,) = select(frame, "gd", "KL_ICL").itertuples()
    assert (row.ci_low, row.ci_high) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_recovery_is_a_ratio_of_means(comparison: Comparison, frame: pd.DataFrame) -> None:
    moments = comparison.values["gd"]["recovery_moments"].double().numpy().mean(0)
    ft_icl, ft_ft, icl_icl = moments
    for score, expected in (
        ("logit_recovery", max(ft_icl, 0) ** 2 / ft_ft / icl_icl),
        ("logit_scale", ft_icl / ft_ft),
        ("logit_recovery_unscaled", (2 * ft_icl - ft_ft) / icl_icl),
    ):
        (row,) = select(frame, "gd", score).itertuples()
        assert row.value == pytest.approx(expected, rel=1e-5)
        assert row.n == Q


def test_hypotheses_are_what_is_under_no_control(comparison: Comparison) -> None:
    assert comparison.labels == ("ZS", "ICL", "gd", "lcgd", "gaussian")
    assert comparison.hypotheses == ("gd", "lcgd")


def test_per_query_tensors(comparison: Comparison) -> None:
    gd = comparison.values["gd"]
    for by, name in (("layer", "SimAM"), ("head", "SimAM/head")):
        found = comparison.tensor("SimAM", "gd", by=by)  # type: ignore[arg-type]
        torch.testing.assert_close(found, gd[name], rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(
        comparison.tensor("SimAM", "gd", by="query"), gd["SimAM"].nanmean(1), equal_nan=True
    )
    assert torch.equal(comparison.tensor("accuracy", "gd", by="query"), gd["accuracy"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("SimAM", "gdd"), r"has no 'gdd'; it has ZS, ICL, .* Did you mean 'gd'\?"),
        (("SimAMM", "gd"), r"gd has no score 'SimAMM' by layer; .* Did you mean 'SimAM'\?"),
        (("SimAM", "gaussian"), "gaussian has no score 'SimAM' by layer; it has SimAOU"),
        (("accuracy", "gd", "head"), "gd has no score 'accuracy' by head"),
    ],
)
def test_scores_that_are_not_there_are_refused(
    comparison: Comparison, arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ComparisonError, match=message):
        comparison.tensor(*arguments)  # type: ignore[arg-type]


def test_scores_are_offered_at_the_level_that_was_asked_for(comparison: Comparison) -> None:
    with pytest.raises(ComparisonError) as caught:
        comparison.tensor("AUC", "gd", by="head")
    offered = str(caught.value).split("it has ")[1].split(".")[0].split(", ")
    by_head = [name.removesuffix("/head") for name in comparison.values["gd"] if "/" in name]
    assert sorted(offered) == sorted(by_head)
    assert "Did you mean 'AUC'" not in str(caught.value)
    with pytest.raises(ComparisonError, match="ZS has no score 'SimAM' by head; it has none"):
        comparison.tensor("SimAM", "ZS", by="head")


def test_files_give_back_what_was_saved(comparison: Comparison, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.safetensors"
    comparison.save(path)
    again = Comparison.load(path)
    assert again.labels == comparison.labels
    for name, found in comparison.values.items():
        assert list(again.values[name]) == list(found)
        for score, value in found.items():
            assert torch.equal(value.nan_to_num(9), again.values[name][score].nan_to_num(9))
    assert torch.equal(again.gold, comparison.gold)
    for field in ("failures", "provenance", "resamples", "confidence", "seed"):
        assert getattr(again, field) == getattr(comparison, field)
    pd.testing.assert_frame_equal(again.frame(), comparison.frame())
    first = path.read_bytes()
    again.save(path)
    assert path.read_bytes() == first
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_broken_and_foreign_files_are_refused(comparison: Comparison, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "a.safetensors"
    with pytest.raises(ComparisonError, match="is not there; a Comparison was expected"):
        Comparison.load(path)
    comparison.save(path)
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ComparisonError, match=r"a\.safetensors is truncated or damaged"):
            Comparison.load(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(ComparisonError, match=r"another kind .*iclgd_lens\.Comparison/"):
        Comparison.load(path)


def test_no_flipped_bit_of_a_comparison_is_read(comparison: Comparison, tmp_path: Path) -> None:
    """Neither in the numbers nor in the facts before them."""
    path = tmp_path / "a.safetensors"
    comparison.save(path)
    whole = path.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    places = np.linspace(0, header - 1, 60, dtype=int).tolist()
    for place in (*places, header, (header + len(whole)) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(ComparisonError) as told:
            Comparison.load(path)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "facts",
    [
        {}, {"parts": 1}, {"parts": [1]}, {"parts": [{}]}, {"parts": [], "provenance": 3},
        {"parts": [], "colour": "red"}, {"parts": None},
    ],
)  # fmt: skip
def test_well_sealed_facts_of_another_kind_are_refused(facts: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(sealed(FORMAT, {"a": np.zeros(2)}, facts))
    with pytest.raises(ComparisonError, match=r"a\.safetensors holds"):
        Comparison.load(path)


def test_a_failed_save_leaves_the_old_file(
    comparison: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    comparison.save(path)
    old = path.read_bytes()

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    for write in (comparison.save, comparison.to_parquet):
        with pytest.raises(KeyboardInterrupt):
            write(path)
        assert path.read_bytes() == old
        assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_one_format_is_not_called_like_another(
    comparison: Comparison, tmp_path: Path
) -> None:
    for write, wrong, right in (
        (comparison.to_parquet, "table.csv", "table.parquet"),
        (comparison.save, "all.pt", "all.safetensors"),
    ):
        with pytest.raises(
            ComparisonError, match=f"{re.escape(wrong)} ends in .*'{right}'"
        ) as told:
            write(tmp_path / wrong)
        assert "\n" not in str(told.value)
        write(tmp_path / right)
        write(tmp_path / Path(right).stem)  # a name without a suffix claims nothing
    assert not any(file.suffix in (".csv", ".pt") for file in tmp_path.iterdir())


def test_parquet_carries_the_frame_and_the_provenance(
    comparison: Comparison, frame: pd.DataFrame, tmp_path: Path
) -> None:
    path = tmp_path / "out" / "a.parquet"
    comparison.to_parquet(path)
    read = pd.read_parquet(path)
    pd.testing.assert_frame_equal(read, frame, check_dtype=False)
    facts = json.loads(pq.read_schema(path).metadata[b"iclgd_lens"])
    assert facts == {"provenance": comparison.provenance, "failures": comparison.failures}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_table_and_the_figures_show_it(comparison: Comparison) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=open(os.devnull, "w"))
    console.print(comparison.table())
    text = console.export_text()
    assert "gd" in text
    assert "lcgd" in text
    assert "SimAOU" in text
    figure = comparison.heatmap("SimAM", "gd")
    shown = np.asarray(figure.data[0].z, dtype=float)
    expected = comparison.values["gd"]["SimAM/head"].nanmean(0).numpy()
    np.testing.assert_allclose(shown, expected, rtol=1e-5)
    assert len(comparison.layers("SimAM").data) >= 2
    with pytest.raises(ComparisonError, match="No hypothesis has a score 'accuracy' by layer"):
        comparison.layers("accuracy")


def test_heads_and_layers_are_told_of_the_score_that_verdicts_are_about(
    comparison: Comparison,
) -> None:
    """The label contrast where it was measured; before, `top_heads` and `heatmap` took SimAOU."""
    own = values(5)
    contrast = {name.replace("SimAOU", "SimAOU_label"): value for name, value in own.items()}
    labels = Comparison.of({"lcgd": {**own, **contrast}}, torch.arange(Q) % 2)
    for each, score in ((comparison, "SimAOU"), (labels, "SimAOU_label")):
        assert each.head_map().attrs["score"] == each.top_heads().attrs["score"] == score
        assert each.heatmap().layout.title.text.startswith(f"{score} of lcgd")
        assert each.layers().layout.title.text.startswith(f"{score} with")
        pd.testing.assert_frame_equal(each.top_heads(), each.top_heads(score))
        pd.testing.assert_frame_equal(each.head_map(), each.head_map(score))
    with pytest.raises(ComparisonError, match="gaussian has no score 'SimAOU' by head; it has non"):
        comparison.top_heads(hypothesis="gaussian")
    # A control without values by head stands beside nothing, and says so where it is asked for.
    assert comparison.top_heads()["control_label"].isna().all()
    with pytest.raises(ComparisonError, match="gaussian has no score 'SimAOU' by head"):
        comparison.top_heads(control="gaussian")


def drawn_parts(*, lacking: tuple[int, ...] = (), realisations: int = 1, draws: int = 5) -> Any:
    """Hypothesis and random directions alike in every draw, which differ; 8 heads a layer."""
    parts: list[Part] = []
    for draw in range(draws):
        level = 0.2 * (draw + 1)
        for index in range(realisations):
            generator = np.random.default_rng([draw, index])
            heads = level + 0.001 * generator.normal(size=(2, 4, 1, 8)).astype(np.float32)
            values = {"random[gd]": {"SimAM/head": heads[1], "SimAM": heads[1].mean(-1)}}
            if index == 0:
                values["gd"] = {"SimAM/head": heads[0], "SimAM": heads[0].mean(-1)}
            if draw in lacking:
                values.pop("random[gd]")
            parts.append(Part(values, np.zeros(4, int), draw, index=index))
    return Comparison(tuple(parts), {"controls": ["random"]}, resamples=5)


@pytest.mark.parametrize(("lacking", "realisations"), [((), 1), ((3,), 1), ((), 3), ((0, 2), 2)])
def test_heads_are_held_against_the_control_of_their_own_draw(
    lacking: tuple[int, ...], realisations: int
) -> None:
    found = drawn_parts(lacking=lacking, realisations=realisations).head_map("SimAM", "gd")
    assert set(found["against"]) == {"random[gd]"}
    assert found["value"].to_numpy() == pytest.approx(np.full(8, 0.6), abs=0.01)
    assert found["difference"].abs().max() < 0.005
    assert (found["p_corrected"] > 0.001).all()


def test_realisations_of_a_draw_are_no_draws() -> None:
    """Twenty realisations of three draws: the interval is over three."""
    frame = drawn_parts(realisations=20, draws=3).frame()
    (line,) = frame[(frame["hypothesis"] == "random[gd]") & (frame["level"] == "all")].itertuples()
    means = np.array([0.2, 0.4, 0.6])
    half = scipy.stats.t.ppf(0.975, 2) * means.std(ddof=1) / 3**0.5
    assert (line.value, line.ci_high) == pytest.approx((0.4, 0.4 + half), abs=0.01)
    one = drawn_parts(realisations=20, draws=1)
    (line,) = [
        row for row in one.rows()
        if (row.hypothesis, row.level, row.score) == ("random[gd]", "all", "SimAM")
    ]  # fmt: skip
    assert line.ci_high - line.ci_low < 0.002  # over realisations, since there is one draw


def test_lines_that_share_a_control_are_corrected_over_all_scores() -> None:
    generator = np.random.default_rng(0)
    parts: list[Part] = []
    for draw in range(5):
        values = {
            label: {
                s: generator.normal(size=(4, 2)).astype(np.float32) for s in ("SimAOU", "SimAM")
            }
            for label in ("gd", "lcgd", "random[gd]", "random[lcgd]", "gaussian")
        }
        for measured in (
            values["gd"],
            values["lcgd"],
            values["random[gd]"],
            values["random[lcgd]"],
        ):
            measured["SimAOU_label"] = generator.normal(size=(4, 2)).astype(np.float32)
        parts.append(Part(values, np.zeros(4, int), draw))
    found = Comparison(tuple(parts), {"controls": ["random", "gaussian", "shuffled"]}, resamples=5)
    said = found.verdicts(["SimAOU", "SimAM", "SimAOU_label"], gate=False)
    by_random = [each for each in said if each.control == "random"]
    assert len(by_random) == 6
    assert all("corrected for 6 questions" in each.why for each in by_random)
    whys = {(v.hypothesis, v.score): v.why for v in said if v.control == "all controls"}
    assert "gaussian has nothing to say on SimAOU_label." in whys["gd", "SimAOU_label"]
    assert "nothing to say" not in whys["gd", "SimAOU"]


def test_a_contrast_that_was_not_measured_says_what_it_needs() -> None:
    one = {"SimAOU": np.ones((4, 2), np.float32)}
    parts = tuple(Part({"gd": one, "random[gd]": one}, np.zeros(4, int), d) for d in range(3))
    (line, *_) = Comparison(parts, {"controls": ["random"]}).verdicts(["SimAOU_label"])
    assert line.verdict == "not applicable"
    assert line.why == (
        "SimAOU_label was not measured: it needs wrong labels (the control shuffled)."
    )
    only = Comparison(parts, {"controls": ["shuffled"]}).verdicts(["SimAOU_label"], gate=False)[-1]
    assert only.verdict == "undecided"
    assert only.why.startswith("shuffled has nothing to say on SimAOU_label, and no other control")


def test_what_could_not_be_tested_was_a_question_all_the_same() -> None:
    generator = np.random.default_rng(0)
    parts: list[Part] = []
    for draw in range(5):
        values = {
            name: {"SimAOU": generator.normal(place, 0.1, (4, 2)).astype(np.float32)}
            for place, name in enumerate(("gd", "lcgd"))
        }
        values["newton"] = {"SimAOU": np.full((4, 2), np.nan, np.float32)}
        heads = generator.normal(1, 0.1, (4, 1, 4)).astype(np.float32)
        heads[..., 3] = np.nan
        values["gd"] |= {"SimAM/head": heads, "SimAM": np.nanmean(heads, -1)}
        parts.append(Part(values, np.zeros(4, int), draw))
    found = Comparison(tuple(parts), {"controls": []}, resamples=5)
    lines = found.differences(["SimAOU"])
    assert len(lines) == 3
    assert lines["p_corrected"].min() == pytest.approx(3 * lines["p_value"].min())
    by_head = found.head_map("SimAM", "gd")
    assert by_head["p_value"].isna().sum() == 1
    assert by_head["p_corrected"].max() == pytest.approx(4 / 3 * by_head["p_value"].max())
