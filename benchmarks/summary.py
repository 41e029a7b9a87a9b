"""Runs of one model as the documentation shows them: Markdown on the screen, every mean in a CSV.

    python -m benchmarks.summary runs/smollm2 runs/smollm2-unbalanced --csv means.csv
    python -m benchmarks.summary runs/* --page docs/results/pretrained.md
    python -m benchmarks.summary runs/gemma3 --keep --page docs/results/pretrained.md

The gate comes first, all runs and tasks in one table; then, for each, the means of what was
measured, and a verdict for each explanation where there is in-context learning to explain. A run
is called by its plan's name. No row of a data set is in any of it.

A page that is written by hand keeps its tables between two comments, `<!-- gates -->`,
`<!-- means RUN TASK -->`, `<!-- beside RUN TASK -->` or `<!-- verdicts RUN TASK -->` and
`<!-- end -->`. What stands there is replaced by what the runs hold. With `--keep` the tables, lines
and means of runs and tasks that are not given stay as they stand, so that one run can be measured
again alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

import iclgd_lens as lens
from iclgd_lens.phrases import number, partial_layer_sentences
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.verdicts.verdict import OVERALL

SCORES = (
    "AUC", "accuracy", "calibrated_accuracy", "KL_removed", "SimAOU", "SimAM", "SimAOU_label",
    "SimAOU_label_centred",
)  # fmt: skip
_SETTINGS = ("ZS", "ICL", "ICL_shuffled")
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
    for name, task, comparison in _tasks(runs):
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


def _tasks(runs: Runs) -> Iterator[tuple[str, str, Comparison]]:
    for name, run in runs.items():
        for (_, task), comparison in run.comparisons.items():
            yield name, task, comparison


def _found(gate: Any) -> str:
    if gate.learns:
        return "learns, from labels" if gate.uses_labels else "learns, labels not shown"
    change = gate.differences["ICL", "ZS"]["AUC"]
    if change.below:
        return "demonstrations harm"
    return "uses labels, no gain shown" if gate.uses_labels else "none shown"


def _values(comparison: Comparison) -> dict[tuple[str, str], float]:
    """Means of whole models, by subject and score, in the order of measuring."""
    frame = comparison.frame()
    whole = frame[(frame["level"] == "all") & frame["score"].isin(SCORES)]
    return {(line.hypothesis, line.score): line.value for line in whole.itertuples()}


def _cell(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else number(value)


def table(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of one task's means, a hypothesis or control a line."""
    values = _values(comparison)
    yield f"| | {' | '.join(SCORES)} |"
    yield "|---" + "|---:" * len(SCORES) + "|"
    for name in dict.fromkeys(subject for subject, _ in values):
        cells = (_cell(values.get((name, score))) for score in SCORES)
        yield f"| `{name}` | {' | '.join(cells)} |"
    yield from _left_out(comparison)


def beside(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of one task's hypotheses, each with its controls and verdicts in its line."""
    values = _values(comparison)
    said = {
        (each.hypothesis, each.score): each.verdict
        for each in comparison.verdicts()
        if each.control == OVERALL
    }
    columns = [
        "AUC", "KL_removed", "SimAOU", "untrained",
        "SimAOU_label", "random", "untrained", "verdict",
        "SimAOU_label_centred", "random", "untrained", "verdict",
    ]  # fmt: skip
    yield f"| | {' | '.join(columns)} |"
    yield "|---" + "".join("|---" if each == "verdict" else "|---:" for each in columns) + "|"
    measured = dict.fromkeys(subject for subject, _ in values)
    for name in measured:
        if name in _SETTINGS or "[" in name or "@" in name:
            continue
        cells = [_cell(values.get((name, score))) for score in ("AUC", "KL_removed", "SimAOU")]
        cells.append(_cell(values.get((f"{name}@untrained", "SimAOU"))))
        for score in ("SimAOU_label", "SimAOU_label_centred"):
            subjects = (name, f"random[{name}]", f"{name}@untrained")
            cells += [_cell(values.get((subject, score))) for subject in subjects]
            # Of what changes no attention there is nothing to say.
            cells.append(said.get((name, score), "") if cells[-3] else "")
        yield f"| `{name}` | {' | '.join(cells)} |"
    yield from _left_out(comparison)


def _left_out(comparison: Comparison) -> Iterator[str]:
    """Which layers the means above are not over."""
    frame = comparison.partial_layers()
    shown = frame[frame["score"].isin(SCORES)]
    yield from (f"\n{sentence}" for sentence in partial_layer_sentences(shown))


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


_TABLES: Mapping[str, Callable[[Comparison], Iterator[str]]] = {
    "means": table,
    "beside": beside,
    "verdicts": verdicts,
}
_MINUS = re.compile(r"(?<![\w.-])-(?=\d)")
_PLACE = re.compile(r"(<!-- (\w+)(?: (\S+) (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


def page(runs: Runs) -> Iterator[str]:
    """Yield every line."""
    yield from (*gates(runs), "")
    for name, task, comparison in _tasks(runs):
        yield from (f"### {name}: {task}", "")
        yield from (*table(comparison), "")
        yield from (*verdicts(comparison), "")


def filled(text: str, runs: Runs, *, keep: bool = False) -> str:
    """Return a page with its tables made anew; `keep` leaves those of other runs as they are.

    Raises:
        KeyError: It asks for a table that there is none of, or for what no run holds.
    """
    known = {(name, task): comparison for name, task, comparison in _tasks(runs)}

    def lines(place: re.Match[str]) -> str:
        begin, kind, name, task, end = place.groups()
        if kind == "gates":
            made = [_MINUS.sub("\u2212", line) for line in gates(runs)]
            return "\n".join([begin, *(_merged(place[0], made) if keep else made), "", end])
        if keep and (name, task) not in known:
            return place[0]
        made = (_MINUS.sub("\u2212", line) for line in _TABLES[kind](known[name, task]))
        return "\n".join([begin, *made, "", end])

    return _PLACE.sub(lines, text)


def _merged(before: str, made: Sequence[str]) -> list[str]:
    """The table of gates as it stands, with the lines that were made in place of the same ones."""

    def by_run_and_task(lines: Sequence[str]) -> dict[tuple[str, ...], str]:
        return {tuple(line.split("|")[1:3]): line for line in lines if line.startswith("|")}

    return list((by_run_and_task(before.splitlines()) | by_run_and_task(made)).values())


def merged_means(before: pd.DataFrame, made: pd.DataFrame) -> pd.DataFrame:
    """Means as they stand, those of each run and task that was measured anew in their old place."""
    keys = ["run", "task"]
    new = pd.MultiIndex.from_frame(made[keys])
    kept = before[~pd.MultiIndex.from_frame(before[keys]).isin(new)]
    places: dict[tuple[str, str], int] = {}
    for frame in (before, made):
        for run, task in frame[keys].itertuples(index=False):
            places.setdefault((run, task), len(places))
    everything = pd.concat([kept, made], ignore_index=True)
    order = [places[run, task] for run, task in everything[keys].itertuples(index=False)]
    return everything.iloc[pd.Series(order).argsort(kind="stable")].reset_index(drop=True)


def main(
    folders: Annotated[list[Path], typer.Argument(help="Run directories.")],
    csv: Annotated[Path | None, typer.Option(help="Write every mean here.")] = None,
    page_file: Annotated[
        Path | None, typer.Option("--page", help="Make the tables of this page anew.")
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave what other runs gave as it stands.")
    ] = False,
) -> None:
    """Print runs in Markdown, write their means to a CSV file, or their tables into a page."""
    runs = opened(folders)
    if page_file is None:
        print(*page(runs), sep="\n")
    else:
        page_file.write_text(filled(page_file.read_text(), runs, keep=keep))
    if csv is not None:
        made = means(runs).round(4)
        if keep and csv.exists():
            made = merged_means(pd.read_csv(csv), made)
        made.to_csv(csv, index=False)


if __name__ == "__main__":
    typer.run(main)
