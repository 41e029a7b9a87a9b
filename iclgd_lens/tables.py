"""Rich tables of a comparison, and what it says in plain words.

Cells read "value [low,high]": a mean over queries with its bootstrap interval. A dash stands for
a score that exists on no query, with the number of queries that it does not exist on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_SCORES = (
    "accuracy", "SimAOU", "SimAM", "Tok2Attn", "Rec2FTP", "logit_recovery", "KL_ICL",
)  # fmt: skip
VERDICT_SCORES = ("SimAOU", "SimAM")
_SETTINGS = ("ZS", "ICL")
_CONTROLS = ("oracle", "zero", "random", "gaussian", "uniform")


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


def is_control(name: str) -> bool:
    """Whether a name in results is a control's: `oracle`, `random[gd]`, `gd@untrained`, ..."""
    return "@" in name or "[" in name or name in _CONTROLS


def is_setting(name: str) -> bool:
    """Whether a name in results is a setting of the frozen model: `ZS` or `ICL`."""
    return name in _SETTINGS


def hypothesis_names(names: Iterable[str]) -> list[str]:
    """Those of `names` that are neither settings nor controls, once each, in order."""
    unique = dict.fromkeys(names)
    return [name for name in unique if not is_setting(name) and not is_control(name)]


def controls_of(hypothesis: str, names: Iterable[str]) -> list[str]:
    """Those of `names` that a hypothesis has to beat, once each, in order.

    Its own controls (`random[gd]`, `gd@untrained`) and the random directions, which are shared;
    neither the oracle, which has to score 1, nor the zero update, which scores nothing.
    """
    own = (f"random[{hypothesis}]", "random", "gaussian", "uniform")
    unique = dict.fromkeys(names)
    return [name for name in unique if name in own or name.startswith(f"{hypothesis}@")]


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
    scores: Sequence[str] = VERDICT_SCORES,
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
    names = hypothesis_names(everything) + [name for name in everything if is_control(name)]
    if hypothesis is not None:
        beside = {hypothesis, "oracle", *controls_of(hypothesis, everything)}
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
    return [group for group in (settings, hypothesis_names(names), controls) if group]


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


# -- words -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """Whether a hypothesis beats its controls on a score.

    Attributes:
        hypothesis: Its name in results.
        score: The score, averaged over layers.
        beats: True if its interval lies above that of every control; False if it overlaps one or
            lies below; None if that cannot be told (no control, or an undefined score).
        control: The control with the highest upper bound, if there is one.
        text: One sentence.
    """

    hypothesis: str
    score: str
    beats: bool | None
    control: str | None
    text: str

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def verdicts(frame: pd.DataFrame, scores: Sequence[str] = VERDICT_SCORES) -> list[Verdict]:
    """Ask of each hypothesis and score whether it beats its controls; see `Verdict`.

    Args:
        frame: `Comparison.frame()`.
        scores: Scores to ask about; their mean over layers is compared.
    """
    cells = aggregate_cells(frame)
    names = list(dict.fromkeys(name for name, _ in cells))
    return [
        _verdict(cells[name, score], [cells[c, score] for c in controls if (c, score) in cells])
        for name in hypothesis_names(names)
        for controls in (controls_of(name, names),)
        for score in scores
        if (name, score) in cells
    ]


def _verdict(own: Any, controls: Sequence[Any]) -> Verdict:
    name, score = str(own.hypothesis), str(own.score)
    head, reading = f"{name}, {score}:", interval(own.value, own.ci_low, own.ci_high)
    if np.isnan(own.ci_low):
        undefined = f"{head} cannot be told; it is defined on {own.n} queries, too few."
        return Verdict(name, score, None, None, undefined)
    known = [control for control in controls if not np.isnan(control.ci_low)]
    if not known:
        return Verdict(name, score, None, None, f"{head} untested, no control was measured.")
    best = max(known, key=lambda control: control.ci_high)
    against = f"{best.hypothesis} {interval(best.value, best.ci_low, best.ci_high)}"
    beats = bool(own.ci_low > best.ci_high)
    if beats:
        text = f"{head} yes, {reading} is above every control; the nearest is {against}."
    elif best.ci_low > own.ci_high:
        text = f"{head} no, {reading} is below a control, {against}."
    else:
        text = f"{head} no, the interval of {reading} overlaps that of a control, {against}."
    return Verdict(name, score, beats, str(best.hypothesis), text)
