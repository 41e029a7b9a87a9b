"""The other builders: axes with names, marks by verdict, text that is text, files."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from iclgd_lens import figures
from iclgd_lens.errors import LensError
from iclgd_lens.figures.evidence import VERDICTS
from iclgd_lens.figures.static import write_static
from iclgd_lens.figures.style import DARK, looks, plain

EVIL = "<b>x</b> %{y} $x$ & co"


def frame(*lines: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(list(lines))


def mean_line(task: str, name: str, value: float, **more: Any) -> dict[str, Any]:
    bounds = {"ci_low": value - 0.1, "ci_high": value + 0.2}
    return {"task": task, "hypothesis": name, "value": value, **bounds, **more}


MEANS = frame(
    mean_line("sst2", "gd", 0.4, score="SimAOU", n=12),
    mean_line("subj", "gd", math.nan, score="SimAOU", n=0),
    mean_line("sst2", "gd@untrained", 0.2, score="SimAOU", n=12),
    mean_line("subj", "gd@untrained", 0.1, score="SimAOU", n=12),
)
TWINS = MEANS.assign(of="gd")
FOREST = frame(
    *(
        {"task": "sst2", "score": "SimAOU", "a": "gd", "b": control, "difference": value,
         "ci_low": value - 0.1, "ci_high": value + 0.1, "verdict": verdict, "p_corrected": p}
        for control, value, verdict, p in (
            ("random[gd]", 0.3, "yes", 0.0002), ("gd@untrained", -0.2, "no", 0.03),
            ("gd@shuffled", 0.05, "undecided", 0.4), ("gaussian", 0.0, "not applicable", math.nan),
        )
    )
)  # fmt: skip
NULLS = frame(
    *({"hypothesis": "gd", "control": "gd@untrained", "value": 0.1 * j} for j in range(5)),
    {"hypothesis": "gd", "control": "random[gd]", "value": 0.0},
)
PATH = frame(
    *({"hypothesis": "gd", "passes": p, "kl_removed": k, "value": 0.1 * p, "score": "SimAOU"}
      for p, k in ((4, 0.9), (1, 0.2), (2, 0.6))),
    {"hypothesis": "gd@shuffled", "passes": 1, "kl_removed": 0.1, "value": 0.0, "score": "SimAOU"},
)  # fmt: skip
RATES = frame(
    *({"hypothesis": "gd", "lr": lr, "measure": measure, "value": lr + i}
      for i, measure in enumerate(("SimAOU", "accuracy, share")) for lr in (0.1, 0.01, 1.0))
)  # fmt: skip
BARS = frame(
    *({"hypothesis": name, "score": score, "value": 0.5 + 0.1 * i, "ci_low": 0.4, "ci_high": 0.9}
      for i, name in enumerate(("ZS", "ICL", "gd")) for score in ("accuracy", "AUC"))
)  # fmt: skip
NORMS = frame(*({"hypothesis": "gd", "icl_norm": 1.0 * q, "ft_norm": 0.5 * q} for q in range(4)))
ATTENTION = frame(
    {"setting": "ZS", "position": 2, "token": "\nLabel", "weight": 0.4},
    {"setting": "ICL", "position": 0, "token": "good", "weight": 0.7},
    {"setting": "ICL", "position": 2, "token": "\nLabel", "weight": 0.3},
)
BUILT = {
    "means": figures.means, "trained_untrained": figures.trained_untrained,
    "forest": figures.forest, "nulls": lambda f: figures.nulls(f, {"gd": 0.5}),
    "trajectory": figures.trajectory, "rate_curve": figures.rate_curve,
    "behaviour_bars": figures.behaviour_bars, "norms": figures.norms,
    "attention": figures.attention,
}  # fmt: skip
FRAMES = {
    "means": MEANS, "trained_untrained": TWINS, "forest": FOREST, "nulls": NULLS,
    "trajectory": PATH, "rate_curve": RATES, "behaviour_bars": BARS, "norms": NORMS,
    "attention": ATTENTION,
}  # fmt: skip
TEXTS = ("task", "hypothesis", "a", "b", "control", "of", "measure", "setting", "token", "score")


def traces(figure: go.Figure) -> dict[str, Any]:
    return {trace.name: trace for trace in figure.data if trace.name}


@pytest.mark.parametrize("name", BUILT)
def test_builders_refuse_frames_without_their_columns_or_lines(name: str) -> None:
    whole = FRAMES[name]
    assert isinstance(BUILT[name](whole), go.Figure)
    needed = [column for column in whole if column not in ("score", "passes", "n", "p_corrected",
                                                           "ci_low", "ci_high")]  # fmt: skip
    for column in needed:
        with pytest.raises(LensError, match=rf"{name} needs the columns {column}"):
            BUILT[name](whole.drop(columns=column))
    with pytest.raises(LensError, match="at least one line"):
        BUILT[name](whole.iloc[:0])


@pytest.mark.parametrize("name", sorted(set(BUILT) - {"behaviour_bars"}))
def test_a_figure_is_of_one_score(name: str) -> None:
    whole = FRAMES[name]
    if "score" in whole:
        two = whole.assign(score=["SimAM", *["SimAOU"] * (len(whole) - 1)])
        with pytest.raises(LensError, match=r"one score.*SimAM, SimAOU"):
            BUILT[name](two)


@pytest.mark.parametrize("name", BUILT)
def test_names_are_shown_as_text(name: str) -> None:
    whole = FRAMES[name].copy()
    for column in (c for c in TEXTS if c in whole and c != "score"):
        whole[column] = EVIL
    shown = BUILT[name](whole).to_json()
    shown = json.dumps(json.loads(shown), ensure_ascii=False)
    assert "<b>x" not in shown
    assert "$x$" not in shown
    assert "%{y} $" not in shown
    assert plain(EVIL) in shown


@pytest.mark.parametrize("name", BUILT)
def test_the_spec_is_the_figure_in_colours_that_have_a_dark_twin(name: str) -> None:
    import re

    figure = BUILT[name](FRAMES[name])
    found = set(re.findall(r"#[0-9a-f]{6}", str(figure.to_dict()).lower()))
    assert found <= set(DARK)
    axes = [figure.layout[key] for key in figure.layout.to_plotly_json() if key[1:5] == "axis"]
    assert any(axis.title.text for axis in axes)


def test_means_are_marks_in_rows_with_what_is_undefined_left_out() -> None:
    figure = figures.means(MEANS)
    found = traces(figure)
    assert set(found) == {"GD", "GD, untrained twins"}
    assert list(found["GD"].y) == ["sst2", "subj"]
    assert found["GD"].x[0] == 0.4
    assert math.isnan(found["GD"].x[1])
    assert found["GD"].error_x.array[0] == pytest.approx(0.2)
    assert found["GD"].error_x.arrayminus[0] == pytest.approx(0.1)
    assert found["GD"].text[0] == "sst2, GD<br>SimAOU 0.4000 [0.3000, 0.6000]<br>n = 12"
    assert "undefined" in found["GD"].text[1]
    assert figure.layout.xaxis.title.text == "SimAOU"
    assert list(figure.layout.yaxis.categoryarray) == ["sst2", "subj"]


def test_trained_and_untrained_share_a_row() -> None:
    found = traces(figures.trained_untrained(TWINS))
    assert (
        list(found["GD"].y) == list(found["GD, untrained twins"].y) == ["sst2<br>GD", "subj<br>GD"]
    )
    assert found["GD"].marker.symbol == "circle"
    assert found["GD, untrained twins"].marker.symbol.endswith("open")


def test_a_forest_is_marked_by_verdict() -> None:
    found = traces(figures.forest(FOREST))
    assert list(found) == list(VERDICTS)
    assert len({trace.marker.symbol for trace in found.values()}) == 4
    assert list(found["no"].x) == [-0.2]
    assert found["yes"].y[0] == "GD − GD, random directions<br>sst2"
    assert "corrected p &lt; 0.001" in found["yes"].text[0]
    assert "corrected p = 0.030" in found["no"].text[0]
    assert "corrected" not in found["not applicable"].text[0]


def test_a_controls_draws_stand_beside_the_observed_value() -> None:
    found = traces(figures.nulls(NULLS, {"gd": 0.9}, score="SimAOU"))
    assert list(found["GD, untrained twins"].x) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert list(found["GD, observed"].x) == [0.9, 0.9]
    assert set(found["GD, observed"].y) == {"GD, untrained twins", "GD, random directions"}


def test_a_trajectory_follows_the_passes() -> None:
    figure = figures.trajectory(PATH)
    found = traces(figure)
    assert list(found["GD"].x) == [0.2, 0.6, 0.9]
    assert list(found["GD"].text) == ["1 passes", "2 passes", "4 passes"]
    assert found["GD, shuffled"].line.dash != "solid"
    assert "share of KL" in figure.layout.xaxis.title.text
    assert figure.layout.yaxis.title.text == "SimAOU"


def test_scores_along_training_stand_beside_behaviour_as_means_over_draws() -> None:
    tidy = frame(
        *({"hypothesis": "gd", "draw": draw, "network": 0, "passes": passes, "score": score,
           "value": value + 0.1 * draw}
          for draw in (0, 1) for passes in (1, 2)
          for score, value in (("KL_removed", 0.2 * passes), ("SimAOU", 0.3), ("SimAM", 0.1)))
    )  # fmt: skip
    found = figures.against_behaviour(tidy)
    assert set(found["score"]) == {"SimAOU", "SimAM"}
    own = found[found["score"] == "SimAOU"].sort_values("passes")
    assert list(own["kl_removed"]) == pytest.approx([0.25, 0.45])
    assert list(own["value"]) == pytest.approx([0.35, 0.35])
    line = traces(figures.trajectory(own))["GD"]
    assert list(line.x) == pytest.approx([0.25, 0.45])


def test_a_draw_without_a_score_has_no_part_in_the_behaviour_beside_it() -> None:
    tidy = frame(
        *({"hypothesis": "gd", "draw": draw, "passes": 1, "score": score, "value": value}
          for draw, removed, own in ((0, 0.2, 0.5), (1, 0.8, math.nan))
          for score, value in (("KL_removed", removed), ("SimAOU", own), ("SimAM", math.nan)))
    )  # fmt: skip
    found = figures.against_behaviour(tidy).set_index("score")
    assert found.loc["SimAOU", ["kl_removed", "value"]].tolist() == [0.2, 0.5]
    assert found.loc["SimAM", ["kl_removed", "value"]].isna().all()


def test_chosen_rates_are_ringed_and_the_edge_is_named() -> None:
    figure = figures.rate_curve(RATES, chosen={"gd": [0.1, 1.0]})
    rings = [trace for trace in figure.data if str(trace.name).endswith("chosen")]
    assert len(rings) == 2  # a panel a measure
    assert list(rings[0].x) == [0.1, 1.0]
    assert list(rings[0].text) == ["", "at the grid's edge"]
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    titles = (figure.layout.yaxis.title.text, figure.layout.yaxis2.title.text)
    assert titles == ("SimAOU", "accuracy, share")
    curve = figure.data[0]
    assert list(curve.x) == [0.01, 0.1, 1.0]


def test_behaviour_is_a_bar_a_setting_and_score_told_apart_in_print() -> None:
    found = traces(figures.behaviour_bars(BARS))
    assert list(found) == ["AUC", "accuracy"]  # the order of the table of scores
    assert list(found["AUC"].x) == ["ZS", "ICL", "GD"]
    patterns = {trace.marker.pattern.shape for trace in found.values()}
    assert len(patterns) == 2


def test_norms_have_the_diagonal() -> None:
    found = traces(figures.norms(NORMS))
    assert list(found["GD"].y) == [0, 0.5, 1.0, 1.5]
    assert list(found["as large as ICL's"].x) == list(found["as large as ICL's"].y) == [0, 3.0]


def test_attention_is_a_row_a_setting_and_what_is_not_seen_is_empty() -> None:
    (trace,) = figures.attention(ATTENTION).data
    assert list(trace.y) == ["ZS", "ICL"]
    assert list(trace.x) == [0, 2]
    assert math.isnan(trace.z[0][0])
    assert trace.z[1][0] == 0.7
    assert trace.customdata[0][1] == "\\nLabel"


def test_attention_of_every_head_is_drawn_as_its_mean() -> None:
    heads = pd.concat([ATTENTION.assign(weight=ATTENTION["weight"] + by) for by in (-0.1, 0.3)])
    (drawn,), (mean,) = figures.attention(heads).data, figures.attention(ATTENTION).data
    assert np.allclose(np.asarray(drawn.z), np.asarray(mean.z) + 0.1, equal_nan=True)


def test_a_mark_of_unknown_number_has_none() -> None:
    known = traces(figures.means(MEANS))["GD"].text
    unknown = traces(figures.means(MEANS.assign(n=math.nan)))["GD"].text
    assert [text.split("<br>n = ")[0] for text in known] == list(unknown)


def test_thirty_hypotheses_are_told_apart() -> None:
    names = [f"h{i}" for i in range(30)]
    own = looks([*names, *(f"{name}@untrained" for name in names)])
    seen = {(look.colour, look.symbol) for look in own.values()}
    assert len({(own[name].colour, own[name].symbol) for name in names}) == 30
    assert len(seen) > 30
    for name in names:
        assert own[f"{name}@untrained"].colour == own[name].colour


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no browser here")
def test_figure_files_are_drawn_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    made = {"a": figures.means.spec(MEANS), "b": figures.head_maps.spec({"x": np.eye(3)})}
    for folder in ("one", "two"):
        assert write_static(made, tmp_path / folder, ["svg", "png", "pdf"]) is None
    for name in ("a.svg", "b.svg", "a.png", "b.png"):
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert one == two, name
    assert (tmp_path / "one" / "a.pdf").read_bytes().startswith(b"%PDF")
    assert b"GD, untrained twins" in (tmp_path / "one" / "a.svg").read_bytes()


def test_a_pdf_has_room_for_what_printing_moves_off_the_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kaleido = pytest.importorskip("kaleido")
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(
        kaleido, "write_fig_from_object_sync", lambda jobs, **options: given.extend(jobs)
    )
    spec = {"data": [], "layout": {"width": 760, "height": 400, "margin": {"l": 64, "r": 16}}}
    write_static({"a": spec, "plain": {"data": [], "layout": {}}}, tmp_path, ["png", "pdf"])
    png, pdf, _, usual = (job["fig"].layout for job in given)
    # A tenth of an inch is 9.6 pixels, on each of two sides; the plot itself keeps its size.
    assert (pdf.width - png.width, pdf.height - png.height) == (20, 20)
    assert (pdf.margin.r - png.margin.r, pdf.margin.l) == (20, 64)
    assert pdf.margin.b == 80 + 20  # Plotly's own, where none is given
    assert (usual.width, usual.height) == (720, 470)
    assert spec["layout"]["margin"] == {"l": 64, "r": 16}
