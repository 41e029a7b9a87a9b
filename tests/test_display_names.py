"""Names as people read them."""

from __future__ import annotations

import pytest

from iclgd_lens import display_names
from iclgd_lens.controls import CONTROLS
from iclgd_lens.scores import SCORES


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gd", "GD"), ("lcgd", "LCGD"), ("function_vector", "function vector"),
        ("lcgd_ridge", "LCGD ridge"), ("gd@untrained", "GD, untrained twins"),
        ("gd@untrained_norms", "GD, untrained norms twins"),
        ("random[lcgd]", "LCGD, random directions"), ("gd(lr=0.1)@permuted",
                                                      "GD (lr 0.1), permuted twins"),
        ("oracle", "oracle"), ("constant_shift", "constant shift"),
        ("gaussian", "gaussian directions"), ("ZS", "ZS"),
        ("ICL@untrained", "ICL, untrained twins"),

        ("gd(budget=own)@untrained", "GD, untrained twins (own budget)"),
        ("my rule", "my rule"), ("<script>(", "<script>("), ("a@b@c", "a@b@c"),
    ],
)  # fmt: skip
def test_labels_follow_from_the_tables(name: str, text: str) -> None:
    assert display_names.label(name) == text


@pytest.mark.parametrize(
    ("name", "of"),
    [("gd", "gd"), ("gd@untrained", "gd"), ("gd(budget=own)@untrained", "gd"),
     ("random[gd(lr=0.1)]", "gd(lr=0.1)"), ("oracle", "oracle")],
)  # fmt: skip
def test_a_name_belongs_to_its_hypothesis_at_whatever_budget(name: str, of: str) -> None:
    assert display_names.home(name) == of


def test_meanings_are_the_tables_own() -> None:
    assert display_names.meaning("gd", {"gd": "steps downhill"}) == "steps downhill"
    assert display_names.meaning("gd", {}) == ""
    assert CONTROLS["untrained"].meaning in display_names.meaning("gd@untrained", {})
    assert display_names.meaning("oracle", {}) == CONTROLS["oracle"].meaning
    assert display_names.meaning("ZS", {})
    assert display_names.score_meaning("SimAOU") == SCORES["SimAOU"].meaning
    assert display_names.score_meaning("unknown") == ""


def test_names_are_ranked_and_scores_ordered_as_the_tables_say() -> None:
    names = ["ZS@untrained", "ICL", "gd@untrained", "oracle", "gd"]
    assert [display_names.rank(name) for name in names] == [3, 2, 1, 1, 0]
    assert display_names.in_order(["mine", "accuracy", "SimAM", "SimAOU"]) == [
        "SimAOU", "SimAM", "accuracy", "mine",
    ]  # fmt: skip
    assert display_names.lower_is_better("KL_ICL")
    assert not display_names.lower_is_better("SimAOU")
    rivals = map(display_names.is_rival, ("gd", "gd@untrained", "oracle", "gaussian"))
    assert list(rivals) == [False, True, False, True]
