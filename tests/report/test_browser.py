"""The page in a real browser: it opens, its selectors work, and it shows what the frames hold."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.report import write_report
from tests import families
from tests.bench.conftest import write_rows
from tests.report.synthetic import EVIL, RunData, evil, paper

pytestmark = pytest.mark.browser

LAYERS, HEADS = 6, 8
NARROW = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="the browser extra is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser here (looked for {', '.join(names)})")
    # Chromium's sandbox refuses to run as root, as tests in containers often do.
    arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=arguments)
        yield started
        started.close()


@pytest.fixture(scope="module")
def grid() -> RunData:
    return paper(LAYERS, HEADS)


@pytest.fixture(scope="module")
def written(grid: RunData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(grid, tmp_path_factory.mktemp("browser"), png=False)


class Opened:
    """A page, and everything that it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.tab = self.context.new_page()
        self.trouble: list[str] = []
        tab = self.tab
        tab.on("console", lambda m: self.trouble.append(f"console {m.type}: {m.text}"))
        tab.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        tab.on("dialog", lambda dialog: (self.trouble.append("dialog"), dialog.dismiss()))
        tab.on("request", self._asked)
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-ready=yes]", timeout=60_000)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.trouble.append(f"request: {request.url}")

    def drawn(self, panel: str = "heads-0") -> list[float | None]:
        """The values of a heatmap, layer by layer."""
        return self.tab.evaluate(f"document.getElementById('{panel}').data[0].z.flat()")

    def choose(self, select: str, label: str) -> None:
        self.tab.select_option(f"#{select}", label=label)

    def hover(self, layer: int, head: int) -> str:
        """What the mouse shows over a head of the first heatmap."""
        tab = self.tab
        tab.locator("#heads-0").scroll_into_view_if_needed()
        tab.wait_for_timeout(300)
        x, y = tab.evaluate(
            f"""(() => {{
              const plot = document.getElementById('heads-0');
              const drag = plot.querySelector('.nsewdrag').getBoundingClientRect();
              const full = plot._fullLayout;
              return [drag.left + full.xaxis.c2p({head}), drag.top + full.yaxis.c2p({layer})];
            }})()"""
        )
        tab.mouse.move(x, y)
        tab.wait_for_selector("#heads-0 .hoverlayer .hovertext")
        text = tab.locator("#heads-0 .hoverlayer .hovertext").text_content()
        return str(text).replace("−", "-")


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Opened]:
    page = Opened(browser, written, viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield page
    page.context.close()
    assert page.trouble == []


def heads(run: RunData, task: str, hypothesis: str, score: str) -> list[float]:
    frame = run.summary()
    own = frame[
        (frame["task"] == task) & (frame["hypothesis"] == hypothesis) & (frame["score"] == score)
    ]
    own = own[own["head"].notna()].sort_values(["layer", "head"])
    assert len(own) == LAYERS * HEADS
    return [float(each) for each in own["value"].round(4)]


def test_it_opens_from_a_file_without_a_complaint(opened: Opened) -> None:
    tab = opened.tab
    assert tab.title() == "synthetic paper grid"
    drawn = tab.evaluate("document.querySelectorAll('.plot svg.main-svg').length")
    assert drawn >= 5
    assert tab.locator("#failures-section").inner_text().count("out of memory") == 1


def test_selectors_change_the_figures(opened: Opened, grid: RunData) -> None:
    assert opened.drawn() == pytest.approx(heads(grid, "sst2", "gd", "SimAOU"))
    assert opened.drawn("heads-1") == pytest.approx(heads(grid, "sst2", "gd@untrained", "SimAOU"))
    opened.choose("place-task", "agnews")
    opened.choose("place-score", "SimAM")
    opened.choose("heads-name", "lcgd")
    assert opened.drawn() == pytest.approx(heads(grid, "agnews", "lcgd", "SimAM"))
    # Trained beside untrained, also after the hypothesis changed.
    assert opened.drawn("heads-1") == pytest.approx(
        heads(grid, "agnews", "lcgd@untrained", "SimAM")
    )
    opened.choose("heads-beside", "gd")
    assert opened.drawn("heads-1") == pytest.approx(heads(grid, "agnews", "gd", "SimAM"))
    opened.choose("heads-beside", "nothing")
    assert not opened.tab.locator("#heads-second").is_visible()
    bounds = "(({ zmin, zmax }) => [zmin, zmax])(document.getElementById('heads-0').data[0])"
    low, high = opened.tab.evaluate(bounds)
    assert low == -high
    opened.choose("heads-scale", "−1 to 1")
    assert opened.tab.evaluate(bounds) == [-1, 1]
    assert "SimAM by layer on agnews" in opened.tab.locator("#profile-caption").inner_text()


def test_lines_are_shown_and_hidden(opened: Opened) -> None:
    names = "document.getElementById('profile').data.map((t) => t.name).filter(Boolean)"
    before = opened.tab.evaluate(names)
    assert "gd" in before
    assert "oracle" not in before
    opened.tab.get_by_role("group", name="Show").nth(1).get_by_label("oracle").check()
    assert set(opened.tab.evaluate(names)) == {*before, "oracle"}


def test_hover_shows_the_value_that_the_frame_holds(opened: Opened, grid: RunData) -> None:
    layer, head = 4, 5
    opened.choose("place-task", "mr")
    text = opened.hover(layer, head)
    frame = grid.summary()
    row = frame[
        (frame["task"] == "mr") & (frame["hypothesis"] == "gd") & (frame["score"] == "SimAOU")
        & (frame["layer"] == layer) & (frame["head"] == head)
    ].iloc[0]  # fmt: skip
    assert f"layer {layer}, head {head}" in text
    shown = [float(each) for each in re.findall(r"-?\d+\.\d+", text)]
    assert shown == pytest.approx([row["value"], row["ci_low"], row["ci_high"]], abs=5.1e-5)
    assert "n = 6000" in text


def test_hover_shows_the_mean_of_what_the_parquet_files_hold(browser: Any, tmp_path: Path) -> None:
    plan = parse_plan(
        {
            "models": [str(families.save_folder("gpt2", tmp_path / "tiny"))],
            "tasks": ["sst2"],
            "data": str(write_rows(tmp_path / "rows", ("sst2",))),
            "shots": 2,
            "queries": 4,
            "seeds": [0, 1],
            "protocol": "reference",
            "hypotheses": ["gd", "lcgd"],
            "lr": 0.05,
            "resamples": 20,
        }
    )
    assert not run_plan(plan, tmp_path / "run").failed
    page = Opened(browser, write_report(tmp_path / "run", png=False))
    page.choose("place-score", "SimAM")
    page.choose("heads-name", "lcgd")
    text = page.hover(1, 2)
    frame = pd.read_parquet(tmp_path / "run" / "cells").query(
        "hypothesis == 'lcgd' and score == 'SimAM' and layer == 1 and head == 2"
    )
    assert len(frame) == 2, "a line a seed"
    values = np.stack(frame["values"].to_list())
    assert re.findall(r"n = (\d+)", text) == [str(values.size)]
    shown = float(re.findall(r"-?\d+\.\d+", text)[0])
    assert shown == pytest.approx(values.mean(), abs=5.1e-5)
    assert page.trouble == []
    page.context.close()


def test_each_figure_is_also_a_table(opened: Opened, grid: RunData) -> None:
    tab = opened.tab
    tab.locator("#heads-values summary").click()
    rows = tab.locator("#heads-values tbody tr")
    assert rows.count() == LAYERS
    cells = rows.nth(2).locator("td").all_inner_texts()
    shown = [float(each.replace("−", "-")) for each in cells]
    assert shown == pytest.approx(heads(grid, "sst2", "gd", "SimAOU")[2 * HEADS : 3 * HEADS])
    assert tab.locator("#heads-values th[scope=row]").count() == LAYERS
    opened.choose("place-task", "cb")  # an open table follows
    shown = [float(each.replace("−", "-")) for each in rows.nth(2).locator("td").all_inner_texts()]
    assert shown == pytest.approx(heads(grid, "cb", "gd", "SimAOU")[2 * HEADS : 3 * HEADS])


def test_differences_are_filtered_with_their_table(opened: Opened, grid: RunData) -> None:
    opened.choose("paired-score", "SimAM")
    opened.choose("paired-kind", "between hypotheses")
    lines = grid.differences()
    lines = lines[(lines["score"] == "SimAM") & (lines["kind"] == "hypotheses")]
    traces = opened.tab.evaluate("document.getElementById('paired').data.map((t) => t.x)")
    assert sorted(each for trace in traces for each in trace) == pytest.approx(
        sorted(lines["difference"])
    )
    assert opened.tab.locator("#paired-table tbody tr:visible").count() == len(lines) == 6


def test_the_keyboard_is_enough(opened: Opened, grid: RunData) -> None:
    tab = opened.tab
    tab.keyboard.press("Tab")
    skip = tab.evaluate("document.activeElement.textContent")
    assert skip == "Skip to the report"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"
    for _ in range(200):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.id") == "place-task":
            break
    else:
        pytest.fail("the task cannot be reached with the Tab key")
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("ArrowDown")
    assert opened.drawn() == pytest.approx(heads(grid, "sst5", "gd", "SimAOU"))


def test_the_theme_follows_the_system_and_the_button(browser: Any, written: Path) -> None:
    page = Opened(browser, written, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    paper_ = "document.getElementById('means')._fullLayout.paper_bgcolor"
    dark = page.tab.evaluate(ground)
    assert sum(int(each) for each in re.findall(r"\d+", dark)) < 150
    dark_figure = page.tab.evaluate(paper_)
    button = page.tab.get_by_role("button", name="Theme")
    button.focus()
    page.tab.keyboard.press("Enter")
    assert button.inner_text() == "Theme: dark"
    page.tab.keyboard.press("Enter")
    assert button.inner_text() == "Theme: light"
    assert page.tab.evaluate(ground) != dark
    assert page.tab.evaluate(paper_) != dark_figure
    assert page.trouble == []
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_never_scrolls_sideways(browser: Any, written: Path, scheme: str) -> None:
    page = Opened(browser, written, viewport=NARROW, color_scheme=scheme, has_touch=True)
    for fold in page.tab.locator("details").all():
        fold.evaluate("(each) => { each.open = true; }")
    page.tab.wait_for_timeout(300)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    wide = page.tab.evaluate(
        "[...document.querySelectorAll('.plot svg.main-svg')]"
        ".filter((each) => each.getBoundingClientRect().right > innerWidth).length"
    )
    assert wide == 0
    assert page.trouble == []
    page.context.close()


def test_names_that_are_scripts_do_not_run(browser: Any, tmp_path: Path) -> None:
    run = evil()
    order = pd.DataFrame(
        [{"model": run.summary()["model"][0], "task": EVIL, "hypothesis": EVIL, "flip_rate": 0.1,
          "ci_low": 0.0, "ci_high": 0.2, "accuracy_range": 0.0, "permutations": 2, "seeds": 1,
          "n": 4}]
    )  # fmt: skip
    run = RunData(
        run.summary_frame, run.differences_frame, order, run.failures_frame, run.provenance
    )
    page = Opened(browser, write_report(run, tmp_path, png=False))
    assert page.tab.title() == EVIL
    legend = page.tab.locator("#profile .legendtext").all_text_contents()
    assert EVIL in legend
    for fold in page.tab.locator("details").all():
        fold.evaluate("(each) => { each.open = true; }")
    page.tab.wait_for_timeout(300)
    assert EVIL in page.tab.locator("#means-values").inner_text()
    assert page.trouble == []
    page.context.close()
