"""What the demo shows: words and a table in the terminal, and one page that needs no other file."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclgd_lens.cli.console import say
from iclgd_lens.cli.demo import ALONG, DemoResult, Number, headline, numbers, story, trajectory
from iclgd_lens.display_names import is_rival, label, rank
from iclgd_lens.errors import LensError
from iclgd_lens.files import check_place, write_somewhere
from iclgd_lens.phrases import count, listed, number
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.scores import SCORES, primary_scores

if TYPE_CHECKING:
    from rich.console import Console

    from iclgd_lens.report.figure_choices import Choice, Picture
    from iclgd_lens.report.tables import PageTable

PAGE = "index.html"
TITLE = "Is in-context learning gradient descent?"
SHOWN_FROM = 0.05
"""Corrected p-value below which a head's value has a mark."""
_CAPTION = (
    "Means over draws (over networks, for untrained twins) with Student's t interval, 95 %. "
    "Random updates and untrained twins are what a score has to be held against."
)


def check_folder(folder: Path) -> Path:
    """Return the page's path, refusing a place that takes no file before anything is computed.

    Raises:
        LensError: There is a file in the folder's place, or it cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise LensError(f"--out {folder} is a file; give a folder.")
    check_place(folder / PAGE)
    return folder / PAGE


def write_demo(result: DemoResult, folder: str | Path) -> Path:
    """Write the page and return where it is: in the folder, or where else there is room."""
    return write_somewhere(Path(folder) / PAGE, demo_page(result).encode())


def demo_page(result: DemoResult) -> str:
    """The page, with everything that it needs inside it."""
    from iclgd_lens.provenance import library_versions
    from iclgd_lens.report.page import document

    tasks = [
        {"name": task, "headline": headline(task, each), "story": story(each), "table": table(each)}
        for task, each in result.comparisons.items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    return document(
        (files("iclgd_lens.cli") / "demo.html").read_text(encoding="utf-8"), pictures(result),
        title=TITLE, lead=lead(result), tasks=tasks, glossary=glossary(),
        foot=f"Written by iclgd demo; {versions}.",
    )  # fmt: skip


def lead(result: DemoResult) -> str:
    """What was compared, in one sentence."""
    tasks = listed(list(result.comparisons))
    return (
        f"{result.model} on {tasks}: {count(result.draws, 'draw')} of "
        f"{count(result.shots, 'demonstration')}, {count(result.twins, 'untrained network')}; what "
        "the demonstrations change in attention beside what gradient descent on them changes."
    )


def glossary() -> list[tuple[str, str]]:
    """The scores that are shown, in a line each."""
    from iclgd_lens.cli.demo import SHOWN

    return [
        *((name, f"{SCORES[name].meaning} ({SCORES[name].span})") for name in SHOWN),
        ("GD, LCGD", "gradient descent on the demonstrations through keys and values; its "
         "layer-causal form, in which each layer learns from its own output alone"),
    ]  # fmt: skip


def table(comparison: Comparison) -> PageTable:
    """The numbers, hypotheses beside their controls."""
    from iclgd_lens.report.tables import PageTable, TableCell, TableRow

    columns, found = numbers(comparison)
    lines = [
        TableRow(
            label(name),
            tuple(TableCell(each.text, each.interval) for each in own),
            kind=_kind(name),
        )
        for name, own in found.items()
    ]
    return PageTable("Scores", _CAPTION, ("", *columns), tuple(lines), "tall scores")


def _kind(name: str) -> str:
    return ("hypothesis", "control", "setting", "setting control")[rank(name)]


# -- figures -----------------------------------------------------------------------------------


def pictures(result: DemoResult) -> list[Picture]:
    """The trajectory and the heat maps, as far as there are any."""
    from iclgd_lens.report.figure_choices import Picture

    made = (
        Picture("trajectory", "Does attention come nearer as the answers do?", ("Task", "Score"),
                tuple(_trajectories(result))),
        Picture("heads", "By layer and head: trained beside untrained",
                ("Task", "Score", "Hypothesis"), tuple(_heads(result))),
    )  # fmt: skip
    return [each for each in made if each.choices]


def _trajectories(result: DemoResult) -> Iterator[Choice]:
    from iclgd_lens import figures
    from iclgd_lens.report.figure_choices import Choice

    for task, comparison in result.comparisons.items():
        frame = trajectory(comparison)
        if frame is None:
            continue
        path = figures.against_behaviour(frame)
        for score in ALONG:
            own: Any = path[path["score"] == score]
            if len(own):
                spec = figures.trajectory.spec(own, score=score)
                low = min(-0.1, float(own[own["hypothesis"].map(rank) == 0]["kl_removed"].min()))
                spec["layout"]["xaxis"]["range"] = [low - 0.05, 1.05]
                yield Choice((task, score), _said(score, task, own, low), spec)


def _said(score: str, task: str, path: Any, low: float) -> str:
    """The caption of a trajectory: what it shows, and what lies beyond its edge."""
    said = (
        f"{score} on {task} as training goes on: each point is a number of passes over the "
        "demonstrations. Controls are dashed."
    )
    beyond = path[path["kl_removed"] < low]
    for name, own in beyond.groupby("hypothesis", sort=False):
        removed, values = own["kl_removed"], own["value"]
        said += (
            f" Beyond the left edge: {label(str(name))}, which moves away from ICL (share removed "
            f"{number(removed.min())} to {number(removed.max())}; {score} {number(values.min())} "
            f"to {number(values.max())})."
        )
    return said


def _heads(result: DemoResult) -> Iterator[Choice]:
    from iclgd_lens.report.figure_choices import Choice

    for task, comparison in result.comparisons.items():
        for score in (primary_scores()[0], "SimAOU"):
            for name in comparison.data.hypotheses:
                spec = head_maps(comparison, score, name)
                if spec is None:
                    continue
                said = (
                    f"{score} of {label(name)} on {task}, by layer and head: the trained model "
                    "beside the mean of its untrained twins, on one colour scale. A diamond: shown "
                    "to differ from its null after correction for all heads."
                )
                yield Choice((task, score, label(name)), said, spec)


def head_maps(comparison: Comparison, score: str, name: str) -> dict[str, Any] | None:
    """A hypothesis's heat map beside its untrained twins'; None where a score has no heads."""
    import numpy as np

    from iclgd_lens import figures

    twins = f"{name}@untrained"
    having = [each for each in (name, twins) if each in comparison.values]
    panels = {
        label(each): np.asarray(comparison.tensor(score, each, by="head").nanmean(0))
        for each in having
        if f"{score}/head" in comparison.values[each]
    }
    if label(name) not in panels:
        return None
    marked = comparison.head_map(score, name)
    shown = np.zeros(panels[label(name)].shape, np.bool_)
    shown[marked["layer"], marked["head"]] = marked["p_corrected"] < SHOWN_FROM
    return figures.head_maps.spec(panels, score=score, shown=shown)


# -- the terminal ------------------------------------------------------------------------------


def show_demo(result: DemoResult, written: Path, console: Console) -> None:
    """Print what was compared, what may be said of it, the numbers, and where the page is."""
    say(console, lead(result))
    for task, comparison in result.comparisons.items():
        say(console, "")
        say(console, headline(task, comparison), style="bold")
        for title, lines in story(comparison):
            say(console, "")
            say(console, title, style="bold")
            for line in lines:
                say(console, f"  {line}")
        console.print(terminal_table(comparison))
    for name, text in glossary():
        say(console, f"{name}: {text}", style="dim")
    say(console, f"Written: {written}")


def terminal_table(comparison: Comparison) -> Any:
    """The numbers without intervals, for 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    columns, found = numbers(comparison)
    shown = Table(title="Numbers", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.add_column("")
    for column in columns:
        shown.add_column(column.replace("_", "\n_"), justify="right")
    for name, own in found.items():
        cells = (Text(_text(each)) for each in own)
        shown.add_row(Text(label(name), style="dim" if is_rival(name) else ""), *cells)
    return shown


def _text(cell: Number) -> str:
    return cell.text
