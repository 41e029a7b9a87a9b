"""What cheaper searches for budgets cost and choose: `python -m benchmarks.searches`.

Each search chooses a budget on every draw; the update is trained at it on all demonstrations, and
judged by the label loss of the episode's queries, which no search has seen. Costs are seconds of
the process beside those of one training at the budget that was chosen.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import pandas as pd
import typer

import iclgd_lens as lens
from iclgd_lens.budget.budget import choose_budget
from iclgd_lens.demonstrations import Demonstration, Demonstrations
from iclgd_lens.host import Host, as_host
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.training.label_losses import label_losses

SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "two folds of a quarter": {},
    "one fold of a quarter": {"folds": 1},
    "one fold of a half": {"folds": 1, "left_out": 0.5},
}
TASKS = ("sst2", "sst5", "mr", "subj", "agnews", "cb")


def asked(episode: lens.Episode) -> Demonstrations:
    """An episode's queries with their labels, as demonstrations that an update is asked."""
    examples = tuple(
        Demonstration(query.content, episode.label_tokens[query.gold], query.gold)
        for query in episode.queries
    )
    return dataclasses.replace(episode.demonstrations, examples=examples, drawn=())


def tried(
    host: Host, episode: lens.Episode, rule: str, searches: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One line a search: what it chose, what that does to the queries, and what it cost."""
    hypothesis, queries = get_hypothesis(rule), asked(episode)
    build: Any = hypothesis.build
    unchanged = mean_loss(host, Intervention(), queries)
    lines: list[dict[str, Any]] = []
    for name, search in searches.items():
        start = time.process_time()
        budget = choose_budget(host, episode, hypothesis, **search)
        middle = time.process_time()
        delta = build(host, episode, **budget.settings)
        end = time.process_time()
        lines.append(
            {
                "task": episode.task, "rule": rule, "search": name, **budget.settings,
                "unchanged": unchanged, "loss": mean_loss(host, delta, queries),
                "seconds": middle - start, "training": end - middle,
                "counted": budget.trainings,
            }
        )  # fmt: skip
    return lines


def summary(lines: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Means by rule and search, with how much worse than the first search, and its error."""
    frame = pd.DataFrame(lines)
    first = frame["search"].iloc[0]
    found: list[dict[str, Any]] = []
    for (rule, search), own in frame.groupby(["rule", "search"], sort=False):
        base = frame[(frame["rule"] == rule) & (frame["search"] == first)]
        worse = own["loss"].to_numpy() - base["loss"].to_numpy()
        found.append(
            {
                "rule": rule, "search": search, "draws": len(own),
                "unchanged": own["unchanged"].mean(), "loss": own["loss"].mean(),
                "worse by": worse.mean(),
                "error": worse.std(ddof=1) / len(worse) ** 0.5 if len(worse) > 1 else math.nan,
                "seconds": own["seconds"].mean(),
                "in trainings": own["seconds"].sum() / own["training"].sum(),
                "by block passes": own["counted"].median(),
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def mean_loss(host: Host, delta: Intervention, queries: Demonstrations) -> float:
    """Mean label loss of an episode's queries, in nats a label word."""
    return float(label_losses(host, queries, delta, per="word").mean())


def main(
    model: Annotated[str, typer.Option(help="Model, or a GGUF file.")] = "embedded",
    data: Annotated[str, typer.Option(help="Rows: a folder, or embedded.")] = "embedded",
    tasks: Annotated[list[str] | None, typer.Option("--task", "-t", help="Tasks.")] = None,
    rules: Annotated[list[str] | None, typer.Option("--rule", "-H", help="Rules.")] = None,
    draws: Annotated[int, typer.Option(min=1, help="Draws of each task.")] = 5,
) -> None:
    """Measure, and print means."""
    warnings.simplefilter("ignore")
    host = as_host(lens.load_model(model))
    lines: list[dict[str, Any]] = []
    with host.laid_out():
        for task in tasks or TASKS:
            for seed in range(draws):
                episode = lens.load_episode(task, host, seed=seed, data=data)
                for rule in rules or ("gd", "lcgd"):
                    lines += tried(host, episode, rule, SEARCHES)
    print(summary(lines).round(3).to_string(index=False))


if __name__ == "__main__":
    typer.run(main)
