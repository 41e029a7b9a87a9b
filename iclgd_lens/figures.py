"""Plotly figures from arrays and tables. They know nothing of models and change no defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray

from iclgd_lens.errors import LensError
from iclgd_lens.subjects import Subject

if TYPE_CHECKING:
    import pandas as pd

# Vermilion through near-white to blue, which every kind of colour vision tells apart.
DIVERGING = (
    (0.0, "#8c3b00"), (0.2, "#d55e00"), (0.4, "#f6c9a4"), (0.5, "#f7f7f7"),
    (0.6, "#a9d3ec"), (0.8, "#0072b2"), (1.0, "#003a63"),
)  # fmt: skip
# Okabe and Ito's palette, without its yellow, which is lost on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
UNDEFINED = "#bdbdbd"
_GREYS = ("#555555", "#8a8a8a")
_DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
_MARKS = ("circle", "square", "diamond", "cross", "x", "triangle-up")


def heatmap(
    values: ArrayLike,
    *,
    title: str = "",
    score: str = "",
    bounds: tuple[float, float] = (-1.0, 1.0),
) -> go.Figure:
    """Values by layer and head, on a diverging scale centred at 0.

    Args:
        values: [layer head]; undefined cells (NaN) are grey and say so when hovered.
        title: Over the figure.
        score: What the values are, beside the colour bar and when hovered.
        bounds: Values at the ends of the colour scale; those of cosines by default.

    Raises:
        LensError: `values` is not two-dimensional, or the bounds are not (negative, positive).
    """
    array = _matrix(values)
    figure = go.Figure(heatmap_traces(array, score=score, bounds=bounds))
    figure.update_layout(
        template="plotly_white",
        title={"text": title},
        width=max(420, 220 + 34 * array.shape[1]),
        height=max(320, 160 + 26 * array.shape[0]),
    )
    figure.update_xaxes(title_text="head", showgrid=False, zeroline=False, tickformat="d")
    figure.update_yaxes(title_text="layer", showgrid=False, zeroline=False, tickformat="d")
    if max(array.shape) <= 16:
        figure.update_xaxes(dtick=1)
        figure.update_yaxes(dtick=1)
    return figure


def heatmap_traces(
    values: ArrayLike,
    *,
    score: str = "",
    bounds: tuple[float, float] = (-1.0, 1.0),
    colour_bar: bool = True,
) -> list[go.Heatmap]:
    """The traces of `heatmap`, to be placed in a figure of several panels."""
    array, (low, high) = _matrix(values), bounds
    if not low < 0 < high:
        raise LensError(f"bounds is {bounds}; the scale is centred at 0: give (negative, positive)")
    reach = max(-low, high)
    hover = "layer %{y}, head %{x}<br>" + (f"{score} " if score else "")
    places: dict[str, Any] = {"x": list(range(array.shape[1])), "y": list(range(array.shape[0]))}
    traces = [
        go.Heatmap(
            z=array, **places, zmin=-reach, zmax=reach, colorscale=DIVERGING, xgap=1, ygap=1,
            colorbar={"title": {"text": score}}, showscale=colour_bar,
            hovertemplate=hover + "%{z:.3f}<extra></extra>", hoverongaps=False,
        )
    ]  # fmt: skip
    undefined = np.isnan(array)
    if undefined.any():
        traces.append(
            go.Heatmap(
                z=np.where(undefined, 0.0, np.nan), **places, showscale=False, xgap=1, ygap=1,
                colorscale=[[0, UNDEFINED], [1, UNDEFINED]], hoverongaps=False,
                hovertemplate=hover + "undefined<extra></extra>",
            )
        )  # fmt: skip
    return traces


def layer_profiles(frame: pd.DataFrame, *, title: str = "", score: str = "") -> go.Figure:
    """A score by layer: a line a hypothesis with its interval as a band; controls dashed and grey.

    Args:
        frame: Lines of `Comparison.frame()` for one score, with a layer and without a head:
            columns hypothesis, layer, value, ci_low, ci_high.
        title: Over the figure.
        score: What the values are; by default what the frame's column "score" says.

    Raises:
        LensError: A column is missing, or the frame holds several scores or no line.
    """
    rows = _profile_rows(frame)
    named: list[str] = sorted({str(each) for each in rows["score"]}) if "score" in rows else []
    if len(named) > 1:
        raise LensError(f"layer_profiles draws one score, but the frame has {', '.join(named)}")
    figure = go.Figure()
    names = sorted(
        dict.fromkeys(rows["hypothesis"]), key=lambda name: Subject.parse(name).is_control
    )
    controls = [name for name in names if Subject.parse(name).is_control]
    for index, name in enumerate(names):
        own = cast("pd.DataFrame", rows.loc[rows["hypothesis"] == name]).sort_values(by="layer")
        if name in controls:
            place = controls.index(name)
            line = {"color": _GREYS[place % 2], "dash": _DASHES[place % len(_DASHES)], "width": 1.5}
        else:
            line = {"color": COLOURS[index % len(COLOURS)], "width": 2.5}
        _add_profile(figure, own, name, line, _MARKS[index % len(_MARKS)])
    figure.add_hline(y=0, line={"color": "#cccccc", "width": 1})
    figure.update_layout(
        template="plotly_white", title={"text": title}, hovermode="x unified",
        width=760, height=440,
    )  # fmt: skip
    layers = int(rows["layer"].nunique())
    figure.update_xaxes(
        title_text="layer", tickformat="d", zeroline=False, dtick=1 if layers <= 24 else None
    )
    figure.update_yaxes(title_text=score or "".join(named), zeroline=False)
    return figure


def _add_profile(
    figure: go.Figure, rows: pd.DataFrame, name: str, line: dict[str, Any], mark: str
) -> None:
    x = [int(layer) for layer in rows["layer"]]
    value, low, high = (
        rows[column].to_numpy(dtype=np.float64) for column in ("value", "ci_low", "ci_high")
    )
    figure.add_trace(
        go.Scatter(
            x=x, y=value, name=name, mode="lines+markers", line=line, legendgroup=name,
            marker={"symbol": mark, "size": 7}, customdata=np.stack([low, high], axis=1),
            hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]",
        )
    )  # fmt: skip
    for part in _defined_runs(low, high):
        figure.add_trace(
            go.Scatter(
                x=[x[i] for i in part] + [x[i] for i in reversed(part)],
                y=np.concatenate([high[part], low[part][::-1]]),
                fill="toself", fillcolor=_transparent(str(line["color"])), line={"width": 0},
                hoverinfo="skip", showlegend=False, legendgroup=name, mode="lines",
            )
        )  # fmt: skip


def _defined_runs(low: NDArray[np.float64], high: NDArray[np.float64]) -> list[list[int]]:
    """Runs of neighbouring layers whose interval exists: a band never spans an undefined layer."""
    runs: list[list[int]] = []
    open_run = False
    for index, defined in enumerate(np.isfinite(low) & np.isfinite(high)):
        if defined and open_run:
            runs[-1].append(index)
        elif defined:
            runs.append([index])
        open_run = bool(defined)
    return runs


def _transparent(colour: str, alpha: float = 0.15) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise LensError(f"a heatmap needs [layer head], but got an array of shape {array.shape}")
    return array


def _profile_rows(frame: pd.DataFrame) -> pd.DataFrame:
    needed: Sequence[str] = ("hypothesis", "layer", "value", "ci_low", "ci_high")
    missing = [column for column in needed if column not in frame]
    if missing:
        raise LensError(f"layer_profiles needs the columns {', '.join(missing)}")
    rows = cast("pd.DataFrame", frame.loc[frame["layer"].notna()])
    if "head" in rows:
        rows = cast("pd.DataFrame", rows.loc[rows["head"].isna()])
    if rows.empty:
        raise LensError("layer_profiles needs at least one line with a layer")
    return rows
