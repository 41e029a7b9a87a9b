"""Large random models in bf16 on a GPU, six tasks each: `python -m benchmarks.gpu`.

`--smoke` runs the same code on a CPU at a tiny size, to see that it works.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import iclgd_lens as lens
from benchmarks.meters import compare_operations, gemm_rate, machine, timed
from benchmarks.shapes import SHAPES, Shape, episode_for, random_model
from benchmarks.speed import LR, phases

TASKS = ("sst2", "sst5", "mr", "subj", "agnews", "cb")
SMOKE = Shape(2, 64, 2, 50257, 4096)


def measure(
    model: Any, task: str, *, shots: int, queries: int, rate: float, repeats: int
) -> dict[str, Any]:
    """Seconds, peak bytes and share of the matrix rate of a comparison, and the phases' ratios."""
    episode = episode_for(model, task, shots=shots, queries=queries, lr=LR)
    on_gpu = torch.cuda.is_available()

    def work() -> None:
        lens.compare(model, episode, controls=(), lr=LR, tok2attn_queries=0, resamples=2)

    work()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else 0
    seconds = min(timed(work) for _ in range(repeats))
    peak = torch.cuda.max_memory_allocated() - before if on_gpu else None
    operations = compare_operations(lens.Host(model).cfg, episode)
    ratios = phases(model, episode, repeats, rate, pad=False)
    return {
        "queries": len(episode.queries),
        "seconds": seconds,
        "peak_bytes_beyond_model": peak,
        "share_of_matrix_rate": operations / seconds / rate,
        **{name: value["median"] for name, value in ratios.items() if "_vs_" in name},
    }


def main(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    shots: Annotated[int, typer.Option()] = 32,
    queries: Annotated[int, typer.Option()] = 2000,
    repeats: Annotated[int, typer.Option()] = 3,
    smoke: Annotated[bool, typer.Option(help="Tiny, on the CPU.")] = False,
) -> None:
    """Measure, print a table a model, and write the record."""
    warnings.simplefilter("ignore")
    if not smoke and not torch.cuda.is_available():
        raise SystemExit("There is no CUDA device here; --smoke runs a tiny size on the CPU.")
    device = "cpu" if smoke else "cuda"
    if smoke:
        shots, queries, repeats = 2, 2, 1
    console = Console()
    rate = gemm_rate(device, torch.bfloat16, 256 if smoke else 8192)
    console.print(f"{machine()}, bf16 {rate / 1e12:.3g} TFLOP/s")
    record: dict[str, Any] = {"machine": machine(), "gemm_flops": rate, "models": {}}
    shapes = {"smoke": SMOKE} if smoke else {name: SHAPES[name] for name in ("gpt2-xl", "1.3b")}
    for name, shape in shapes.items():
        model = random_model(shape, device=device, dtype=torch.bfloat16)
        found = {
            task: measure(model, task, shots=shots, queries=queries, rate=rate, repeats=repeats)
            for task in TASKS
        }
        record["models"][name] = found
        table = Table("", *TASKS, title=f"{name}, bf16, deltas fp32")
        for key in found["sst2"]:
            values = [found[task][key] for task in TASKS]
            table.add_row(key, *("" if value is None else f"{value:.3g}" for value in values))
        console.print(table)
        del model
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
