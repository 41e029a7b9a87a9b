"""The page in a real browser: it opens, its selectors work, and it shows what the frames hold."""

from __future__ import annotations

import re
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
from tests.report.synthetic import EVIL, RunData, evil, full, paper

pytestmark = pytest.mark.browser

LAYERS, HEADS = 6, 8
NARROW = {"width": 420, "height": 844}


@pytest.fixture(scope="module")
def grid() -> RunData:
    return paper(LAYERS, HEADS)


@pytest.fixture(scope="module")
def written(grid: RunData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(grid, tmp_path_factory.mktemp("browser"))


class Opened:
    """A page, and everything that it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, **settings: Any) -> None:
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(120_000)  # busy machines draw slowly
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

    def drawn(self, panel: int = 0) -> list[float | None]:
        """The values of a heatmap, layer by layer."""
        return self.tab.evaluate(f"document.getElementById('heads-plot').data[{panel}].z.flat()")

    def unfold(self, figure: Any) -> Any:
        """The rows of a figure's table of numbers, once the page has written them.

        A fold says that it was opened in a task of its own, after the click; counting waits for
        nothing, and a busy machine lets it pass.
        """
        figure.locator("summary").click()
        rows = figure.locator("details.values tbody tr")
        rows.first.wait_for(state="attached")
        return rows

    def choose(self, figure: str, select: str, label: str) -> None:
        """Choose in one of a figure's selectors, by what it is called."""
        self.tab.locator(f"#{figure}").get_by_label(select, exact=True).select_option(label=label)

    def hover(self, layer: int, head: int) -> str:
        """What the mouse shows over a head of the first heatmap."""
        tab = self.tab
        tab.locator("#heads-plot").scroll_into_view_if_needed()
        tab.wait_for_timeout(300)
        x, y = tab.evaluate(
            f"""(() => {{
              const plot = document.getElementById('heads-plot');
              const drag = plot.querySelector('.nsewdrag').getBoundingClientRect();
              const full = plot._fullLayout;
              return [drag.left + full.xaxis.c2p({head}), drag.top + full.yaxis.c2p({layer})];
            }})()"""
        )
        tab.mouse.move(x, y)
        tab.wait_for_selector("#heads-plot .hoverlayer .hovertext")
        text = tab.locator("#heads-plot .hoverlayer .hovertext").text_content()
        return str(text).replace("−", "-")


@pytest.fixture
def opened(browser: Any, written: Path) -> Iterator[Opened]:
    page = Opened(browser, written, viewport={"width": 1280, "height": 900}, color_scheme="light")
    yield page
    page.context.close()
    assert page.trouble == []


def heads(run: RunData, task: str, hypothesis: str, score: str) -> list[float]:
    frame = run.frame()
    own = frame[
        (frame["task"] == task) & (frame["hypothesis"] == hypothesis) & (frame["score"] == score)
    ]
    own = own[own["head"].notna()].sort_values(["layer", "head"])
    assert len(own) == LAYERS * HEADS
    return [float(each) for each in own["value"]]


def test_it_opens_from_a_file_without_a_complaint(opened: Opened) -> None:
    tab = opened.tab
    assert tab.title() == "synthetic paper grid"
    drawn = tab.evaluate("document.querySelectorAll('.plot svg.main-svg').length")
    assert drawn >= 5
    assert tab.locator("#failures-section").inner_text().count("out of memory") == 1


def test_selectors_change_the_figures(opened: Opened, grid: RunData) -> None:
    twin = "gd@untrained"
    assert opened.drawn() == pytest.approx(heads(grid, "sst2", "gd", "SimAOU"), abs=5.1e-5)
    assert opened.drawn(1) == pytest.approx(heads(grid, "sst2", twin, "SimAOU"), abs=5.1e-5)
    opened.choose("heads", "Task", "agnews")
    opened.choose("heads", "Score", "SimAM")
    opened.choose("heads", "Hypothesis", "LCGD")
    assert opened.drawn() == pytest.approx(heads(grid, "agnews", "lcgd", "SimAM"), abs=5.1e-5)
    # Trained beside untrained, also after the hypothesis changed.
    own, other = (heads(grid, "agnews", name, "SimAM") for name in ("lcgd", "lcgd@untrained"))
    assert opened.drawn(1) == pytest.approx(other, abs=5.1e-5)
    difference = [a - b for a, b in zip(own, other, strict=True)]
    assert opened.drawn(2) == pytest.approx(difference, abs=1.6e-4)
    low, high = opened.tab.evaluate(
        "(({ zmin, zmax }) => [zmin, zmax])(document.getElementById('heads-plot').data[0])"
    )
    assert low == -high
    assert "SimAM of LCGD" in opened.tab.locator("#heads figcaption").inner_text()
    opened.choose("layers", "Task", "agnews")
    assert "SimAOU by layer on agnews" in opened.tab.locator("#layers figcaption").inner_text()


def test_lines_are_shown_and_hidden(opened: Opened) -> None:
    shown = (
        "document.getElementById('layers-plot').data"
        ".filter((t) => t.name && t.visible === true).map((t) => t.name)"
    )
    before = opened.tab.evaluate(shown)
    assert "GD" in before
    assert "oracle" not in before
    box = opened.tab.locator("#layers").get_by_role("group", name="Show").get_by_label("oracle")
    box.check()
    assert set(opened.tab.evaluate(shown)) == {*before, "oracle"}
    opened.choose("layers", "Task", "cb")  # what was switched on stays on
    assert "oracle" in opened.tab.evaluate(shown)
    opened.tab.locator("#layers").get_by_label("GD", exact=True).uncheck()
    assert "GD" not in opened.tab.evaluate(shown)
    bands = "document.getElementById('layers-plot').data.filter((t) => t.legendgroup === 'GD')"
    assert opened.tab.evaluate(f"{bands}.every((t) => t.visible === false)")


def test_hover_shows_the_value_that_the_frame_holds(opened: Opened, grid: RunData) -> None:
    layer, head = 4, 5
    opened.choose("heads", "Task", "mr")
    text = opened.hover(layer, head)
    frame = grid.frame()
    row = frame[
        (frame["task"] == "mr") & (frame["hypothesis"] == "gd") & (frame["score"] == "SimAOU")
        & (frame["layer"] == layer) & (frame["head"] == head)
    ].iloc[0]  # fmt: skip
    assert f"layer {layer}, head {head}" in text
    shown = [float(each) for each in re.findall(r"-?\d+\.\d+", text)]
    assert shown == pytest.approx([row["value"], row["ci_low"], row["ci_high"]], abs=5.1e-5)


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
    page = Opened(browser, write_report(tmp_path / "run"))
    page.choose("heads", "Score", "SimAM")
    page.choose("heads", "Hypothesis", "LCGD")
    text = page.hover(1, 2)
    frame = pd.read_parquet(tmp_path / "run" / "cells").query(
        "hypothesis == 'lcgd' and score == 'SimAM/head' and layer == 1 and head == 2"
    )
    assert len(frame) == 2, "a line a seed"
    values = np.stack(frame["values"].to_list())
    shown = float(re.findall(r"-?\d+\.\d+", text)[0])
    assert shown == pytest.approx(values.mean(), abs=5.1e-5)
    assert page.trouble == []
    page.context.close()


def numbers_in(row: Any) -> list[float]:
    return [float(each.replace("−", "-")) for each in row.locator("td").all_inner_texts()]


def test_each_figure_is_also_a_table(opened: Opened, grid: RunData) -> None:
    tab = opened.tab
    rows = opened.unfold(tab.locator("#heads"))
    assert rows.count() == 3 * LAYERS  # trained, untrained, difference
    here = slice(2 * HEADS, 3 * HEADS)
    assert numbers_in(rows.nth(2)) == pytest.approx(
        heads(grid, "sst2", "gd", "SimAOU")[here], abs=5.1e-5
    )
    assert "GD, 2" in rows.nth(2).locator("th[scope=row]").inner_text()
    opened.choose("heads", "Task", "cb")  # an open table follows
    assert numbers_in(rows.nth(2)) == pytest.approx(
        heads(grid, "cb", "gd", "SimAOU")[here], abs=5.1e-5
    )
    line = opened.unfold(tab.locator("#layers")).nth(3)
    assert line.locator("th").inner_text() == "GD"
    frame = grid.frame()
    own = frame[
        (frame["task"] == "sst2") & (frame["hypothesis"] == "gd") & (frame["score"] == "SimAOU")
        & (frame["layer"] == 3) & frame["head"].isna()
    ].iloc[0]  # fmt: skip
    wanted = [3, own["value"], own["ci_low"], own["ci_high"]]
    assert numbers_in(line) == pytest.approx(wanted, abs=5.1e-5)


def test_every_figure_has_a_table_of_its_numbers(browser: Any, tmp_path: Path) -> None:
    page = Opened(browser, write_report(full(), tmp_path))
    figures = page.tab.locator("figure[data-figure]").all()
    assert len(figures) == 15
    for figure in figures:
        assert page.unfold(figure).count() > 0
        assert "undefined" not in figure.locator("details.values thead").inner_text()
        for select in figure.locator("select:visible").all():
            for option in select.locator("option").all_inner_texts():
                select.select_option(label=option)
    assert page.trouble == []
    page.context.close()


def test_differences_are_filtered_with_their_table(opened: Opened, grid: RunData) -> None:
    opened.choose("differences", "Score", "SimAM")
    lines = grid.differences()
    lines = lines[lines["score"] == "SimAM"]
    traces = opened.tab.evaluate("document.getElementById('differences-plot').data.map((t) => t.x)")
    assert sorted(each for trace in traces for each in trace) == pytest.approx(
        sorted(lines["difference"]), abs=5.1e-5
    )
    section = opened.tab.locator("#differences-section > .scroll")
    assert section.locator("tbody tr:visible").count() == len(lines)


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
        if tab.evaluate("document.activeElement.id") == "heads-1":
            break
    else:
        pytest.fail("the task cannot be reached with the Tab key")
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("ArrowDown")
    assert opened.drawn() == pytest.approx(heads(grid, "sst5", "gd", "SimAOU"), abs=5.1e-5)


def test_the_theme_follows_the_system_and_the_button(browser: Any, written: Path) -> None:
    page = Opened(browser, written, color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    paper_ = "document.getElementById('means-plot')._fullLayout.paper_bgcolor"
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


def test_turning_a_screen_draws_the_figures_anew(browser: Any, written: Path) -> None:
    page = Opened(browser, written, viewport={"width": 1280, "height": 900})
    domain = "document.getElementById('heads-plot')._fullLayout.yaxis2.domain"
    assert page.tab.evaluate(domain) == [0, 1]
    for width, stacked in ((420, True), (1280, False)):
        page.tab.set_viewport_size({"width": width, "height": 900})
        page.tab.wait_for_timeout(800)
        assert (page.tab.evaluate(domain)[0] > 0) == stacked
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert page.trouble == []
    page.context.close()


def test_without_javascript_text_and_tables_are_whole(browser: Any, written: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    context.set_default_timeout(120_000)
    tab = context.new_page()
    tab.goto(written.as_uri())
    assert "The figures need JavaScript" in tab.locator("noscript").inner_text()
    assert tab.locator("table:visible").count() > 5
    assert "In-context learning against GD and LCGD" in tab.locator(".lead").inner_text()
    context.close()


def test_names_that_are_scripts_do_not_run(browser: Any, tmp_path: Path) -> None:
    run = evil()
    order = pd.DataFrame(
        [{"model": run.frame()["model"][0], "task": EVIL, "hypothesis": EVIL, "flip_rate": 0.1,
          "ci_low": 0.0, "ci_high": 0.2, "accuracy_range": 0.0, "permutations": 2, "seeds": 1,
          "n": 4}]
    )  # fmt: skip
    run = RunData(
        run.summary_frame, run.differences_frame, order, run.failures_frame, run.provenance
    )
    page = Opened(browser, write_report(run, tmp_path))
    assert page.tab.title() == EVIL
    legend = page.tab.locator("#layers .legendtext").all_text_contents()
    assert EVIL in legend
    for fold in page.tab.locator("details").all():
        fold.evaluate("(each) => { each.open = true; }")
    page.tab.locator("#means details.values tbody tr").first.wait_for(state="attached")
    assert EVIL in page.tab.locator("#means details.values").inner_text()
    assert page.trouble == []
    page.context.close()
