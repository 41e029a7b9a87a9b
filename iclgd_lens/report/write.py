"""`write_report`: the page, the tables and the figures of a run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from iclgd_lens.display_names import label
from iclgd_lens.errors import FileError, LensError, RunError, nearest
from iclgd_lens.figures.static import FORMATS, write_static
from iclgd_lens.files import check_place, write_together
from iclgd_lens.phrases import LATEX, count
from iclgd_lens.report.figure_choices import Picture, slug
from iclgd_lens.report.page import page
from iclgd_lens.report.page_figures import pictures
from iclgd_lens.report.view import Reading, RunFrames, View, view, where
from iclgd_lens.report.words import answer, questions
from iclgd_lens.results.display import SUMMARY_SCORES

if TYPE_CHECKING:
    import pandas as pd

_MARKS = {"yes": r"^{\ast}", "no": r"^{\circ}"}
_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "[": "{[}", "]": "{]}",
    '"': r"\textquotedbl{}", "−": "$-$",
}  # fmt: skip


def write_report(
    run: RunFrames | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    figures: str | Sequence[str] = (),
) -> Path:
    """Write a run's report.

    `index.html` needs nothing but itself; beside it are `tables.csv` (means over layers and heads),
    `figures.csv` (by layer and head), `differences.csv`, `verdicts.csv` where the run has verdicts,
    `table.tex`, and, if asked for, `figures/`. The same frames give the same bytes.

    Args:
        run: A run directory or URL, or what `load_run` returns.
        out: The report's folder; default, `report/` in the run directory.
        figures: Formats of figure files, of svg, png and pdf: kaleido (the extra `figures`) draws
            them with a browser. Where it cannot, the page says why and is written all the same.

    Returns:
        The path of the page.

    Raises:
        RunError: There is no run there, or no folder for the report is given or can be made.
        LensError: A format does not exist.
    """
    formats = (figures,) if isinstance(figures, str) else tuple(figures)
    for each in formats:
        if each not in FORMATS:
            known = ", ".join(FORMATS)
            raise LensError(f"No figure format {each!r}; known: {known}.{nearest(each, FORMATS)}")
    folder = _folder(run, out)
    frames = _frames(run)
    try:
        check_place(folder / "index.html")
    except FileError as error:
        raise RunError(f"The report: {error}") from error
    read = view(frames)
    drawn = pictures(read)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files, note = _static(drawn, folder / "figures", formats)
        texts = _tables(read) | {"index.html": page(read, drawn, files, note)}
        # Tables never lie beside the page of other numbers.
        write_together({folder / name: text.encode() for name, text in texts.items()})
    except OSError as error:
        raise RunError(f"{folder}: the report cannot be written ({error.strerror})") from error
    return folder / "index.html"


def _frames(run: RunFrames | str | os.PathLike[str]) -> RunFrames:
    if isinstance(run, str | os.PathLike):
        from iclgd_lens.bench.run_tables import load_run

        return load_run(run)
    return run


def _folder(
    run: RunFrames | str | os.PathLike[str], out: str | os.PathLike[str] | None
) -> Path:  # fmt: skip
    if out is not None:
        return Path(out)
    place = os.fspath(run) if isinstance(run, str | os.PathLike) else getattr(run, "where", None)
    if place is None or "://" in str(place):
        raise RunError("Say where the report goes: this run has no local folder for it (--out)")
    return Path(str(place)) / "report"


def _static(
    drawn: Sequence[Picture], folder: Path, formats: Sequence[str]
) -> tuple[list[tuple[str, str]], str]:
    """Write the figure files; return their names with what they show, and a note."""
    wanted = {name: (spec, text) for each in drawn for name, spec, text in each.files()}
    if not wanted:
        return [], "There is nothing to draw."
    if not formats:
        return [], "Figure files were not asked for; `iclgd report RUN --figures svg` writes them."
    lacking = write_static({name: spec for name, (spec, _) in wanted.items()}, folder, formats)
    files = [
        (f"figures/{name}.{kind}", text)
        for name, (_, text) in wanted.items() for kind in formats
        if (folder / f"{name}.{kind}").is_file()
    ]  # fmt: skip
    if lacking is None:
        return files, f"The figures are beside this page as {', '.join(formats)}."
    return files, f"Figure files are missing: {lacking}."


def _tables(read: View) -> dict[str, str]:
    """The files beside the page, by name."""
    whole = read.lines["layer"].isna() & read.lines["head"].isna()
    means = where(read.summary, whole).drop(columns=["layer", "head"], errors="ignore")
    found = {
        "tables.csv": _csv(means),
        "figures.csv": _csv(where(read.summary, ~whole)),
        "differences.csv": _csv(read.paired),
    }
    if "verdicts" in read.more:
        found["verdicts.csv"] = _csv(read.more["verdicts"])
    return found | {"table.tex": latex_tables(read)}


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


# -- LaTeX -----------------------------------------------------------------------------------------


def latex_tables(view: View) -> str:
    """Means of each short score and differences of the main ones, by task. Needs booktabs."""
    parts = [
        "% Written by iclgd_lens. Needs \\usepackage{booktabs}; six tasks take 14 cm of width, so",
        "% that a paper of two columns wants table* in place of table.",
    ]
    for model in view.models:
        shown = [s for s in view.scores if s in SUMMARY_SCORES or s in view.main_scores]
        parts += [_means(view, model, score) for score in shown if view.measured(model, score)]
        parts += [text for s in view.main_scores if (text := _differences(view, model, s))]
    return "\n".join(parts) + "\n"


def _means(view: View, model: str, score: str) -> str:
    names, tasks = view.measured(model, score), view.tasks_of(model)
    rows: dict[str, list[str]] = {}
    for name in names:
        by_task = questions(view, model, name, score)
        said = {task: answer(view, lines) for task, lines in by_task.items()}
        rows[label(name)] = [
            _latex_reading(view.reading(model, task, name, score), said.get(task, ""))
            for task in tasks
        ]
    title = f"{score} of {model}: means over draws and queries with 95 % intervals"
    return _latex(view, model, rows, tasks, title, f"tab:{slug(model)}:{slug(score)}")


def _differences(view: View, model: str, score: str) -> str:
    lines = [d for d in view.differences if d.model == model and d.score == score]
    tasks, rows = view.tasks_of(model), dict[str, list[str]]()
    for a, b in dict.fromkeys((d.a, d.b) for d in lines):
        own = {d.task: d for d in lines if (d.a, d.b) == (a, b)}
        rows[f"{label(a)} − {label(b)}"] = [
            _latex_value(o.difference, o.ci_low, o.ci_high, o.verdict)
            if (o := own.get(task))
            else ""
            for task in tasks
        ]
    said = f"Paired differences in {score} of {model} with 95 % intervals"
    name = f"tab:{slug(model)}:{slug(score)}:differences"
    return _latex(view, model, rows, tasks, said, name) if rows else ""


def _latex_reading(reading: Reading | None, verdict: str) -> str:
    return (
        "" if reading is None else _latex_value(reading.value, reading.low, reading.high, verdict)
    )


def _latex_value(value: float, low: float, high: float, verdict: str) -> str:
    if math.isnan(value):
        return "--"
    text = f"${LATEX.number(value)}{_MARKS.get(verdict, '')}$"
    text = rf"\textbf{{\boldmath {text}}}" if verdict == "yes" else text
    between = LATEX.interval(low, high)
    return rf"\shortstack{{{text}\\{{\tiny ${between}$}}}}" if between else text


def _latex(
    view: View, model: str, rows: Mapping[str, list[str]], tasks: list[str], said: str, name: str
) -> str:
    """One table, small enough for a page of a paper."""
    import pandas as pd

    caption = f"{escape(said)} ({escape(_setting(view, model))}). {_LEGEND}"
    frame = pd.DataFrame(
        list(rows.values()), index=[escape(row) for row in rows], columns=[escape(t) for t in tasks]
    )
    text = frame.style.to_latex(
        hrules=True, position_float="centering", caption=caption, label=name,
        column_format=f"@{{}}l{'c' * len(tasks)}@{{}}",
    )  # fmt: skip
    small = r"\centering\footnotesize\setlength{\tabcolsep}{4pt}"
    return text.replace(r"\centering", small, 1).replace(" \\\\\n", " \\\\[2pt]\n")


_LEGEND = (
    r"$^{\ast}$ and bold: better than every control asked for; $^{\circ}$: not, a control is as "
    "good or better; no mark: undecided or not asked."
)


def _setting(view: View, model: str) -> str:
    """Draws, n, shots and learning rates behind a model's numbers."""
    own = [each for key, each in view.readings.items() if key[0] == model]
    parts = [count(view.draws, "draw")] if view.draws else []
    parts.append(f"n = {max((each.n for each in own), default=0)}")
    if "shots" in view.plan:
        parts.append(f"{view.plan['shots']} shots")
    return ", ".join([*parts, _rates(view, model)]).rstrip(", ")


def _rates(view: View, model: str) -> str:
    chosen = [c for c in view.provenance.get("chosen_rates") or () if c.get("model") == model]
    rates = [float(facts["lr"]) for c in chosen for facts in c["rates"].values()]
    if rates:
        return f"learning rates {min(rates):g} to {max(rates):g}, chosen on demonstrations"
    given = view.plan.get("lr")
    return f"learning rate {given}" if isinstance(given, str | int | float) else ""


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(character, character) for character in text)
