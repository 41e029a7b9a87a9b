"""PNG copies of drawings through kaleido, where it and a browser are there; never an error."""

from __future__ import annotations

import base64
import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from iclgd_lens.report.picture import Picture

_SECONDS = 60  # for one image
_SCALE = 2


def write_png(pictures: Sequence[Picture], folder: Path) -> str | None:
    """Write `folder/NAME.png` for each drawing.

    Returns:
        None if all were written, else why there are none.
    """
    try:
        kaleido: Any = import_module("kaleido")
    except ImportError:
        return "kaleido is not installed"
    if not hasattr(kaleido, "write_fig_from_object_sync"):
        return "kaleido is older than 1.0"
    jobs = [
        {
            "fig": _figure(each),
            "path": str(folder / f"{each.name}.png"),
            "opts": {"format": "png", "scale": _SCALE},
        }
        for each in pictures
    ]
    loggers = [logging.getLogger(name) for name in ("kaleido", "choreographer")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)  # without a browser they write pages of traces
        # mathjax=False: it would be asked of a server.
        kopts = {"mathjax": False, "timeout": _SECONDS}
        kaleido.write_fig_from_object_sync(jobs, kopts=kopts)
    except Exception as error:  # of many libraries: no browser, one that does not start, timeouts
        name = type(error).__name__
        return "kaleido found no browser" if "Chrome" in name else f"kaleido failed ({name})"
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
    missing = sum(not (folder / f"{each.name}.png").is_file() for each in pictures)
    return f"kaleido left out {missing} of {len(pictures)}" if missing else None


def _figure(picture: Picture) -> Any:
    """An empty Plotly figure that holds the drawing as its image: one look for SVG and PNG."""
    import plotly.graph_objects as go

    width, height = picture.size
    source = base64.b64encode(picture.svg.encode()).decode("ascii")
    image = {
        "source": f"data:image/svg+xml;base64,{source}",
        "xref": "paper", "yref": "paper", "x": 0, "y": 1, "sizex": 1, "sizey": 1,
        "sizing": "stretch",
    }  # fmt: skip
    return go.Figure(
        layout={
            "width": width,
            "height": height,
            "margin": {"l": 0, "r": 0, "t": 0, "b": 0},
            "xaxis": {"visible": False},
            "yaxis": {"visible": False},
            "images": [image],
        }
    )
