"""Pages whose source lies outside `docs/`: the changelog, how to contribute, speed, footguns."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "speed.md": "benchmarks/README.md",
}
FOOTGUNS = "<!-- footguns -->"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the README's footguns where a page asks for them."""
    return markdown.replace(FOOTGUNS, section("Footguns")) if FOOTGUNS in markdown else markdown


def section(title: str) -> str:
    """A section of the README, without its heading.

    Raises:
        ValueError: It has none of this title.
    """
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(title)}\n(.+?)(?=^## )", readme, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"README.md has no section {title!r}")
    return found[1].strip()
