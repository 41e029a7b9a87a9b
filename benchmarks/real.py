"""A pretrained model against plain `transformers`: `python -m benchmarks.real FILE.gguf`.

The model of one GGUF file (SmolLM2-135M, say) is read as each host of the installed TransformerLens
and as `transformers` loads it, all in one process and in turns, and ratios are printed: seconds of
one machine say little. Readouts must give the label scores of `transformers`, and GD its
hand-written epoch's change, before anything is timed. Seconds are wall-clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import iclgd_lens as lens
from benchmarks.by_hand import LR, Plain, load_plain
from benchmarks.meters import machine, paired, peak_bytes, ratio, timed
from benchmarks.plain import LcgdProducts
from benchmarks.shapes import SHARED
from iclgd_lens.budget.budget import Budget, choose_budget
from iclgd_lens.host.loading import has_hooked_transformer
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.readout.reader import Reader

RULES = ("gd", "lcgd")
PARTS = ("load", "phases", "search", "memory")
TARGETS = {
    "zs": 1.1, "ftzs": 1.1, "icl": 1.1, "load": 1.5, "gd": 1.15, "lcgd": 1.35,
    "search_gd": 2.5, "search_lcgd": 2.5, "memory": 1.5, "memory_search": 1.5,
}  # fmt: skip
"""What each ratio is to be at most."""
WORDS = {
    "zs": "ZS readout over plain forward passes",
    "zs_eager": "the same over passes with eager attention",
    "ftzs": "FTZS readout over plain forward passes",
    "ftzs_eager": "the same over passes with eager attention",
    "icl": "ICL readout over plain forward passes",
    "icl_eager": "the same over passes with eager attention",
    "load": "loading over that of transformers",
    "gd": "GD epoch over a hand-written one",
    "lcgd": "LCGD epoch over its bare products",
    "search_gd": "choice of GD's budget, in trainings at it",
    "search_lcgd": "choice of LCGD's budget, in trainings at it",
    "memory": "peak of a comparison at a given rate over model, deltas and a pass",
    "memory_search": "peak of one that chooses its budgets over the same",
}


def hosts() -> tuple[str, ...]:
    """Names of the hosts that the installed TransformerLens has."""
    return ("hooked", "bridge") if has_hooked_transformer() else ("bridge",)


def check(plain: Plain, models: dict[str, lens.Host]) -> None:
    """Raise unless every host gives the numbers of `transformers`: nothing else is worth timing."""
    words = torch.tensor([ids[0] for ids in plain.episode.label_tokens])
    logits = {icl: plain.read(icl) for icl in (False, True)}
    # One step: rounding grows along a training, and after sixteen of these is no longer small.
    changes = plain.epoch(1)
    shown = plain.episode.demonstrations
    one_shown = dataclasses.replace(shown, examples=shown.examples[:1], drawn=())
    for name, host in models.items():
        reader = Reader(host, plain.episode)
        for icl, found in ((False, reader.zs()), (True, reader.icl())):
            expected = logits[icl].log_softmax(-1)[:, words]
            torch.testing.assert_close(found.label_scores, expected, atol=1e-3, rtol=0)
        delta = lens.gd(host, one_shown, lr=LR)
        mine = [delta[f"blocks.{i}.attn.W_{x}"] for i in range(host.n_layers) for x in "KV"]
        for one, other in zip(mine, changes, strict=True):
            # By heads; `transformers` has [d_out, d_in].
            flat = one.permute(0, 2, 1).flatten(0, 1)
            difference = (flat - other).norm() / other.norm()
            if not difference < 0.01:
                raise AssertionError(f"GD on {name} differs by {difference:.1e}")


def phases(
    plain: Plain, models: dict[str, lens.Host], repeats: int
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, float]]:
    """Ratios of each host's readouts and epochs, and the seconds behind them.

    Weights lie as they do in a comparison or a benchmark's cell (`Host.laid_out`).
    """
    with contextlib.ExitStack() as laid_out:
        for host in models.values():
            laid_out.enter_context(host.laid_out())
        return _phases(plain, models, repeats)


def _phases(
    plain: Plain, models: dict[str, lens.Host], repeats: int
) -> tuple[dict[str, dict[str, dict[str, float]]], dict[str, float]]:
    episode = plain.episode
    lengths = [len(sequence.tokens) for sequence in episode.demonstrations.sequences()]
    jobs: dict[str, Callable[[], Any]] = {
        "plain zs": partial(plain.read, False),
        "eager zs": partial(plain.read, False, "eager"),
        "plain icl": partial(plain.read, True),
        "eager icl": partial(plain.read, True, "eager"),
        "plain gd": plain.epoch,
        "plain lcgd": LcgdProducts(next(iter(models.values())), lengths),
    }
    for name, host in models.items():
        delta = lens.gd(host, episode, lr=LR)
        reader = Reader(host, episode)
        jobs |= {
            f"{name} zs": reader.zs,
            f"{name} ftzs": partial(reader.ftzs, delta),
            f"{name} icl": partial(_icl, host, episode),
            f"{name} gd": partial(lens.gd, host, episode, lr=LR),
            f"{name} lcgd": partial(lens.lcgd, host, episode, lr=LR),
        }
    for job in jobs.values():
        job()
    seconds = paired(jobs, repeats)
    floors = {"ftzs": "zs"}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in models:
        found[name] = {
            key: ratio(seconds[f"{name} {key}"], seconds[f"plain {floors.get(key, key)}"])
            for key in ("zs", "ftzs", "icl", "gd", "lcgd")
        } | {
            f"{key}_eager": ratio(seconds[f"{name} {key}"], seconds[f"eager {of}"])
            for key, of in (("zs", "zs"), ("ftzs", "zs"), ("icl", "icl"))
        }
    return found, {name: min(values) for name, values in seconds.items()}


def _icl(host: lens.Host, episode: lens.Episode) -> None:
    Reader(host, episode).icl()


def loading(file: Path, repeats: int) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Ratios of loading as each host over loading by `transformers`, and seconds."""
    jobs: dict[str, Callable[[], Any]] = {"plain load": partial(load_plain, file)}
    for name in hosts():
        jobs[f"{name} load"] = partial(lens.load_model, file, host=name, device="cpu")
    seconds = paired(jobs, repeats)
    found = {name: ratio(seconds[f"{name} load"], seconds["plain load"]) for name in hosts()}
    return found, {name: min(values) for name, values in seconds.items()}


def search(
    host: lens.Host, episode: lens.Episode, rule: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """One choice of a budget beside trainings at it, before and after, in seconds."""
    hypothesis = get_hypothesis(rule)
    build: Any = hypothesis.build
    with host.laid_out():  # as in a comparison
        budgets: list[Budget] = []
        spent = timed(lambda: budgets.append(choose_budget(host, episode, hypothesis, **options)))
        budget = budgets[0]
        unit = [timed(lambda: build(host, episode, **budget.settings)) for _ in range(3)]
    return {
        "ratio": ratio([spent] * len(unit), unit), "seconds": spent, "training_seconds": min(unit),
        "settings": dict(budget.settings), "tried": len(budget.tried),
        "counted_trainings": budget.trainings,
    }  # fmt: skip


def memory(plain: Plain, host: lens.Host, budget: Any) -> dict[str, float]:
    """Peaks of a comparison, model included, over the model, its deltas and one plain pass.

    At a given rate and, unless `budget` is None, at budgets that it chooses so (see `compare`).

    What is counted is the memory of tensors. The model below is that of `transformers`, whose
    embedding and unembedding may be one; the model above is the host's own.
    """
    episode = plain.episode
    deltas = sum(value.nbytes for rule in RULES for _, value in _built(rule, host, episode).items())
    own, theirs = (_bytes(model) for model in (host.model, plain.model))
    floor = theirs + deltas + peak_bytes(plain.longest)
    given = peak_bytes(partial(_compare, host, episode, lr=LR))
    found = {
        "memory": (own + given) / floor, "model_bytes": float(own), "floor_bytes": float(floor),
        "delta_bytes": float(deltas), "given_bytes": float(given),
    }  # fmt: skip
    if budget is not None:
        chosen = peak_bytes(partial(_compare, host, episode, budget=budget))
        found |= {"memory_search": (own + chosen) / floor, "chosen_bytes": float(chosen)}
    return found


def _built(rule: str, host: lens.Host, episode: lens.Episode) -> lens.ParameterDelta:
    build: Any = get_hypothesis(rule).build
    return build(host, episode, lr=LR)


def _compare(host: lens.Host, episode: lens.Episode, **settings: Any) -> None:
    lens.compare(host, episode, RULES, controls=(), tok2attn_queries=0, resamples=2, **settings)


def _bytes(model: torch.nn.Module) -> int:
    """Memory of a model's parameters, each counted once."""
    held = {
        p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()
    }
    return sum(held.values())


def compared(
    plain: Plain,
    models: dict[str, lens.Host],
    *,
    repeats: int,
    parts: Sequence[str] = PARTS,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything but loading.

    Args:
        plain: The model by itself.
        models: It as each host.
        repeats: Turns of each pair.
        parts: Of `PARTS`, what is measured; "memory" of a comparison that chooses its budgets is
            measured with "search" alone.
        options: Of the choice of budgets; None for its defaults.

    Returns:
        Seconds, and for each host its ratios (minimum, median, maximum), searches and memory.
    """
    check(plain, models)
    record: dict[str, Any] = {"seconds": {}, "attention": plain.fast, "hosts": {}}
    found: dict[str, Any] = {}
    if "phases" in parts:
        found, record["seconds"] = phases(plain, models, repeats)
    for name, host in models.items():
        ratios, own = dict(found.get(name, {})), dict[str, Any]()
        if "search" in parts:
            for rule in RULES:
                own[rule] = search(host, plain.episode, rule, options or {})
                ratios[f"search_{rule}"] = own[rule]["ratio"]
        if "memory" in parts:
            held = memory(plain, host, (options or "matched") if "search" in parts else None)
            ratios |= {key: _alone(held[key]) for key in TARGETS if key in held}
            own["memory"] = held
        record["hosts"][name] = {"ratios": ratios, **own}
    return record


def measure(
    file: Path, data: str, *, repeats: int = 3, shots: int = 16, queries: int = 48,
    parts: Sequence[str] = PARTS,
) -> dict[str, Any]:  # fmt: skip
    """All `parts`, on every host; the record that is written.

    Args:
        file: The GGUF file.
        data: Folder of real rows, or "embedded".
        repeats: Turns of each pair.
        shots: Demonstrations.
        queries: Queries.
        parts: Of `PARTS`.
    """
    record: dict[str, Any] = {"model": file.name, "shots": shots, "queries": queries}
    record["machine"] = machine()
    loads, seconds = loading(file, repeats) if "load" in parts else ({}, {})
    models = {name: lens.Host(lens.load_model(file, host=name, device="cpu")) for name in hosts()}
    first = next(iter(models.values()))
    episode = lens.load_episode("sst2", first, shots=shots, queries=queries, seed=0, data=data)
    plain = Plain(load_plain(file), episode)
    record |= compared(plain, models, repeats=repeats, parts=parts)
    record["seconds"] |= seconds
    for name, each in loads.items():
        record["hosts"][name]["ratios"]["load"] = each
    return record | {"machine_after": machine()}


def _alone(value: float) -> dict[str, float]:
    return dict.fromkeys(("min", "median", "max"), value)


def table(record: dict[str, Any]) -> Table:
    """Ratios beside their targets; what misses its target is bold."""
    found = Table(title=f"{record['model']}: {record['machine']}")
    for column in ("what", "host", "min", "median", "max", "target", ""):
        found.add_column(column, justify="left" if column in ("what", "host", "") else "right")
    for key, words in WORDS.items():
        for host, each in record["hosts"].items():
            values = each["ratios"].get(key)
            if values is None:
                continue
            target = TARGETS.get(key, math.inf)
            verdict = "" if key not in TARGETS else _verdict(values["median"], target)
            found.add_row(
                words, host, *(f"{values[part]:.2f}" for part in ("min", "median", "max")),
                f"{target:g}" if key in TARGETS else "", verdict,
                style="bold" if verdict == "missed" else None,
            )  # fmt: skip
    return found


def _verdict(value: float, target: float) -> str:
    return "reached" if value <= target else "missed"


def main(
    file: Annotated[Path, typer.Argument(help="The model, one GGUF file.")],
    data: Annotated[
        str, typer.Option(help="Folder of real rows, or embedded.", show_default=False)
    ] = str(SHARED / "data"),
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the record here.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each pair.")] = 3,
    shots: Annotated[int, typer.Option()] = 16,
    queries: Annotated[int, typer.Option()] = 48,
    only: Annotated[list[str] | None, typer.Option(help=", ".join(PARTS))] = None,
) -> None:
    """Measure, print ratios beside their targets, and write the record."""
    warnings.simplefilter("ignore")
    record = measure(file, data, repeats=repeats, shots=shots, queries=queries, parts=only or PARTS)
    console = Console(width=140)
    console.print(table(record))
    for host, each in record["hosts"].items():
        for rule in RULES:
            one = each.get(rule)
            if one is None:
                continue
            console.print(
                f"{host}, {rule}: {one['settings']}, {one['seconds']:.1f} s beside "
                f"{one['training_seconds']:.2f} s, {one['tried']} tried"
            )
    console.print({key: round(value, 3) for key, value in record["seconds"].items()})
    if json_file is not None:
        json_file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
