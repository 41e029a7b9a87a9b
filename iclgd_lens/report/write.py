"""`write_report`: the page, the tables and the figures of a run."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pandas as pd

from iclgd_lens.errors import RunError
from iclgd_lens.report.figures import draw
from iclgd_lens.report.latex import latex_table
from iclgd_lens.report.page import page
from iclgd_lens.report.picture import Picture, Pictures
from iclgd_lens.report.png import write_png
from iclgd_lens.report.view import RunFrames, View, view, where


def write_report(
    run: RunFrames | str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    png: bool = True,
) -> Path:
    """Write a run's report.

    `index.html` needs nothing but itself; beside it are `tables.csv` (means over layers and heads),
    `figures.csv` (by layer and head), `differences.csv`, `table.tex`, and `figures/` with SVG and,
    where kaleido finds a browser, PNG. The same frames give the same page, tables and SVG, byte for
    byte.

    Args:
        run: A run directory or URL, or what `load_run` returns.
        out: The report's folder; default, `report/` in the run directory.
        png: Whether to try to write PNG.

    Returns:
        The path of the page.

    Raises:
        RunError: There is no run there, or no folder for the report is given or can be made.
    """
    folder = _folder(run, out)
    read = view(_frames(run))
    pictures = draw(read)
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for each in pictures:
            _write(folder / "figures" / f"{each.name}.svg", each.svg)
        told = _told(pictures, folder / "figures", png=png)
        _write_tables(read, folder)
        _write(folder / "index.html", page(read, told))
    except OSError as error:
        raise RunError(f"{folder}: the report cannot be written ({error.strerror})") from error
    return folder / "index.html"


def _frames(run: RunFrames | str | os.PathLike[str]) -> RunFrames:
    if isinstance(run, str | os.PathLike):
        from iclgd_lens.bench.frames import load_run

        return load_run(run)
    return run


def _folder(
    run: RunFrames | str | os.PathLike[str], out: str | os.PathLike[str] | None
) -> Path:  # fmt: skip
    if out is not None:
        return Path(out)
    where = os.fspath(run) if isinstance(run, str | os.PathLike) else getattr(run, "where", None)
    if where is None or "://" in str(where):
        raise RunError("say where the report goes: this run has no local folder for it (--out)")
    return Path(str(where)) / "report"


def _told(pictures: list[Picture], folder: Path, *, png: bool) -> Pictures:
    named = tuple((f"{each.name}.svg", each.text) for each in pictures)
    if not pictures:
        return Pictures((), "There is nothing to draw.")
    if not png:
        return Pictures(named, "PNG copies of the figures were not asked for.")
    lacking = write_png(pictures, folder)
    if lacking is None:
        return Pictures(named, "PNG copies of the figures are beside them.")
    return Pictures(named, f"There are no PNG copies of the figures: {lacking}.")


def _write_tables(read: View, folder: Path) -> None:
    whole = read.summary["layer"].isna() & read.summary["head"].isna()
    by_place = where(read.summary, ~whole)
    _write(folder / "tables.csv", _csv(where(read.summary, whole).drop(columns=["layer", "head"])))
    _write(folder / "figures.csv", _csv(by_place))
    _write(folder / "differences.csv", _csv(read.paired))
    _write(folder / "table.tex", latex_table(read))


def _csv(frame: pd.DataFrame) -> str:
    return frame.to_csv(index=False, lineterminator="\n")


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".partial-{uuid.uuid4().hex}")
    try:
        with partial.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
