"""A tiny random model, rows made of its words, and one finished run that tests share."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.run import run_plan
from iclgd_lens.hypotheses.registry import HYPOTHESES
from tests import families

COLUMNS = {"sst2": "sentence", "mr": "text", "subj": "text"}


def write_rows(folder: Path, tasks: tuple[str, ...] = tuple(COLUMNS)) -> Path:
    """Rows of three or four of the tokenizer's words, always the same."""
    generator = random.Random(0)
    for task in tasks:
        for split, count in (("train", 24), ("validation", 9)):
            path = folder / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows: list[str] = []
            for index in range(count):
                words = [f"w{generator.randrange(90)}" for _ in range(generator.randint(3, 4))]
                rows.append(json.dumps({COLUMNS[task]: " ".join(words), "label": index % 2}))
            path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.save_folder("gpt2", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("rows"))


@pytest.fixture(scope="session")
def fields(model_folder: Path, data_folder: Path) -> dict[str, Any]:
    """A plan of two tasks and four draws each, as its file would hold it."""
    return {
        "name": "tiny",
        "models": [str(model_folder)],
        "tasks": ["sst2", "mr"],
        "data": str(data_folder),
        "shots": 4,
        "queries": 6,
        "seeds": [0, 1],
        "permutations": [0, 1],
        "protocol": "reference",
        "hypotheses": ["gd", "lcgd"],
        "controls": ["random", "untrained", "oracle"],
        "lr": 0.05,
        "twins": 2,
        "twin_queries": 3,
        "tok2attn_queries": 2,
        "resamples": 50,
    }


@pytest.fixture(scope="session")
def small(fields: dict[str, Any]) -> Plan:
    """A plan of two settings of four cells: ZS, ICL, ICL with wrong labels, gd."""
    return parse_plan(
        fields
        | {"tasks": ["sst2"], "permutations": [0], "controls": [], "hypotheses": ["gd"]}
        | {"queries": 4}
    )


@pytest.fixture(scope="session")
def plan(fields: dict[str, Any]) -> Plan:
    """Two draws of demonstrations in two orders, and two untrained networks."""
    fewer = {"hypotheses": ["gd"], "controls": ["random", "untrained"], "queries": 4}
    return parse_plan(fields | {"tasks": ["sst2"]} | fewer)


@pytest.fixture(scope="session")
def finished(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an uninterrupted run; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    outcome = run_plan(plan, folder)
    assert not outcome.failed, outcome.failed
    return folder


def cells_of(folder: Path) -> dict[str, bytes]:
    """Content of every finished cell, by file name."""
    return {path.name: path.read_bytes() for path in sorted((folder / "cells").glob("*.parquet"))}


@pytest.fixture
def plugins() -> Iterator[None]:
    """Whatever hypotheses a test registers are forgotten afterwards."""
    before = HYPOTHESES.known()
    yield
    HYPOTHESES._entries.clear()
    HYPOTHESES._entries.update(before)
