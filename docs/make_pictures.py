"""Make the pictures of the README: `python docs/make_pictures.py [MODEL]`.

They show what `iclgd demo` measures, with its seed. Needs the `dev` extra and a Chromium, with
which Plotly draws PNG files; nothing else of the project needs one.
"""

import sys
from pathlib import Path

from iclgd_lens.demo import run_demo
from iclgd_lens.demo_page import heatmap_figure

FOLDER = Path(__file__).resolve().parent


def main(model: str = "embedded") -> None:
    """Write `heatmaps.png` beside this file."""
    figure = heatmap_figure(run_demo(model))
    figure.write_image(FOLDER / "heatmaps.png", scale=2)


if __name__ == "__main__":
    main(*sys.argv[1:])
