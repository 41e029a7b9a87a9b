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
from iclgd_lens.report.answers import overall_answer, verdicts_by_task
from iclgd_lens.report.figure_choices import Picture, slug
from iclgd_lens.report.page import page
from iclgd_lens.report.page_figures import pictures
from iclgd_lens.report.run_frames import RunFrames, lines_where
from iclgd_lens.report.run_records import Reading, RunRecords, read_run
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
    records = read_run(frames)
    drawn = pictures(records)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files, note = _static(drawn, folder / "figures", formats)
        texts = _tables(records) | {"index.html": page(records, drawn, files, note)}
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


def _tables(run: RunRecords) -> dict[str, str]:
    """The files beside the page, by name."""
    whole = run.lines["layer"].isna() & run.lines["head"].isna()
    means = lines_where(run.summary, whole).drop(columns=["layer", "head"], errors="ignore")
    found = {
        "tables.csv": _csv(means),
        "figures.csv": _csv(lines_where(run.summary, ~whole)),
        "differences.csv": _csv(run.paired),
    }
    if "verdicts" in run.optional:
        found["verdicts.csv"] = _csv(run.optional["verdicts"])
    return found | {"table.tex": latex_tables(run)}


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


# -- LaTeX -----------------------------------------------------------------------------------------


def latex_tables(run: RunRecords) -> str:
    """Means of each short score and differences of the main ones, by task. Needs booktabs."""
    parts = [
        "% Written by iclgd_lens. Needs \\usepackage{booktabs}; six tasks take 14 cm of width, so",
        "% that a paper of two columns wants table* in place of table.",
    ]
    for model in run.models:
        shown = [s for s in run.scores if s in SUMMARY_SCORES or s in run.main_scores]
        parts += [_means(run, model, score) for score in shown if run.measured(model, score)]
        parts += [text for s in run.main_scores if (text := _differences(run, model, s))]
    return "\n".join(parts) + "\n"


def _means(run: RunRecords, model: str, score: str) -> str:
    names, tasks = run.measured(model, score), run.tasks_of(model)
    rows: dict[str, list[str]] = {}
    for name in names:
        by_task = verdicts_by_task(run, model, name, score)
        answers = {task: overall_answer(run, lines) for task, lines in by_task.items()}
        rows[label(name)] = [
            _latex_reading(run.reading(model, task, name, score), answers.get(task, ""))
            for task in tasks
        ]
    title = f"{score} of {model}: means over draws and queries with 95 % intervals"
    return _latex(run, model, rows, tasks, title, f"tab:{slug(model)}:{slug(score)}")


def _differences(run: RunRecords, model: str, score: str) -> str:
    lines = [d for d in run.differences if d.model == model and d.score == score]
    tasks, rows = run.tasks_of(model), dict[str, list[str]]()
    for a, b in dict.fromkeys((d.a, d.b) for d in lines):
        own = {d.task: d for d in lines if (d.a, d.b) == (a, b)}
        rows[f"{label(a)} − {label(b)}"] = [
            _latex_value(o.difference, o.ci_low, o.ci_high, o.verdict)
            if (o := own.get(task))
            else ""
            for task in tasks
        ]
    title = f"Paired differences in {score} of {model} with 95 % intervals"
    name = f"tab:{slug(model)}:{slug(score)}:differences"
    return _latex(run, model, rows, tasks, title, name) if rows else ""


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
    run: RunRecords,
    model: str,
    rows: Mapping[str, list[str]],
    tasks: list[str],
    title: str,
    name: str,
) -> str:
    """One table, small enough for a page of a paper."""
    import pandas as pd

    caption = f"{escape(title)} ({escape(_setting(run, model))}). {_LEGEND}"
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


def _setting(run: RunRecords, model: str) -> str:
    """Draws, n, shots and learning rates behind a model's numbers."""
    own = [each for key, each in run.readings.items() if key[0] == model]
    parts = [count(run.draws, "draw")] if run.draws else []
    parts.append(f"n = {max((each.n for each in own), default=0)}")
    if "shots" in run.plan:
        parts.append(f"{run.plan['shots']} shots")
    return ", ".join([*parts, _rates(run, model)]).rstrip(", ")


def _rates(run: RunRecords, model: str) -> str:
    chosen = [c for c in run.provenance.get("chosen_rates") or () if c.get("model") == model]
    rates = [float(facts["lr"]) for c in chosen for facts in c["rates"].values()]
    if rates:
        return f"learning rates {min(rates):g} to {max(rates):g}, chosen on demonstrations"
    given = run.plan.get("lr")
    return f"learning rate {given}" if isinstance(given, str | int | float) else ""


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(character, character) for character in text)
