"""The page of a command's figures, and JSON of whatever was measured."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from iclgd_lens.cli.console import json_document
from iclgd_lens.cli.options import figures_page


def test_text_is_text_and_figures_are_inside() -> None:
    figure = go.Figure(go.Scatter(x=[1, 2], y=[0.5, np.nan], name="</script><b>"))
    page = figures_page("a < b", ["<script>alert(1)</script>"], [("one & two", "<i>", figure)])
    text = page.decode()
    assert "<title>a &lt; b</title>" in text
    assert "<script>alert(1)" not in text
    assert "one &amp; two" in text
    assert "&lt;i&gt;" in text
    assert "</script><b>" not in text
    assert "src=" not in text.split("<main")[1].split("</main>")[0]


def test_json_holds_no_number_that_is_none() -> None:
    given = {
        1: [np.float32(0.5), float("nan"), np.inf], "missing": pd.NA, "pair": (np.int64(3), "x"),
        "yes": np.True_, "none": None,
    }  # fmt: skip
    assert json.loads(json_document(given)) == {
        "1": [0.5, None, None], "missing": None, "pair": [3, "x"], "yes": True, "none": None,
    }  # fmt: skip
