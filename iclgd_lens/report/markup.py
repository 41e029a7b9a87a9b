"""HTML that is escaped by construction: text is escaped unless an element of this module made it.

tag("td", "a < b", scope="row")  ->  <td scope="row">a &lt; b</td>
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable
from typing import Any

_VOID = {"br", "hr", "img", "input", "meta"}


class Html(str):
    """Markup that is safe to place in a page."""

    __slots__ = ()


def tag(name: str, *children: Any, **attributes: str | int | bool | None) -> Html:
    """Return an element.

    Args:
        name: The element's name.
        children: Text (escaped), `Html` (as it is), or iterables of them; None is left out.
        attributes: `_` stands for `-`, and a trailing one is dropped (`class_`). True gives an
            attribute without a value; False and None leave it out.
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(children: Iterable[Any]) -> Html:
    """Return nodes one after the other."""
    return Html("".join(_render(child) for child in children))


def script_json(value: Any) -> Html:
    """JSON for a script element: nothing in it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Html(text)


def _render(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Html):
        return child
    if isinstance(child, str | int | float):
        return html.escape(str(child), quote=True)
    return "".join(_render(each) for each in child)


def _attribute(key: str, value: str | int | bool | None) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value), quote=True)}"'
