"""Exact interventions on heads against their floor: `python -m benchmarks.heads`.

The floor is L x H last-token passes on the query's cached prefix, in batches of the same size, with
nothing attached and only the label words' logits at the end. Both in one process, taken in turns;
seconds are the processor's, so that other work on the machine counts less.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer

import iclgd_lens as lens
from benchmarks.meters import machine, peak_bytes
from benchmarks.shapes import SHAPES, random_model, synthetic_episode
from iclgd_lens.host import as_host, frozen
from iclgd_lens.mediation.margins import Margin, repeated_gold, shared_prefix
from iclgd_lens.mediation.patching import patched_margins
from iclgd_lens.readout.patched_heads import (
    PATCHED_TOKENS_AT_ONCE,
    Patches,
    last_token,
    single_heads,
)

TARGET = 1.5
MEASURED = ("pythia-70m", "gpt2-small", "grouped-query")


def ratios(model: Any, episode: lens.Episode, repeats: int) -> dict[str, Any]:
    """Processor seconds of a necessity map of one query over those of its floor, and its memory."""
    host = as_host(model)
    margin = Margin(host, episode)
    heads = [(layer, head) for layer in range(host.n_layers) for head in range(host.n_heads)]
    with frozen(host.model), torch.no_grad(), host.laid_out():
        prefix = shared_prefix(host, episode.demonstrations.prompt())
        asked = episode.queries[0]
        at = last_token(host, prefix, asked.content)
        z = torch.randn(1, host.n_layers, host.n_heads, host.d_head)
        mask = single_heads(heads, (host.n_layers, host.n_heads), host.device)
        patches = Patches(mask, torch.zeros(len(heads), dtype=torch.long), z)
        step = max(1, PATCHED_TOKENS_AT_ONCE // at.length)

        def floor() -> None:
            for start in range(0, len(heads), step):
                rows = min(step, len(heads) - start)
                assert at.prefix is not None
                run = host.run(host.tensor([[at.token]] * rows), at.prefix.expand(rows))
                margin(run.residual[:, -1], repeated_gold(host, asked.gold, rows))

        def ours() -> None:
            patched_margins(host, margin, at, asked.gold, patches)

        def reading() -> None:
            last_token(host, prefix, asked.content)

        for job in (floor, ours):
            job()
        pairs = [(_seconds(ours), _seconds(floor)) for _ in range(repeats)]
        found = [a / b for a, b in pairs]
        return {
            "heads": len(heads), "prefix": at.length - 1, "rows_a_pass": min(step, len(heads)),
            "min": min(found), "median": statistics.median(found), "max": max(found),
            "seconds_a_query": statistics.median(a for a, _ in pairs),
            "seconds_to_read_the_query": _seconds(reading),
            "peak_megabytes": peak_bytes(ours) / 1e6,
            "peak_megabytes_of_the_floor": peak_bytes(floor) / 1e6,
        }  # fmt: skip


def _seconds(work: Callable[[], None]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Pairs of measurements.")] = 5,
    shots: Annotated[int, typer.Option(min=1, help="Demonstrations.")] = 16,
    only: Annotated[str, typer.Option(help="Shapes whose name holds this.")] = "",
) -> None:
    """Measure and print one JSON document."""
    found: dict[str, Any] = {}
    model = lens.load_model("embedded")
    if only in "embedded":
        found["embedded"] = ratios(
            model, lens.load_episode("sst2", model, shots=shots, queries=4), repeats
        )
    for name in MEASURED:
        if only in name:
            random = random_model(SHAPES[name])
            episode = synthetic_episode(random, shots=shots, queries=1, length=18)
            found[name] = ratios(random, episode, repeats)
    typer.echo(json.dumps({"machine": machine(), "target": TARGET, "shapes": found}, indent=1))


if __name__ == "__main__":
    typer.run(main)
