"""How much a plan will cost, before anything runs: cells, time, disk.

No model is loaded. Operations are counted from the model's configuration and the length of the
texts: that of some rows where rows and tokenizer are on this machine, an assumed one elsewhere.
What this machine does in a second is measured with a few matrix products. Small models spend most
of their time between operations, so a floor for each pass is added, from small matrix products.
Where cells of the run were measured before, their times are used instead.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from iclgd_lens.bench.cells import OTHER, count_cells, data_of, subjects_of
from iclgd_lens.bench.plan import MATCHED, Plan
from iclgd_lens.bench.plan_entries import ModelSpec
from iclgd_lens.bench.progress import duration
from iclgd_lens.bench.remaining import Remaining
from iclgd_lens.controls import CONTROLS
from iclgd_lens.errors import LensError
from iclgd_lens.host.model_source import find_model
from iclgd_lens.phrases import count
from iclgd_lens.subjects import TRAINED
from iclgd_lens.tasks import get_task, load_rows

SAMPLE = 50
"""Rows of a task whose length is looked at."""
QUERIES = 1000
"""Assumed queries where a plan asks for all."""
EFFICIENCY = 0.3
"""Share of a matrix product's speed that a model reaches."""
CALLS = 250
"""Assumed number of small operations per layer; each takes time, however small it is."""
BATCH = 8
"""Assumed queries that run together."""
BESIDE = 9
"""Numbers of a query beside those by layer and head: accuracy, label scores and the like."""
SCORED = 5
"""Scores of an intervention that exist by layer and head."""
LINE, FACTS = 20, 5_000
"""Bytes of a line's mean, and of a cell's facts."""
AROUND = 0.3
"""Seconds of a cell for its rows, intervals and file."""
SEARCH = 2.5
"""Trainings that the choice of a budget costs at most."""


@dataclass(frozen=True)
class ModelSize:
    """The sizes from which a cost follows."""

    parameters: int
    layers: int
    heads: int
    width: int


@dataclass(frozen=True)
class Texts:
    """How long the texts are (assumed: the six tasks have 20 to 90 of GPT-2's tokens).

    Attributes:
        tokens: Tokens of a demonstration or query, on average.
        passes: Passes over a batch of queries: one, and one more for each label word of several
            tokens.
        measured: Whether rows were looked at.
    """

    tokens: float = 45.0
    passes: float = 1.0
    measured: bool = False


@dataclass(frozen=True)
class Estimate:
    """What a plan will cost.

    Attributes:
        cells: Cells of the grid.
        seconds: Of those that are to be measured, in one process on this machine; None where a
            model's size is unknown.
        disk: Bytes of all cells; None likewise.
        basis: What the numbers rest on, in words.
        left: What the run directory holds of the cells; None where that was not looked at.
    """

    cells: int
    seconds: float | None
    disk: float | None
    basis: str
    left: Remaining | None = None

    def __str__(self) -> str:
        time_text = "unknown" if self.seconds is None else f"about {duration(self.seconds)}"
        disk_text = "unknown" if self.disk is None else f"about {megabytes(self.disk)}"
        cost = f"{time_text} in one process, {disk_text} on disk"
        left = self.left
        if left is None or len(left.todo) == len(left.cells):
            return f"{self.cells} cells, {cost} ({self.basis})"
        states = [f"{left.finished} finished"]
        states += [f"{left.failed} failed before"] if left.failed else []
        if not left.todo:
            return f"{self.cells} cells: {', '.join(states)}, none to measure"
        return (
            f"{self.cells} cells: {', '.join(states)}, {len(left.todo)} to measure, {cost} in all "
            f"({self.basis})"
        )


def estimate(
    plan: Plan, measured: Mapping[str, float] | None = None, left: Remaining | None = None
) -> Estimate:
    """Estimate a plan's cost.

    Args:
        plan: The plan.
        measured: Seconds of cells measured before, by key; not of those that failed.
        left: What a run directory holds of the cells that are asked for; None for all to be
            measured.
    """
    planned = count_cells(plan)
    cells = planned if left is None else len(left.cells)
    share = 1.0 if left is None else len(left.todo) / max(planned, 1)
    sizes = {model.label: model_size(model) for model in plan.models}
    unknown = [label for label, size in sizes.items() if size is None]
    known = [(model, size) for model in plan.models if (size := sizes[model.label]) is not None]
    texts = {model.label: texts_of(plan, model) for model in plan.models}
    disk = None
    if not unknown:
        whole = sum(_plan_bytes(plan, model, size, texts[model.label]) for model, size in known)
        disk = whole * cells / max(planned, 1)
    if measured:
        mean = sum(measured.values()) / len(measured)
        seconds = cells * mean if left is None else left.seconds(measured)
        basis = f"from {count(len(measured), 'measured cell')} of this run"
        return Estimate(cells, seconds, disk, basis, left)
    if unknown:
        basis = f"the size of {', '.join(unknown)} is not known here"
        return Estimate(cells, None, None, basis, left)
    speed, call = machine_speed()
    seconds = share * sum(
        _plan_seconds(plan, model, size, texts[model.label], speed, call) for model, size in known
    )
    lengths = sorted({round(each.tokens) for each in texts.values()})
    basis = (
        f"{'' if all(each.measured for each in texts.values()) else 'assuming '}texts of "
        f"{' to '.join(map(str, dict.fromkeys((lengths[0], lengths[-1]))))} tokens, "
        f"{EFFICIENCY:.0%} of the {speed / 1e9:.0f} GFLOP/s measured here"
    )
    return Estimate(cells, seconds, disk, basis, left)


def model_size(model: ModelSpec) -> ModelSize | None:
    """Read a model's size from its folder, or from the Hub's local cache; None if not there."""
    source = find_model(model.name)
    folder = source.folder
    if source.is_file:
        return None
    if folder is not None:
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
    # Twelve squares of the width per layer: attention's four and the MLP's eight.
    return ModelSize(weights or 12 * layers * width**2 + vocabulary * width, layers, heads, width)


def texts_of(plan: Plan, model: ModelSpec) -> Texts:
    """Look at some rows of each task, if they and the tokenizer are on this machine."""
    folder, data = find_model(model.name).folder, data_of(plan, model)
    if data == "hub" or folder is None or not (folder / "tokenizer.json").is_file():
        return Texts()
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found: list[tuple[float, int]] = []
    for name in plan.tasks:
        try:
            task = get_task(name)
            rows = load_rows(task, "validation", data, strip=plan.protocol.strip).examples[:SAMPLE]
        except LensError:
            continue  # its cells will fail, and take no time
        sizes = [len(tokenizer.encode(row.prompt, add_special_tokens=False)) for row in rows]
        before = len(tokenizer.encode(task.labels[0], add_special_tokens=False))
        both = [
            tokenizer.encode(f"{task.labels[0]} {word}", add_special_tokens=False)
            for word in task.labels
        ]
        found.append((sum(sizes) / len(sizes), sum(len(ids) > before + 1 for ids in both)))
    if not found:
        return Texts()
    tokens, more = (sum(column) / len(found) for column in zip(*found, strict=True))
    return Texts(tokens, 1 + more, measured=True)


def machine_speed() -> tuple[float, float]:
    """Operations per second of a large matrix product here, and seconds per small one.

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


@dataclass(frozen=True)
class Work:
    """What is done in one setting, in units of one update and of one reading of the queries."""

    updates: float
    readings: float

    @classmethod
    def of(cls, plan: Plan, model: ModelSpec, network: bool) -> Work:
        """The work of the model's own setting, or of another network's."""
        chosen = SEARCH if plan.budget == MATCHED else 0.0
        alone = sum(CONTROLS[name].acts_on == "alone" for name in plan.controls_of(model))
        updates, readings = 0.0, 3.0 + (0 if network else 2 * alone)
        for spec in plan.hypotheses.values():
            rules = len(list(spec.variants()))
            acts = [CONTROLS[name].acts_on for name in plan.controls_for(model, spec)]
            if network:
                own = (2 if plan.budget == MATCHED else 1) * ("network" in acts)
                updates += rules * (2 * own + chosen * bool(own))
                readings += 2 * rules * own
            else:
                updates += rules * (2 + max(0, acts.count("demonstrations") - 1) + chosen)
                readings += rules * (2 + 2 * acts.count("update"))
        return cls(updates, readings)


def _plan_seconds(
    plan: Plan, model: ModelSpec, size: ModelSize, texts: Texts, speed: float, call: float
) -> float:
    """Seconds of all settings of a model."""
    tasks = plan.tasks * len(plan.variants())
    draws = sum(len(list(plan.draws(get_task(name).seeds))) for name in tasks)
    networks = sum(CONTROLS[n].acts_on == "network" for n in plan.controls_of(model))
    queries = plan.queries or QUERIES
    asked, shots = min(queries, plan.twin_queries or queries), mean_shots(plan)
    own, other = Work.of(plan, model, False), Work.of(plan, model, True)
    twins = networks * plan.twins * len(tasks)
    updates = draws * own.updates + twins * other.updates
    read = draws * own.readings * queries + twins * other.readings * asked
    # Backward costs twice a forward; an update reads every demonstration once.
    tokens = texts.tokens * (3 * updates * shots + read + (draws + twins) * shots)
    passes = 3 * updates * shots + read / BATCH * texts.passes
    operations = 2.0 * size.parameters * tokens / (EFFICIENCY * speed)
    return operations + passes * size.layers * CALLS * call + AROUND * (draws + twins)


def mean_shots(plan: Plan) -> float:
    """Demonstrations of a prompt, over what the plan varies."""
    every = [plan.shots_of(varied) for varied in plan.variants()]
    return sum(every) / len(every)


def _plan_bytes(plan: Plan, model: ModelSpec, size: ModelSize, texts: Texts) -> float:
    """Size of all files of a model: cells, and what is kept of each network's own readouts."""
    tasks = plan.tasks * len(plan.variants())
    draws = sum(len(list(plan.draws(get_task(name).seeds))) for name in tasks)
    networks = sum(CONTROLS[n].acts_on == "network" for n in plan.controls_of(model))
    twins = networks * plan.twins * len(tasks)
    queries = plan.queries or QUERIES
    total = 0.0
    for settings, network, asked in (
        (draws, TRAINED, queries),
        (twins, OTHER, min(queries, plan.twin_queries or queries)),
    ):
        subjects = [subject for subject, *_ in subjects_of(plan, model, network)]
        changed = sum(not subject.is_setting for subject in subjects)
        kept = _readings_bytes(plan, size, texts, asked)
        total += settings * (changed * _cell_bytes(size, asked) + FACTS * len(subjects) + kept)
    return total


def _cell_bytes(size: ModelSize, queries: int) -> float:
    """Numbers of every query, and lines, of what an intervention leaves."""
    places = size.layers * (size.heads + 1)
    return SCORED * places * (4.0 * queries + LINE) + 4.0 * BESIDE * queries


def _readings_bytes(plan: Plan, size: ModelSize, texts: Texts, queries: int) -> float:
    """ZS, ICL and ICL after wrong labels at every query, and attention to demonstrations."""
    first = min(plan.tok2attn_queries, queries)
    own = 3 * queries * (2 * size.width + size.heads * texts.tokens)
    shown = first * (2 * size.heads * mean_shots(plan) * texts.tokens + 3 * size.width)
    return 4.0 * size.layers * (own + shown)


def _first(config: Mapping[str, Any], *names: str) -> int:
    return int(next(config[name] for name in names if name in config))


def megabytes(size: float) -> str:
    """For example "0.4 MB" or "2.1 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
