"""The run directory: whatever happens to its files is noticed, told and repaired."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iclgd_lens.bench.cell_file import Measured
from iclgd_lens.bench.cells import list_cells
from iclgd_lens.bench.plan import Plan
from iclgd_lens.bench.read_only_store import measured_seconds
from iclgd_lens.bench.run import run_plan
from iclgd_lens.bench.run_folder import open_files
from iclgd_lens.bench.run_tables import load_run
from iclgd_lens.bench.store import RUN_FORMAT, Store
from iclgd_lens.errors import RunError
from iclgd_lens.files import partial_name
from tests.bench.conftest import cells_of

Damage = Callable[[Path], None]


@pytest.fixture(scope="module")
def done(small: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "run"
    assert run_plan(small, folder).done == 8
    return folder


@pytest.fixture
def run(done: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, free to be damaged."""
    return Path(shutil.copytree(done, tmp_path / "run"))


def flip(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 0x55
    path.write_bytes(data)


def edit_value(path: Path) -> None:
    """A well-formed parquet file whose metadata was kept and one number changed."""
    table = pq.read_table(path)
    column = table.column("value").to_numpy().copy()
    column[np.flatnonzero(np.isfinite(column))[0]] += 1e-9
    index = table.column_names.index("value")
    pq.write_table(table.set_column(index, "value", pa.array(column)), path)


def swap(path: Path) -> None:
    other = next(each for each in path.parent.glob("*.parquet") if each != path)
    path.write_bytes(other.read_bytes())


def foreign(path: Path) -> None:
    pq.write_table(pa.table({"value": [1.0]}), path)


CELL_DAMAGE: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "flipped early": lambda path: flip(path, 0.1),
    "flipped in the middle": lambda path: flip(path, 0.5),
    "flipped in the footer": lambda path: flip(path, 0.93),
    "text": lambda path: path.write_text("not parquet", encoding="utf-8"),
    "foreign parquet": foreign,
    "another cell's": swap,
    "a changed number": edit_value,
}


@pytest.mark.parametrize("damage", CELL_DAMAGE.values(), ids=CELL_DAMAGE)
def test_a_damaged_cell_is_set_aside_and_measured_again(
    small: Plan, run: Path, damage: Damage
) -> None:
    before = cells_of(run)
    victim = run / "cells" / min(before)
    damage(victim)
    damaged = victim.read_bytes()

    seen = load_run(run)
    assert len(seen.cells) == 7
    assert "damaged file" in seen.failures["reason"][0]
    assert victim.read_bytes() == damaged, "reading a run changes nothing"

    outcome = run_plan(small, run)
    assert (outcome.done, outcome.found, len(outcome.quarantined)) == (1, 7, 1)
    assert outcome.quarantined[0].name == f"cells/{victim.name}"
    assert (run / outcome.quarantined[0].moved_to).read_bytes() == damaged
    assert cells_of(run) == before
    assert load_run(run).failures.empty


JSON_DAMAGE: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "binary": lambda path: path.write_bytes(b"\xff\xfe\x00"),
    "a list": lambda path: path.write_text("[]", encoding="utf-8"),
    "nested": lambda path: path.write_text("[" * 100_000, encoding="utf-8"),
    "edited": lambda path: path.write_text(
        path.read_text().replace('"format"', '"farmat"').replace("engine", "motor"),
        encoding="utf-8",
    ),
    "another kind, well sealed": lambda path: seal(path, {"cells": [1], "reason": 2}),
    "cells that are none, well sealed": lambda path: seal(
        path, {"format": RUN_FORMAT, "plan": {}, "cells": {"a": "b"}, "started": "now"}
    ),
}


def seal(path: Path, facts: dict[str, Any]) -> None:
    """Write JSON of another kind with the right checksum."""
    Store(path.parent)._write_json(path.name, facts)


@pytest.mark.parametrize("damage", JSON_DAMAGE.values(), ids=JSON_DAMAGE)
def test_a_damaged_run_json_is_set_aside_and_written_anew(
    small: Plan, run: Path, damage: Damage
) -> None:
    before = cells_of(run)
    damage(run / "run.json")
    damaged = (run / "run.json").read_bytes()
    with pytest.raises(RunError, match="The command that made it repairs it"):
        load_run(run)
    outcome = run_plan(small, run)
    assert (outcome.done, outcome.found) == (0, 8)
    (aside,) = outcome.quarantined
    assert (aside.name, (run / aside.moved_to).read_bytes()) == ("run.json", damaged)
    assert len(load_run(run).cells) == 8
    assert cells_of(run) == before


@pytest.mark.parametrize("damage", JSON_DAMAGE.values(), ids=JSON_DAMAGE)
def test_damaged_records_of_failures_and_commands(small: Plan, run: Path, damage: Damage) -> None:
    store, cell = Store(run), list_cells(small)[0]
    (run / "cells" / f"{cell.key}.parquet").unlink()
    store.fail(cell, "no memory")
    assert run_plan(small, run).failed == {cell.key: "no memory"}
    damage(run / "failed" / f"{cell.key}.json")
    damage(min((run / "invocations").iterdir()))
    assert len(measured_seconds(run)) <= 8
    outcome = run_plan(small, run)
    names = {each.name.split("/")[0] for each in outcome.quarantined}
    assert names == {"failed", "invocations"}
    assert (outcome.done, outcome.failed) == (1, {})


# -- other versions ------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize(
    ("version", "age"), [("1", "an earlier version"), ("99", "a later version")]
)
def test_a_run_of_another_version_is_refused_and_not_touched(
    small: Plan, run: Path, version: str, age: str
) -> None:
    facts = json.loads((run / "run.json").read_text())
    facts["format"] = f"iclgd_lens.run/{version}"
    (run / "run.json").write_text(json.dumps(facts), encoding="utf-8")
    # What a killed process of that version left is its own affair, too.
    dead = f"{partial_name().rsplit('-', 2)[0]}-{2**22 + 1}-{'0' * 12}"
    (run / "cells" / dead).write_bytes(b"half")
    (run / "failed").mkdir()
    (run / "failed" / "0.json").write_text("{}")
    before = everything(run)
    for attempt in (lambda: run_plan(small, run), lambda: load_run(run)):
        with pytest.raises(RunError, match=f"{age} of iclgd_lens") as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert f"iclgd_lens.run/{version}" in str(caught.value)
    assert everything(run) == before


def test_reading_a_run_changes_nothing(run: Path) -> None:
    dead = f"{partial_name().rsplit('-', 2)[0]}-{2**22 + 1}-{'0' * 12}"
    (run / "cells" / dead).write_bytes(b"half")
    min((run / "invocations").iterdir()).write_text("{")
    before = everything(run)
    load_run(run).frame()
    measured_seconds(run)
    assert everything(run) == before


def test_a_cell_of_another_version_is_named(run: Path) -> None:
    from iclgd_lens.bench import cell_file

    path = min((run / "cells").iterdir())
    data = path.read_bytes()
    held = cell_file.decode(data, path.stem)
    measured = Measured(held.values, held.gold)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_file, "FORMAT", "iclgd_lens.cell/1")
        path.write_bytes(cell_file.encode(path.stem, held.facts["place"], measured, {}))
    (reason,) = load_run(run).failures["reason"]
    assert "an earlier version wrote it (format iclgd_lens.cell/1; this version reads" in reason


OPEN = """
import sys
import iclgd_lens
run = iclgd_lens.load_run(sys.argv[1])
for table in (run.frame(), run.queries("SimAOU"), run.verdicts(), run.gate(), run.behaviour(),
              run.differences(), run.cost(), run.order_sensitivity(), run.failures):
    len(table)
run.provenance, repr(run)
print(*sorted({"torch", "transformers", "transformer_lens"} & set(sys.modules)))
"""


def test_opening_a_run_needs_no_torch(finished: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(finished)], capture_output=True, text=True, cwd=root,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_a_partial_file_of_a_killed_process_is_nobodys_result(small: Plan, run: Path) -> None:
    (run / "cells" / ".partial-0123").write_bytes(b"half a cell")
    outcome = run_plan(small, run)
    assert (outcome.found, outcome.quarantined) == (8, ())
    assert len(list((run / "cells").glob("*.parquet"))) == 8


def test_a_failed_write_leaves_neither_a_file_nor_a_part(tmp_path: Path) -> None:
    files = open_files(tmp_path)
    files.write("cells/a", b"old")
    with pytest.raises(TypeError):
        files.write("cells/a", "text is not bytes")  # type: ignore[arg-type]
    assert files.read("cells/a") == b"old"
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["a"]


def test_directories_of_something_else_are_refused(small: Plan, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(RunError, match=r"holds other files \(thesis\.tex"):
        run_plan(small, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunError, match="is a file"):
        run_plan(small, tmp_path / "thesis.tex")
    with pytest.raises(RunError, match="holds no run"):
        load_run(tmp_path)


def test_a_cell_file_is_plain_parquet_for_everyone(run: Path) -> None:
    table = pq.ParquetDataset(run / "cells", filters=[("score", "=", "SimAOU")]).read()
    frame = table.to_pandas()
    assert set(frame["seed"]) == {0, 1}
    line = frame[frame["head"].isna() & frame["layer"].eq(2)].iloc[0]
    assert np.mean(line["values"]) == pytest.approx(line["value"], rel=1e-6)
    assert len(frame.explode("values")) == sum(map(len, frame["values"]))


def test_the_folder_of_cells_is_a_dataset_also_where_cells_failed(small: Plan, run: Path) -> None:
    store, cells = Store(run), list_cells(small)
    (run / "cells" / f"{cells[0].key}.parquet").unlink()
    store.fail(cells[0], "no memory")
    assert load_run(run).failures["reason"].tolist() == ["no memory"]
    frame = pd.read_parquet(run / "cells")
    assert set(frame.query("seed == 0")["hypothesis"]) == {"ICL", "ICL_shuffled", "gd"}


def test_a_process_that_ended_before_the_record_left_the_failure_in_the_cell(
    small: Plan, run: Path
) -> None:
    store, cell = Store(run), list_cells(small)[3]
    held = store.cell(cell.key)
    assert held is not None
    assert store.save(cell, Measured(held.values, held.gold, "gd raised KeyError"))
    shutil.rmtree(run / "failed")
    assert store.state(cell.key) == "failed"
    assert store.why(cell.key) == "gd raised KeyError"
    outcome = run_plan(small, run)
    assert (outcome.found, outcome.done) == (7, 0)
    assert outcome.failed == {cell.key: "gd raised KeyError"}
    again = run_plan(small, run, retry_failed=True)
    assert (again.found, again.done, again.failed) == (7, 1, {})


def test_polars_and_duckdb_read_the_cells(run: Path) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.read_parquet(run / "cells")
    assert frame.explode("values").height > frame.height
    duckdb = pytest.importorskip("duckdb")
    query = f"select count(distinct seed) from '{run}/cells/*.parquet' where score = 'SimAM'"
    assert duckdb.sql(query).fetchall() == [(2,)]


def test_no_file_is_a_pickle(run: Path) -> None:
    kinds = {path.suffix for path in run.rglob("*") if path.is_file()}
    assert kinds == {".parquet", ".json", ".safetensors"}


def test_run_json_says_where_the_numbers_come_from(small: Plan, run: Path) -> None:
    facts = json.loads((run / "run.json").read_text())
    spec = {"hypothesis": "gd", "settings": {}, "vary": {}, "controls": None}
    assert facts["plan"]["hypotheses"] == {"gd": spec}
    assert {"versions", "hardware", "system", "git_commit"} <= facts["environment"].keys()
    assert facts["environment"]["hardware"]["cores"] >= 1
    assert facts["timings"]["cell_seconds"] > 0
    assert [cell["seed"] for cell in facts["cells"]] == [0] * 4 + [1] * 4
    assert [cell["subject"] for cell in facts["cells"]] == ["ZS", "ICL", "ICL_shuffled", "gd"] * 2
    assert len(list((run / "invocations").iterdir())) == 1


def test_a_run_in_any_place_that_fsspec_reaches(small: Plan, done: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    where = "memory://bench/run"
    assert run_plan(small, where).done == 8
    assert run_plan(small, where).found == 8
    fs = fsspec.filesystem("memory")
    stored = {
        path.rpartition("/")[2]: fs.cat_file(path) for path in fs.glob("/bench/run/cells/*.parquet")
    }
    assert stored == cells_of(done)
    fs.pipe_file(f"/bench/run/cells/{min(stored)}", b"damaged")
    outcome = run_plan(small, where)
    assert (outcome.done, len(outcome.quarantined)) == (1, 1)
    assert load_run(where).frame().equals(load_run(done).frame())
    fs.rm("/bench", recursive=True)


def test_an_unknown_kind_of_url(small: Plan) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(RunError, match="fsspec cannot open it"):
        run_plan(small, "nowhere://run")
