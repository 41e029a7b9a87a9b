"""The page: figures, tables and words put together into one file that needs no other."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np

from iclgd_lens.display_names import label, meaning, score_meaning
from iclgd_lens.figures.style import DARK
from iclgd_lens.phrases import count, listed
from iclgd_lens.report import tables
from iclgd_lens.report.figure_choices import Picture
from iclgd_lens.report.leaderboard import leaderboard
from iclgd_lens.report.run_records import RunRecords
from iclgd_lens.report.words import findings, gate_findings, headline, heads_findings

_FILES = (
    ("tables.csv", "means by task, with intervals"),
    ("figures.csv", "the same by layer and head"),
    ("differences.csv", "paired differences"),
    ("verdicts.csv", "verdicts, control by control"),
    ("table.tex", "LaTeX tables: means a score, differences of the main scores"),
)
_GATE, _COST = "Is there in-context learning at all?", "What each hypothesis cost"
_WORLDS = "The instrument on models whose answer is known"
_BEHAVES = "What each hypothesis does to the answers"
_HEADS = "The same heads? Updates beside in-context learning"
_DRAWS = ("shots", "queries", "seeds", "permutations", "resamples")


def page(
    run: RunRecords, drawn: Sequence[Picture], made: Sequence[tuple[str, str]] = (), note: str = ""
) -> str:
    """Return the whole page.

    Args:
        run: The run.
        drawn: Its figures.
        made: Figure files beside the page, with what they show.
        note: Whether there are figure files, and why not.
    """
    several = len(run.models) > 1
    return document(
        _data_file("page.html"), drawn, title=run.name, lead=headline(run), several=several,
        models=[(model, _per_model(run, model)) for model in run.models],
        twins=tables.twin_table(run), paired=tables.difference_table(run),
        worlds=tables.frame_table(run, "worlds", "", _WORLDS, "world"),
        order=tables.order_table(run), published=tables.published_table(run),
        failures=tables.failure_table(run), lacking=_lacking(run),
        overview=_overview(run), glossary=_glossary(run),
        links=[*(f for f in _FILES if f[0] != "verdicts.csv" or "verdicts" in run.optional), *made],
        note=note, record=_record(run.provenance), numbers=bool(run.readings),
        version=str((_environment(run).get("versions") or {}).get("iclgd-lens", "")),
    )  # fmt: skip


def _lacking(run: RunRecords) -> str:
    """What "Failures" says beside the table: of cells never tried, or that nothing failed."""
    missing = int((run.provenance.get("cells") or {}).get("missing") or 0)
    failed = len(run.failures) > 0
    if not missing:
        return "" if failed else "None: every cell has its numbers."
    before = "Besides these," if failed else "No cell failed;"
    return f"{before} not measured yet: {count(missing, 'cell')}."


def document(template: str, drawn: Sequence[Picture], **values: Any) -> str:
    """Return a page from a Jinja template: one file that fetches nothing, in the report's style.

    Args:
        template: The template's text; it may use the macros of `parts.html`.
        drawn: The page's figures: `figures` and `data` of the template.
        **values: What else it names, beside `style`, `scripts` and `policy`.
    """
    from jinja2 import Environment, FunctionLoader

    scripts = {"theme": _THEME, "plotly": plotly(), "script": _data_file("page.js")}
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_data_file)
    )
    data = {each.name: _figure_data(each) for each in drawn}
    return environment.from_string(template).render(
        style=_data_file("style.css"), scripts=scripts, policy=_policy(scripts.values()),
        figures={each.name: each for each in drawn},
        data=script_json({"dark": DARK, "figures": data}), **values,
    )  # fmt: skip


def _per_model(run: RunRecords, model: str) -> dict[str, Any]:
    scores = tables.score_tables(run, model)
    return {
        "gate": gate_findings(run, model),
        "gate_table": tables.frame_table(run, "gate", model, _GATE, "task"),
        "behaviour": tables.frame_table(run, "behaviour", model, _BEHAVES, "task"),
        "verdicts": tables.verdict_matrix(run, model), "findings": findings(run, model),
        "board": leaderboard(run, model), "heads_do": heads_findings(run, model),
        "agreement": tables.frame_table(run, "agreement", model, _HEADS, "task"),
        "cost": tables.frame_table(run, "cost", model, _COST, "hypothesis"),
        "scores": [each for each in scores if each.main],
        "more_scores": [each for each in scores if not each.main],
    }  # fmt: skip


def _figure_data(picture: Picture) -> dict[str, Any]:
    return {
        "choices": [each.labels for each in picture.choices],
        "captions": [each.caption for each in picture.choices],
        "specs": [compact(each.spec) for each in picture.choices],
    }


def compact(value: Any) -> Any:
    """A figure as short JSON values: four decimals, null for what is undefined."""
    if isinstance(value, np.ndarray):
        return compact(value.tolist())
    if isinstance(value, dict):
        return {key: compact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [compact(item) for item in value]
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return round(value, 4) if 0.01 < abs(value) < 1000 else float(f"{value:.4g}")
    return value.item() if isinstance(value, np.generic) else value


def script_json(value: Any) -> str:
    """JSON for a script element: nothing in it can end the element or open a comment."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def plotly() -> str:
    """plotly.js as the Python package ships it, unable to end the script element that holds it."""
    text = (files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


# Before the first paint, so that a dark page never flashes white.
_THEME = """"use strict";
try {
  const wanted = localStorage.getItem("iclgd-theme");
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
} catch { /* storage is closed to this file: the system's theme it is */ }"""


def _policy(scripts: Iterable[str]) -> str:
    """Nothing is fetched, and no script runs but the page's own."""
    hashes = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        for script in scripts
    )
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _data_file(name: str) -> str:
    return (files("iclgd_lens.report") / name).read_text(encoding="utf-8")


# -- provenance ------------------------------------------------------------------------------------


def _environment(run: RunRecords) -> Mapping[str, Any]:
    return run.provenance.get("environment") or {}


def _overview(run: RunRecords) -> list[tuple[str, str]]:
    """The facts that a reader asks for first."""
    found, environment = run.provenance, _environment(run)
    versions = found.get("versions") or environment.get("versions") or {}
    draws = {key: run.plan[key] for key in _DRAWS if run.plan.get(key) is not None}
    lines = [
        ("Cells", ", ".join(f"{value} {key}" for key, value in (found.get("cells") or {}).items())),
        *(
            (f"Model {name}", _in_a_line(item))
            for name, item in (found.get("models") or {}).items()
        ),
        ("Draws", "; ".join(f"{key} {_in_a_line(value)}" for key, value in draws.items())),
        ("Protocol", _in_a_line(found.get("protocol"))),
        ("Learning rate", _in_a_line(run.plan.get("lr"))),
        ("Code", str(environment.get("git_commit") or "no commit recorded")),
        ("Libraries", _in_a_line(versions)),
        ("Hardware", _in_a_line(environment.get("hardware"))),
        ("Timings", _in_a_line(found.get("timings"))),
    ]
    return [(name, text) for name, text in lines if text]


def _glossary(run: RunRecords) -> list[tuple[str, str]]:
    """What the names on the page mean, from the tables of scores and controls."""
    rules: Mapping[str, Any] = run.provenance.get("hypotheses") or {}
    known = {name: each for name, each in rules.items() if isinstance(each, Mapping)}
    descriptions = {name: str(each.get("description") or "") for name, each in known.items()}
    names = [(label(name), meaning(name, descriptions)) for name in run.hypotheses]
    scores = [(score, score_meaning(score)) for score in run.scores]
    return [(name, text) for name, text in (*scores, *names) if text]


def _record(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (str(k), json.dumps(v, indent=2, ensure_ascii=False, default=str, sort_keys=True))
        for k, v in provenance.items()
    ]


def _in_a_line(value: Any) -> str:
    """A value in a line."""
    if isinstance(value, Mapping):
        return ", ".join(
            f"{key} {_in_a_line(item)}" for key, item in value.items() if item is not None
        )
    if isinstance(value, list | tuple):
        return listed([_in_a_line(item) for item in value]) if value else "none"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    # White space that a reader would not see (a separator of "\n") is shown as it is written.
    return text if text == text.strip() and text else json.dumps(text)
