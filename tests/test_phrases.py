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


def test_layers_that_no_mean_holds_are_told_once_for_all_that_leave_them_out() -> None:
    columns = ["hypothesis", "score", "layer", "lacking"]

    def lines(whose: str, score: str, layers: list[int], names: str) -> list[tuple[object, ...]]:
        return [(whose, score, layer, name) for layer in layers for name in names]

    told = [
        *lines("gd", "SimAOU", [0, 1, 2], "a"),
        *lines("lcgd", "SimAOU", [0, 1, 2], "ab"),
        *lines("gd", "SimAM", [0, 1, 2], "a"),
        *lines("lcgd", "SimAM", [0, 1, 2], "b"),
        *lines("late", "SimAOU", [0], "c"),
        *(line for name in "vwxyz" for line in lines(name, "x", [4], name)),
        *lines("gd", "y", [0, 3], "abcd"),
    ]
    assert phrases.partial_layer_sentences(pd.DataFrame(told, columns=columns)) == [
        "Means of SimAOU and SimAM of gd and lcgd (and of their controls) leave out layers 0 to 2, "
        "where a and b have none.",
        "Means of SimAOU of late (and of its controls) leave out layer 0, where c has none.",
        "Means of x of v, w, x and 2 more (and of their controls) leave out layer 4, where v, w, x "
        "and 2 more have none.",
        "Means of y of gd (and of its controls) leave out layers 0 and 3, where a, b, c and d have "
        "none.",
    ]
    assert phrases.partial_layer_sentences(pd.DataFrame(columns=columns)) == []
