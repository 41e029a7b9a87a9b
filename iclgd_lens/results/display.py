"""How a comparison shows itself: in plain words, as Rich and HTML tables, as Plotly figures.

Cells read "value [low,high]": a mean with its interval, which is over draws of demonstrations where
there are several, and over queries where there is one; the caption says which. A dash stands for a
score that exists on no query, with the number of queries that it does not exist on.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from iclgd_lens.errors import ComparisonError
from iclgd_lens.results.lookup import score_of_heads
from iclgd_lens.results.stacked_table import StackedTable
from iclgd_lens.scores import leading_score
from iclgd_lens.subjects import Subject, hypothesis_labels, rivals

# Rich draws from Python's generator as it is imported, and that is the caller's.
_callers_state = random.getstate()
try:
    from rich.text import Text
finally:
    random.setstate(_callers_state)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from iclgd_lens.results.comparison import Comparison

SUMMARY_SCORES = (
    "AUC", "accuracy", "KL_removed", "SimAOU_label", "SimAOU_label_centred", "SimAOU", "SimAM",
    "Tok2Attn",
)  # fmt: skip
_CELL = 14
"""Characters of a mean with its interval."""
LAYER_SCORES = ("SimAOU_label", "SimAOU", "SimAM")


@runtime_checkable
class ShownComparison(Protocol):
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
    comparison: ShownComparison,
    scores: Sequence[str] = SUMMARY_SCORES,
    *,
    frame: pd.DataFrame | None = None,
    title: str | None = None,
) -> StackedTable:
    """One line per setting, hypothesis and control; one column per aggregate score.

    Args:
        comparison: The comparison.
        scores: Which scores, in this order; those that were not measured are left out.
        frame: Its `frame()`, where that is at hand already: it is the costly part. Its
            `attrs["interval"]` says what the caption says.
        title: Over the table.

    Returns:
        A table whose cells are means with intervals, none of them broken: what a terminal has no
        room for follows below (`stacked_table`). A cell is empty where a score is not measured (ZS
        has no SimAOU), and "— (n)" where it exists on none of n queries.
    """
    frame = comparison.frame() if frame is None else frame
    rows = aggregates(frame)
    cells = aggregate_cells(frame)
    names = list(dict.fromkeys(frame["hypothesis"]))
    shown = [score for score in scores if any((name, score) in cells for name in names)]
    rows = _where(rows, rows["score"].isin(shown))
    table = StackedTable(title)
    table.add_column("")
    for score in shown:
        table.add_column(_heading(score), justify="right")
    groups = _groups(names)
    for group in groups:
        for name in group:
            found = [cells.get((name, score)) for score in shown]
            table.add_row(_name(name), *(Text("") if c is None else _cell(c) for c in found))
        if group is not groups[-1]:
            table.add_section()
    table.caption = _caption(comparison, rows, frame.attrs.get("interval"))
    return table


def layer_table(
    comparison: ShownComparison,
    scores: Sequence[str] = LAYER_SCORES,
    *,
    hypothesis: str | None = None,
    frame: pd.DataFrame | None = None,
    title: str | None = None,
) -> StackedTable:
    """One line per layer and score; one column per hypothesis and control.

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
    table = StackedTable(title, beside=2)
    table.add_column("score")
    table.add_column("layer", justify="right")
    for name in names:
        table.add_column(_name(name, broken=True), justify="right")
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
    table.caption = _caption(comparison, rows, frame.attrs.get("interval"))
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
    return f"{number(value)} [{number(low)},{number(high)}]"


def _groups(names: Sequence[str]) -> list[list[str]]:
    settings = [name for name in names if is_setting(name)]
    controls = [name for name in names if is_control(name)]
    return [group for group in (settings, hypothesis_labels(names), controls) if group]


def _heading(score: str) -> str:
    """A score's name, in two lines where it is wider than the numbers below it."""
    front, line, end = score.rpartition("_")
    return f"{front}{line}\n{end}" if len(score) > _CELL and front else score


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


def _caption(comparison: ShownComparison, rows: pd.DataFrame, made: str | None) -> Text:
    """What cells are; `made` says how their intervals are, of a frame that has it."""
    how = "" if made is None else f": {made}"
    parts = [f"Mean [{comparison.confidence:.0%} interval{how}]."]
    if bool(rows["value"].isna().any()):
        parts.append("— (n): undefined on n queries.")
    if bool(((rows["undefined"] > 0) & rows["value"].notna()).any()):
        parts.append("n=: queries on which the score exists.")
    parts += [f"{name}: {why}" for name, why in comparison.failures.items()]
    return Text(" ".join(parts))


def html_summary(comparison: ShownComparison, title: str) -> str:
    """A notebook's view: what was compared, and each hypothesis's aggregates, as an HTML table."""
    from html import escape

    frame = comparison.frame()
    cells = aggregate_cells(frame)
    names = [name for name in dict.fromkeys(frame["hypothesis"]) if not is_control(name)]
    shown = [score for score in SUMMARY_SCORES if any((name, score) in cells for name in names)]
    head = "".join(f"<th>{escape(score)}</th>" for score in shown)
    body = ""
    for name in names:
        found = [cells.get((name, score)) for score in shown]
        texts = ("" if c is None else interval(c.value, c.ci_low, c.ci_high) for c in found)
        body += f"<tr><th>{escape(name)}</th>{''.join(f'<td>{escape(t)}</td>' for t in texts)}</tr>"
    return (
        f"<p>{escape(title)}</p><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


class Shown:
    """The part of `Comparison` that shows it."""

    @property
    def _own(self) -> Comparison:
        """The comparison itself, which this is a part of."""
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return html_summary(self._own, repr(self)[1:-1])

    def table(self) -> StackedTable:
        """Return a Rich table: one line per setting, hypothesis and control; one column per score.

        Scores are over all layers; `results.display.layer_table` has those of each layer. `print`
        shows it, too. No number is ever broken: columns that a terminal has no room for follow
        below.
        """
        return comparison_table(self._own)

    def heatmap(self, score: str | None = None, hypothesis: str = "lcgd") -> go.Figure:
        """Return a Plotly figure of a score's mean over queries: layer by head.

        `score` None is what verdicts are about, the label contrast (SimAOU_label), where it was
        measured by head, else SimAOU.
        """
        from iclgd_lens.figures import heatmap

        score = score_of_heads(self._own.data, score, hypothesis)
        value = self._own.tensor(score, hypothesis, by="head").nanmean(0)
        return heatmap(value.numpy(), title=f"{score} of {hypothesis} with in-context learning")

    def layers(self, score: str | None = None) -> go.Figure:
        """Return a Plotly figure of a score by layer, with intervals, one line per hypothesis.

        `score` None is the label contrast where it was measured, as in `heatmap`, else SimAOU.
        """
        from iclgd_lens.figures import layer_profiles

        frame = self._own.frame()
        frame = frame[frame["level"] == "layer"]
        score = score or leading_score(set(frame["score"]))
        frame = frame[frame["score"] == score]
        if frame.empty:
            raise ComparisonError(f"No hypothesis has a score {score!r} by layer.")
        return layer_profiles(
            cast("pd.DataFrame", frame), title=f"{score} with in-context learning, by layer"
        )

    def nulls(self) -> pd.DataFrame:
        """Return what each control of each hypothesis scores, draw by draw or network by network.

        Columns: hypothesis, score (primary ones and SimAOU), control (its label), value.
        `figures.nulls` draws one score of it.
        """
        from iclgd_lens.results.frames import null_frame

        return null_frame(self._own.data)

    def norms(self) -> pd.DataFrame:
        """Return how large ICL's change and each hypothesis's are, query by query, on one draw.

        Columns: hypothesis, query, icl_norm, ft_norm (of the attention output, root mean square
        over layers). `figures.norms` draws it.
        """
        from iclgd_lens.results.frames import norm_frame

        return norm_frame(self._own.data)
