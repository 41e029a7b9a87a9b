"""Paired differences between what a run measured, and what they allow to be said.

`lcgd - gd`, each hypothesis - its controls, each hypothesis on the trained - on an untrained model:
query by query, with intervals over seeds and queries, a permutation test, and a correction for the
number of comparisons in the whole run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from iclgd_lens.bench.blocks import Block, Floats, nanmean
from iclgd_lens.bench.measure import UNTRAINED
from iclgd_lens.bench.statistics import hierarchical_mean, holm, sign_flip

if TYPE_CHECKING:
    import pandas as pd

ALPHA = 0.05
COMPARED = ("SimAOU", "SimAM", "Tok2Attn", "KL_ICL")
"""Scores that are compared. KL_ICL is a distance: lower is better."""
LOWER_IS_BETTER = frozenset({"KL_ICL"})
COLUMNS = (
    "model", "task", "score", "kind", "a", "b", "difference", "ci_low", "ci_high", "p_value",
    "p_corrected", "n", "seeds", "verdict",
)  # fmt: skip
Kind = Literal["hypotheses", "control", "untrained"]


@dataclass(frozen=True)
class Contrast:
    """Two things to compare: a - b."""

    kind: Kind
    a: str
    b: str


def contrasts(hypotheses: Sequence[str], measured: Sequence[str]) -> list[Contrast]:
    """What is compared: later with earlier hypotheses, and each with its controls."""
    names = [name for name in hypotheses if name in measured]
    found = [Contrast("hypotheses", a, b) for i, a in enumerate(names) for b in names[:i]]
    for name in names:
        # The oracle and the zero update check the instrument; they are no rivals.
        controls = (f"random[{name}]", f"{name}@shuffled", f"{name}@other_task")
        found += [
            Contrast("control", name, control)
            for control in (*controls, "gaussian", "uniform")
            if control in measured
        ]
        found += [
            Contrast("untrained", name, f"{name}@{control}")
            for control in UNTRAINED
            if f"{name}@{control}" in measured
        ]
    return found


def differences(
    blocks: Sequence[Block], hypotheses: Sequence[str], *, resamples: int, flips: int = 50_000
) -> pd.DataFrame:
    """Return every contrast of every model, task and score; see `Run.differences`."""
    import pandas as pd

    rows = [row for block in blocks for row in _block_rows(block, hypotheses, resamples, flips)]
    corrected = holm([row["p_value"] for row in rows]) if rows else []
    for row, p in zip(rows, corrected, strict=True):
        row["p_corrected"] = float(p)
        row["verdict"] = _verdict(row)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _block_rows(
    block: Block, hypotheses: Sequence[str], resamples: int, flips: int
) -> Iterator[dict[str, Any]]:
    named: list[tuple[Contrast, str, list[int], Floats]] = []
    for contrast in contrasts(hypotheses, block.hypotheses):
        for score in COMPARED:
            if {(contrast.a, score), (contrast.b, score)} <= block.scores.keys():
                named.append((contrast, score, *_paired(block, contrast, score)))
    if not named:
        return
    # Queries are the units that flip: a query's difference, averaged over the seeds.
    p_values = sign_flip(
        np.stack([nanmean(array, 0)[:, 0] for *_, array in named], axis=-1), flips=flips
    )
    for (contrast, score, seeds, array), p in zip(named, p_values, strict=True):
        found = hierarchical_mean(array, resamples=resamples)
        yield {
            "model": block.model,
            "task": block.task,
            "score": score,
            "kind": contrast.kind,
            "a": contrast.a,
            "b": contrast.b,
            "difference": float(found.value[0]),
            "ci_low": float(found.low[0]),
            "ci_high": float(found.high[0]),
            "p_value": float(p),
            "n": int(found.n[0]),
            "seeds": len(seeds),
        }


def _paired(block: Block, contrast: Contrast, score: str) -> tuple[list[int], Floats]:
    """A - b by "seed query 1", for the seeds that have both."""
    (a_seeds, a), (b_seeds, b) = (block.values(name, score) for name in (contrast.a, contrast.b))
    both = [seed for seed in a_seeds if seed in b_seeds]
    if not both:
        return [], np.full((1, len(block.rows), 1), np.nan)
    left = a[[a_seeds.index(seed) for seed in both]]
    right = b[[b_seeds.index(seed) for seed in both]]
    return both, left - right


def advantage(row: Any) -> int:
    """1 if a is shown to be better than b, -1 if worse, 0 if neither is shown.

    Shown means both: the corrected p-value is below 0.05, and the interval over seeds and queries
    excludes zero.
    """
    shown = row["p_corrected"] < ALPHA and (row["ci_low"] > 0 or row["ci_high"] < 0)
    if not shown:
        return 0
    better = row["difference"] < 0 if row["score"] in LOWER_IS_BETTER else row["difference"] > 0
    return 1 if better else -1


def _verdict(row: Any) -> str:
    a, b, kind = row["a"], row["b"], row["kind"]
    if np.isnan(row["difference"]):
        return f"{a} and {b} cannot be compared: no query has both scores"
    outcome = advantage(row)
    if kind == "hypotheses":
        words = {1: f"{a} beats {b}", -1: f"{b} beats {a}"}
        return words.get(outcome, f"no difference between {a} and {b} is shown")
    what = f"its control {b}" if kind == "control" else f"itself on the untrained model ({b})"
    words = {1: f"{a} beats {what}", -1: f"{a} does worse than {what}"}
    return words.get(outcome, f"{a} does not beat {what}")


def verdicts(found: pd.DataFrame) -> pd.DataFrame:
    """Return one line a model, hypothesis and score: does it beat its controls? In plain words."""
    import pandas as pd

    rows: list[dict[str, Any]] = []
    rivals = found[found["kind"] != "hypotheses"]
    groups: dict[tuple[str, str, str], list[tuple[str, str, int]]] = {}
    for _, line in rivals.iterrows():
        place = (str(line["model"]), str(line["a"]), str(line["score"]))
        groups.setdefault(place, []).append((str(line["task"]), str(line["b"]), advantage(line)))
    for (model, name, score), lines in groups.items():
        tasks = list(dict.fromkeys(task for task, _, _ in lines))
        beaten = [
            task for task in tasks if all(sign > 0 for where, _, sign in lines if where == task)
        ]
        rows.append(
            {
                "model": model,
                "hypothesis": name,
                "score": score,
                "tasks": len(tasks),
                "beats_all_controls": len(beaten),
                "verdict": _in_words(name, score, lines, tasks, beaten),
            }
        )
    columns = ["model", "hypothesis", "score", "tasks", "beats_all_controls", "verdict"]
    return pd.DataFrame(rows, columns=columns)


def _in_words(
    name: str, score: str, lines: list[tuple[str, str, int]], tasks: list[str], beaten: list[str]
) -> str:
    if len(beaten) == len(tasks):
        return f"On {score}, {name} beats all its controls on {_of(beaten, tasks)}."
    stubborn: dict[str, int] = {}
    for _, control, sign in lines:
        if sign <= 0:
            stubborn[control] = stubborn.get(control, 0) + 1
    worst = "; ".join(
        f"not shown to beat {control}" + (f" on {count} of {len(tasks)} tasks" if tasks[1:] else "")
        for control, count in sorted(stubborn.items(), key=lambda item: (-item[1], item[0]))
    )
    lead = (
        "does not beat its controls"
        if not beaten
        else (f"beats all its controls on {_of(beaten, tasks)} only")
    )
    return f"On {score}, {name} {lead} ({worst})."


def _of(beaten: list[str], tasks: list[str]) -> str:
    if len(tasks) == 1:
        return beaten[0]
    return f"{len(beaten)} of {len(tasks)} tasks"
