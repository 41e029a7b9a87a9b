"""A page of a command's figures: one file that fetches nothing, in the report's style."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go


def figures_page(
    title: str, lines: Sequence[str], shown: Iterable[tuple[str, str, go.Figure]]
) -> bytes:
    """Return the page.

    Args:
        title: Over it.
        lines: What was found, in sentences.
        shown: Title, caption and figure of each.
    """
    from iclgd_lens.report.page import document
    from iclgd_lens.report.picture import Choice, Picture

    drawn: list[Picture] = []
    for number, (name, caption, figure) in enumerate(shown):
        spec: dict[str, Any] = figure.to_plotly_json()  # pyright: ignore[reportCallIssue]
        spec["layout"].pop("title", None)  # the page's own heading says it
        spec["layout"]["margin"] = {**spec["layout"].get("margin", {}), "t": 40}
        drawn.append(Picture(f"figure{number}", name, (), (Choice((), caption, spec),)))
    template = (files("iclgd_lens.cli") / "figures.html").read_text(encoding="utf-8")
    return document(template, drawn, title=title, lines=lines).encode()
