"""Cells: their keys change with what changes their numbers, and with nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.bench import cells as cells_module
from iclgd_lens.bench import code
from iclgd_lens.bench.cells import count_cells, list_cells, shard
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.run import resolved
from iclgd_lens.errors import LensError
from iclgd_lens.hypotheses.registry import _REGISTERED, hypothesis


def keys(fields: dict[str, Any], **changes: Any) -> list[str]:
    return [cell.key for cell in list_cells(parse_plan(fields | changes))]


def test_a_grid_has_a_cell_for_every_combination(fields: dict[str, Any]) -> None:
    plan = parse_plan(fields)
    cells = list_cells(plan)
    assert len(cells) == len({cell.key for cell in cells}) == count_cells(plan) == 8
    places = {(c.task_name, c.seed, c.permutation) for c in cells}
    assert places == {(t, s, p) for t in ("sst2", "mr") for s in (0, 1) for p in (0, 1)}
    assert {cell.queries for cell in cells} == {6}


@pytest.mark.parametrize(
    "change",
    [
        {"shots": 3},
        {"queries": 5},
        {"lr": 0.06},
        {"lr": "demonstrations"},
        {"protocol": "default"},
        {"controls": ["random"]},
        {"hypotheses": ["gd"]},
        {"hypotheses": {"gd": {"hypothesis": "gd", "settings": {"epochs": 2}}, "lcgd": None}},
        {"tok2attn_queries": 3},
        {"resamples": 101},
        {"control_seed": 1},
    ],
)
def test_what_changes_numbers_changes_every_key(
    fields: dict[str, Any], change: dict[str, Any]
) -> None:
    assert not set(keys(fields)) & set(keys(fields, **change))


def test_names_and_paths_do_not_change_keys(
    fields: dict[str, Any], tmp_path: Path, model_folder: Path, data_folder: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(model_folder, moved)
    shutil.copytree(data_folder, tmp_path / "rows")
    same = keys(fields, name="x", models=[str(moved)], data=str(tmp_path / "rows"))
    assert same == keys(fields)
    assert [cell.key for cell in list_cells(resolved(parse_plan(fields)))] == same


def test_weights_dtype_and_tokenizer_change_keys(
    fields: dict[str, Any], tmp_path: Path, model_folder: Path
) -> None:
    before = set(keys(fields))
    assert not before & set(keys(fields, models=[{"name": str(model_folder), "dtype": "float64"}]))
    for file in ("model.safetensors", "tokenizer.json"):
        folder = tmp_path / file
        shutil.copytree(model_folder, folder)
        data = bytearray((folder / file).read_bytes())
        if file == "tokenizer.json":
            data = bytearray(json.dumps(json.loads(data), indent=3).encode())
        else:
            data[-3] ^= 1
        (folder / file).write_bytes(data)
        assert not before & set(keys(fields, models=[str(folder)]))


def test_rows_change_the_keys_of_their_task_alone(
    fields: dict[str, Any], tmp_path: Path, data_folder: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "rows")
    path = tmp_path / "rows/mr/validation.jsonl"
    path.write_text(path.read_text().replace('"label": 0', '"label": 1'), encoding="utf-8")
    before, after = keys(fields), keys(fields, data=str(tmp_path / "rows"))
    assert before[:4] == after[:4]
    assert not set(before[4:]) & set(after[4:])


def test_a_plugins_source_and_version_change_keys(fields: dict[str, Any]) -> None:
    try:
        found: list[str] = []
        for version in ("1", "2"):
            hypothesis("mine", version=version, replace=True)(_one)
            found += keys(fields, hypotheses=["mine"], tasks=["sst2"])
        hypothesis("mine", version="2", replace=True)(_other)
        found += keys(fields, hypotheses=["mine"], tasks=["sst2"])
        assert len(set(found)) == len(found) == 12
    finally:
        _REGISTERED.pop("mine", None)


def _one(model: Any, episode: Any) -> Any:
    return None


def _other(model: Any, episode: Any) -> Any:
    return episode


def test_unreadable_rows_are_a_cells_problem_not_the_plans(fields: dict[str, Any]) -> None:
    cells = list_cells(parse_plan(fields | {"tasks": ["sst2", "cb"]}))
    assert [cell.problem is None for cell in cells] == [True] * 4 + [False] * 4
    assert "cb" in str(cells[-1].problem)


def test_a_task_with_fewer_rows_gives_all_it_has(fields: dict[str, Any]) -> None:
    assert {cell.queries for cell in list_cells(parse_plan(fields | {"queries": 500}))} == {9}
    assert {cell.queries for cell in list_cells(parse_plan(fields | {"queries": None}))} == {9}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 11])
def test_shards_are_disjoint_and_complete(fields: dict[str, Any], count: int) -> None:
    cells = list_cells(parse_plan(fields))
    shares = [shard(cells, index + 1, count) for index in range(count)]
    dealt = [cell.key for share in shares for cell in share]
    assert len(dealt) == len(set(dealt)) == len(cells)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    # Another machine may list the cells in another order.
    assert {c.key for c in shard(cells[::-1], 1, count)} == {c.key for c in shares[0]}


@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_does_not_exist(fields: dict[str, Any], index: int, count: int) -> None:
    with pytest.raises(LensError, match="does not exist"):
        shard(list_cells(parse_plan(fields)), index, count)


def test_edited_code_changes_keys_but_tidied_code_does_not(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "iclgd_lens"
    shutil.copytree(code._ROOT, root, ignore=shutil.ignore_patterns("__pycache__", "*.gz"))
    digest = code.code_digest.__wrapped__  # which a process otherwise takes once
    before = digest(root)
    assert before == digest(code._ROOT)
    path = root / "scores.py"
    text = path.read_text(encoding="utf-8")
    path.write_text(f'"""Other words."""\n\n# A comment.\n{text}', encoding="utf-8")
    assert digest(root) == before
    path.write_text(f"{text}\nEXTRA = 1\n", encoding="utf-8")
    assert digest(root) != before

    known = set(keys(fields))
    monkeypatch.setattr(cells_module, "code_digest", lambda: "0" * 16)
    assert not known & set(keys(fields))


def test_the_digest_covers_what_computes_and_leaves_out_what_shows() -> None:
    for place in ("scores.py", "host/base.py", "hypotheses/gd.py", "bench/measure.py", "new.py"):
        assert code.computes(Path(place)), place
    for place in ("report/page.py", "bench/store.py", "cli.py", "cli_compare.py", "__init__.py"):
        assert not code.computes(Path(place)), place
