"""How much a plan will cost, before anything runs: cells, time, disk.

Nothing is loaded. Operations are counted from the model's configuration and from an assumed length
of the texts; what this machine does in a second is measured with a few matrix products. Small
models spend most of their time between operations, so a floor for each pass is added, from small
matrix products. Where cells of the run were measured before, their times are used instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from iclgd_lens.bench.cells import count_cells
from iclgd_lens.bench.measure import UNTRAINED
from iclgd_lens.bench.plan import ModelSpec, Plan, RateChoice
from iclgd_lens.bench.progress import duration
from iclgd_lens.host.loading import ALIASES

TOKENS = 45
"""Assumed tokens of a demonstration or query (the six tasks have 20 to 90 on GPT-2's tokens)."""
QUERIES = 1000
"""Assumed queries where a plan asks for all."""
EFFICIENCY = 0.3
"""Share of a matrix product's speed that a model reaches."""
CALLS = 150
"""Assumed small operations of a layer, each of which takes time however small."""
BATCH = 2
"""Assumed queries of equal length that run together."""
BESIDE = 9
"""Numbers of a query beside those by layer and head: accuracy, label scores and the like."""
LINE, FACTS = 20, 15_000
"""Bytes of a line's mean with its interval, and of a cell's facts."""
_PASSES = {"random": 1, "shuffled": 2, "other_task": 2, "untrained": 0, "untrained_norms": 0}


@dataclass(frozen=True)
class ModelSize:
    """What a cost follows from."""

    parameters: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Estimate:
    """What a plan will cost.

    Attributes:
        cells: Cells of the grid.
        seconds: In one process on this machine; None where a model's size is unknown.
        disk: Bytes; None likewise.
        basis: What the numbers rest on, in words.
    """

    cells: int
    seconds: float | None
    disk: float | None
    basis: str

    def __str__(self) -> str:
        time_text = "unknown" if self.seconds is None else f"about {duration(self.seconds)}"
        disk_text = "unknown" if self.disk is None else f"about {megabytes(self.disk)}"
        return f"{self.cells} cells, {time_text} in one process, {disk_text} on disk ({self.basis})"


def estimate(plan: Plan, measured: Mapping[str, float] | None = None) -> Estimate:
    """Estimate a plan's cost.

    Args:
        plan: The plan.
        measured: Seconds of cells measured before, by key.
    """
    cells = count_cells(plan)
    each = cells / max(1, len(plan.models))
    sizes = {model.label: model_size(model) for model in plan.models}
    unknown = [label for label, size in sizes.items() if size is None]
    disk = None
    if not unknown:
        disk = sum(
            each * _cell_bytes(plan, model, cast("ModelSize", sizes[model.label]))
            for model in plan.models
        )
    if measured:
        seconds = cells * sum(measured.values()) / len(measured)
        return Estimate(cells, seconds, disk, f"from {len(measured)} measured cells of this run")
    if unknown:
        return Estimate(cells, None, None, f"the size of {', '.join(unknown)} is not known here")
    speed, call = machine_speed()
    seconds = sum(
        each * _cell_seconds(plan, model, cast("ModelSize", sizes[model.label]), speed, call)
        for model in plan.models
    )
    basis = (
        f"assuming texts of {TOKENS} tokens and {EFFICIENCY:.0%} of the {speed / 1e9:.0f} GFLOP/s "
        "measured here"
    )
    return Estimate(cells, seconds, disk, basis)


def model_size(model: ModelSpec) -> ModelSize | None:
    """Read a model's size from its folder, or from the Hub's local cache; None if not there."""
    folder = ALIASES[model.name]() if model.name in ALIASES else Path(model.name).expanduser()
    if folder.is_dir():
        path = folder / "config.json"
        files = list(folder.glob("*.safetensors"))
        weights: int | None = sum(file.stat().st_size for file in files) // 4
    else:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(model.name, "config.json", revision=model.revision)
        if not isinstance(found, str):
            return None
        path, weights = Path(found), None
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        layers = _first(config, "num_hidden_layers", "n_layer", "num_layers")
        heads = _first(config, "num_attention_heads", "n_head", "num_heads")
        width = _first(config, "hidden_size", "n_embd", "d_model")
        vocabulary = _first(config, "vocab_size")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Twelve squares of the width a layer: attention's four and the MLP's eight.
    return ModelSize(weights or 12 * layers * width**2 + vocabulary * width, layers, heads)


def machine_speed() -> tuple[float, float]:
    """Operations a second of a large matrix product here, and seconds of a small one.

    Measured for 0.2 s each.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 4096 if device == "cuda" else 512
    large = _product_seconds(torch.ones(size, size, device=device))
    return 2.0 * size**3 / large, _product_seconds(torch.ones(16, 16, device=device))


def _product_seconds(a: torch.Tensor) -> float:
    count, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < 0.2 or count < 2:
        float((a @ a)[0, 0])
        count += 1
    return elapsed / count


def _cell_seconds(
    plan: Plan, model: ModelSpec, size: ModelSize, speed: float, call: float
) -> float:
    controls = plan.controls_of(model)
    queries = plan.queries or QUERIES
    models = 1 + sum(control in UNTRAINED for control in controls)
    rates = len(plan.lr.grid) if isinstance(plan.lr, RateChoice) else 0
    rules = len(plan.hypotheses)
    updates = rules * (models + sum(_PASSES.get(name, 0) > 1 for name in controls) + rates)
    readings = models * (2 + rules) + 1
    readings += rules * sum(_PASSES.get(name, 0) > 0 for name in controls)
    # Backward costs twice a forward; an update reads every demonstration once.
    tokens = TOKENS * (3 * updates * plan.shots + readings * queries + plan.shots)
    passes = 3 * updates * plan.shots + readings * queries / BATCH
    operations = 2.0 * size.parameters * tokens / (EFFICIENCY * speed)
    return operations + passes * size.layers * CALLS * call


def _cell_bytes(plan: Plan, model: ModelSpec, size: ModelSize) -> float:
    """Size of a cell's file: numbers of every query, lines with their means, facts."""
    controls = plan.controls_of(model)
    models = 1 + sum(control in UNTRAINED for control in controls)
    rows = len(plan.hypotheses) * (models + sum(_PASSES.get(name, 0) > 0 for name in controls))
    rows += sum(name in ("oracle", "zero", "gaussian", "uniform") for name in controls)
    queries = plan.queries or QUERIES
    places = size.layers * (size.heads + 1) + 1
    values = rows * places * (2 * queries + min(queries, plan.tok2attn_queries))
    values += (rows + 2 * models) * BESIDE * queries
    return 4.0 * values + LINE * rows * places * 3 + FACTS


def _first(config: Mapping[str, Any], *names: str) -> int:
    return int(next(config[name] for name in names if name in config))


def megabytes(size: float) -> str:
    """For example "0.4 MB" or "2.1 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
