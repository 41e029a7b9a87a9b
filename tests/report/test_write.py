"""The report's files: self-contained, escaped, reproducible, equal to the frames."""

from __future__ import annotations

import csv
import errno
import html.parser
import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iclgd_lens.errors import LensError, RunError
from iclgd_lens.phrases import TABLE
from iclgd_lens.report import write_report
from iclgd_lens.report.leaderboard import leaderboard
from iclgd_lens.report.page import compact, plotly
from iclgd_lens.report.page_figures import pictures
from iclgd_lens.report.run_records import read_run
from iclgd_lens.scores import SCORES
from tests.report.synthetic import EVIL, OFFERED, RunData, evil, full, paper, small

LIMIT = 8_000_000


class Page(html.parser.HTMLParser):
    """What a browser would make of the file: elements, script bodies, text outside scripts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self._raw = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._raw = tag
            if tag == "script":
                self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._raw:
            self._raw = ""

    def handle_data(self, data: str) -> None:
        if self._raw == "script":
            self.scripts[-1] += data
        elif not self._raw:
            self.text.append(data)

    def data(self) -> dict[str, Any]:
        return json.loads(next(each for each in self.scripts if each.startswith("{")))


@pytest.fixture(scope="module")
def grid() -> RunData:
    return paper()


@pytest.fixture(scope="module")
def written(grid: RunData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(grid, tmp_path_factory.mktemp("paper"))


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page(written.read_text(encoding="utf-8"))


def numbers_of(text: str) -> list[float]:
    return [float(each) for each in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", text.replace("−", "-"))]


# -- one file --------------------------------------------------------------------------------------


def test_the_paper_grid_stays_under_eight_megabytes(written: Path) -> None:
    assert len(plotly()) < written.stat().st_size < LIMIT


def test_a_run_too_large_for_the_page_loses_the_intervals_of_heads_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {each.name: each for each in pictures(read_run(small()))}
    monkeypatch.setattr("iclgd_lens.report.page_figures.HEAD_INTERVAL_LIMIT", 1)
    cut = {each.name: each for each in pictures(read_run(small()))}
    assert compact(whole["layers"].choices[0].spec) == compact(cut["layers"].choices[0].spec)
    for kept, less in zip(whole["heads"].choices, cut["heads"].choices, strict=True):
        assert "customdata" in kept.spec["data"][0]
        assert "customdata" not in less.spec["data"][0]
        np.testing.assert_array_equal(kept.spec["data"][0]["z"], less.spec["data"][0]["z"])
    page = Page(write_report(small(), tmp_path).read_text(encoding="utf-8"))
    assert "Intervals would make this page too large" in " ".join(page.text)


def test_nothing_is_asked_of_any_other_place(written: Path, page: Page) -> None:
    text = written.read_text(encoding="utf-8").replace(plotly(), "")
    assert not re.search(r"https?:|//[a-z]+\.", text)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "img")
        assert "src" not in attributes
        if (target := attributes.get("href")) is not None:
            assert target.startswith(("#", "data:,")) or (written.parent / target).is_file()
    policy = [a["content"] for _, a in page.elements if a.get("http-equiv")]
    assert len(policy) == 1
    assert "default-src 'none'" in policy[0]
    assert "unsafe-inline'; img" in policy[0]  # for styles alone
    assert "script-src 'sha256-" in policy[0]


def test_the_same_frames_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_report(small(), tmp_path / folder)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert {str(p) for p in files} >= {"index.html", "tables.csv", "table.tex"}
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert not list((tmp_path / "a").rglob(".partial*"))


def test_every_table_has_headers_with_a_scope(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]
    assert tags.count("table") == tags.count("caption") > 5
    assert all(a.get("scope") in ("col", "row") for tag, a in page.elements if tag == "th")
    assert tags.count("h1") == tags.count("main") == 1
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:  # regions that scroll take the keyboard's focus
        if attributes.get("class", "") and "scroll" in str(attributes["class"]).split():
            assert (tag, attributes["tabindex"]) == ("div", "0")
            assert attributes["aria-label"]


# -- escaping --------------------------------------------------------------------------------------


def test_names_from_a_run_cannot_become_markup(tmp_path: Path) -> None:
    page = Page(write_report(evil(), tmp_path).read_text(encoding="utf-8"))
    assert len(page.scripts) == 4  # theme, data, plotly, page
    assert not any("alert(" in each for each in page.scripts if not each.startswith("{"))
    assert "b" not in [tag for tag, _ in page.elements]
    assert not any("on" == key[:2] for _, a in page.elements for key in a)
    assert EVIL in "".join(page.text)  # shown as it is
    assert EVIL in page.data()["figures"]["layers"]["choices"][0]
    assert "${title}" in "".join(page.text)
    for each in pictures(read_run(evil())):
        for name, _, _ in each.files():
            assert re.fullmatch(r"[A-Za-z0-9._-]+", name)


def test_figures_show_names_as_text_and_never_as_markup() -> None:
    for each in pictures(read_run(evil())):
        for choice in each.choices:
            said = json.dumps(compact(choice.spec))
            assert "<script" not in said
            assert "&lt;script" in said or "script" not in said


def test_the_data_block_cannot_end_its_script(tmp_path: Path) -> None:
    text = write_report(evil(), tmp_path).read_text(encoding="utf-8")
    block = text.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(block)


# -- numbers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "short"),
    [
        (0.123449, 0.1234), (-0.99999, -1.0), (math.nan, None), (math.inf, None), (0.0, 0.0),
        (0.000123456, 0.0001235), (12345.678, 12350.0), (np.float64(0.5), 0.5), (np.int64(3), 3),
        (np.array([[0.1, math.nan]]), [[0.1, None]]), ({"a": (0.25,)}, {"a": [0.25]}),
        ("<b>", "<b>"), (True, True), (None, None),
    ],
)  # fmt: skip
def test_figures_travel_as_short_json_values(value: Any, short: Any) -> None:
    assert compact(value) == short


def test_the_figures_hold_what_the_summary_holds(grid: RunData, page: Page) -> None:
    figures = page.data()["figures"]
    summary = grid.frame()
    lines = summary[(summary["task"] == "agnews") & (summary["score"] == "SimAM")]
    found = figures["heads"]
    at = found["choices"].index(["synthetic-1.3b", "agnews", "SimAM", "LCGD"])
    traces = found["specs"][at]["data"]
    for trace, name in zip(traces, ("lcgd", "lcgd@untrained"), strict=False):
        own = lines[(lines["hypothesis"] == name) & lines["head"].notna()]
        np.testing.assert_allclose(np.ravel(trace["z"]), own["value"], atol=5.1e-5)
        bounds = np.reshape(trace["customdata"], (-1, 2))
        np.testing.assert_allclose(bounds, own[["ci_low", "ci_high"]], atol=5.1e-5)
    first, second, difference = (np.array(trace["z"]) for trace in traces)
    np.testing.assert_allclose(difference, first - second, atol=1.6e-4)
    assert first.shape == (24, 32)
    found = figures["layers"]
    at = found["choices"].index(["synthetic-1.3b", "agnews", "SimAM"])
    line = next(t for t in found["specs"][at]["data"] if t.get("name") == "LCGD, untrained twins")
    own = lines[(lines["hypothesis"] == "lcgd@untrained") & lines["layer"].notna()]
    np.testing.assert_allclose(line["y"], own[own["head"].isna()]["value"], atol=5.1e-5)


def test_the_csv_files_hold_the_frames(grid: RunData, written: Path) -> None:
    summary = grid.frame()
    whole = summary["layer"].isna() & summary["head"].isna()
    tables = pd.read_csv(written.parent / "tables.csv")
    wanted = summary[whole].drop(columns=["layer", "head"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(tables, wanted, check_dtype=False, check_exact=True)
    figures = pd.read_csv(written.parent / "figures.csv")
    pd.testing.assert_frame_equal(
        figures, summary[~whole].reset_index(drop=True), check_dtype=False, check_exact=True
    )
    paired = pd.read_csv(written.parent / "differences.csv")
    pd.testing.assert_frame_equal(paired, grid.differences(), check_dtype=False, check_exact=True)


def test_the_tables_of_page_and_latex_hold_the_summary(
    grid: RunData, written: Path, page: Page
) -> None:
    summary = grid.frame()
    lines = summary[summary["layer"].isna() & (summary["score"] == "SimAOU")]
    row = lines[(lines["task"] == "mr") & (lines["hypothesis"] == "lcgd")].iloc[0]
    latex = (written.parent / "table.tex").read_text(encoding="utf-8")
    block = latex.split(r"\caption{SimAOU of")[1].split(r"\end{table}")[0]
    heads, *_, found = (
        each.removesuffix("[2pt]").removesuffix(r" \\").split(" & ")
        for each in block.splitlines()
        if each.startswith((" &", "LCGD &"))
    )
    assert numbers_of(found[heads.index("mr")]) == [
        round(float(row[c]), 3) for c in ("value", "ci_low", "ci_high")
    ]
    assert "GD, random directions &" in latex
    text = " ".join(page.text)
    shown = f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    assert shown in re.sub(r"\s+", " ", text)


def test_latex_tables_fit_a_page(written: Path) -> None:
    """Six tasks side by side, and two lines a hypothesis, as far as a page goes."""
    latex = (written.parent / "table.tex").read_text(encoding="utf-8")
    tables = latex.split(r"\begin{table}")[1:]
    labels = re.findall(r"\\label\{(.*?)\}", latex)
    assert len(labels) == len(set(labels)) == len(tables)
    assert {"tab:synthetic-1.3b:SimAOU", "tab:synthetic-1.3b:SimAOU:differences"} <= set(labels)
    for each in tables:
        rows = each.split(r"\midrule")[1].split(r"\bottomrule")[0]
        lines = [line for line in rows.splitlines() if line.endswith(r" \\[2pt]")]
        assert 1 < len(lines) < 20
        assert {line.count(" & ") for line in lines} == {6}


def test_latex_captions_say_what_the_numbers_rest_on_and_marks_follow_verdicts(
    tmp_path: Path,
) -> None:
    latex = write_report(full(), tmp_path).with_name("table.tex").read_text(encoding="utf-8")
    caption = latex.split(r"\caption{SimAOU of")[1].split("\n")[0]
    for part in ("3 draws", "n = 6000", "32 shots", "learning rates 0.1 to 0.3"):
        assert part in caption
    (row,) = [
        line for line in latex.split(r"\label{tab:synthetic-1.3b:SimAOU}")[1].splitlines()[:12]
        if line.startswith("GD &")
    ]  # fmt: skip
    yes, no, undecided, none = row.split(" & ")[1:]
    assert yes.count(r"\textbf") == yes.count(r"^{\ast}") == 1
    assert (no.count(r"^{\circ}"), no.count(r"\textbf")) == (1, 0)
    assert "^" not in undecided + none


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="there is no pdflatex here")
def test_latex_compiles_without_anything_too_wide_or_tall(written: Path, tmp_path: Path) -> None:
    for name, table in (("a", written.parent / "table.tex"), ("b", _evil_table(tmp_path))):
        (tmp_path / f"{name}.tex").write_text(
            "\\documentclass{article}\\usepackage[a4paper,margin=2.5cm]{geometry}"
            "\\usepackage[T1]{fontenc}\\usepackage{booktabs}"
            f"\\begin{{document}}\\input{{{table}}}\\end{{document}}",
            encoding="utf-8",
        )
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", f"{name}.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-2000:]
        if name == "a":
            assert not re.search(r"Overfull|too large", done.stdout)


def _evil_table(folder: Path) -> Path:
    return write_report(evil(), folder / "evil").with_name("table.tex")


def test_published_figures_stand_apart_and_say_whose_they_are(page: Page, written: Path) -> None:
    text = written.read_text(encoding="utf-8").replace(plotly(), "")
    section = text.split('id="published-section"')[1].split("</section>")[0]
    assert "not of this run" in section
    assert "fairseq dense 1.3B" in section
    assert numbers_of(section.split("sst2")[1])[:4] == [0.0005, 0.111, 0.223, 0.114]
    assert section.count("not published") == 2  # agnews, untrained
    elsewhere = text.replace(section, "")
    assert "fairseq" not in elsewhere
    assert "0.111" not in json.dumps(page.data()["figures"]["means"])


def test_undefined_scores_are_shown_as_such(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    assert "—" in text
    assert "undefined" in text
    rows = list(csv.DictReader((written.parent / "tables.csv").open(encoding="utf-8")))
    cb = [r for r in rows if r["task"] == "cb" and r["score"] == "Rec2FTP"]
    assert cb
    assert all(r["value"] == "" and r["n"] == "0" for r in cb)
    assert re.search(r"\bNaN\b|>nan<", text.replace(plotly(), "").split("<script>")[0]) is None


# -- odd runs --------------------------------------------------------------------------------------


def test_a_run_without_any_finished_cell_has_a_report_too(tmp_path: Path) -> None:
    run = small()
    empty = RunData(
        run.frame().iloc[:0], run.differences().iloc[:0], run.order_sensitivity(),
        run.failures, {"name": "empty", "cells": {"planned": 2, "missing": 2}},
    )  # fmt: skip
    bare = replace(empty, summary_frame=pd.DataFrame(), differences_frame=pd.DataFrame())
    for name, each in (("empty", empty), ("bare", bare)):  # bare: not even the columns
        page = Page(write_report(each, tmp_path / name).read_text(encoding="utf-8"))
        text = " ".join(page.text)
        assert "This run has no numbers yet (cells: 2 planned, 2 missing)." in text
        assert "every cell has its numbers" not in text


def test_untrained_copies_that_are_models_of_their_own_stand_beside_the_trained(
    tmp_path: Path,
) -> None:
    runs = [small(0.1, model=model, controls=False) for model in ("m", "m-untrained")]
    models = [
        {"name": "m", "label": "m", "untrained": None},
        {"name": "m", "label": "m-untrained", "untrained": "embeddings"},
    ]
    both = pd.concat([run.frame() for run in runs], ignore_index=True)
    run = replace(runs[0], summary_frame=both, provenance={"plan": {"models": models}})
    page = Page(write_report(run, tmp_path).read_text(encoding="utf-8"))
    assert any(a.get("id") == "training-section" for _, a in page.elements)
    found = page.data()["figures"]["heads"]
    at = found["choices"].index(["m", "sst2", "SimAOU", "GD"])
    titles = [each["text"] for each in found["specs"][at]["layout"]["annotations"]]
    assert titles == ["<b>GD</b>", "<b>m-untrained</b>", "<b>difference</b>"]


def test_a_disk_that_fills_up_leaves_the_report_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No new table lies beside an old page, however far the disk reaches."""

    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    write_report(small(), tmp_path / "out")
    before, sync = content(), os.fsync
    for room in (0, len(before) - 1):
        left = [room]

        def full(descriptor: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(RunError, match="No space left"):
                write_report(small(layers=3), tmp_path / "out")
        assert content() == before
    write_report(small(layers=3), tmp_path / "out")
    assert content() != before


def test_a_report_needs_a_run_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run"):
        write_report(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(RunError, match="where the report goes"):
        write_report(small())
    with pytest.raises(RunError, match="where the report goes"):
        write_report("memory://runs/one")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_report(small(), tmp_path / "file" / "report")


@pytest.mark.parametrize(
    ("fake", "why"),
    [
        ("raise ImportError", "kaleido is not installed (pip install 'iclgd_lens[figures]')"),
        ("", "older than 1.0"),
        ("class ChromeNotFoundError(Exception): pass\n"
         "def write_fig_from_object_sync(*a, **k): raise ChromeNotFoundError", "no browser"),
        ("def write_fig_from_object_sync(*a, **k): raise TimeoutError", "failed (TimeoutError)"),
        ("def write_fig_from_object_sync(*a, **k): pass", "left out "),
    ],
)  # fmt: skip
def test_figure_files_are_never_a_reason_to_fail(
    fake: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "kaleido.py").write_text(fake)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "kaleido", raising=False)
    path = write_report(small(layers=3), tmp_path / "out", figures="svg")
    sys.modules.pop("kaleido", None)  # the fake one, which monkeypatch would put back
    text = " ".join(Page(path.read_text(encoding="utf-8")).text)
    assert "Figure files are missing: " in text
    assert why in text


def test_a_figure_format_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LensError, match=r"No figure format 'svgs'.*svg, png, pdf.*svg"):
        write_report(small(), tmp_path / "out", figures="svgs")
    assert not (tmp_path / "out").exists()


# -- what a run offers -----------------------------------------------------------------------------

SECTIONS = {
    "gate": "First: is there in-context learning?", "cost": "What each hypothesis cost",
    "trajectory": "Trajectory:", "nulls": "draws and the observed value",
    "norms": "Sizes of the changes", "attention": "Attention of the readout token",
    "verdicts": "verdicts.csv", "behaviour": "What each hypothesis does to the answers",
    "heads": "A diamond: shown after correction for all heads", "factors": "Along a factor",
    "mediation": "Which heads do the work", "agreement": "Head 3.3 does the work.",
    "head_sets": "How many heads carry",
}  # fmt: skip


def headings(page: Page) -> list[str]:
    return [str(a["id"]) for tag, a in page.elements if tag == "section"]


def test_gate_and_verdicts_come_first_and_everything_offered_is_shown(tmp_path: Path) -> None:
    page = Page(write_report(full(), tmp_path).read_text(encoding="utf-8"))
    text = " ".join(page.text)
    assert set(SECTIONS) == set(OFFERED)
    captions = json.dumps(page.data()["figures"])
    for said in SECTIONS.values():
        assert said in text or said in captions
    assert headings(page)[:3] == ["board-section", "summary-section", "trajectory-section"]
    order = [text.index(part) for part in (
        "Means over tasks; in small", SECTIONS["gate"], "sentence of the gate on sst2",
        "Is each hypothesis better", "SimAOU: GD beats all its controls on 1 of 4 tasks (sst2)",
    )]  # fmt: skip
    assert order == sorted(order)
    assert "five more draws would tell" in text
    links = [a["href"] for tag, a in page.elements if tag == "a" and "section" in str(a["href"])]
    assert [link.removeprefix("#") for link in map(str, links)] == headings(page)


@pytest.mark.parametrize("name", OFFERED)
def test_a_frame_that_a_run_does_not_offer_has_no_section(name: str, tmp_path: Path) -> None:
    run = full()
    less = replace(run, more={key: frame for key, frame in run.more.items() if key != name})
    page = Page(write_report(less, tmp_path / "a").read_text(encoding="utf-8"))
    assert SECTIONS[name] not in " ".join(page.text) + json.dumps(page.data()["figures"])
    broken = dict(run.more)  # a frame of another shape is as good as none
    broken[name] = pd.DataFrame({"unknown": [1]})
    page = Page(write_report(replace(run, more=broken), tmp_path / "b").read_text(encoding="utf-8"))
    assert SECTIONS[name] not in " ".join(page.text) + json.dumps(page.data()["figures"])


def test_all_hypotheses_stand_beside_their_best_control(tmp_path: Path) -> None:
    run = full()
    text = write_report(run, tmp_path).read_text(encoding="utf-8")
    section = text.split('id="board-section"')[1].split("</section>")[0]
    row = re.sub(r"<[^>]+>", " ", section.split(">GD</th>")[1].split("</tr>")[0])
    summary = run.frame()
    summary = summary[summary["layer"].isna() & (summary["score"] == "SimAOU")]
    means = summary.groupby("hypothesis")["value"].mean()
    assert "3 of 4 tasks" in row
    best = max(means["gd@untrained"], means["random[gd]"], means["uniform"])
    assert f"{means['gd']:.3f}  {best:.3f} untrained twins" in row
    assert row.split()[-1] == "6"  # 4 tasks of 1.5 s


def test_the_leaderboard_says_which_layers_a_mean_leaves_out_and_compares_none_over_others() -> (
    None
):
    run = full()
    facts = {"hypotheses": {"lcgd": {"rule": "ceiling", "kind": "fitted"}}}
    run = replace(run, provenance={**run.provenance, **facts})
    model = read_run(run).models[0]

    def board(*lines: tuple[str, str, str, str, int, str]) -> dict[str, tuple[str, dict[str, str]]]:
        columns = ["model", "task", "hypothesis", "score", "layer", "lacking"]
        lost = pd.DataFrame(list(lines), columns=columns)
        shown = read_run(replace(run, more={**run.more, "partial_layers": lost}))
        table = leaderboard(shown, model)
        assert table is not None
        return {
            line.head: (
                line.small,
                dict(zip(table.columns[1:], (item.text for item in line.cells), strict=True)),
            )
            for line in table.rows if line.cells[0].text != "world"
        }  # fmt: skip

    share = "share of the ceiling, SimAOU"
    whole = board()
    assert whole["GD"][0] == whole["LCGD"][0] == ""
    assert whole["LCGD"][1][share] == "100%"
    assert whole["GD"][1][share].endswith("%")
    lines = [(model, "sst2", "gd", "SimAOU", layer, "gd@untrained") for layer in (0, 1)]
    other = [("another", "sst2", "lcgd", "SimAOU", 2, "lcgd")]
    one = board(*lines, *other)
    assert (one["GD"][0], one["LCGD"][0]) == ("without layers 0 and 1 on 1 of 4 tasks", "")
    assert (one["GD"][1][share], one["LCGD"][1][share]) == (TABLE.undefined, "100%")
    assert {**one["GD"][1], share: ""} == {**whole["GD"][1], share: ""}
    tasks = read_run(run).tasks
    everywhere = [(model, task, "gd", "SimAOU", 3, "gd") for task in tasks]
    assert board(*everywhere)["GD"][0] == "without layer 3"
    assert board(*everywhere, *lines)["GD"][0] == "without some of layers 0, 1 and 3"
    # Over the same layers a share is one again.
    same = board(*lines, *((m, t, "lcgd", s, n, x) for m, t, _, s, n, x in lines))
    assert same["GD"][1][share] == whole["GD"][1][share]


def test_names_meanings_and_order_are_those_of_the_tables(page: Page) -> None:
    text = " ".join(page.text)
    for name in ("SimAOU", "SimAM", "Tok2Attn", "KL_ICL", "accuracy"):
        assert SCORES[name].meaning in text
    assert "would a network that has learned nothing do the same?" in text
    options = [label[1] for label in page.data()["figures"]["means"]["choices"]]
    known = [name for name in SCORES if name in options]
    assert options == known


# -- light -----------------------------------------------------------------------------------------


def test_writing_a_report_needs_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from iclgd_lens.report import write_report;"
        "from tests.report.synthetic import full; write_report(full(), sys.argv[1]);"
        "import iclgd_lens.bench.run_tables;"
        "heavy = {'torch', 'transformers', 'transformer_lens', 'statsmodels', 'scipy'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert run.stdout.strip() == "[]"
    assert (tmp_path / "index.html").is_file()


def test_effects_that_were_measured_exactly_are_not_shown_as_estimates_too() -> None:
    drawn = {each.name: each for each in pictures(read_run(full()))}
    shown = {choice.labels[2:] for choice in drawn["mediation"].choices}
    assert shown == {("ICL", "necessity"), ("GD", "substitution")}
    # A share of necessity has a scale of its own; marks are heads whose corrected p is small.
    nats, share = drawn["mediation"].choices
    assert "nats" in json.dumps(compact(nats.spec))
    assert "share" in json.dumps(compact(share.spec))
    points = drawn["same_heads"].choices[0].spec["data"][0]
    assert len(points["x"]) == 16
    assert points["y"] == pytest.approx([0.5 * x for x in points["x"]])


def test_a_factor_is_drawn_with_the_answers_above(tmp_path: Path) -> None:
    (choice,) = {each.name: each for each in pictures(read_run(full()))}["factors"].choices
    assert choice.labels[2] == "shots"
    assert choice.spec["layout"]["yaxis"]["title"]["text"] == "AUC"
    assert choice.spec["layout"]["xaxis"]["type"] == "log"
