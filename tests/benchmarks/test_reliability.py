"""The reliability benchmark in small: it holds here, and it notices what it is there to notice."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import iclgd_lens as lens
from benchmarks import reliability
from benchmarks.reliability import Count
from tests import checks

KIND = checks.kinds()[0]


def nothing(value: torch.Tensor, hook: Any) -> None:
    """A hook that does nothing."""


def careless(*_: Any) -> str:
    return "0" * 64


def change_weight(model: Any) -> None:
    with torch.no_grad():
        next(iter(model.parameters())).view(-1)[0] += 1e-6


def forget_hook(model: Any) -> None:
    next(iter(model.hook_dict.values())).add_hook(nothing)


CHANGES: dict[str, Callable[[Any], object]] = {
    "weights": change_weight,
    "hooks": forget_hook,
    "flags": lambda model: next(iter(model.parameters())).requires_grad_(False),
    "random numbers": lambda model: np.random.rand(),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_moves_is_seen(what: str) -> None:
    model = checks.fresh(KIND, "gpt2")
    model.requires_grad_(True)
    before = reliability.photograph(model)
    assert reliability.moved(before, model) == ""
    CHANGES[what](model)
    assert what in reliability.moved(before, model)
    assert reliability.moved(reliability.photograph(model), model) == ""


def test_damaged_files_are_refused_and_a_careless_reader_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lens.load_model("embedded", device="cpu")
    found = reliability.damaged_files(40, random.Random(0), tmp_path, model)
    assert (found.trials, found.failures) == (40, [])
    monkeypatch.setattr("iclgd_lens.sealed_files._digest", careless)
    found = reliability.damaged_files(40, random.Random(0), tmp_path, model)
    assert any("read as if it were whole" in each for each in found.failures)


def test_exceptions_and_interrupts_leave_all_as_it_was() -> None:
    model = lens.load_model("embedded", device="cpu")
    draw = random.Random(1)
    for inject, error in (
        (reliability.passes(model), Exception), (reliability.lines, KeyboardInterrupt),
    ):  # fmt: skip
        with checks.untyped():  # the checker of types in tests draws random numbers of its own
            found = reliability.injected("any", 3, draw, model, inject, error)
        assert (found.trials, found.failures) == (3, [])


def test_bounds_and_the_table() -> None:
    fine, bad = Count("fine", 300), Count("bad", 10, ["trial 3: lost"])
    assert fine.bound == pytest.approx(3 / 300, rel=0.01)
    assert np.isnan(bad.bound)
    assert reliability.table([fine, bad]).splitlines()[2:] == [
        "| fine | 300 | 0 | 1.0% |", "| bad | 10 | 1 | nan% |",
    ]  # fmt: skip
