"""`iclgd worlds`: the ruler, as a table and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest

from iclgd_lens.cli.app import run
from iclgd_lens.worlds.instrument import THETAS, Mark
from tests import families


def test_the_ruler_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["worlds", "--theta", "60", "--labels", "5", "--json"]) == 0
    marks = json.loads(capsys.readouterr().out)
    by_name = {(mark["world"], mark["rule"]): mark for mark in marks}
    assert by_name["gd", "lcgd"]["exact"] == pytest.approx(math.cos(math.pi / 3))
    assert by_name["gd", "lcgd"]["theta"] == 60
    assert by_name["heads", "gd[0]"]["kl"] is None
    assert ("linear, 3 steps", "least_squares") in by_name or not families.has_hooked_transformer()
    for mark in marks:
        assert mark["value"] == pytest.approx(mark["exact"], abs=1e-5), mark
        assert mark["error"] < 3e-5
        if mark["exact"] == 1 and mark["kl"] is not None:
            assert mark["kl"] < 1e-6
            assert mark["recovery"] == pytest.approx(1, abs=1e-5)


def test_the_ruler_as_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def two(thetas: Any, **options: Any) -> Iterator[Mark]:
        asked.append((thetas, options))
        yield Mark("gd", 60.0, "lcgd", 0.5, 0.5, 2e-7, 1e-2, 0.0)
        yield Mark("heads", None, "gd[3]", 0.25, 0.25, 2e-7, math.nan, math.nan)

    monkeypatch.setattr("iclgd_lens.worlds.instrument.ruler", two)
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["worlds", "--seed", "4", "--host", "bridge"]) == 0
    assert asked == [(THETAS, {"labels": 9, "seed": 4, "kind": "bridge"})]
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0][:4] == ["world", "theta", "rule", "SimAOU"]
    assert lines[2] == ["gd", "60", "lcgd", "0.50000", "0.50000", "2e-07", "1e-02", "0.000"]
    assert lines[3] == ["heads", "gd", "head", "3", "0.25000", "0.25000", "2e-07"]


def test_a_number_of_labels_that_says_nothing_is_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["worlds", "--labels", "4"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert "odd number of labels" in shown.err
