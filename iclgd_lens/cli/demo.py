"""`iclgd demo`: whether a model learns in context, and whether GD does to attention what that does.

On a few draws of demonstrations of the embedded rows: is there in-context learning, what have GD
and LCGD learned from the same demonstrations, and are their changes like those of in-context
learning, beside random updates and untrained networks? Every sentence follows from the numbers of
this run. Tasks are told one by one, never pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from iclgd_lens.cli.printed_comparison import CARE, paragraphs
from iclgd_lens.comparing import compare
from iclgd_lens.display_names import home, label, rank
from iclgd_lens.episode_loading import load_episodes
from iclgd_lens.host.loading import load_model
from iclgd_lens.host.model_source import find_model
from iclgd_lens.model_names import label_of
from iclgd_lens.phrases import listed, number
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.display import aggregate_cells, is_setting
from iclgd_lens.scores import primary_scores
from iclgd_lens.telling import silent
from iclgd_lens.verdicts.verdict import OVERALL

if TYPE_CHECKING:
    import pandas as pd

    from iclgd_lens.verdicts.gate import Gate

TASKS = ("sst2",)
SHOTS, QUERIES, DRAWS, TWINS = 12, 24, 3, 5
"""Fewer than the defaults of `iclgd compare`, so that the demo takes a minute."""
TWIN_QUERIES = 12
PASSES = (1, 2, 4)
SEARCH = {"epochs": PASSES, "losses": ("label",), "folds": 1}
"""What is searched for budgets: less than by default, for the same reason."""
SHOWN = ("SimAOU_label", "SimAOU_label_centred", "SimAOU", "KL_removed", "AUC")
"""Scores of the table."""

ALONG = (*primary_scores(), "SimAOU")
"""Scores that are shown along the training."""
A_TWINS_SETTING = 3
"""Rank of a control network's own ZS and ICL, which the table leaves out."""

Paragraph = tuple[str, list[str]]


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        comparisons: One per task.
        model: The model's name.
        shots: Demonstrations of a draw.
        draws: Draws of demonstrations.
        twins: Untrained networks.
    """

    comparisons: Mapping[str, Comparison]
    model: str
    shots: int
    draws: int
    twins: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values: by task the gate, behaviour, verdicts, sentences and aggregates."""
        return {
            "model": self.model,
            "shots": self.shots,
            "draws": self.draws,
            "twins": self.twins,
            "headlines": [headline(task, each) for task, each in self.comparisons.items()],
            "tasks": {task: _as_dict(task, each) for task, each in self.comparisons.items()},
        }


def run_demo(
    model: Any = "embedded",
    *,
    tasks: Sequence[str] = TASKS,
    shots: int = SHOTS,
    queries: int = QUERIES,
    draws: int = DRAWS,
    twins: int = TWINS,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> DemoResult:
    """Compare GD and LCGD with in-context learning, beside random updates and untrained networks.

    Args:
        model: A name or folder, or a loaded model.
        tasks: Tasks with embedded rows.
        shots: Demonstrations.
        queries: Queries per task.
        draws: Draws of demonstrations; a verdict needs 2.
        twins: Untrained networks; a verdict needs 3.
        seed: Seed of the first draw, of the random controls and of the twins.
        progress: Called with a short text at each stage.

    Raises:
        LensError: A model or task does not exist, or the demonstrations do not fit the model.
    """
    tell = progress or silent
    trained, name = _load(model, tell)
    # All are read before anything is measured: what does not fit is told at once.
    episodes = {
        task: load_episodes(
            task, trained, draws=draws, shots=shots, queries=queries, seed=seed, data="embedded"
        )
        for task in tasks
    }
    found: dict[str, Comparison] = {}
    for task, own in episodes.items():
        where = f"{task}: " if len(episodes) > 1 else ""
        found[task] = compare(
            trained, own, twins=twins, twin_queries=TWIN_QUERIES, budget=SEARCH,
            trajectory=PASSES, seed=seed, progress=lambda text, at=where: tell(at + text),
        )  # fmt: skip
    return DemoResult(found, name, shots, draws, twins)


def _load(model: Any, tell: Callable[[str], None]) -> tuple[Any, str]:
    if not isinstance(model, str):
        return model, str(getattr(model.cfg, "model_name", "model"))
    tell(f"loading {model}")
    find_model(model).check()
    return load_model(model), label_of(model)


# -- what it means ---------------------------------------------------------------------------------


def headline(task: str, comparison: Comparison) -> str:
    """The answer in one sentence: the gate, then each hypothesis on the first primary score."""
    gate, score = comparison.gate(), primary_scores()[0]
    by_answer: dict[str, list[str]] = {}
    for each in comparison.verdicts((score,)):
        if each.control == OVERALL:
            by_answer.setdefault(each.verdict, []).append(label(each.hypothesis))
    answers = "; ".join(f"{listed(names)}: {answer}" for answer, names in by_answer.items())
    return f"{task}: {_learns(gate)}. Like gradient descent ({score})? {answers}."


def _learns(gate: Gate | None) -> str:
    if gate is None:
        return "in-context learning was not measured"
    if not gate.learns:
        return "no in-context learning is shown"
    return "the model learns in context" + (", from the labels" if gate.uses_labels else "")


def story(comparison: Comparison) -> list[Paragraph]:
    """What may be said, in order: the gate, each update, the verdicts, the training, cautions."""
    found = paragraphs(comparison)
    gate = comparison.gate()
    if gate is not None:
        found[0][1].insert(1, calibrated(gate))
    along = trajectory_lines(comparison)
    if along:
        # Before what to read with care, where there is such a thing.
        place = next((i for i, (title, _) in enumerate(found) if title == CARE), len(found))
        found.insert(place, ("Does attention come nearer as the answers do?", along))
    return found


def calibrated(gate: Gate) -> str:
    """Calibrated accuracy in every setting, in a sentence."""
    values = [
        f"{number(measures['calibrated_accuracy'].value)} in {setting}"
        for setting, measures in gate.settings.items()
    ]
    return f"Calibrated accuracy, free of label bias, is {listed(values)}."


def trajectory(comparison: Comparison) -> pd.DataFrame | None:
    """Scores along the training, where this comparison has any."""
    frame = comparison.trajectory((*ALONG, "KL_removed"))
    return None if frame.empty else frame


def trajectory_lines(comparison: Comparison) -> list[str]:
    """For each hypothesis how the primary score and behaviour go along its training."""
    from iclgd_lens.figures import against_behaviour

    frame = trajectory(comparison)
    if frame is None:
        return []
    path, score = against_behaviour(frame), primary_scores()[0]
    lines: list[str] = []
    for name in comparison.data.hypotheses:
        own = path[(path["hypothesis"] == name) & (path["score"] == score)]
        if own.empty:
            continue
        own = own.sort_values("passes")
        passes = listed([f"{count:g}" for count in own["passes"]])
        removed = listed([number(value) for value in own["kl_removed"]])
        values = listed([number(value) for value in own["value"]])
        lines.append(
            f"{label(name)} after {passes} passes (first draw): share of ZS's KL to ICL removed "
            f"{removed}; {score} {values}."
        )
    return lines


# -- numbers ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Number:
    """A cell: the value and its interval as they are written."""

    text: str
    interval: str = ""


def numbers(comparison: Comparison) -> tuple[tuple[str, ...], dict[str, list[Number]]]:
    """The scores that are shown, and by subject what it has of each."""
    cells = aggregate_cells(comparison.frame())
    names = sorted(comparison.labels, key=lambda each: _place(each, comparison))
    names = [each for each in names if rank(each) != A_TWINS_SETTING]
    found = {each: [_number(cells.get((each, score))) for score in SHOWN] for each in names}
    return SHOWN, {each: own for each, own in found.items() if any(one.text for one in own)}


def _place(name: str, comparison: Comparison) -> tuple[int, int]:
    """Settings first, then each hypothesis with its controls, then what stands alone."""
    own = comparison.data.hypotheses
    group = -1 if is_setting(name) else own.index(home(name)) if home(name) in own else len(own)
    return group, comparison.labels.index(name)


def _number(row: Any) -> Number:
    if row is None:
        return Number("")
    if row.value != row.value:
        return Number("undefined")
    if row.ci_low != row.ci_low or row.ci_high - row.ci_low < 1e-4:
        return Number(number(row.value))
    return Number(number(row.value), f"[{number(row.ci_low)}, {number(row.ci_high)}]")


def _as_dict(task: str, comparison: Comparison) -> dict[str, Any]:
    gate = comparison.gate()
    columns, lines = numbers(comparison)
    return {
        "headline": headline(task, comparison),
        "in_context_learning": None if gate is None else gate.as_dict(),
        "behaviour": [each.as_dict() for each in comparison.behaviour()],
        "verdicts": [each.as_dict() for each in comparison.verdicts()],
        "story": [{"title": title, "lines": lines} for title, lines in story(comparison)],
        "table": {
            name: {column: f"{each.text} {each.interval}".strip()
                   for column, each in zip(columns, own, strict=True)}
            for name, own in lines.items()
        },
    }  # fmt: skip
