"""Make the pictures of the documentation: `python docs/make_pictures.py [MODEL]`.

`heatmaps.png` shows what `iclgd demo` measures, with its seed; `report.png` the report of the quick
plan. Needs the extras `dev` and `browser` and a Chromium, with which Plotly draws
PNG files and Playwright opens the report; nothing else of the project needs one.
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
from iclgd_lens.cli.demo_page import heatmap_figure
from iclgd_lens.report import write_report

FOLDER = Path(__file__).resolve().parent


def main(model: str = "embedded") -> None:
    """Write `heatmaps.png` and `report.png` beside this file."""
    figure = heatmap_figure(run_demo(model))
    figure.write_image(FOLDER / "heatmaps.png", scale=2)
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
