"""Numbers as people read them."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from iclgd_lens import phrases
from iclgd_lens.phrases import LATEX, SENTENCE, TABLE


@pytest.mark.parametrize(
    ("value", "table", "sentence"),
    [(0.43449, "0.434", "0.43"), (-0.5, "−0.500", "-0.50"), (0.0, "0.000", "0.00"),
     (0.0001, "0.0001", "0.0001"), (-2e-6, "−2e−06", "-2e-06"), (12345.6, "1.235e+04", "1.235e+04"),
     (math.nan, "—", "undefined"), (math.inf, "—", "undefined")],
)  # fmt: skip
def test_numbers_never_hide_what_is_not_zero(value: float, table: str, sentence: str) -> None:
    assert TABLE.number(value) == table
    assert SENTENCE.number(value) == phrases.number(value) == sentence
    assert LATEX.number(value) == table.replace("−", "-")


def test_intervals() -> None:
    assert TABLE.interval(-0.0001, 0.026) == "[−0.000, 0.026]"
    assert LATEX.interval(-0.0001, 0.026) == "[-0.000, 0.026]"
    assert phrases.interval(-0.123, 0.026) == " [-0.12, 0.03]"
    assert phrases.interval(math.nan, 1.0) == TABLE.interval(0.0, math.inf) == ""


def test_p_values_are_never_zero() -> None:
    values = (0.04, 0.0004, math.nan)
    assert [TABLE.p_value(p) for p in values] == ["0.040", "<0.001", "—"]
    assert [phrases.p_value(p) for p in values] == ["p = 0.040", "p < 0.001", "p undefined"]


def test_differences_lists_and_counts() -> None:
    assert [TABLE.signed(value) for value in (0.2, -0.2)] == ["+0.200", "−0.200"]
    assert [phrases.listed(words) for words in ([], ["a"], ["a", "b", "c"])] == [
        "", "a", "a, b and c",
    ]  # fmt: skip
    assert [phrases.count(n, "query") for n in (1, 1200)] == ["1 query", "1,200 queries"]
    assert [phrases.all_of(tasks) for tasks in (["x"], ["x", "y"])] == ["x", "all 2 tasks"]


def test_layers_that_no_mean_holds_are_told_once_for_all_scores_that_lack_them() -> None:
    def lines(score: str, layers: list[int], names: str) -> list[dict[str, object]]:
        return [{"score": score, "layer": i, "hypothesis": name} for i in layers for name in names]

    told = [
        *lines("SimAOU", [0, 1, 2], "a"),
        *lines("SimAM", [0, 1, 2], "a"),
        *lines("x", [4], "abcde"),
        *lines("y", [0, 3], "abcd"),
    ]
    end = " none: all are compared on the same layers."
    assert phrases.partial_layer_sentences(pd.DataFrame(told)) == [
        f"Means of SimAOU and SimAM leave out layers 0 to 2, where a has{end}",
        f"Means of x leave out layer 4, where a, b, c and 2 more have{end}",
        f"Means of y leave out layers 0 and 3, where a, b, c and d have{end}",
    ]
    nothing = pd.DataFrame(columns=["score", "layer", "hypothesis"])
    assert phrases.partial_layer_sentences(nothing) == []
