"""The documentation site: it builds offline and strictly, and what it is made from is whole."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

import iclgd_lens as lens
from iclgd_lens.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
HOOKS = ROOT / "docs/hooks"
NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"


def hook(name: str) -> ModuleType:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    spec = importlib.util.spec_from_file_location(f"docs_{name}", HOOKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- equations -------------------------------------------------------------------------------------


def shape(element: ElementTree.Element) -> Any:
    """A MathML tree as nested tuples: its tags and texts."""
    tag = element.tag.removeprefix(NAMESPACE)
    return (tag, *(shape(child) for child in element)) if len(element) else (tag, element.text)


def test_an_equation_becomes_the_tree_that_it_says() -> None:
    tree = ElementTree.fromstring(
        hook("mathematics").mathml(r"\hat{a}_{\text{ICL}} = \frac{1}{n^2}")
    )
    assert shape(tree)[1][1] == (
        "mrow",
        ("msub", ("mover", ("mrow", ("mi", "a")), ("mo", "^")), ("mrow", ("mi", "ICL"))),
        ("mo", "="),
        ("mfrac", ("mrow", ("mn", "1")), ("mrow", ("msup", ("mi", "n"), ("mn", "2")))),
    )


def test_a_sum_has_its_limits_below_and_above() -> None:
    tree = ElementTree.fromstring(hook("mathematics").mathml(r"\sum_{i=2}^{n} x_i"))
    found = [part[0] for part in shape(tree)[1][1][1:]]
    assert found == ["munderover", "msub"]


@pytest.mark.parametrize("latex", [r"\integral x", "x_", "{x", r"\text x"])
def test_an_equation_that_cannot_be_drawn_is_refused(latex: str) -> None:
    with pytest.raises(ValueError, match="equation"):
        hook("mathematics").mathml(latex)


# -- pages that are made ---------------------------------------------------------------------------


def test_every_entry_of_the_tables_has_its_page() -> None:
    pages = dict(hook("registries").pages())
    for folder, names in (
        ("hypotheses", lens.HYPOTHESES.known()),
        ("controls", lens.CONTROLS.known()),
        ("scores", lens.SCORES.known()),
    ):
        index = pages[f"{folder}/index.md"]
        assert all(f"[`{name}`]({name}.md)" in index for name in names)
        assert all(pages[f"{folder}/{name}.md"].startswith(f"# {name}\n") for name in names)
    assert "| `damping` | `1.0` | `float` |" in pages["hypotheses/newton.md"]


def test_a_public_name_without_a_place_or_documentation_is_told() -> None:
    griffe = pytest.importorskip("griffe", reason="the docs extra is not installed")
    reference = hook("reference")
    package = griffe.load("iclgd_lens", search_paths=[str(ROOT)], docstring_parser="google")
    assert reference.misplaced(package) == []
    assert reference.undocumented(package) == []
    assert set(reference.public(package)) == set(lens.__all__) - {"__version__"}

    title, names = reference.GROUPS["heads"]
    reference.GROUPS["heads"] = (title, names.replace("indirect_effects", "compare"))
    told = reference.misplaced(package)
    assert [text.split(" is ")[0] for text in told] == ["indirect_effects", "compare"]
    package["comparing.compare"].docstring = None
    package["heads.HeadScores.top"].docstring = None
    bare = [text.split(" has ")[0] for text in reference.undocumented(package)]
    assert sorted(bare) == ["HeadScores.top", "compare"]


def test_the_command_line_page_has_every_option_of_every_command() -> None:
    page: str = hook("command_line").text()
    runner = CliRunner()
    commands = runner.invoke(app, ["--help"], terminal_width=200).output
    sections = dict(part.split("\n", 1) for part in page.split("\n## iclgd ")[1:])
    assert len(sections) > 10
    assert all(f" {name} " in commands for name in sections)
    for name, section in sections.items():
        told = runner.invoke(app, [name, "--help"], terminal_width=200).output
        options = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", told)) - {"--help"}
        assert options == set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section)), name
    assert "| `--queries N` | Queries. | 64; x>=1 |" in sections["compare"]
    assert "| `-H, --hypothesis TEXT` | A name of" in sections["compare"]
    assert "| gd, lcgd |" in sections["compare"]
    assert "| `PLAN` | The plan, a YAML file. | required |" in sections["bench"]
    assert "100 plus the number of failed cells" in sections["bench"]


def test_a_notebook_is_shown_with_its_outputs() -> None:
    cell = {
        "cell_type": "code", "source": ["x = 1\n", "x"],
        "outputs": [
            {"output_type": "stream", "name": "stdout", "text": ["a ```\n"]},
            {"output_type": "execute_result",
             "data": {"text/plain": ["1"], "text/html": "<b>\n\n1</b>"}},
            {"output_type": "display_data",
             "data": {"application/vnd.plotly.v1+json": {"data": [{"name": "a<b"}], "layout": {}}}},
        ],
    }  # fmt: skip
    link = {"cell_type": "markdown", "source": "[next](own.ipynb) and [why](../docs/verdicts.md)"}
    page = hook("notebooks").page_of(
        {"cells": [{"cell_type": "markdown", "source": "# A"}, cell, link]}, "a.ipynb"
    )
    assert page.startswith("# A\n")
    assert "```python\nx = 1\nx\n```" in page
    assert "````text\na ```\n````" in page
    assert '<div class="output table">\n<b>\n1</b>\n</div>' in page
    assert "&quot;name&quot;: &quot;a&lt;b&quot;" in page
    assert "[next](own.md) and [why](../verdicts.md)" in page
    assert '<script src="../assets/figures.js"></script>' in page


# -- the site --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(module, reason="the docs extra is not installed")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_site_builds_strictly_and_holds_every_page(site: Path) -> None:
    for notebook in (ROOT / "examples").glob("*.ipynb"):
        assert (site / f"tutorials/{notebook.stem}.html").is_file()
    for page in ("index", "method", "verdicts", "questions", "changelog", "contributing", "json"):
        assert (site / f"{page}.html").is_file()
    index = json.loads((site / "search/search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"] for entry in index["docs"] if "bayes_lcgd" in entry["title"]}
    assert "hypotheses/bayes_lcgd.html" in found


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (420, "dark")])
def test_the_site_in_a_browser(served: str, browser: Any, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    context.set_default_timeout(120_000)
    tab = context.new_page()
    told: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    for page in (
        "index",
        "method",
        "tutorials/quickstart",
        "hypotheses/lcgd",
        "reference/comparing",
    ):
        tab.goto(f"{served}{page}.html")
        assert tab.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, page
    assert tab.evaluate("getComputedStyle(document.body).colorScheme") == scheme

    tab.goto(f"{served}tutorials/quickstart.html")
    tab.wait_for_selector(".figure .main-svg")
    assert tab.locator(".figure .main-svg").count() >= 2

    tab.goto(f"{served}method.html")
    assert tab.locator("math mfrac").first.bounding_box()["height"] > 15

    if width < 900:
        tab.locator(".md-header__button[for=__search]").click()
    tab.locator("input.md-search__input").focus()
    # The index is read when search is opened.
    tab.locator(".md-search-result__meta", has_text="Type to start").wait_for()
    tab.locator("input.md-search__input").press_sequentially("kronecker", delay=30)
    tab.locator(".md-search-result__link", has_text="newton").first.wait_for()

    assert told == []
    assert [url for url in asked if not url.startswith((served, "data:", "blob:"))] == []
    context.close()


@pytest.mark.slow
@pytest.mark.browser
def test_pages_opened_as_files_are_searched_and_ask_nobody(site: Path, browser: Any) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(120_000)
    told: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((site / "hypotheses/lcgd.html").as_uri())
    tab.locator("input.md-search__input").focus()
    tab.locator(".md-search-result__meta", has_text="Type to start").wait_for()
    tab.locator("input.md-search__input").press_sequentially("kronecker", delay=30)
    tab.locator(".md-search-result__link", has_text="newton").first.wait_for()
    assert told == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []
    tab.close()
