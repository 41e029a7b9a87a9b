"""What an object says of itself: one line in a console, a small table in a notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

LONGEST = 60
"""Characters of one fact at most; a console shows the line whole."""


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text of at most so many characters."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def one_line(name: str, facts: Mapping[str, object]) -> str:
    """Return "Name(fact, fact)": what each fact is, stands in the fact itself."""
    return f"{name}({', '.join(shortened(str(fact)) for fact in facts.values())})"


def html_table(name: str, facts: Mapping[str, object], notes: Sequence[str] = ()) -> str:
    """Return an HTML table of facts by name, with notes below."""
    rows = "".join(
        f'<tr><th style="text-align:left">{escape(what)}</th>'
        f'<td style="text-align:left">{escape(shortened(str(fact)))}</td></tr>'
        for what, fact in facts.items()
    )
    below = "".join(f"<p>{escape(note)}</p>" for note in notes)
    return f"<div><b>{escape(name)}</b><table>{rows}</table>{below}</div>"
