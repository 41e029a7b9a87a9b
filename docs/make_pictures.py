"""Make the pictures of the documentation: `python docs/make_pictures.py [MODEL]`.

`heatmaps.png` shows the label contrast by head, of what `iclgd demo` measures with its seed;
`report.png` the report of the quick plan. Needs the extras `dev`, `figures` and `browser` and a
Chromium, with which Plotly draws PNG files and Playwright opens the report.
"""

import os
import shutil
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

from iclgd_lens.bench.plan import load_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.cli.demo import run_demo
from iclgd_lens.display_names import label
from iclgd_lens.figures import head_maps
from iclgd_lens.report import write_report

FOLDER = Path(__file__).resolve().parent
SCORE = "SimAOU_label"


def main(model: str = "embedded") -> None:
    """Write `heatmaps.png` and `report.png` beside this file."""
    (comparison,) = run_demo(model).comparisons.values()
    panels = {
        label(name): comparison.tensor(SCORE, name, by="head").nanmean(0).numpy()
        for name in ("gd", "gd@untrained", "lcgd", "lcgd@untrained")
    }
    figure = head_maps(panels, score=SCORE)
    figure.update_layout(width=1000).write_image(FOLDER / "heatmaps.png", scale=2)
    with TemporaryDirectory() as run:
        run_plan(load_plan(FOLDER.parent / "benchmarks" / "quick.yaml").with_models([model]), run)
        photograph(write_report(run), FOLDER / "report.png")


def photograph(page: Path, to: Path) -> None:
    """Write the top of a page, as a screen shows it."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=arguments
        )
        tab = browser.new_page(viewport={"width": 1100, "height": 920}, device_scale_factor=1.5)
        tab.goto(page.as_uri())
        tab.wait_for_selector("html[data-ready=yes]")
        tab.screenshot(path=to)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
