"""Where the numbers come from: the facts that matter first, then everything."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from iclgd_lens.report.glossary import meanings, score_meaning
from iclgd_lens.report.markup import Html, join, tag
from iclgd_lens.report.numbers import listed
from iclgd_lens.report.view import View


def facts(view: View) -> Html:
    """A list of the facts that a reader asks for first."""
    found = view.provenance
    cells, plan = found.get("cells") or {}, view.plan
    environment = found.get("environment") or {}
    hardware = environment.get("hardware") or {}
    versions = found.get("versions") or environment.get("versions") or {}
    lines = [
        ("Cells", ", ".join(f"{value} {key}" for key, value in cells.items())),
        *((f"Model {label}", _flat(item)) for label, item in (found.get("models") or {}).items()),
        ("Draws", _draws(plan)),
        ("Protocol", _flat(found.get("protocol"))),
        ("Learning rate", _flat(plan.get("lr"))),
        ("Code", str(environment.get("git_commit") or "no commit recorded")),
        ("Libraries", _flat(versions)),
        ("Hardware", _flat(hardware)),
        ("Timings", _flat(found.get("timings"))),
    ]
    return tag("dl", ([tag("dt", name), tag("dd", text)] for name, text in lines if text))


def everything(view: View) -> Html:
    """The whole record, a fold for each part."""
    return join(
        tag(
            "details",
            tag("summary", str(key)),
            tag("pre", _json(value), tabindex=0),
        )
        for key, value in view.provenance.items()
    )


def glossary(view: View) -> Html:
    """What the names on the page mean."""
    names = meanings(view.hypotheses)
    scores = [(score, text) for score in view.scores if (text := score_meaning(score))]
    return tag("dl", ([tag("dt", name), tag("dd", text)] for name, text in (*scores, *names)))


def _draws(plan: Mapping[str, Any]) -> str:
    parts = [
        f"{key} {_flat(plan[key])}"
        for key in ("shots", "queries", "seeds", "permutations", "resamples")
        if plan.get(key) is not None
    ]
    return "; ".join(parts)


def _flat(value: Any) -> str:
    """A value in a line."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list | tuple):
        return listed([_flat(item) for item in value]) if value else "none"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    # White space that a reader would not see (a separator of "\n") is shown as it is written.
    return text if text == text.strip() and text else json.dumps(text)


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str, sort_keys=True)
