"""`iclgd demo`: a model that learns in context, its untrained twin, and what the scores make of it.

Both models read the same demonstrations and queries of the embedded tasks, and GD and LCGD update
both. A score that is as high on a model that learns nothing in context is no evidence that
in-context learning is gradient descent. Every sentence follows from the numbers of this run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from iclgd_lens.bench.learning_rate import choose_rate
from iclgd_lens.bench.plan import RateChoice
from iclgd_lens.comparing import compare
from iclgd_lens.comparison import LABEL_SCORES, Comparison
from iclgd_lens.host.loading import load_model
from iclgd_lens.host.source import UNTRAINED
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.nulls import untrained
from iclgd_lens.tables import Verdict, aggregate_cells, interval, verdicts
from iclgd_lens.writing import load_episode

if TYPE_CHECKING:
    import pandas as pd

TASKS = ("sst2", "subj", "agnews")
HYPOTHESES = ("gd", "lcgd")
CONTROLS = ("random", "oracle")
RATES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
TWIN = "@untrained"
LABELS = {
    "gd": "GD",
    "random[gd]": "random, GD's norms",
    "lcgd": "LCGD",
    "random[lcgd]": "random, LCGD's norms",
    "oracle": "oracle",
}
"""What the demo calls a hypothesis or control."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        comparison: All tasks' queries together; the untrained twin's rows end in "@untrained".
        rates: Learning rate by task and hypothesis, chosen on held-out demonstrations.
        chance: Accuracy of guessing, mean over the queries.
        shots: Demonstrations.
        model: The trained model's name.
    """

    comparison: Comparison
    rates: Mapping[str, Mapping[str, float]]
    chance: float
    shots: int
    model: str

    def frame(self) -> pd.DataFrame:
        """The comparison's tidy table."""
        return self.comparison.frame()

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: aggregates, rates, sentences and verdicts."""
        frame = self.frame()
        columns = ("hypothesis", "score", "value", "ci_low", "ci_high", "n", "undefined")
        records = [
            {name: _plain(getattr(cell, name)) for name in columns}
            for cell in aggregate_cells(frame).values()
        ]
        return {
            "model": self.model,
            "shots": self.shots,
            "chance": self.chance,
            "rates": {task: dict(found) for task, found in self.rates.items()},
            "sentences": sentences(self, frame),
            "verdicts": [verdict.as_dict() for verdict in verdicts(frame)],
            "rows": records,
        }


def run_demo(
    model: Any = "embedded",
    *,
    twin: Any = None,
    tasks: Sequence[str] = TASKS,
    shots: int = 16,
    queries: int = 32,
    seed: int = 0,
    rates: Sequence[float] = RATES,
    progress: Callable[[str], None] | None = None,
) -> DemoResult:
    """Compare GD and LCGD with in-context learning on a model and on its untrained twin.

    Args:
        model: A name or folder, or a loaded model.
        twin: The untrained twin; None loads the one that belongs to a named model, or makes one
            with `controls.untrained`.
        tasks: Tasks with embedded rows.
        shots: Demonstrations.
        queries: Queries a task.
        seed: Seed of the demonstrations and of the random controls.
        rates: Learning rates to choose from, task by task and hypothesis by hypothesis, by the
            loss on held-out demonstrations. The trained model chooses, the twin takes the same.
        progress: Called with a short text at each stage.

    Raises:
        LensError: A model or task does not exist, or the demonstrations do not fit the model.
    """
    tell = progress or _silent
    trained, name = _load(model, tell)
    twin = _load_twin(model, trained, seed, tell) if twin is None else twin
    parts: list[Comparison] = []
    chosen: dict[str, dict[str, float]] = {}
    # All are read before anything is measured: what does not fit is told at once.
    episodes = [
        load_episode(task, trained, shots=shots, queries=queries, seed=seed, data="embedded")
        for task in tasks
    ]
    for task, episode in zip(tasks, episodes, strict=True):
        tell(f"{task}: choosing learning rates on held-out demonstrations")
        chosen[task] = {
            each: choose_rate(
                trained, episode, get_hypothesis(each), RateChoice(grid=tuple(rates))
            ).lr
            for each in HYPOTHESES
        }
        settings = {each: {"lr": rate} for each, rate in chosen[task].items()}
        found: list[Comparison] = []
        for which, what in ((trained, "trained"), (twin, "untrained")):
            tell(f"{task}: {', '.join(HYPOTHESES)} and controls on the {what} model")
            found.append(
                compare(which, episode, HYPOTHESES, controls=CONTROLS, settings=settings, seed=seed)
            )
        parts.append(beside(*found))
    chance = sum(1 / episode.n_labels for episode in episodes) / len(episodes)
    return DemoResult(pooled(parts), chosen, chance, shots, name)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _silent(text: str) -> None:
    """Say nothing."""


def _load(model: Any, tell: Callable[[str], None]) -> tuple[Any, str]:
    if not isinstance(model, str):
        return model, str(getattr(model.cfg, "model_name", "model"))
    tell(f"loading {model}")
    return load_model(model), model


def _load_twin(model: Any, trained: Any, seed: int, tell: Callable[[str], None]) -> Any:
    if isinstance(model, str) and f"{model}-untrained" in UNTRAINED:
        tell(f"loading {model}-untrained")
        return load_model(f"{model}-untrained")
    return untrained(trained, "embeddings", seed)


def beside(trained: Comparison, twin: Comparison) -> Comparison:
    """One comparison of two: the twin's rows under names that end in "@untrained"."""
    values = dict(trained.values) | {f"{name}{TWIN}": own for name, own in twin.values.items()}
    failures = dict(trained.failures) | {f"{n}{TWIN}": why for n, why in twin.failures.items()}
    return Comparison(values, trained.gold, failures, trained.provenance)


def pooled(parts: Sequence[Comparison]) -> Comparison:
    """The queries of several comparisons together; per-label values, which differ, are dropped."""
    first = parts[0]
    values = {
        name: {
            score: torch.cat([part.values[name][score] for part in parts])
            for score in own
            if score != LABEL_SCORES and all(score in part.values[name] for part in parts)
        }
        for name, own in first.values.items()
    }
    failures = {
        f"{part.provenance['episode']['task']}: {name}": why
        for part in parts
        for name, why in part.failures.items()
    }
    facts = {**first.provenance, "episode": [part.provenance["episode"] for part in parts]}
    return Comparison(values, torch.cat([part.gold for part in parts]), failures, facts)


# -- what it means ---------------------------------------------------------------------------------


def sentences(result: DemoResult, frame: pd.DataFrame | None = None) -> list[str]:
    """Two sentences on what the numbers mean, whichever way they fall."""
    frame = result.frame() if frame is None else frame
    cells = aggregate_cells(frame)
    return [_on_learning(result, cells), _on_scores(cells, verdicts(frame))]


def _learns(cells: Mapping[tuple[str, str], Any], suffix: str = "") -> bool:
    zs, icl = cells[f"ZS{suffix}", "accuracy"], cells[f"ICL{suffix}", "accuracy"]
    return bool(icl.ci_low > zs.ci_high)


def _on_learning(result: DemoResult, cells: Mapping[tuple[str, str], Any]) -> str:
    def change(suffix: str) -> str:
        before, after = (cells[f"{name}{suffix}", "accuracy"].value for name in ("ZS", "ICL"))
        return f"from {before:.2f} to {after:.2f}"

    trained, twin = _learns(cells), _learns(cells, TWIN)
    return (
        f"With {result.shots} demonstrations the trained model's accuracy goes {change('')} "
        f"(guessing gives {result.chance:.2f}), so it "
        f"{'learns' if trained else 'does not clearly learn'} in context; its untrained twin's "
        f"goes {change(TWIN)}, so it {'learns too' if twin else 'does not clearly'}."
    )


def _on_scores(cells: Mapping[tuple[str, str], Any], found: Sequence[Verdict]) -> str:
    higher = {
        hypothesis: bool(
            cells[hypothesis, "SimAOU"].ci_low > cells[f"{hypothesis}{TWIN}", "SimAOU"].ci_high
        )
        for hypothesis in HYPOTHESES
    }
    readings = "; ".join(
        f"{LABELS[hypothesis]} {_reading(cells[hypothesis, 'SimAOU'])} trained, "
        f"{_reading(cells[f'{hypothesis}{TWIN}', 'SimAOU'])} untrained"
        for hypothesis in HYPOTHESES
    )
    known = [cells[f"{h}{s}", "SimAOU"].ci_low for h in HYPOTHESES for s in ("", TWIN)]
    if not all(map(math.isfinite, known)):
        meaning = "and where it is undefined this run cannot tell what it shows"
    elif not _learns(cells):
        meaning = "but there is no clear learning in context here that it could explain"
    elif _learns(cells, TWIN):
        meaning = "but the twin learns in context too, so this run cannot tell what SimAOU shows"
    elif not any(higher.values()):
        meaning = (
            "so a model that learns nothing in context does not clearly score lower, and the "
            "score is no evidence that in-context learning is gradient descent"
        )
    else:
        winners = [LABELS[name] for name, won in higher.items() if won]
        beaten = [v for v in found if v.score == "SimAOU" and v.beats is False]
        beaten = [v for v in beaten if higher[v.hypothesis]]
        meaning = (
            f"so {' and '.join(winners)} resemble{'s' if len(winners) == 1 else ''} in-context "
            "learning more in the model that does it than in its twin, which does not"
        )
        if beaten:
            names = " and ".join(LABELS[v.hypothesis] for v in beaten)
            meaning += f", yet {names} " + ("does" if len(beaten) == 1 else "do")
            meaning += " not beat every other control"
    return f"SimAOU is {readings}: {meaning}."


def _reading(row: Any) -> str:
    return interval(row.value, row.ci_low, row.ci_high)


def stated_rates(result: DemoResult) -> str:
    """The learning rates, and how they were chosen, in one sentence."""
    each = "; ".join(
        f"{task}: " + ", ".join(f"{LABELS[name]} {rate:g}" for name, rate in found.items())
        for task, found in result.rates.items()
    )
    return (
        "Learning rates, chosen by the trained model's loss on a quarter of the demonstrations, "
        f"which were held out, and used for both models: {each}."
    )
