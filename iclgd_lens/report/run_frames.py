"""What the report asks of a run: tidy frames, and how their lines and values are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd

OPTIONAL_FRAMES = {
    "gate": ("model", "task", "learns"),
    "verdicts": ("model", "task", "hypothesis", "score", "control", "verdict"),
    "behaviour": ("model", "task", "hypothesis"),
    "cost": ("hypothesis",),
    "worlds": ("world", "theta", "rule", "value", "exact"),
    "trajectory": ("model", "task", "hypothesis", "score", "passes", "value"),
    "nulls": ("model", "task", "hypothesis", "score", "control", "value"),
    "norms": ("model", "task", "hypothesis", "icl_norm", "ft_norm"),
    "partial_layers": ("model", "task", "hypothesis", "score", "layer", "lacking"),
    "heads": ("model", "task", "hypothesis", "score", "layer", "head", "shown"),
    "attention": ("model", "task", "setting", "position", "token", "weight"),
    "factors": ("model", "task", "factor", "value_of_factor", "hypothesis", "score", "value"),
    "mediation": ("model", "task", "hypothesis", "score", "layer", "head", "value"),
    "agreement": ("model", "task", "hypothesis", "margin_gain"),
    "head_sets": ("model", "task", "hypothesis", "heads", "value"),
}
"""Frames that a run may offer, by method, with the columns that they must have to be used."""


@runtime_checkable
class RunFrames(Protocol):
    """A run as tidy tables; `iclgd_lens.load_run(RUN)` is one. See `OPTIONAL_FRAMES` for more."""

    def frame(self) -> pd.DataFrame:
        """Model, task, hypothesis, score, layer, head, value, ci_low, ci_high, n, ..."""
        ...

    def differences(self) -> pd.DataFrame:
        """Model, task, score, kind, a, b, difference, interval, p-values, verdict."""
        ...

    def order_sensitivity(self) -> pd.DataFrame:
        """Model, task, hypothesis, flip_rate with interval, accuracy_range, permutations."""
        ...

    @property
    def failures(self) -> pd.DataFrame:
        """Model, task, seed, permutation, hypothesis (missing: the whole cell), reason."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Everything that the numbers depend on."""
        ...


def offered_frame(run: RunFrames, name: str) -> pd.DataFrame | None:
    """An optional frame; None where the run has none, or one without the columns."""
    method = getattr(run, name, None)
    if not callable(method):
        return None
    frame = cast("pd.DataFrame | None", method())
    wanted = OPTIONAL_FRAMES[name]
    whole = frame is not None and len(frame) and all(each in frame for each in wanted)
    return frame if whole else None


def lines_where(frame: pd.DataFrame, wanted: Any) -> pd.DataFrame:
    """The lines of a frame that a mask wants."""
    return cast("pd.DataFrame", frame[wanted])


def records(frame: pd.DataFrame) -> list[Any]:
    """A frame's lines as named tuples."""
    return list(frame.itertuples(index=False))


def number_of(value: Any) -> float:
    """A finite number, or NaN for what is missing, undefined or infinite."""
    return float(value) if not _missing(value) and math.isfinite(value) else math.nan


def _missing(value: Any) -> bool:
    return str(value) in ("<NA>", "nan", "None")


def text_of(value: Any) -> str:
    """A value as text; empty for what is missing."""
    if _missing(value):
        return ""
    return str(int(value)) if isinstance(value, float) else str(value)
