"""Where the time of a default comparison goes, stage by stage: `python -m benchmarks.stages`.

CPU seconds of the process, so that other work on the machine plays little part; wall-clock seconds
stand beside. The unit of the ratios is one GD training of the model on one draw's demonstrations,
for eight passes over the label.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

import iclgd_lens as lens
from benchmarks.meters import machine
from iclgd_lens.defaults import DRAWS, QUERIES, SHOTS, TWIN_QUERIES, TWINS

STAGES = (
    ("budget search", r"choosing rate"),
    ("ZS and ICL", r"(ZS|ICL)\b"),
    ("updates and controls", r"building|each query alone"),
    ("along the training", r"along its training"),
    ("making networks", r"making it"),
)
"""What a progress text stands for; the first that fits."""
VERDICTS = "gate and verdicts"
LOADING = "loading and drawing"
TWIN = re.compile(r"network \d+ of \d+: ")


def stage_of(text: str) -> str:
    """The stage that a progress text of `compare` announces."""
    whose = "twins: " if TWIN.search(text) else "model: "
    text = re.sub(r"^.*? of \d+: ", "", text)
    return whose + next((name for name, form in STAGES if re.search(form, text)), "other")


class Clock:
    """Sums what passes between announcements, in CPU and wall-clock seconds."""

    def __init__(self, stage: str) -> None:
        self.spent: dict[str, list[float]] = {}
        self._stage, self._since = stage, _now()

    def turn(self, stage: str) -> None:
        """The stage so far ends, and another begins."""
        now = _now()
        spent = self.spent.setdefault(self._stage, [0.0, 0.0])
        for place in range(2):
            spent[place] += now[place] - self._since[place]
        self._stage, self._since = stage, now


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def measure(
    name: str, task: str, *, shots: int, queries: int, draws: int, twins: int, twin_queries: int
) -> dict[str, Any]:
    """Spend of every stage, and of one training."""
    clock = Clock(LOADING)
    model = lens.load_model(name)
    episodes = lens.load_episodes(task, model, draws=draws, shots=shots, queries=queries)
    result = lens.compare(
        model, episodes, twins=twins, twin_queries=twin_queries,
        progress=lambda text: clock.turn(stage_of(text)),
    )  # fmt: skip
    clock.turn(VERDICTS)
    result.gate()
    answers = [str(each) for each in result.verdicts()]
    clock.turn("")
    unit = cpu(lambda: lens.gd(model, episodes[0], lr=0.1, epochs=8, loss_on="label"))
    return {
        "machine": machine(), "model": name, "task": task, "shots": shots, "queries": queries,
        "draws": draws, "twins": twins, "twin_queries": twin_queries, "training_cpu": unit,
        "stages": {stage: {"cpu": a, "wall": b} for stage, (a, b) in clock.spent.items()},
        "verdicts": answers,
    }  # fmt: skip


def cpu(work: Callable[[], Any]) -> float:
    """CPU seconds that `work` takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def table(record: dict[str, Any]) -> Table:
    """Seconds, shares and ratios by stage."""
    found = Table(title=f"{record['model']}, {record['task']}: {record['machine']}")
    for column in ("stage", "CPU s", "share", "trainings", "wall s"):
        found.add_column(column, justify="left" if column == "stage" else "right")
    stages = record["stages"]
    total = {key: sum(each[key] for each in stages.values()) for key in ("cpu", "wall")}
    for stage, spent in [*sorted(stages.items(), key=lambda each: -each[1]["cpu"]), ("all", total)]:
        found.add_row(
            stage, f"{spent['cpu']:.1f}", f"{spent['cpu'] / total['cpu']:.0%}",
            f"{spent['cpu'] / record['training_cpu']:.1f}", f"{spent['wall']:.1f}",
        )  # fmt: skip
    return found


def main(
    model: str = "embedded",
    task: str = "sst2",
    shots: int = SHOTS,
    queries: int = QUERIES,
    draws: int = DRAWS,
    twins: int = TWINS,
    twin_queries: int = TWIN_QUERIES,
    record: Annotated[Path | None, typer.Option("--json", help="Also write a JSON file.")] = None,
) -> None:
    """Print where the time of a comparison goes."""
    found = measure(
        model, task, shots=shots, queries=queries, draws=draws, twins=twins,
        twin_queries=twin_queries,
    )  # fmt: skip
    Console().print(table(found))
    if record is not None:
        record.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
