"""The page's sections: figures with their selectors, tables, words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from iclgd_lens.report.markup import Html, join, tag
from iclgd_lens.report.picture import Pictures
from iclgd_lens.report.provenance import everything, facts, glossary
from iclgd_lens.report.tables import (
    difference_table,
    failure_table,
    order_table,
    published_table,
    score_tables,
    verdict_table,
)
from iclgd_lens.report.twins import twin_table, twins
from iclgd_lens.report.view import View
from iclgd_lens.report.words import Finding, findings

TABLE_FILES = (
    ("tables.csv", "means by task, with intervals"),
    ("figures.csv", "the same by layer and head"),
    ("differences.csv", "paired differences"),
    ("table.tex", "means as LaTeX tables, one a score"),
)
_TONES = {"yes": "Yes", "partly": "Partly", "no": "No", "note": "Note", "caution": "Caution"}
_KINDS = (
    ("all", "all"),
    ("hypotheses", "between hypotheses"),
    ("control", "with controls"),
    ("untrained", "trained − untrained"),
)


def sections(view: View, pictures: Pictures, *, head_intervals: bool) -> list[tuple[str, str, Any]]:
    """Return (name, short title, content) of each section that the run has something for.

    Args:
        view: The run.
        pictures: The figure files.
        head_intervals: Whether the page's data holds the intervals of single heads.
    """
    twin, paired = twin_table(view), difference_table(view)
    order, published, failed = order_table(view), published_table(view), failure_table(view)
    layered = bool(view.summary["layer"].notna().any())
    if not view.cells:
        record = ("provenance", "Provenance", _provenance(view, pictures))
        return [("failures", "Failures", failed), record] if failed else [record]
    found = [
        ("summary", "Summary", _summary(view)),
        ("means", "Scores", _scores(view)),
        ("place", "Layers and heads", _places(view, head_intervals)) if layered else None,
        ("training", "Trained and untrained", _training(view, twin)) if twin else None,
        ("paired", "Differences", _paired(view, paired)) if paired else None,
        ("order", "Order", order or tag("p", _NO_ORDER)),
        ("published", "Published", published or tag("p", "No task of this run was published.")),
        ("failures", "Failures", failed or tag("p", "None: every cell has its numbers.")),
        ("provenance", "Provenance", _provenance(view, pictures)),
    ]
    return [each for each in found if each is not None]


_NO_HEAD_INTERVALS = (
    "Heads are shown without their intervals, which would make this page too large; they are in "
    "figures.csv."
)
_NO_ORDER = (
    "No draw of demonstrations was run in several orders, so that nothing can be said about order."
)
_TITLES = {
    "summary": "What the numbers say",
    "means": "Scores by task",
    "place": "By layer and head",
    "training": "Trained beside untrained",
    "paired": "Paired differences",
    "order": "Order of the demonstrations",
    "published": "Published figures, for reference",
    "failures": "Failures",
    "provenance": "Provenance",
}


def section(name: str, content: Any) -> Html:
    """A section under its title."""
    title = tag("h2", _TITLES[name], id=f"{name}-title")
    return tag("section", title, content, id=f"{name}-section", aria_labelledby=f"{name}-title")


def _per_model(view: View, make: Callable[[View, str], Html]) -> list[Html | None]:
    several = len(view.models) > 1
    parts: list[Html | None] = []
    for model in view.models:
        parts += [tag("h3", model) if several else None, make(view, model)]
    return parts


def _summary(view: View) -> list[Any]:
    def block(view: View, model: str) -> Html:
        items = [_finding(each) for each in findings(view, model)]
        return join([verdict_table(view, model), tag("ul", items, class_="findings")])

    return _per_model(view, block)


def _finding(each: Finding) -> Html:
    lead = tag("p", tag("span", _TONES[each.tone], class_="tone"), tag("strong", each.lead))
    return tag("li", lead, tag("p", each.body, class_="body") if each.body else None,
               class_=each.tone)  # fmt: skip


def _scores(view: View) -> list[Any]:
    controls = _controls(
        _select("means-model", "Model", list(enumerate(view.models))),
        _select("means-score", "Score", []),
    )
    tables = _per_model(view, score_tables)
    return [controls, _figure("means", lines=True), tables]


def _places(view: View, head_intervals: bool) -> list[Any]:
    shared = _controls(
        _select("place-model", "Model", list(enumerate(view.models))),
        _select("place-task", "Task", []),
        _select("place-score", "Score", []),
    )
    own = _controls(
        _select("heads-name", "Hypothesis", []),
        _select("heads-beside", "Beside it", []),
        _select("heads-scale", "Colours", [("fit", "fit to the values"), ("one", "−1 to 1")]),
        id="heads-controls",
    )
    panels = tag(
        "div",
        (
            tag(
                "div",
                tag("h4", id=f"heads-{i}-title"),
                tag("div", class_="plot", id=f"heads-{i}"),
                id=name,
            )
            for i, name in enumerate(("heads-first", "heads-second"))
        ),
        class_="pair",
        id="heads-pair",
    )
    return [
        shared,
        _figure("profile", title="Layers", lines=True),
        _figure("heads", title="Heads", before=own, plot=panels),
        None if head_intervals else tag("p", _NO_HEAD_INTERVALS),
    ]


def _training(view: View, table: Html) -> list[Any]:
    controls = _controls(
        _select("training-model", "Model", _twinned(view)), _select("training-score", "Score", [])
    )
    return [controls, _figure("training"), table]


def _twinned(view: View) -> list[tuple[int, str]]:
    return [
        (i, model)
        for i, model in enumerate(view.models)
        if any(twins(view, model, name) for name in view.hypotheses)
    ]


def _paired(view: View, table: Html) -> list[Any]:
    compared = [s for s in view.scores if any(each.score == s for each in view.differences)]
    models = [m for m in view.models if any(each.model == m for each in view.differences)]
    kinds = [k for k in _KINDS if k[0] == "all" or any(d.kind == k[0] for d in view.differences)]
    controls = _controls(
        _select("paired-model", "Model", [(model, model) for model in models]),
        _select("paired-score", "Score", [(score, score) for score in compared]),
        _select("paired-kind", "Which", kinds),
    )
    return [controls, _figure("paired", values=False), tag("div", table, id="paired-table")]


def _provenance(view: View, pictures: Pictures) -> list[Any]:
    listed = [(name, text) for name, text in TABLE_FILES]
    listed += [(f"figures/{name}", text) for name, text in pictures.named]
    links = (tag("li", tag("a", name, href=name), f" — {text}") for name, text in listed)
    return [
        facts(view),
        tag("h3", "What the names mean"),
        glossary(view),
        tag("h3", "Files beside this page"),
        tag("ul", links),
        tag("p", pictures.note),
        tag("h3", "The whole record"),
        everything(view),
    ]


# -- parts -----------------------------------------------------------------------------------------


def _figure(
    name: str, *, title: str = "", lines: bool = False, values: bool = True, before: Any = None,
    plot: Any = None,
) -> Html:  # fmt: skip
    chosen = tag("fieldset", tag("legend", "Show"), class_="lines", id=f"{name}-lines")
    label = f"The numbers of the figure {title or name}"
    fold = tag(
        "details",
        tag("summary", "These numbers as a table"),
        tag("div", class_="scroll tall", role="region", aria_label=label, tabindex=0),
        class_="values", id=f"{name}-values",
    )  # fmt: skip
    return tag(
        "figure",
        tag("h3", title) if title else None,
        before,
        chosen if lines else None,
        plot or tag("div", class_="plot", id=name),
        tag("figcaption", id=f"{name}-caption", aria_live="polite"),
        fold if values else None,
    )


def _controls(*selects: Html, id: str | None = None) -> Html:
    return tag("div", *selects, class_="controls", id=id)


def _select(id: str, label: str, options: Sequence[tuple[Any, str]]) -> Html:
    made = (tag("option", text, value=str(value)) for value, text in options)
    return tag("label", label, tag("select", made, id=id))
