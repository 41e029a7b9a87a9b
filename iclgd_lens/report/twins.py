"""Which numbers are of an untrained copy: a control (`gd@untrained`), or a model of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from iclgd_lens.report.markup import Html, tag
from iclgd_lens.report.numbers import UNDEFINED, interval, p_value, signed
from iclgd_lens.report.tables import estimate_cell, row, table
from iclgd_lens.report.view import MAIN_SCORES, View
from iclgd_lens.tables import hypothesis_names

_MODEL_FIELDS = ("name", "dtype", "host", "revision")


def untrained_models(view: View) -> dict[str, list[str]]:
    """Untrained copies that were measured as models of their own, by the trained one's label."""
    specs: list[dict[str, Any]] = list(view.plan.get("models") or [])
    specs = [spec for spec in specs if spec.get("label") in view.models]
    found: dict[str, list[str]] = {}
    for spec in (spec for spec in specs if spec.get("untrained")):
        for other in specs:
            same = all(spec.get(field) == other.get(field) for field in _MODEL_FIELDS)
            if same and not other.get("untrained"):
                found.setdefault(str(other["label"]), []).append(str(spec["label"]))
    return found


def twins(view: View, model: str, hypothesis: str) -> list[tuple[str, str]]:
    """(model, hypothesis) of the same hypothesis on untrained copies of the model."""
    own = [
        (model, name)
        for name in view.hypotheses
        if name.startswith(f"{hypothesis}@untrained")
        and any(key[0] == model and key[2] == name for key in view.cells)
    ]
    return own + [(other, hypothesis) for other in untrained_models(view).get(model, [])]


def twin_table(view: View) -> Html | None:
    """Trained beside untrained: the means, and their paired difference where there is one."""
    rows: list[Html] = []
    for model in view.models:
        for score in MAIN_SCORES:
            for name in hypothesis_names(view.measured(model, score)):
                rows += _rows(view, model, score, name)
    if not rows:
        return None
    model = ["model"] if len(view.models) > 1 else []
    columns = [
        "task", *model, "hypothesis", "score", "trained", "untrained", "copy", "difference",
        "p, corrected",
    ]  # fmt: skip
    caption = "The same hypothesis on the trained model and on untrained copies of it"
    return table(caption, columns, rows, label="Trained beside untrained", class_="tall")


def _rows(view: View, model: str, score: str, name: str) -> Iterable[Html]:
    for task in view.tasks_of(model):
        trained = view.cell(model, task, name, score)
        for other_model, other in twins(view, model, name):
            copy = view.cell(other_model, task, other, score)
            if trained is None or copy is None:
                continue
            yield row(
                task,
                [
                    tag("td", model) if len(view.models) > 1 else None,
                    tag("td", name),
                    tag("td", score),
                    estimate_cell(trained),
                    estimate_cell(copy),
                    tag("td", other if other_model == model else other_model),
                    *_difference(view, model, task, score, name, other),
                ],
            )


def _difference(view: View, model: str, task: str, score: str, a: str, b: str) -> tuple[Html, Html]:
    for each in view.differences:
        if (each.model, each.task, each.score, each.a, each.b) == (model, task, score, a, b):
            between = interval(each.low, each.high)
            value = tag("td", signed(each.difference), " ", tag("small", between), class_="n")
            return value, tag("td", p_value(each.p_corrected), class_="n")
    return tag("td", UNDEFINED, class_="n"), tag("td", UNDEFINED, class_="n")
