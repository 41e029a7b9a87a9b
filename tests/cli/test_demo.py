"""The demo: what it measures, what it writes, and that its sentences follow from the numbers."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iclgd_lens.cli import app as cli_app
from iclgd_lens.cli import demo as demo_module
from iclgd_lens.cli import demo_page as page_module
from iclgd_lens.cli.app import run
from iclgd_lens.cli.demo import (
    SHOWN,
    DemoResult,
    calibrated,
    headline,
    numbers,
    run_demo,
    story,
    trajectory,
    trajectory_lines,
)
from iclgd_lens.cli.demo_page import (
    check_folder,
    demo_page,
    glossary,
    head_maps,
    lead,
    pictures,
    show_demo,
    write_demo,
)
from iclgd_lens.errors import LensError
from iclgd_lens.phrases import number
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.verdicts.verdict import OVERALL
from tests.smallmodel import save_small_model

TASKS = ("sst2", "agnews")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def result(model: str) -> DemoResult:
    return run_demo(model, tasks=TASKS, shots=4, queries=6, draws=2, twins=3)


@pytest.fixture(scope="module")
def one(result: DemoResult) -> Comparison:
    return result.comparisons["sst2"]


@pytest.fixture(scope="module")
def page(result: DemoResult) -> str:
    return demo_page(result)


def test_each_task_is_measured_by_itself_beside_its_controls(result: DemoResult) -> None:
    assert tuple(result.comparisons) == TASKS
    for comparison in result.comparisons.values():
        own = {"ZS", "ICL", "ICL_shuffled", "gd", "lcgd", "random[gd]", "random[lcgd]", "oracle",
               "gd@untrained", "lcgd@untrained", "constant_shift"}  # fmt: skip
        assert own <= set(comparison.labels)
        assert len(comparison.data.draws) == 2
        assert comparison.provenance["twins"] == 3


def test_the_instrument_reads_one(one: Comparison) -> None:
    values = one.tensor("SimAOU", "oracle").numpy()
    assert values == pytest.approx(1, abs=1e-4)


def test_the_same_seed_gives_the_same_numbers(model: str, result: DemoResult) -> None:
    again = run_demo(model, tasks=TASKS[:1], shots=4, queries=6, draws=2, twins=3)
    first = result.as_dict()["tasks"]["sst2"]
    assert json.dumps(again.as_dict()["tasks"]["sst2"]) == json.dumps(first)


def test_a_task_without_embedded_rows_is_refused_before_anything_runs(model: str) -> None:
    told: list[str] = []
    with pytest.raises(LensError, match="rte"):
        run_demo(model, tasks=("sst2", "rte"), progress=told.append)
    assert not any("ZS" in text for text in told)


# -- what is said ----------------------------------------------------------------------------------


def test_the_story_is_told_in_order(one: Comparison) -> None:
    titles = [title for title, _ in story(one)]
    assert titles[:4] == [
        "Is there in-context learning?",
        "What does each update do to the answers?",
        "Is it like in-context learning?",
        "Does attention come nearer as the answers do?",
    ]
    assert set(titles[4:]) <= {"Read with care"}


def test_the_headline_is_the_gate_and_the_overall_verdicts(one: Comparison) -> None:
    text, gate = headline("sst2", one), one.gate()
    assert gate is not None
    assert ("no in-context learning is shown" in text) == (not gate.learns)
    for each in one.verdicts(("SimAOU_label",)):
        if each.control == OVERALL:
            assert each.verdict in text


def test_every_number_of_the_prose_is_one_that_was_measured(one: Comparison) -> None:
    lines = [line for _, own in story(one) for line in own]
    gate = one.gate()
    assert gate is not None
    assert calibrated(gate) in lines
    for setting, measures in gate.settings.items():
        said = f"{number(measures['calibrated_accuracy'].value)} in {setting}"
        assert said in calibrated(gate)
    assert all(each.sentence in " ".join(lines) for each in one.behaviour())
    for each in one.verdicts():
        assert each.control != OVERALL or any(each.why in line for line in lines)


def test_the_table_has_the_numbers_of_the_prose(one: Comparison) -> None:
    """A hypothesis's mean in a verdict's reason is the mean in the table, to the same figures."""
    columns, found = numbers(one)
    assert columns == SHOWN
    checked = 0
    for each in one.verdicts(gate=False):
        stated = re.search(rf"{re.escape(each.score)} (-?[\d.]+) where", each.why)
        if stated is not None:
            cell = found[each.hypothesis][columns.index(each.score)]
            assert cell.text == stated[1]
            checked += 1
    for each in one.behaviour():
        cell = found[each.hypothesis][columns.index("AUC")]
        assert f"(AUC {cell.text}, ZS {found['ZS'][-1].text}" in each.sentence
        checked += 1
    assert checked > 2


def test_the_trajectory_is_put_into_words(one: Comparison) -> None:
    frame = trajectory(one)
    assert frame is not None
    (line,) = [each for each in trajectory_lines(one) if each.startswith("GD ")]
    own = frame[(frame["hypothesis"] == "gd") & (frame["score"] == "SimAOU_label")]
    assert list(own["passes"]) == [1, 2, 4]
    assert ", ".join(number(each) for each in own["value"][:2]) in line


def test_a_comparison_without_trajectory_says_nothing_of_it(
    one: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Comparison(tuple(part for part in one.parts if not part.trajectory), one.provenance)
    assert trajectory(bare) is None
    assert all("come nearer as" not in title for title, _ in story(bare))


def test_no_gate_is_said_to_be_none() -> None:
    bare = Comparison.of({"gd": {"SimAOU": np.ones((3, 2), np.float32)}}, [0, 1, 0])
    assert "was not measured" in headline("task", bare)


# -- the page --------------------------------------------------------------------------------------


def test_the_page_needs_no_other_file(page: str) -> None:
    markup = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', markup) == []
    assert page.count("plotly.js v") == 1
    assert page.count("<script>") == 3, "theme, plotly.js, and the page's own"
    assert "default-src &#39;none&#39;" in markup


def test_the_page_says_what_the_story_says(result: DemoResult, page: str) -> None:
    from markupsafe import escape

    for task, comparison in result.comparisons.items():
        assert str(escape(headline(task, comparison))) in page
        for title, lines in story(comparison):
            assert str(escape(title)) in page
            assert all(str(escape(line)) in page for line in lines)
    for name, text in glossary():
        assert str(escape(name)) in page
        assert str(escape(text)) in page


def test_figures_hold_trained_beside_untrained(result: DemoResult, one: Comparison) -> None:
    found = {each.name: each for each in pictures(result)}
    assert set(found) == {"trajectory", "heads"}
    assert {choice.labels[0] for choice in found["heads"].choices} == set(TASKS)
    spec = head_maps(one, "SimAOU", "gd")
    assert spec is not None
    maps = [np.asarray(trace["z"]) for trace in spec["data"] if trace.get("hovertemplate")]
    expected = one.tensor("SimAOU", "gd@untrained", by="head").nanmean(0).numpy()
    assert any(np.allclose(each, expected, equal_nan=True) for each in maps if each.shape)
    assert head_maps(one, "AUC", "gd") is None


def test_what_lies_beyond_the_edge_is_said(result: DemoResult) -> None:
    (picture,) = [each for each in pictures(result) if each.name == "trajectory"]
    for choice in picture.choices:
        low = choice.spec["layout"]["xaxis"]["range"][0]
        outside = [trace["name"] for trace in choice.spec["data"] if np.nanmin(trace["x"]) < low]
        assert all(name in choice.caption for name in outside)


def test_the_page_is_written_whole_or_somewhere_else(
    result: DemoResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = write_demo(result, tmp_path / "new")
    assert written == tmp_path / "new" / "index.html"
    assert [path.name for path in written.parent.iterdir()] == ["index.html"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("x")
    assert write_demo(result, tmp_path / "taken") == tmp_path / "index.html"


def test_a_place_for_the_page_is_checked_first(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("x")
    with pytest.raises(LensError, match="is a file; give a folder"):
        check_folder(tmp_path / "taken")
    with pytest.raises(LensError, match="cannot be written"):
        check_folder(tmp_path / "taken" / "below")
    assert check_folder(tmp_path / "fine") == tmp_path / "fine" / "index.html"


@pytest.mark.browser
def test_nothing_is_off_screen_on_a_phone(page: str, tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="the browser extra is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip(f"no browser here (looked for {', '.join(names)})")
    (tmp_path / "index.html").write_text(page, encoding="utf-8")
    trouble: list[str] = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            tab = browser.new_context(
                viewport={"width": 420, "height": 844}, color_scheme=scheme
            ).new_page()
            tab.on("console", lambda message: trouble.append(message.text))
            tab.on("pageerror", lambda error: trouble.append(str(error)))
            tab.goto((tmp_path / "index.html").as_uri())
            tab.wait_for_selector("html[data-ready=yes]", timeout=120_000)
            assert tab.evaluate("document.documentElement.scrollWidth") == 420
            assert tab.locator(".plot .main-svg").count() >= 2
            ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (ground == "rgb(20, 23, 27)") == (scheme == "dark")
            for select in tab.locator("select").all():
                for option in select.locator("option").all_inner_texts():
                    if select.is_visible():
                        select.select_option(option)
        browser.close()
    assert trouble == []


# -- the command -----------------------------------------------------------------------------------


def test_what_is_printed_names_every_number_and_file(result: DemoResult, tmp_path: Path) -> None:
    from rich.console import Console

    console = Console(width=80, color_system=None)
    with console.capture() as capture:
        show_demo(result, tmp_path / "index.html", console)
    text = capture.get()
    assert max(map(len, text.splitlines())) <= 80
    flat = " ".join(text.split())
    for task, comparison in result.comparisons.items():
        assert " ".join(headline(task, comparison).split()) in flat
        for _, lines in story(comparison):
            assert all(" ".join(line.split()) in flat for line in lines)
        _, found = numbers(comparison)
        for own in found.values():
            # On one line of the table, or the first of a name that is broken.
            assert any(all(cell.text in line for cell in own) for line in text.splitlines())
    assert lead(result) in flat
    assert "index.html" in "".join(text.split())  # a long path is broken into lines


def test_the_command_prints_words_or_json(
    result: DemoResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: dict[str, Any] = {}

    def measured(model: str, **options: Any) -> DemoResult:
        inspect.signature(run_demo).bind(model, **options)
        asked.update(options, model=model)
        return result

    monkeypatch.setattr(demo_module, "run_demo", measured)
    command = ["demo", "--model", "m", "--shots", "4", "--queries", "6", "--draws", "2",
               "--twins", "3", "-t", "subj", "-o", str(tmp_path)]  # fmt: skip
    assert run([*command, "--json"]) == 0
    assert (asked["model"], asked["shots"], asked["queries"]) == ("m", 4, 6)
    assert (asked["draws"], asked["twins"], asked["tasks"]) == (2, 3, ["subj"])
    document = json.loads(capsys.readouterr().out)
    assert list(document["tasks"]) == list(TASKS)
    assert document["tasks"]["sst2"]["in_context_learning"]["learns"] in (True, False)
    assert all(Path(path).is_file() for path in document["files"])
    assert run(command) == 0
    assert str(tmp_path / "index.html") in capsys.readouterr().out.replace("\n", "")


def test_a_read_only_place_costs_no_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be measured")

    monkeypatch.setattr(demo_module, "run_demo", never)
    (tmp_path / "taken").write_text("x")
    assert run(["demo", "-o", str(tmp_path / "taken" / "below")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [(["--seed", str(2**64)], "at most 2"), (["--shots", "9999"], "9999"), (["-t", "rte"], "rte")],
)
def test_what_no_rows_can_give_is_told_before_a_model_is_loaded(
    asked: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing may be loaded")

    monkeypatch.setattr(demo_module, "run_demo", never)
    assert run(["demo", "-o", str(tmp_path), *asked]) == 2
    assert said in capsys.readouterr().err


def test_the_command_offers_what_the_demo_measures_by_default() -> None:
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(run_demo).parameters.items()
    }
    command = inspect.signature(cli_app.demo).parameters
    for name in ("shots", "queries", "draws", "twins", "seed"):
        assert command[name].default == defaults[name]
    assert page_module.PAGE == "index.html"
