"""The search of pages that are opened as files, without asking any other machine.

Material's plugin `offline` takes a script from a package server; the same script is in `assets`.
"""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.pages import Page

SERVED = 'src="https://unpkg.com/iframe-worker/shim"'
OURS = "assets/iframe-worker.js"


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take the script from this site, as seen from the page."""
    return output.replace(SERVED, f'src="{"../" * page.url.count("/")}{OURS}"')


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Take the script from this site on the page for addresses that do not exist, too."""
    return output_content.replace(SERVED, f'src="/{OURS}"')
