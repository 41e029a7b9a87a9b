"""YAML: which texts are numbers, and which keys stand twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.errors import PlanError, TaskError
from iclgd_lens.yaml_files import mapping, read_mapping, value


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("1e-3", 1e-3), ("5E4", 5e4), ("1.5e3", 1500.0), ("-.5", -0.5), (".5", 0.5), ("5.", 5.0),
        ("+1e+2", 100.0), (".inf", float("inf")), ("12", 12), ("0x1f", 31), ("true", True),
    ],
)  # fmt: skip
def test_numbers_are_read_as_they_are_written(text: str, read: Any) -> None:
    found = value(text, PlanError, "here")
    assert (found, type(found)) == (read, type(read))
    assert mapping(f"a: [{text}]", PlanError, "here", "a plan") == {"a": [read]}


@pytest.mark.parametrize("text", ["1e", "e3", "1.2.3", "+.e3", "inf", "nan", "08", "12e45ab"])
def test_what_only_looks_like_a_number_stays_text(text: str) -> None:
    assert value(text, PlanError, "here") == text
    assert value("'1e-3'", PlanError, "here") == "1e-3", "quotes make text"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\nb: 2\na: 3", r"^here: the key 'a' occurs twice \(line 3\)$"),
        ("a: 1\nb:\n  - {c: 1, d: 2, c: 3}", r"the key 'c' occurs twice \(line 3\)"),
        ("a: {1e-3: x, 0.001: y}", r"the key 0\.001 occurs twice"),
    ],
    ids=["at the top", "below", "written otherwise"],
)
def test_a_key_stands_once(text: str, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        mapping(text, PlanError, "here", "a plan")


def test_a_merged_key_may_be_given_anew() -> None:
    text = "a: {in: &b {x: 1, <<: {x: 2, y: 3}}}\nc: {<<: *b, x: 4}"
    found = mapping(text, PlanError, "here", "a plan")
    assert found == {"a": {"in": {"x": 1, "y": 3}}, "c": {"x": 4, "y": 3}}


@pytest.mark.parametrize(
    "text",
    ["[", "a: b: c", "!!python/name:os.system ", "!mine x", "2024-02-31", "!!int ''", "!!bool x",
     "{[1]: 2}", "\0", "[" * 5000],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(text: str) -> None:
    with pytest.raises(TaskError, match=r"^--set: .* is no value\.$") as told:
        value(text, TaskError, "--set")
    with pytest.raises(TaskError, match=r"^here: not valid YAML: ") as read:
        mapping(f"a: {text}" if text.isprintable() else text, TaskError, "here", "a task")
    assert "\n" not in str(told.value) + str(read.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(PlanError, match=r"latin\.yaml: cannot be read \(.*utf-8"):
        read_mapping(tmp_path / "latin.yaml", PlanError, "a plan")
    with pytest.raises(PlanError, match=r"latn\.yaml: cannot be read .*Did you mean 'latin\.yaml'"):
        read_mapping(tmp_path / "latn.yaml", PlanError, "a plan")
