"""What a label says of itself: whom it belongs to, and whether a verdict holds it against them."""

from __future__ import annotations

import numpy as np
import pytest

from iclgd_lens.results.parts import Part
from iclgd_lens.subjects import Subject, rivals


@pytest.mark.parametrize(
    ("label", "rival", "alone", "hypothesis"),
    [
        ("gd", False, False, "gd"),
        ("gd(epochs=4)", False, False, "gd(epochs=4)"),
        ("gd@untrained", True, False, "gd"),
        ("gd(budget=own,epochs=4)@untrained", True, False, "gd(epochs=4)"),
        ("random[lcgd]", True, False, "lcgd"),
        ("ZS@untrained", False, False, "ZS"),  # a twin's own setting is nothing to beat
        ("gaussian", True, True, "gaussian"),
        ("oracle", False, True, "oracle"),  # tells whether the instrument works
    ],
)
def test_a_subject_knows_whom_it_belongs_to(
    label: str, rival: bool, alone: bool, hypothesis: str
) -> None:
    subject = Subject.parse(label)
    assert (subject.is_rival, subject.stands_alone) == (rival, alone)
    assert str(subject.hypothesis) == hypothesis


def test_rivals_are_own_controls_and_what_belongs_to_none() -> None:
    labels = ["ZS@untrained", "gd", "gd@untrained", "random[lcgd]", "gaussian", "oracle"]
    assert rivals("gd", labels) == ["gd@untrained", "gaussian"]


@pytest.mark.parametrize(
    ("network", "index", "own"),
    [("trained", 0, True), ("trained", 1, False), ("untrained", 0, False)],
)
def test_the_models_own_part_is_no_twins_and_no_realisation(
    network: str, index: int, own: bool
) -> None:
    part = Part({}, np.zeros(1, np.int64), network=network, index=index)
    assert part.is_models_own is own
