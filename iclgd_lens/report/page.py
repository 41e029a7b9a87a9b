"""The page: its parts put together into one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable
from dataclasses import asdict
from importlib.resources import files
from string import Template
from typing import Any

from iclgd_lens.report import style
from iclgd_lens.report.markup import join, script_json, tag
from iclgd_lens.report.payload import payload
from iclgd_lens.report.picture import Pictures
from iclgd_lens.report.sections import section, sections
from iclgd_lens.report.view import View
from iclgd_lens.report.words import headline


def page(view: View, pictures: Pictures) -> str:
    """Return the whole page.

    Args:
        view: The run.
        pictures: The figure files that the page points to.
    """
    data = _data(view)
    parts = sections(view, pictures, head_intervals=data["headIntervals"])
    scripts = {"theme": _data_file("theme.js"), "plotly": plotly(), "page": _data_file("page.js")}
    values = {
        "title": join([view.name]),
        "lead": join([headline(view)]),
        "policy": _policy(scripts.values()),
        "style": _data_file("style.css"),
        "contents": join(
            tag("li", tag("a", title, href=f"#{name}-section")) for name, title, _ in parts
        ),
        "sections": join(section(name, content) for name, _, content in parts),
        "footer": f"Written by iclgd_lens {join([_version(view)])}. The figures are drawn by "
        "plotly.js (MIT licence), which is inside this page.",
        "data": script_json(data),
        **scripts,
    }
    return Template(_data_file("template.html")).substitute(values)


def plotly() -> str:
    """plotly.js as the Python package ships it, unable to end the script element that holds it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Iterable[str]) -> str:
    """Nothing is fetched, and no script runs but the page's own."""
    hashes = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        for script in scripts
    ]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _data(view: View) -> dict[str, Any]:
    index = {name: i for i, name in enumerate(view.models)}
    tasks = {name: i for i, name in enumerate(view.tasks)}
    scores = {name: i for i, name in enumerate(view.scores)}
    palettes = {
        "light": (style.LIGHT, style.DIVERGING_LIGHT, style.UNDEFINED_LIGHT),
        "dark": (style.DARK, style.DIVERGING_DARK, style.UNDEFINED_DARK),
    }
    return payload(view) | {
        "looks": {name: asdict(look) for name, look in style.looks(view.hypotheses).items()},
        "palettes": {
            name: {"lines": lines, "diverging": diverging, "undefined": undefined}
            for name, (lines, diverging, undefined) in palettes.items()
        },
        "differences": [
            [
                index[each.model], tasks[each.task], scores[each.score], each.kind, each.a, each.b,
                *map(_finite, (each.difference, each.low, each.high, each.p_corrected)),
                each.outcome,
            ]
            for each in view.differences
        ],
    }  # fmt: skip


def _finite(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _data_file(name: str) -> str:
    return (files("iclgd_lens.report") / name).read_text(encoding="utf-8")


def _version(view: View) -> str:
    environment = view.provenance.get("environment") or {}
    return str((environment.get("versions") or {}).get("iclgd-lens", ""))
