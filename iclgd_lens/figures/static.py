"""Figures as files, SVG, PNG or PDF, through kaleido and a browser; never a reason to fail."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclgd_lens.figures.style import Spec

if TYPE_CHECKING:
    from collections.abc import Generator

FORMATS = ("svg", "png", "pdf")
_SECONDS = 60  # for one image
_SCALE = {"png": 2}
_PRINT_MARGINS = 20  # pixels: twice a tenth of an inch
_INSTALL = "pip install 'iclgd_lens[figures]'"


def write_static(
    figures: Mapping[str, Spec], folder: str | Path, formats: Sequence[str] = ("svg",)
) -> str | None:
    """Write `folder/NAME.FORMAT` for every figure and format.

    Equal figures give equal SVG and PNG files; a PDF holds the time at which it was made.

    Args:
        figures: Figures by file name, as plain values (a figure's `to_plotly_json()`).
        folder: Where; it is made.
        formats: Any of svg, png, pdf.

    Returns:
        None if all were written, else why some were not, in one line.
    """
    try:
        kaleido: Any = import_module("kaleido")
    except ImportError:
        return f"kaleido is not installed ({_INSTALL})"
    if not hasattr(kaleido, "write_fig_from_object_sync"):
        return f"kaleido is older than 1.0 ({_INSTALL})"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, kind) for name in figures for kind in formats]
    jobs = [_job(figures[name], folder / f"{name}.{kind}", kind) for name, kind in wanted]
    try:
        with _quiet():
            # mathjax=False, since it would be fetched from a server.
            kaleido.write_fig_from_object_sync(jobs, kopts={"mathjax": False, "timeout": _SECONDS})
    except Exception as error:  # of many libraries: no browser, one that does not start, timeouts
        name = type(error).__name__
        if "Chrome" in name:
            return "kaleido found no browser (it needs Chrome or Chromium)"
        return f"kaleido failed ({name})"
    missing = 0
    for name, kind in wanted:
        path = folder / f"{name}.{kind}"
        missing += not path.is_file()
        if kind == "svg" and path.is_file():
            path.write_bytes(_same_names(path.read_bytes()))
    return f"kaleido left out {missing} of {len(wanted)} files" if missing else None


def _job(spec: Spec, path: Path, kind: str) -> dict[str, Any]:
    import plotly.graph_objects as go

    options = {"format": kind, "scale": _SCALE.get(kind, 1)}
    # plotly.js names what it draws after the trace, at random where the trace has no name.
    data = [{**trace, "uid": f"trace{i}"} for i, trace in enumerate(spec["data"])]
    layout = _within_print_margins(spec["layout"]) if kind == "pdf" else spec["layout"]
    figure = go.Figure({**spec, "data": data, "layout": layout})
    return {"fig": figure, "path": str(path), "opts": options}


def _within_print_margins(layout: Spec) -> Spec:
    """The layout with room on its right and below that may be cut off.

    kaleido prints a PDF with margins of a tenth of an inch on a page of the figure's own size: the
    drawing moves right and down by as much, and what no longer fits is lost (an axis title, say).
    """
    margin = layout.get("margin") or {}
    return {
        **layout,
        "width": layout.get("width", 700) + _PRINT_MARGINS,
        "height": layout.get("height", 450) + _PRINT_MARGINS,
        "margin": {
            **margin,
            "r": margin.get("r", 80) + _PRINT_MARGINS,
            "b": margin.get("b", 80) + _PRINT_MARGINS,
        },
    }


def _same_names(svg: bytes) -> bytes:
    """The drawing with plotly.js's random identifier taken out of its names."""
    found = re.search(rb'id="(?:top)?defs-([0-9a-f]{6})"', svg)
    return svg if found is None else svg.replace(found[1], b"000000")


@contextmanager
def _quiet() -> Generator[None]:
    """Without a browser, kaleido's loggers write pages of traces."""
    loggers = [logging.getLogger(name) for name in ("kaleido", "choreographer")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
