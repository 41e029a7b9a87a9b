"""Tutorials: each notebook of `examples/` becomes a page, its stored outputs with it.

Markdown cells stay Markdown, so that their links are checked as any page's are, and code and text
take the site's own styles. Figures are drawn from what Plotly stored, by the plotly.js that the
Python package carries; it is copied into the site once.
"""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import plotly
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PLOTLY_JSON = "application/vnd.plotly.v1+json"
PLOTLY_SCRIPT = "assets/plotly.min.js"
DRAW_SCRIPT = "assets/figures.js"
KINDS = (PLOTLY_JSON, "text/html", "text/plain")
"""Of the forms in which an output is stored, the first of these is shown."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for each notebook, and the scripts that draw figures."""
    for path in sorted((ROOT / "examples").glob("*.ipynb")):
        page = page_of(json.loads(path.read_text(encoding="utf-8")), path.name)
        files.append(File.generated(config, f"tutorials/{path.stem}.md", content=page))
    script = Path(plotly.__file__).parent / "package_data/plotly.min.js"
    files.append(File.generated(config, PLOTLY_SCRIPT, abs_src_path=str(script)))
    return files


def page_of(notebook: dict[str, Any], name: str) -> str:
    """The page of a notebook, as Markdown."""
    parts = [_cell(cell) for cell in notebook["cells"]]
    if any(PLOTLY_JSON in _data(cell) for cell in notebook["cells"]):
        parts.append(
            f'<script src="../{PLOTLY_SCRIPT}"></script>\n<script src="../{DRAW_SCRIPT}"></script>'
        )
    title, rest = parts[0], parts[1:]
    note = f"*This page is the notebook `examples/{name}`, with the outputs of its last run.*"
    return "\n\n".join([title, note, *rest]) + "\n"


def _data(cell: dict[str, Any]) -> set[str]:
    return {kind for output in cell.get("outputs", []) for kind in output.get("data", {})}


def _cell(cell: dict[str, Any]) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        # Links of the notebook lead to files of the repository; here, to their pages.
        return source.replace(".ipynb)", ".md)").replace("](../docs/", "](../")
    return "\n\n".join([_fenced(source, "python"), *_outputs(cell.get("outputs", []))])


def _outputs(outputs: list[dict[str, Any]]) -> list[str]:
    shown: list[str] = []
    text = ""  # of streams that follow one another
    for output in outputs:
        if output["output_type"] == "stream":
            text += "".join(output["text"])
            continue
        shown += _text(text)
        text = ""
        kind = next(kind for kind in KINDS if kind in output["data"])
        shown += _SHOWN[kind](output["data"][kind])
    return shown + _text(text)


def _text(text: str | list[str]) -> list[str]:
    text = "".join(text).rstrip()
    return [f'<div class="output" markdown>\n{_fenced(text, "text")}\n</div>'] if text else []


def _html(text: str | list[str]) -> list[str]:
    # A blank line would end the block of HTML in Markdown.
    lines = [line for line in "".join(text).splitlines() if line.strip()]
    return ['<div class="output table">\n' + "\n".join(lines) + "\n</div>"]


def _figure(spec: dict[str, Any]) -> list[str]:
    stored = html.escape(json.dumps({"data": spec["data"], "layout": spec["layout"]}))
    return [f'<div class="output figure" data-figure="{stored}"></div>']


_SHOWN = {PLOTLY_JSON: _figure, "text/html": _html, "text/plain": _text}


def _fenced(text: str, language: str) -> str:
    fence = "`" * max(3, 1 + _longest_run(text))
    return f"{fence}{language}\n{text}\n{fence}"


def _longest_run(text: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == "`" else 0
        longest = max(longest, run)
    return longest
