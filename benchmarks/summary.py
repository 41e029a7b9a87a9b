"""Runs of one model as the documentation shows them: Markdown on the screen, every mean in a CSV.

    python -m benchmarks.summary runs/smollm2 runs/smollm2-unbalanced --csv means.csv

The gate comes first, all runs and tasks in one table; then, for each, the means of what was
measured, and a verdict for each explanation where there is in-context learning to explain. A run
is called by its plan's name. No row of a data set is in either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import iclgd_lens as lens
from iclgd_lens.phrases import number
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.verdicts.verdict import OVERALL

SCORES = (
    "AUC", "accuracy", "calibrated_accuracy", "KL_removed", "SimAOU", "SimAM", "SimAOU_label",
    "SimAOU_label_centred",
)  # fmt: skip
COLUMNS = ["run", "task", "hypothesis", "score", "value", "ci_low", "ci_high", "n", "undefined"]
Runs = Mapping[str, Any]


def opened(folders: Sequence[Path]) -> Runs:
    """Runs by their plans' names, in the order given."""
    runs = [lens.load_run(folder) for folder in folders]
    return {run.plan["name"]: run for run in runs}


def means(runs: Runs) -> pd.DataFrame:
    """Every mean over draws, with its interval: whole models and all layers together."""
    frames: list[pd.DataFrame] = []
    for name, run in runs.items():
        frame = run.frame()
        whole = frame[(frame["level"] == "all") & frame["score"].isin(SCORES)]
        frames.append(whole.assign(run=name)[COLUMNS])
    return pd.concat(frames, ignore_index=True)


def gates(runs: Runs) -> Iterator[str]:
    """Yield the lines of one table: AUC in each setting, what demonstrations and labels add."""
    yield "| run | task | found | ZS | ICL | labels shuffled | ICL over ZS | over shuffled labels |"
    yield "|---|---|---|---:|---:|---:|---:|---:|"
    for name, run in runs.items():
        for (_, task), comparison in run.comparisons.items():
            gate = comparison.gate()
            if gate is None:
                continue
            areas = {key: number(found["AUC"].value) for key, found in gate.settings.items()}
            gain, labels = (
                str(gate.differences["ICL", other]["AUC"]) for other in ("ZS", "ICL_shuffled")
            )
            yield (
                f"| {name} | {task} | {_found(gate)} | {areas['ZS']} | {areas['ICL']} | "
                f"{areas['ICL_shuffled']} | {gain} | {labels} |"
            )


def _found(gate: Any) -> str:
    if gate.learns:
        return "learns, from labels" if gate.uses_labels else "learns, labels not shown"
    change = gate.differences["ICL", "ZS"]["AUC"]
    if change.below:
        return "demonstrations harm"
    return "uses labels, no gain shown" if gate.uses_labels else "none shown"


def table(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of one task's means, a hypothesis or control a line."""
    frame = comparison.frame()
    whole = frame[(frame["level"] == "all") & frame["score"].isin(SCORES)]
    values = {(line.hypothesis, line.score): line.value for line in whole.itertuples()}
    yield f"| | {' | '.join(SCORES)} |"
    yield "|---" + "|---:" * len(SCORES) + "|"
    for name in dict.fromkeys(whole["hypothesis"]):
        found = [values.get((name, score)) for score in SCORES]
        cells = ("" if v is None or pd.isna(v) else number(v) for v in found)
        yield f"| `{name}` | {' | '.join(cells)} |"


def verdicts(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of one task's verdicts over all controls, each with the control it rests on.

    Where none applies, the gate's sentence.
    """
    gate = comparison.gate()
    if gate is None or gate.reason is not None:
        yield f"No verdict applies. {'' if gate is None else gate.reason}".strip()
        return
    yield "| hypothesis | score | verdict | why |"
    yield "|---|---|---|---|"
    for each in comparison.verdicts():
        if each.control == OVERALL:
            yield f"| `{each.hypothesis}` | {each.score} | {each.verdict} | {each.why} |"


def page(runs: Runs) -> Iterator[str]:
    """Yield every line."""
    yield from (*gates(runs), "")
    for name, run in runs.items():
        for (_, task), comparison in run.comparisons.items():
            yield from (f"### {name}: {task}", "")
            yield from (*table(comparison), "")
            yield from (*verdicts(comparison), "")


def main(
    folders: Annotated[list[Path], typer.Argument(help="Run directories.")],
    csv: Annotated[Path | None, typer.Option(help="Write every mean here.")] = None,
) -> None:
    """Print runs in Markdown, and write their means to a CSV file."""
    runs = opened(folders)
    print(*page(runs), sep="\n")
    if csv is not None:
        means(runs).round(4).to_csv(csv, index=False)


if __name__ == "__main__":
    typer.run(main)
