"""What the demo shows: tables in the terminal, a figure, and one self-contained HTML page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclgd_lens.cli.demo import HYPOTHESES, LABELS, TWIN, DemoResult, sentences, stated_rates
from iclgd_lens.errors import LensError
from iclgd_lens.tables import aggregate_cells, interval

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from rich.console import Console

Lines = list[list[str]]
_MODELS = {"": "trained", TWIN: "untrained twin"}
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { padding: 0.25rem 0.9rem 0.25rem 0; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
.scroll { overflow-x: auto; }
.small { color: #555; font-size: 0.9rem; }
"""


def heatmap_figure(result: DemoResult, score: str = "SimAOU") -> go.Figure:
    """A score by layer and head: one row a hypothesis, trained beside untrained."""
    from plotly.subplots import make_subplots

    from iclgd_lens.figures import heatmap_traces

    columns = list(_MODELS.items())
    titles = [f"{LABELS[name]}, {what}" for name in HYPOTHESES for _, what in columns]
    figure = make_subplots(
        rows=len(HYPOTHESES), cols=len(columns), subplot_titles=titles, shared_xaxes=True,
        shared_yaxes=True, horizontal_spacing=0.06, vertical_spacing=0.14,
    )  # fmt: skip
    for row, name in enumerate(HYPOTHESES, start=1):
        for column, (suffix, _) in enumerate(columns, start=1):
            value = result.comparison.tensor(score, f"{name}{suffix}", by="head").nanmean(0)
            last = row == 1 and column == len(columns)
            for trace in heatmap_traces(value.numpy(), score=score, colour_bar=last):
                figure.add_trace(trace, row=row, col=column)
    figure.update_xaxes(dtick=1, showgrid=False, zeroline=False)
    figure.update_yaxes(dtick=1, showgrid=False, zeroline=False)
    figure.update_xaxes(title_text="head", row=len(HYPOTHESES))
    figure.update_yaxes(title_text="layer", col=1)
    figure.update_layout(
        template="plotly_white", width=820, height=640,
        title={"text": f"{score} with in-context learning, by layer and head ({result.model})"},
    )  # fmt: skip
    return figure


def write_demo(result: DemoResult, folder: str | Path) -> list[Path]:
    """Write `index.html` and `heatmaps.html`, both self-contained; return their paths.

    Raises:
        LensError: The folder cannot be made: there is a file in its place.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise LensError(f"{str(folder)!r} is a file; give a folder with --out.")
    folder.mkdir(parents=True, exist_ok=True)
    figure = heatmap_figure(result)
    drawn = figure.to_html(full_html=False, include_plotlyjs=True, div_id="heatmaps")
    page, alone = folder / "index.html", folder / "heatmaps.html"
    _write(page, _page(result, drawn))
    _write(alone, figure.to_html(full_html=True, include_plotlyjs=True, div_id="heatmaps"))
    return [page, alone]


def show_demo(result: DemoResult, written: Sequence[Path], console: Console) -> None:
    """Print accuracies, scores, what they mean, learning rates and the files' paths."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    frame = result.frame()
    console.print(_heading(result), style="bold", markup=False)
    for title, lines in _tables(result, frame).items():
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        for index, column in enumerate(lines[0]):
            table.add_column(column, justify="right" if index else "left")
        for line in lines[1:]:
            table.add_row(*(Text(cell) for cell in line))
        console.print(table)
    for text in sentences(result, frame):
        console.print(text, markup=False)
    console.print(f"\n{stated_rates(result)}", markup=False, style="dim")
    for why in _failures(result):
        console.print(why, markup=False)
    for path in written:
        console.print(f"Written: {path}", markup=False, soft_wrap=True)


def _heading(result: DemoResult) -> str:
    tasks, n = ", ".join(result.rates), len(result.comparison.gold)
    return f"{result.model} on {tasks}: {result.shots} demonstrations, {n} queries"


def _cells(frame: pd.DataFrame) -> dict[tuple[str, str], str]:
    return {
        key: interval(row.value, row.ci_low, row.ci_high)
        for key, row in aggregate_cells(frame).items()
    }


def _tables(result: DemoResult, frame: pd.DataFrame) -> dict[str, Lines]:
    """By title, tables that a terminal of 80 columns shows whole."""
    cells = _cells(frame)
    guess = f"{result.chance:.2f}".lstrip("0")
    names = ("ZS", "ICL", *HYPOTHESES)
    accuracy = [["", "zero-shot", "ICL", *(f"after {LABELS[name]}" for name in HYPOTHESES)]]
    for suffix, what in _MODELS.items():
        accuracy.append([what, *(cells.get((f"{n}{suffix}", "accuracy"), "") for n in names)])
    found = {f"Accuracy (guessing: {guess})": accuracy}
    for score in ("SimAOU", "SimAM"):
        lines = [["", *_MODELS.values()]]
        for name, shown in LABELS.items():
            lines.append([shown, *(cells.get((f"{name}{end}", score), "") for end in _MODELS)])
        found[f"{score} with in-context learning"] = lines
    return found


def _failures(result: DemoResult) -> list[str]:
    failures: Mapping[str, str] = result.comparison.failures
    return [f"{name}: {why}" for name, why in failures.items()]


def _page(result: DemoResult, figure: str) -> str:
    frame = result.frame()
    says = "".join(f"<p>{escape(text)}</p>" for text in sentences(result, frame))
    facts: dict[str, Any] = dict(result.comparison.provenance["versions"])
    versions = ", ".join(f"{name} {version}" for name, version in facts.items())
    small = [stated_rates(result), *_failures(result), f"Versions: {versions}."]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>iclgd demo</title><style>{_STYLE}</style></head><body>"
        "<h1>Is in-context learning gradient descent?</h1>"
        f"<p>{escape(_heading(result))}</p>{says}"
        + "".join(
            f"<h2>{escape(title)}</h2>{_html(lines)}"
            for title, lines in _tables(result, frame).items()
        )
        + '<p class="small">Mean over queries [95 % bootstrap interval]. SimAOU and SimAM are '
        "cosines between the change that demonstrations make and the change that the update makes: "
        "1 is the same direction, 0 unrelated. The oracle injects the demonstrations' own keys and "
        "values, so it has to score 1.</p>"
        f'<div class="scroll">{figure}</div>'
        + "".join(f'<p class="small">{escape(text)}</p>' for text in small)
        + "</body></html>\n"
    )


def _html(lines: Lines) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines[1:]
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
