"""S1: does the demo's headline hang on which untrained networks were drawn?

    python -m benchmarks.headline

The demo's comparison is measured once with ten times its untrained networks; each fifth of ten is
what another seed of theirs gives. The headline must be the same for at least nine of ten.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

import iclgd_lens as lens
from iclgd_lens.calibration_on_networks import disjoint
from iclgd_lens.cli import demo


def headlines(task: str, *, seeds: int, twins: int) -> list[str]:
    """The demo's headline for so many disjoint sets of untrained networks."""
    result = demo.run_demo(tasks=(task,), twins=twins * seeds, progress=print)
    comparison = result.comparisons[task]
    return [demo.headline(task, each) for each in disjoint(comparison, twins)]


def main(
    task: Annotated[list[str] | None, typer.Option(help="Tasks; default, the demo's.")] = None,
    seeds: Annotated[int, typer.Option(min=2)] = 10,
    twins: Annotated[int, typer.Option(min=3)] = 5,
) -> None:
    """Print every headline and how often it was given."""
    for name in task or ("sst2",):
        print(f"iclgd_lens {lens.__version__}, {name}: {seeds} sets of {twins} networks")
        for text, count in Counter(headlines(name, seeds=seeds, twins=twins)).most_common():
            print(f"{count} of {seeds}: {text}")


if __name__ == "__main__":
    typer.run(main)
