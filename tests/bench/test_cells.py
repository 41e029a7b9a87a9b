"""Cells: their keys change with what changes their numbers, and with nothing else."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.bench import drawn_rows
from iclgd_lens.bench.cells import Cell, count_cells, list_cells, settings_of, shard
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.bench.run import resolved
from iclgd_lens.controls import CONTROLS
from iclgd_lens.errors import LensError
from iclgd_lens.hypotheses.registry import hypothesis


def keys(fields: dict[str, Any], **changes: Any) -> dict[str, str]:
    """Keys by place and label, which must not repeat."""
    cells = list_cells(parse_plan(fields | changes))
    found = {json.dumps(cell.place): cell.key for cell in cells}
    assert len(found) == len(cells) == len(set(found.values()))
    return found


def subjects(cells: list[Cell]) -> set[tuple[str, str]]:
    return {(str(cell.subject), cell.budget) for cell in cells}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Labels of those places in both whose key is another."""
    both = before.keys() & after.keys()
    return {json.loads(place)["subject"] for place in both if before[place] != after[place]}


def added(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Labels of what is new; every earlier place keeps its key."""
    assert not changed(before, after)
    assert before.keys() <= after.keys()
    return {json.loads(place)["subject"] for place in after.keys() - before.keys()}


def test_a_grid_has_a_cell_for_every_setting_and_subject(fields: dict[str, Any]) -> None:
    plan = parse_plan(fields)
    cells = list_cells(plan)
    assert len(cells) == len({cell.key for cell in cells}) == count_cells(plan) == 84
    settings = settings_of(cells)
    own = {(s.task_name, s.seed, s.permutation) for s in settings if s.network == "trained"}
    assert own == {(t, s, p) for t in ("sst2", "mr") for s in (0, 1) for p in (0, 1)}
    assert Counter(s.network for s in settings) == {"trained": 8, "untrained": 4}
    assert {(s.index, s.seed, s.permutation) for s in settings if s.network == "untrained"} == {
        (0, 0, 0), (1, 0, 1),
    }  # fmt: skip
    assert {(s.network, s.queries) for s in settings} == {("trained", 6), ("untrained", 3)}
    first = [cell for cell in cells if cell.setting == settings[0]]
    assert subjects(first) == {
        (name, "") for name in ("ZS", "ICL", "ICL_shuffled", "gd", "lcgd", "random[gd]",
                                "random[lcgd]", "oracle")
    }  # fmt: skip
    twin = [cell for cell in cells if cell.setting.network == "untrained"]
    assert subjects(twin) == {(n, "") for n in ("ZS", "ICL", "ICL_shuffled", "gd", "lcgd")}


def test_other_networks_are_given_the_models_budget_and_their_own(fields: dict[str, Any]) -> None:
    own = {"hypothesis": "gd", "settings": {"lr": 0.1}}
    plan = parse_plan(
        fields | {"lr": "matched", "hypotheses": {"gd": None, "fixed": own, "zero": None}}
    )
    cells = list_cells(plan)
    assert len(cells) == count_cells(plan)
    twin = subjects([cell for cell in cells if cell.setting.network != "trained"])
    assert {pair for pair in twin if pair[0] not in ("ZS", "ICL", "ICL_shuffled")} == {
        ("gd", ""), ("gd", "own"), ("fixed", ""), ("zero", ""),
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"shots": 3},
        {"queries": 5},
        {"protocol": {"preset": "reference", "bos": False}},
        {"tok2attn_queries": 3},
        {"control_seed": 1},
    ],
)
def test_what_changes_every_number_changes_every_key(
    fields: dict[str, Any], change: dict[str, Any]
) -> None:
    assert not set(keys(fields).values()) & set(keys(fields, **change).values())


RULES = {"gd", "lcgd", "random[gd]", "random[lcgd]"}


@pytest.mark.parametrize("change", [{"lr": 0.06}, {"lr": "matched"}, {"lr": "published"}])
def test_rates_change_the_keys_of_rules_alone(
    fields: dict[str, Any], change: dict[str, Any]
) -> None:
    assert changed(keys(fields), keys(fields, **change)) == RULES


def test_a_search_changes_the_keys_of_rules_that_are_searched(fields: dict[str, Any]) -> None:
    before = keys(fields, lr="matched")
    assert keys(fields, lr="matched", search={}) == before
    assert changed(before, keys(fields, lr="matched", search={"folds": 1})) == RULES
    one, other = (keys(fields, lr="matched", search={"left_out": n}) for n in (0.25, 0.5))
    assert changed(one, other) == RULES


def test_a_rate_that_a_hypothesis_is_given_is_not_the_plans(fields: dict[str, Any]) -> None:
    given = {"gd": {"hypothesis": "gd", "settings": {"lr": 0.2}}, "lcgd": None}
    before = keys(fields, hypotheses=given)
    assert changed(before, keys(fields, hypotheses=given, lr=0.06)) == {"lcgd", "random[lcgd]"}
    other = {"gd": {"hypothesis": "gd", "settings": {"lr": 0.3}}, "lcgd": None}
    assert changed(before, keys(fields, hypotheses=other)) == {"gd", "random[gd]"}


def test_what_says_nothing_about_the_numbers_changes_no_key(fields: dict[str, Any]) -> None:
    assert keys(fields, resamples=101, name="other") == keys(fields)


def test_what_is_added_to_a_plan_is_new_and_all_else_stays(fields: dict[str, Any]) -> None:
    before = keys(fields)
    assert added(before, keys(fields, hypotheses=["gd", "lcgd", "constant_shift"])) == {
        "constant_shift", "random[constant_shift]",
    }  # fmt: skip
    controls = fields["controls"]
    for control, new in (
        ("shuffled", {"gd@shuffled", "lcgd@shuffled"}),
        ("other_task", {"gd@other_task", "lcgd@other_task"}),
        ("gaussian", {"gaussian"}),
        ("permuted", {"ZS", "ICL", "ICL_shuffled", "gd", "lcgd"}),
    ):
        assert added(before, keys(fields, controls=[*controls, control])) == new
    assert added(before, keys(fields, twins=3)) == {"ZS", "ICL", "ICL_shuffled", "gd", "lcgd"}
    rates = {"gd": {"hypothesis": "gd", "vary": {"lr": [0.1]}}, "lcgd": None}
    new = keys(fields, hypotheses=rates)
    assert added(before, new) == {"gd(lr=0.1)", "random[gd(lr=0.1)]"}
    varied = {"gd": {"hypothesis": "gd", "vary": {"epochs": [2]}}, "lcgd": None}
    new = keys(fields, hypotheses=varied)
    more = {"gd": {"hypothesis": "gd", "vary": {"epochs": [2, 3]}}, "lcgd": None}
    assert added(new, keys(fields, hypotheses=more)) == {"gd(epochs=3)", "random[gd(epochs=3)]"}


def test_every_control_of_the_table_has_its_cells(fields: dict[str, Any]) -> None:
    plan = parse_plan(fields | {"controls": list(CONTROLS), "tasks": ["sst2"]})
    cells = list_cells(plan)
    assert len(cells) == count_cells(plan)
    seen = {cell.subject.control for cell in cells} | {cell.setting.network for cell in cells}
    assert set(CONTROLS) <= seen


def test_names_and_paths_do_not_change_keys(
    fields: dict[str, Any], tmp_path: Path, model_folder: Path, data_folder: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(model_folder, moved)
    shutil.copytree(data_folder, tmp_path / "rows")
    same = keys(fields, name="x", models=[str(moved)], data=str(tmp_path / "rows"))
    assert set(same.values()) == set(keys(fields).values())
    found = {cell.key for cell in list_cells(resolved(parse_plan(fields)))}
    assert found == set(same.values())


def test_weights_dtype_and_tokenizer_change_keys(
    fields: dict[str, Any], tmp_path: Path, model_folder: Path
) -> None:
    before = set(keys(fields).values())
    wide = keys(fields, models=[{"name": str(model_folder), "dtype": "float64"}])
    assert not before & set(wide.values())
    for file in ("model.safetensors", "tokenizer.json"):
        folder = tmp_path / file
        shutil.copytree(model_folder, folder)
        data = bytearray((folder / file).read_bytes())
        if file == "tokenizer.json":
            data = bytearray(json.dumps(json.loads(data), indent=3).encode())
        else:
            data[-3] ^= 1
        (folder / file).write_bytes(data)
        assert not before & set(keys(fields, models=[str(folder)]).values())


def test_rows_change_the_keys_of_their_task_alone(
    fields: dict[str, Any], tmp_path: Path, data_folder: Path
) -> None:
    shutil.copytree(data_folder, tmp_path / "rows")
    path = tmp_path / "rows/mr/validation.jsonl"
    path.write_text(path.read_text().replace('"label": 0', '"label": 1'), encoding="utf-8")
    before, after = keys(fields), keys(fields, data=str(tmp_path / "rows"))
    for place, key in before.items():
        assert (after[place] == key) == (json.loads(place)["task"] == "sst2")


def test_a_plugins_source_version_and_step_change_its_keys_alone(
    fields: dict[str, Any], plugins: None
) -> None:
    settings = fields | {"hypotheses": ["gd", "mine"], "tasks": ["sst2"]}
    found: list[dict[str, str]] = []
    for build, facts in (
        (_one, {"version": "1"}),
        (_one, {"version": "2"}),
        (_other, {"version": "2"}),
        (_other, {"version": "2", "rows": _one}),
        (_other, {"version": "2", "rows": _other}),
    ):
        hypothesis("mine", replace=True, **facts)(build)
        found.append(keys(settings))
    for before, after in pairwise(found):
        assert changed(before, after) == {"mine", "random[mine]"}
    assert len({each[place] for each in found for place in each if '"mine"' in place}) == 5 * 6


def _one(model: Any, episode: Any) -> Any:
    return None


def _other(model: Any, episode: Any) -> Any:
    return episode


def test_a_draw_that_another_seed_has_is_not_counted_twice(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a task has hardly more rows than are shown."""
    real = drawn_rows.draw_demonstrations

    def few(rows: Any, shots: int, *, seed: int, **how: Any) -> Any:
        found = real(rows, shots, seed=seed % 2, **how)
        return found[::-1] if seed == 2 else found

    monkeypatch.setattr(drawn_rows, "draw_demonstrations", few)
    cells = list_cells(parse_plan(fields | {"tasks": ["sst2"], "seeds": [0, 1, 2], "twins": 0}))
    lost = {cell.setting.seed: cell.setting.problem for cell in cells}
    assert lost[0] is None
    assert lost[1] is None
    assert "seed 2 draws the same" in str(lost[2])
    assert "as seed 0" in str(lost[2])


def test_unreadable_rows_are_a_settings_problem_not_the_plans(fields: dict[str, Any]) -> None:
    cells = list_cells(parse_plan(fields | {"tasks": ["sst2", "cb"]}))
    assert {cell.setting.task_name for cell in cells if cell.setting.problem} == {"cb"}
    assert {cell.setting.task_name for cell in cells if not cell.setting.problem} == {"sst2"}
    assert "cb" in str(cells[-1].setting.problem)


@pytest.mark.parametrize("queries", [500, None])
def test_a_task_with_fewer_rows_gives_all_it_has(
    fields: dict[str, Any], queries: int | None
) -> None:
    cells = list_cells(parse_plan(fields | {"queries": queries, "controls": []}))
    assert {cell.setting.queries for cell in cells} == {9}


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 15])
def test_shards_are_disjoint_complete_and_whole_settings(
    fields: dict[str, Any], count: int
) -> None:
    cells = list_cells(parse_plan(fields))
    shares = [shard(cells, index + 1, count) for index in range(count)]
    dealt = [cell.key for share in shares for cell in share]
    assert len(dealt) == len(set(dealt)) == len(cells)
    settings = [{cell.setting.key for cell in share} for share in shares]
    assert sum(map(len, settings)) == len(set().union(*settings)) == 12
    assert max(map(len, settings)) - min(map(len, settings)) <= 1
    # Another machine may list the cells in another order.
    assert {c.key for c in shard(cells[::-1], 1, count)} == {c.key for c in shares[0]}


@pytest.mark.parametrize(("index", "count"), [(0, 2), (3, 2), (1, 0)])
def test_a_shard_that_does_not_exist(fields: dict[str, Any], index: int, count: int) -> None:
    with pytest.raises(LensError, match="does not exist"):
        shard(list_cells(parse_plan(fields)), index, count)
