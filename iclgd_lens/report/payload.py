"""The one block of data that the page's figures are drawn from, small enough to travel inside it.

A series is a base64 string with a letter before it: "i", little-endian int16 in units of 0.0001
(-32768: undefined); "f", float32, where a value does not fit into the former (NaN: undefined).
"""

from __future__ import annotations

import base64
import math
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from iclgd_lens.report.twins import twins
from iclgd_lens.report.view import Cell, View, rank, where
from iclgd_lens.tables import hypothesis_names

UNIT = 1e-4
_UNDEFINED = -32768
HEAD_INTERVAL_LIMIT = 2_000_000
"""Characters of data above which heads go without intervals."""

Floats = NDArray[np.float64]


def payload(view: View, limit: int = HEAD_INTERVAL_LIMIT) -> dict[str, Any]:
    """Return what the figures need, as plain JSON values.

    Args:
        view: The run.
        limit: Characters of the series above which heads go without intervals.
    """
    places = _places(view)
    series = [_series(*each, intervals=True) for each in places]
    intervals = sum(_size(each) for each in series) <= limit
    if not intervals:
        series = [_series(*each, intervals=False) for each in places]
    index = {name: i for i, name in enumerate(view.hypotheses)}
    model_at = {name: i for i, name in enumerate(view.models)}
    return {
        "unit": UNIT,
        "models": list(view.models),
        "tasks": list(view.tasks),
        "scores": list(view.scores),
        "names": [[name, rank(name)] for name in view.hypotheses],
        "headIntervals": intervals,
        "whole": [_whole(view, key, cell) for key, cell in view.cells.items()],
        "series": series,
        "twins": [
            [model_at[model], index[name], [[model_at[m], index[h]] for m, h in found]]
            for model in view.models
            for name in hypothesis_names(view.hypotheses)
            if (found := twins(view, model, name))
        ],
    }


def encode(values: Floats) -> str:
    """A series as text; see the module."""
    finite = np.isfinite(values)
    if not finite.any() or float(np.abs(values[finite]).max()) < -_UNDEFINED * UNIT - UNIT:
        scaled = np.where(finite, np.rint(np.where(finite, values, 0.0) / UNIT), _UNDEFINED)
        return "i" + base64.b64encode(scaled.astype("<i2").tobytes()).decode("ascii")
    plain = np.where(finite, values, np.nan).astype("<f4")
    return "f" + base64.b64encode(plain.tobytes()).decode("ascii")


def _whole(view: View, key: tuple[str, str, str, str], cell: Cell) -> list[Any]:
    model, task, name, score = key
    return [
        view.models.index(model), view.tasks.index(task), view.hypotheses.index(name),
        view.scores.index(score), *map(_plain, (cell.value, cell.low, cell.high)), cell.n,
    ]  # fmt: skip


def _plain(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _places(view: View) -> list[tuple[list[int], pd.DataFrame]]:
    """The lines with a layer of each (model, task, hypothesis, score), beside their places."""
    frame = where(view.summary, view.summary["layer"].notna())
    keys = ["model", "task", "hypothesis", "score"]
    found: list[tuple[list[int], pd.DataFrame]] = []
    groups = cast("Any", frame.groupby(keys, sort=False, observed=True))
    for (model, task, name, score), lines in groups:
        at = [
            view.models.index(str(model)), view.tasks.index(str(task)),
            view.hypotheses.index(str(name)), view.scores.index(str(score)),
        ]  # fmt: skip
        found.append((at, lines))
    return found


def _series(at: list[int], lines: pd.DataFrame, *, intervals: bool) -> list[Any]:
    head = lines["head"].notna().to_numpy(dtype=bool)
    layers = int(lines["layer"].max()) + 1
    heads = int(lines["head"].max()) + 1 if head.any() else 0
    by_layer, by_head = where(lines, ~head), where(lines, head)
    return [
        *at, layers, heads,
        _packed(by_layer, by_layer["layer"].to_numpy(dtype=int), layers, intervals=True),
        _packed(
            by_head,
            by_head["layer"].to_numpy(dtype=int) * heads + by_head["head"].to_numpy(dtype=int),
            layers * heads, intervals=intervals,
        ) if heads else None,
    ]  # fmt: skip


def _packed(lines: pd.DataFrame, at: NDArray[Any], size: int, *, intervals: bool) -> list[Any]:
    """[value, low, high, n]; n as one number where it is the same everywhere."""
    columns = ("value", "ci_low", "ci_high") if intervals else ("value",)
    packed: list[Any] = [encode(_placed(lines, column, at, size)) for column in columns]
    packed += [None] * (3 - len(columns))
    n = _placed(lines, "n", at, size)
    counts = [int(each) if math.isfinite(each) else 0 for each in n.tolist()]
    packed.append(counts[0] if len(set(counts)) == 1 else counts)
    return packed


def _placed(lines: pd.DataFrame, column: str, at: NDArray[Any], size: int) -> Floats:
    values = np.full(size, np.nan)
    values[at] = lines[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return values


def _size(series: list[Any]) -> int:
    return sum(
        len(each) if isinstance(each, str) else 6 * len(each) if isinstance(each, list) else 0
        for part in series[6:]
        if part
        for each in part
    )
