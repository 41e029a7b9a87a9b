"""The report's files: self-contained, escaped, reproducible, equal to the frames."""

from __future__ import annotations

import csv
import html.parser
import json
import math
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

from iclgd_lens.errors import RunError
from iclgd_lens.report import write_report
from iclgd_lens.report.page import plotly
from iclgd_lens.report.payload import encode, payload
from iclgd_lens.report.view import view
from tests.report.synthetic import EVIL, RunData, evil, paper, small

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
    return write_report(grid, tmp_path_factory.mktemp("paper"), png=False)


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
    full = payload(view(small()))
    assert full["headIntervals"]
    monkeypatch.setattr("iclgd_lens.report.page.payload", lambda each: payload(each, limit=10))
    page = Page(write_report(small(), tmp_path, png=False).read_text(encoding="utf-8"))
    for kept, cut in zip(full["series"], page.data()["series"], strict=True):
        assert kept[:7] == cut[:7]  # layers keep theirs
        assert (kept[7][0], kept[7][3]) == (cut[7][0], cut[7][3])
        assert cut[7][1:3] == [None, None]
    assert "Heads are shown without their intervals" in " ".join(page.text)


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
        write_report(small(), tmp_path / folder, png=False)
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
    page = Page(write_report(evil(), tmp_path, png=False).read_text(encoding="utf-8"))
    assert len(page.scripts) == 4  # theme, data, plotly, page
    assert not any("alert(" in each for each in page.scripts if not each.startswith("{"))
    assert "b" not in [tag for tag, _ in page.elements]
    assert not any("on" == key[:2] for _, a in page.elements for key in a)
    assert EVIL in "".join(page.text)  # shown as it is
    assert EVIL in page.data()["tasks"]
    assert "${title}" in "".join(page.text)
    for drawing in (tmp_path / "figures").glob("*.svg"):
        assert "<script" not in drawing.read_text(encoding="utf-8")
        assert drawing.parent == tmp_path / "figures"


def test_the_data_block_cannot_end_its_script(tmp_path: Path) -> None:
    text = write_report(evil(), tmp_path, png=False).read_text(encoding="utf-8")
    block = text.split('id="data">')[1].split("</script>")[0]
    assert not set("<>&") & set(block)


# -- numbers ---------------------------------------------------------------------------------------


def decode(text: str) -> np.ndarray:
    import base64

    raw = base64.b64decode(text[1:])
    if text[0] == "f":
        return np.frombuffer(raw, "<f4").astype(float)
    values = np.frombuffer(raw, "<i2").astype(float)
    return np.where(values == -32768, np.nan, values / 1e4)


@pytest.mark.parametrize(
    ("values", "kind", "error"),
    [
        ([0.12344, -0.99999, math.nan, 3.2766], "i", 5.1e-5),
        ([0.1, 12345.678, math.nan, -4.0], "f", 1e-3),
        ([math.nan, math.inf], "i", 0.0),
        ([], "i", 0.0),
    ],
)
def test_series_are_packed_to_four_decimals(values: list[float], kind: str, error: float) -> None:
    text = encode(np.array(values))
    assert text[0] == kind
    wanted = np.where(np.isfinite(values), values, np.nan)
    np.testing.assert_allclose(decode(text), wanted, atol=error, rtol=0)


def test_the_figures_hold_what_the_summary_holds(grid: RunData) -> None:
    data = payload(view(grid))
    summary = grid.summary()
    where = ("agnews", "lcgd@untrained", "SimAM")
    at = [data["tasks"].index("agnews"), [n for n, _ in data["names"]].index(where[1]), 1]
    found = next(each for each in data["series"] if each[1:4] == at)
    layers, heads, by_layer, by_head = found[4:]
    lines = summary[
        (summary["task"] == where[0])
        & (summary["hypothesis"] == where[1])
        & (summary["score"] == where[2])
    ]
    for packed, own in (
        (by_layer, lines[lines["layer"].notna() & lines["head"].isna()]),
        (by_head, lines[lines["head"].notna()]),
    ):
        for text, column in zip(packed[:3], ("value", "ci_low", "ci_high"), strict=True):
            np.testing.assert_allclose(decode(text), own[column], atol=5.1e-5)
        assert packed[3] == 6000
    assert (layers, heads) == (24, 32)


def test_the_csv_files_hold_the_frames(grid: RunData, written: Path) -> None:
    summary = grid.summary()
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
    summary = grid.summary()
    lines = summary[summary["layer"].isna() & (summary["score"] == "SimAOU")]
    row = lines[(lines["task"] == "mr") & (lines["hypothesis"] == "lcgd")].iloc[0]
    latex = (written.parent / "table.tex").read_text(encoding="utf-8")
    block = latex.split(r"\caption{SimAOU of")[1].split(r"\end{table}")[0]
    heads, *_, found = (
        each.removesuffix("[2pt]").removesuffix(r" \\").split(" & ")
        for each in block.splitlines()
        if each.startswith(("Hypothesis &", "lcgd &"))
    )
    assert numbers_of(found[heads.index("mr")]) == [
        round(float(row[c]), 3) for c in ("value", "ci_low", "ci_high")
    ]
    assert r"random{[}gd{]}" in latex
    text = " ".join(page.text)
    shown = f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    assert shown in re.sub(r"\s+", " ", text)


def test_latex_tables_fit_a_page(written: Path) -> None:
    """Six tasks side by side, and two lines a hypothesis, as far as a page goes."""
    latex = (written.parent / "table.tex").read_text(encoding="utf-8")
    tables = latex.split(r"\begin{table}")[1:]
    assert len(tables) == 5  # SimAOU, SimAM, Tok2Attn, KL_ICL, accuracy
    for each in tables:
        rows = each.split(r"\midrule")[1].split(r"\bottomrule")[0]
        lines = [line for line in rows.splitlines() if line.endswith(r" \\[2pt]")]
        assert 2 < len(lines) < 20
        assert {line.count(" & ") for line in lines} == {6}


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
    return write_report(evil(), folder / "evil", png=False).with_name("table.tex")


def test_published_figures_stand_apart_and_say_whose_they_are(page: Page, written: Path) -> None:
    text = written.read_text(encoding="utf-8").replace(plotly(), "")
    section = text.split('id="published-section"')[1].split("</section>")[0]
    assert "not of this run" in section
    assert "fairseq dense 1.3B" in section
    assert numbers_of(section.split("sst2")[1])[:4] == [0.0005, 0.111, 0.223, 0.114]
    assert section.count("not published") == 2  # agnews, untrained
    elsewhere = text.replace(section, "")
    assert "fairseq" not in elsewhere
    assert "0.111" not in json.dumps(page.data()["whole"])


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
        run.summary().iloc[:0], run.differences().iloc[:0], run.order_sensitivity(),
        run.failures(), {"name": "empty", "cells": {"planned": 2, "missing": 2}},
    )  # fmt: skip
    page = Page(write_report(empty, tmp_path, png=False).read_text(encoding="utf-8"))
    assert "This run has no numbers yet (cells: 2 planned, 2 missing)." in " ".join(page.text)


def test_untrained_copies_that_are_models_of_their_own_stand_beside_the_trained(
    tmp_path: Path,
) -> None:
    runs = [small(0.1, model=model, controls=False) for model in ("m", "m-untrained")]
    models = [
        {"name": "m", "label": "m", "untrained": None},
        {"name": "m", "label": "m-untrained", "untrained": "embeddings"},
    ]
    both = pd.concat([run.summary() for run in runs], ignore_index=True)
    run = replace(runs[0], summary_frame=both, provenance={"plan": {"models": models}})
    page = Page(write_report(run, tmp_path, png=False).read_text(encoding="utf-8"))
    assert page.data()["twins"] == [[0, 0, [[1, 0]]]]
    assert any(a.get("id") == "training-section" for _, a in page.elements)
    assert (tmp_path / "figures" / "m-untrained_means_SimAOU.svg").is_file()


def test_a_report_needs_a_run_and_a_place(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run"):
        write_report(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(RunError, match="where the report goes"):
        write_report(small())
    with pytest.raises(RunError, match="where the report goes"):
        write_report("memory://runs/one")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        write_report(small(), tmp_path / "file" / "report", png=False)


@pytest.mark.parametrize(
    ("fake", "why"),
    [
        ("raise ImportError", "not installed"),
        ("", "older than 1.0"),
        ("class ChromeNotFoundError(Exception): pass\n"
         "def write_fig_from_object_sync(*a, **k): raise ChromeNotFoundError", "no browser"),
        ("def write_fig_from_object_sync(*a, **k): raise TimeoutError", "failed (TimeoutError)"),
        ("def write_fig_from_object_sync(*a, **k): pass", "left out 6 of 6"),
    ],
)  # fmt: skip
def test_png_is_never_a_reason_to_fail(
    fake: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "kaleido.py").write_text(fake)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "kaleido", raising=False)
    path = write_report(small(layers=3), tmp_path / "out")
    monkeypatch.delitem(sys.modules, "kaleido", raising=False)
    text = path.read_text(encoding="utf-8").replace(plotly(), "")
    assert "no PNG copies of the figures: " in text
    assert why in text
    assert len(list((tmp_path / "out" / "figures").glob("*.svg"))) == 6
