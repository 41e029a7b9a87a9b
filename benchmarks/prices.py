"""What building costs beside what its ledger says: `python -m benchmarks.prices`.

Ledgers count block passes (`iclgd_lens.cost`), so costs compare only where passes are most of what
a build does. Each hypothesis is built in turns with LCGD, at the settings of `zoo.yaml`, and its
time is divided by its ledger at LCGD's price per pass of the same turn. CPU seconds of the process,
so that other work on the machine plays little part.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import iclgd_lens as lens
from benchmarks.meters import machine
from iclgd_lens.bench.plan import Plan, load_plan
from iclgd_lens.budget.budget import with_settings_of
from iclgd_lens.cost import counted
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.registry import get_hypothesis, list_hypotheses
from iclgd_lens.rules import Rule

TARGET = 1.3
ENOUGH = 10.0
"""CPU seconds of one hypothesis's builds after which no other turn is begun."""
PLAN = Path(__file__).with_name("zoo.yaml")
MORE: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("lcgd_multitask (pcgrad)", "lcgd_multitask", {"epochs": 4, "combine": "pcgrad"}),
    ("lcgd_multitask (upgrad)", "lcgd_multitask", {"epochs": 4, "combine": "upgrad"}),
    ("lcgd_multitask (contrast)", "lcgd_multitask", {"epochs": 4, "contrast": 1.0}),
    ("distilled (sgd)", "distilled", {"epochs": 4, "fit": "sgd"}),
)
"""Settings of the plan's hypotheses that do other work than those in it."""


def rules(plan: Plan) -> Iterator[Rule]:
    """The plan's hypotheses, those of `MORE`, and every other registered one at its defaults."""
    for name, spec in plan.hypotheses.items():
        for varied in spec.variants():
            of = ", ".join(f"{key} {value}" for key, value in varied.items())
            label = f"{name} ({of})" if of else name
            yield Rule(label, get_hypothesis(spec.hypothesis), {**spec.settings, **varied})
    for label, name, settings in MORE:
        yield Rule(label, get_hypothesis(name), settings)
    planned = {spec.hypothesis for spec in plan.hypotheses.values()}
    for name, value in list_hypotheses().items():
        if name not in planned:
            yield Rule(name, value)


def builder(rule: Rule, plan: Plan, host: Host, episode: lens.Episode) -> Callable[[], Any]:
    """What builds a rule at the plan's rate."""
    rated = with_settings_of(rule, {"lr": plan.lr} if isinstance(plan.lr, float) else {})
    build: Any = rated.value
    return functools.partial(build.build, host, episode, **rated.settings)


def priced(
    unit: Callable[[], Any], build: Callable[[], Any], host: Host, repeats: int
) -> dict[str, float]:
    """Medians over turns of a build's CPU seconds, its ledger at the unit's price, and their ratio.

    Args:
        unit: Builds what gives the price per block pass.
        build: Builds what is priced.
        host: The model's host, on which passes are counted, outside of what is timed.
        repeats: Turns, at most: none is begun after `ENOUGH` seconds.
    """
    passes: list[int] = []
    for work in (unit, build):
        with counted(host) as ledger:
            work()
        passes.append(ledger.total)
    turns = [(_seconds(unit), _seconds(build))]
    while len(turns) < repeats and sum(own for _, own in turns) < ENOUGH:
        turns.append((_seconds(unit), _seconds(build)))
    expected = [spent / passes[0] * passes[1] for spent, _ in turns]
    ratios = [own / due for (_, own), due in zip(turns, expected, strict=True) if due]
    return {
        "passes": passes[1],
        "turns": len(turns),
        "seconds": statistics.median(own for _, own in turns),
        "ledger_seconds": statistics.median(expected),
        "ratio": statistics.median(ratios) if ratios else float("nan"),
    }


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(*, only: str = "", repeats: int = 5, shots: int | None = None) -> dict[str, Any]:
    """Price every hypothesis whose name holds `only`, on the embedded model and SST-2."""
    torch.set_num_threads(1)
    plan = load_plan(PLAN)
    host = as_host(lens.load_model("embedded"))
    episode = lens.load_episode(
        "sst2", host, shots=shots or plan.shots, queries=plan.queries, protocol=plan.protocol,
        auxiliary=plan.others("sst2"), data="embedded",
    )  # fmt: skip
    every = {rule.name: rule for rule in rules(plan)}
    found: dict[str, dict[str, float]] = {}
    with host.laid_out():  # as in a comparison
        # One epoch: the price per pass is that of four, which would be most of what is measured.
        unit = builder(Rule("lcgd", get_hypothesis("lcgd")), plan, host, episode)
        for name, rule in every.items():
            if only in name:
                found[name] = priced(unit, builder(rule, plan, host, episode), host, repeats)
    return {"machine": machine(), "target": TARGET, "repeats": repeats, "hypotheses": found}


def table(record: dict[str, Any]) -> Table:
    """The hypotheses, dearest first; those whose building runs no block have no ratio."""
    found = Table(title=record["machine"])
    for column in ("hypothesis", "block passes", "CPU s", "ledger at LCGD's price, s", "ratio"):
        found.add_column(column, justify="left" if column == "hypothesis" else "right")

    def dearest(item: tuple[str, dict[str, float]]) -> float:
        ratio = item[1]["ratio"]
        return -ratio if ratio == ratio else 0.0

    for name, each in sorted(record["hypotheses"].items(), key=dearest):
        ratio = each["ratio"]
        found.add_row(
            name, f"{each['passes']:.0f}", f"{each['seconds']:.3f}",
            f"{each['ledger_seconds']:.3f}", f"{ratio:.2f}" if ratio == ratio else "",
        )  # fmt: skip
    return found


def main(
    only: Annotated[str, typer.Option(help="Hypotheses whose name holds this.")] = "",
    repeats: Annotated[int, typer.Option(min=1, help="Turns of each with LCGD.")] = 5,
    record: Annotated[Path | None, typer.Option("--json", help="Also write a JSON file.")] = None,
) -> None:
    """Print what building each hypothesis costs beside its ledger at LCGD's price."""
    found = measure(only=only, repeats=repeats)
    Console().print(table(found))
    if record is not None:
        record.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    typer.run(main)
