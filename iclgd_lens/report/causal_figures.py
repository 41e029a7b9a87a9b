"""Figures of what separates ICL from an update: along a factor, and what heads do to the answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from iclgd_lens import figures
from iclgd_lens.display_names import label
from iclgd_lens.mediation.display import drawn_map
from iclgd_lens.mediation.head_maps import (
    ICL,
    KEPT,
    MEANINGS,
    NECESSITY,
    SIGNIFICANT,
    SUBSTITUTION,
)
from iclgd_lens.report.figure_choices import Choice, Maker, groups
from iclgd_lens.report.run_records import RunRecords
from iclgd_lens.sweeps.factors import FACTORS, Factor

_MT = ("Model", "Task")


def _along(run: RunRecords) -> Iterator[Choice]:
    for key, part in groups(run, "factors", ("model", "task", "factor")):
        model, task, name = key
        factor = _factor(name)
        axis_name, log = (name, False) if factor is None else (factor.axis, factor.log)
        caption = (
            f"{name} on {task}, {model}: what the model answers above, then scores with controls."
        )
        numbers = [each for each in part["value_of_factor"] if isinstance(each, int | float)]
        log = log and len(numbers) == len(part) and min(numbers) > 0
        yield Choice(key, caption, figures.factor_curves.spec(part, axis_name=axis_name, log=log))


def _factor(name: str) -> Factor | None:
    """The factor of a plan ("shots") or of a hypothesis ("horizon of lcgd_dynamic")."""
    setting, _, rule = name.partition(" of ")
    found = FACTORS.get(setting)
    if found is None and rule:
        found = next((each for each in FACTORS.values() if each.setting == setting), None)
    return found


def _effects(run: RunRecords) -> Iterator[Choice]:
    """Heat maps: every effect of ICL, and what a hypothesis or control keeps."""
    for key, part in groups(run, "mediation", ("model", "task", "hypothesis", "score")):
        model, task, name, effect = key
        if effect.endswith("_attribution") and _has_exact(part, run, key):
            continue
        if name != ICL and effect != SUBSTITUTION:
            continue
        columns = ("value", "ci_low", "ci_high", "p_corrected")
        value, low, high, p = (_matrix(part, column) for column in columns)
        if not np.isfinite(value).any():
            continue
        spec = figures.head_maps.spec(**drawn_map(effect, value, low, high, p))
        caption = (
            f"{effect.replace('_', ' by ')}, {label(name)}, on {task}, {model}: "
            f"{MEANINGS.get(effect, effect)}. A diamond: corrected p at most {SIGNIFICANT}, "
            "and an interval that leaves out zero."
        )
        yield Choice((model, task, label(name), effect.replace("_", " by ")), caption, spec)


def _has_exact(part: Any, run: RunRecords, key: tuple[str, ...]) -> bool:
    """Whether every head's effect that an attribution estimates was measured exactly, too."""
    frame, exact = run.optional["mediation"], key[3].removesuffix("_attribution")
    own = frame[(frame["model"] == key[0]) & (frame["task"] == key[1])]
    own = own[(own["hypothesis"] == key[2]) & (own["score"] == exact)]
    return int(own["value"].notna().sum()) >= int(part["value"].notna().sum())


def _matrix(part: Any, column: str) -> Any:
    layer, head = (part[name].to_numpy(dtype=int) for name in ("layer", "head"))
    found = np.full((layer.max() + 1, head.max() + 1), np.nan)
    found[layer, head] = part[column].to_numpy(dtype=np.float64, na_value=np.nan)
    return found


def _sets(run: RunRecords) -> Iterator[Choice]:
    for key, part in groups(run, "head_sets", ("model", "task")):
        curves = {
            str(name): (own["heads"].tolist(), own["value"].to_numpy(dtype=np.float64))
            for name, own in part.groupby("hypothesis", sort=False, observed=True)
        }
        caption = (
            f"Share of in-context learning's gain that the first heads of the ranking carry, "
            f"{key[1]}, {key[0]}; all of it is 1."
        )
        yield Choice(key, caption, figures.set_curves.spec(curves))


def _same_heads(run: RunRecords) -> Iterator[Choice]:
    for key, part in groups(run, "mediation", ("model", "task")):
        needed = part[(part["hypothesis"] == ICL) & (part["score"] == NECESSITY)]
        kept = part[part["score"] == KEPT].merge(
            needed[["layer", "head", "value"]], on=["layer", "head"], suffixes=("", "_needed")
        )
        frame = kept.rename(columns={"value": KEPT, "value_needed": NECESSITY})
        frame = frame[frame[KEPT].notna() & frame[NECESSITY].notna()]
        if len(frame):
            caption = (
                f"What in-context learning needs of each head, and what is kept of it where the "
                f"update's output stands in its place, in nats, {key[1]}, {key[0]}."
            )
            yield Choice(key, caption, figures.head_scatter.spec(frame))


FACTOR_FIGURE: Maker = ("factors", "Along a factor", (*_MT, "Factor"), _along)
HEAD_FIGURES: tuple[Maker, ...] = (
    (
        "mediation", "Which heads do the work, and does the update do it there?",
        (*_MT, "Whose", "Effect"), _effects,
    ),
    ("head_sets", "How many heads carry in-context learning's gain", _MT, _sets),
    ("same_heads", "The same heads?", _MT, _same_heads),
)  # fmt: skip
