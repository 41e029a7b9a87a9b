"""Rich tables of a comparison, and what it says in plain words.

Cells read "value [low,high]": a mean over queries with its bootstrap interval. A dash stands for
a score that exists on no query, with the number of queries that it does not exist on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
from rich.table import Table
from rich.text import Text

from iclgd_lens.parts import Parts, nanmean_over
from iclgd_lens.scores import FACTS
from iclgd_lens.subjects import Subject, hypothesis_labels, rivals

if TYPE_CHECKING:
    import pandas as pd

    from iclgd_lens.comparison import Comparison

SUMMARY_SCORES = (
    "AUC", "accuracy", "KL_removed", "SimAOU_label", "SimAOU_label_centred", "SimAOU", "SimAM",
    "Tok2Attn",
)  # fmt: skip
LAYER_SCORES = ("SimAOU_label", "SimAOU", "SimAM")


@runtime_checkable
class Compared(Protocol):
    """What these tables need of a `Comparison`."""

    @property
    def confidence(self) -> float:
        """Coverage of the intervals."""
        ...

    @property
    def failures(self) -> Mapping[str, str]:
        """What diverged, and why."""
        ...

    def frame(self) -> pd.DataFrame:
        """The tidy table."""
        ...


def is_control(label: str) -> bool:
    """Whether a control is at work in what a label names."""
    return Subject.parse(label).is_control


def is_setting(label: str) -> bool:
    """Whether a label names a setting of the frozen model itself."""
    subject = Subject.parse(label)
    return subject.is_setting and not subject.is_control


def aggregates(frame: pd.DataFrame) -> pd.DataFrame:
    """Those lines of `Comparison.frame()` that are of no single layer or head."""
    return _where(frame, frame["layer"].isna() & frame["head"].isna())


def aggregate_cells(frame: pd.DataFrame) -> dict[tuple[str, str], Any]:
    """`aggregates` by (hypothesis, score); each is a named tuple of the frame's columns."""
    rows = cast("Any", aggregates(frame)).itertuples()
    return {(str(row.hypothesis), str(row.score)): row for row in rows}


def _where(frame: pd.DataFrame, mask: Any) -> pd.DataFrame:
    return cast("pd.DataFrame", frame.loc[mask])


# -- tables ----------------------------------------------------------------------------------------


def comparison_table(
    comparison: Compared,
    scores: Sequence[str] = SUMMARY_SCORES,
    *,
    frame: pd.DataFrame | None = None,
    title: str | None = None,
) -> Table:
    """One line a setting, hypothesis and control; one column an aggregate score.

    Args:
        comparison: The comparison.
        scores: Which scores, in this order; those that were not measured are left out.
        frame: Its `frame()`, where that is at hand already: it is the costly part.
        title: Over the table.

    Returns:
        A table whose cells are means with intervals. A cell is empty where a score is not measured
        (ZS has no SimAOU), and "— (n)" where it exists on none of n queries.
    """
    frame = comparison.frame() if frame is None else frame
    rows = aggregates(frame)
    cells = aggregate_cells(frame)
    names = list(dict.fromkeys(frame["hypothesis"]))
    shown = [score for score in scores if any((name, score) in cells for name in names)]
    rows = _where(rows, rows["score"].isin(shown))
    table = _table(title)
    table.add_column("", no_wrap=True)
    for score in shown:
        table.add_column(score.replace("logit_", "logit_\n"), justify="right", overflow="fold")
    groups = _groups(names)
    for group in groups:
        for name in group:
            found = [cells.get((name, score)) for score in shown]
            table.add_row(_name(name), *(Text("") if c is None else _cell(c) for c in found))
        if group is not groups[-1]:
            table.add_section()
    table.caption = _caption(comparison, rows)
    return table


def layer_table(
    comparison: Compared,
    scores: Sequence[str] = LAYER_SCORES,
    *,
    hypothesis: str | None = None,
    frame: pd.DataFrame | None = None,
    title: str | None = None,
) -> Table:
    """One line a layer and score; one column a hypothesis and control.

    Args:
        comparison: The comparison.
        scores: Scores by layer, one section each: SimAOU, SimAM, Tok2Attn.
        hypothesis: Only this one, its controls and the oracle; None for everything.
        frame: Its `frame()`, where that is at hand already.
        title: Over the table.
    """
    frame = comparison.frame() if frame is None else frame
    rows = _where(frame, frame["score"].isin(scores) & frame["head"].isna())
    everything = list(dict.fromkeys(rows["hypothesis"]))
    names = hypothesis_labels(everything) + [name for name in everything if is_control(name)]
    if hypothesis is not None:
        beside = {hypothesis, "oracle", *rivals(hypothesis, everything)}
        names = [name for name in names if name in beside]
    cells = {
        (row.score, _layer(row.layer), row.hypothesis): row
        for row in cast("Any", rows).itertuples()
    }
    table = _table(title)
    table.add_column("score")
    table.add_column("layer", justify="right")
    for name in names:
        table.add_column(_name(name, broken=True), justify="right", overflow="fold")
    for score in scores:
        layers = sorted({key[1] for key in cells if key[0] == score and key[1] is not None})
        for layer in (*layers, None):
            found = [cells.get((score, layer, name)) for name in names]
            table.add_row(
                Text(score if layer == 0 else ""),
                "mean" if layer is None else str(layer),
                *(Text("") if cell is None else _cell(cell) for cell in found),
                style="bold" if layer is None else "",
            )
        table.add_section()
    table.caption = _caption(comparison, rows)
    return table


def number(value: float) -> str:
    """A number as these tables write it: two decimals, ".43"; more figures where it is large."""
    if not np.isfinite(value):
        return "—"
    text = f"{value:.2f}" if abs(value) < 100 else f"{value:.3g}"
    text = "0.00" if text == "-0.00" else text
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def interval(value: float, low: float, high: float) -> str:
    """Write "value [low,high]", without an interval that does not exist or has no width."""
    if np.isnan(low) or np.isnan(high) or high - low < 1e-4:
        return number(value)
    # No space within the brackets: a narrow column then breaks before them.
    return f"{number(value)} [{number(low)},{number(high)}]"


def _table(title: str | None) -> Table:
    from rich import box

    return Table(
        title=title, title_justify="left", caption_justify="left", box=box.SIMPLE_HEAD,
        pad_edge=False, padding=(0, 1, 0, 0), title_style="bold", caption_style="dim",
    )  # fmt: skip


def _groups(names: Sequence[str]) -> list[list[str]]:
    settings = [name for name in names if is_setting(name)]
    controls = [name for name in names if is_control(name)]
    return [group for group in (settings, hypothesis_labels(names), controls) if group]


def _name(name: str, *, broken: bool = False) -> Text:
    """A name in results; never parsed as markup, in which `random[gd]` would lose its bracket."""
    text = name.replace("@", "\n@").replace("[", "\n[") if broken else name
    return Text(text, style="dim" if is_control(name) else "bold")


def _cell(row: Any) -> Text:
    if np.isnan(row.value):
        return Text("—" if row.undefined == 0 else f"— ({row.undefined})", style="dim")
    text = interval(row.value, row.ci_low, row.ci_high)
    if row.undefined:
        text += f" n={row.n}"
    return Text(text, style="dim" if is_control(row.hypothesis) else "")


def _layer(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, np.integer)) else None


def _caption(comparison: Compared, rows: pd.DataFrame) -> Text:
    parts = [f"Mean over queries [{comparison.confidence:.0%} interval]."]
    if bool(rows["value"].isna().any()):
        parts.append("— (n): undefined on n queries.")
    if bool(((rows["undefined"] > 0) & rows["value"].notna()).any()):
        parts.append("n=: queries on which the score exists.")
    parts += [f"{name}: {why}" for name, why in comparison.failures.items()]
    return Text(" ".join(parts))


# -- frames ----------------------------------------------------------------------------------------


def query_frame(parts: Parts, score: str | None, hypothesis: str | None) -> pd.DataFrame:
    """Every query's own values; see `Comparison.queries`."""
    import pandas as pd

    lines: list[pd.DataFrame] = []
    for label, series in parts.series.items():
        if hypothesis not in (None, label):
            continue
        for part, measured in series:
            names = part.queries or tuple(range(len(part.gold)))
            for name, value in measured.items():
                base, _, _ = name.partition("/")
                if base in FACTS or score not in (None, base):
                    continue
                lines.append(
                    _long(value).assign(
                        hypothesis=label, score=base, draw=part.draw, network=part.index,
                        query=np.asarray(names)[_places(value)], gold=part.gold[_places(value)],
                    )
                )  # fmt: skip
    columns = [
        "hypothesis", "score", "layer", "head", "draw", "network", "query", "gold", "value",
    ]  # fmt: skip
    if not lines:
        return pd.DataFrame(columns=columns)
    frame = pd.concat(lines, ignore_index=True)[columns]
    return frame.astype({"layer": "Int64", "head": "Int64"})


def verdict_frame(comparison: Comparison) -> pd.DataFrame:
    """Verdicts as a table: those of `Verdict.as_dict`, the interval in two columns."""
    import pandas as pd

    columns = [
        "hypothesis", "score", "control", "verdict", "p", "ci_low", "ci_high", "why", "robust",
    ]  # fmt: skip
    lines: list[dict[str, Any]] = []
    for verdict in comparison.verdicts():
        low, high = verdict.interval or (np.nan, np.nan)
        lines.append({**verdict.as_dict(), "ci_low": low, "ci_high": high})
    return pd.DataFrame(lines, columns=columns)


def gate_frame(comparison: Comparison) -> pd.DataFrame:
    """The gate as a table of one line: its answers, each measure in each setting, the sentence."""
    import pandas as pd

    gate = comparison.gate()
    if gate is None:
        return pd.DataFrame()
    facts = gate.as_dict()
    line: dict[str, Any] = {key: facts[key] for key in ("learns", "uses_labels", "uses_format")}
    for setting, measures in gate.settings.items():
        for name, found in measures.items():
            line[f"{name}_{setting}"] = found.value
    return pd.DataFrame([line | {"sentence": gate.sentence}])


def behaviour_frame(comparison: Comparison) -> pd.DataFrame:
    """What each hypothesis does to the answers, as a table."""
    import pandas as pd

    columns = ["hypothesis", "classifies_better", "comes_nearer", "kl_removed", "sentence"]
    found = [each.as_dict() for each in comparison.behaviour()]
    return pd.DataFrame(found, columns=columns)


def difference_frame(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Lines of `Conclusions.differences` as a table."""
    import pandas as pd

    columns = [
        "score", "kind", "a", "b", "difference", "ci_low", "ci_high", "p_value", "p_corrected", "n",
        "method", "verdict",
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def _places(value: Any) -> Any:
    """The query of each line of `_long`."""
    return np.indices(value.shape).reshape(value.ndim, -1)[0]


def _long(value: Any) -> pd.DataFrame:
    """[query], [query layer] or [query layer head] as lines."""
    import pandas as pd

    grid = np.indices(value.shape).reshape(value.ndim, -1)
    missing = [None] * grid.shape[1]
    return pd.DataFrame(
        {
            "layer": grid[1] if value.ndim > 1 else missing,
            "head": grid[2] if value.ndim > 2 else missing,
            "value": value.ravel(),
        }
    )


def top_heads(
    parts: Parts, score: str, hypothesis: str, k: int, control: str | None
) -> pd.DataFrame:
    """Heads picked on one half of the queries and scored on the other; see `Comparison`."""
    import pandas as pd

    def halves(label: str) -> tuple[Any, Any]:
        name = f"{score}/head"
        arrays = [m[name].astype(np.float64) for _, m in parts.series[label] if name in m]
        first, second = (
            nanmean_over(np.stack([nanmean_over(a[half::2], 0) for a in arrays]), 0)
            for half in (0, 1)
        )
        return first, second

    picked, scored = halves(hypothesis)
    known = [label for label in rivals(hypothesis, parts.series) if score in parts.scores(label)]
    beside = control or next(iter(known), None)
    other = halves(beside)[1] if beside is not None else np.full_like(scored, np.nan)
    order = np.argsort(np.where(np.isfinite(picked), -picked, np.inf), axis=None)[:k]
    layers, heads = np.unravel_index(order, picked.shape)
    return pd.DataFrame(
        {
            "layer": layers, "head": heads, "selected_on": picked[layers, heads],
            "value": scored[layers, heads], "control": other[layers, heads],
            "control_label": beside,
        }
    )  # fmt: skip


def html_summary(comparison: Comparison) -> str:
    """A notebook's view: what was compared, and each hypothesis's aggregates, as an HTML table."""
    from html import escape

    cells = aggregate_cells(comparison.frame())
    names = [name for name in comparison.hypotheses if not is_control(name)]
    shown = [s for s in SUMMARY_SCORES if any((name, s) in cells for name in names)]
    head = "".join(f"<th>{escape(score)}</th>" for score in shown)
    body = ""
    for name in names:
        texts = (
            "" if (c := cells.get((name, s))) is None else interval(c.value, c.ci_low, c.ci_high)
            for s in shown
        )
        body += f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(t)}</td>' for t in texts)}</tr>"
    return (
        f"<p>{escape(repr(comparison)[1:-1])}</p><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )
