"""Digests, on a copy of the package: which edit changes whose keys."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from iclgd_lens.bench.digests import CORE_FILES, SHOWING, _imports, is_core, meaning

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "iclgd_lens"
CORE = [file for file in sorted(PACKAGE.rglob("*.py")) if is_core(file.relative_to(PACKAGE))]
# Tables whose entries count one by one, classes of errors, files and texts: none makes a number.
HARMLESS = {
    "controls", "scores", "errors", "embedded", "files", "sealed_files", "phrases", "ratios",
}  # fmt: skip
# Libraries are imported once; each question is answered by a child that imports the copy anew.
ANSWER = """
import json, os, sys
import datasets, pyarrow.parquet, pydantic, tokenizers, torch, transformer_lens, transformers
for line in sys.stdin:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        if status:
            print("null", flush=True)
        continue
    from iclgd_lens.bench.cells import list_cells
    from iclgd_lens.bench.plan import parse_plan
    import iclgd_lens
    assert iclgd_lens.__file__.startswith(sys.argv[1]), iclgd_lens.__file__
    cells = list_cells(parse_plan(json.loads(line)))
    found = {f"{cell.setting.network} {cell.subject}": cell.key for cell in cells}
    print(json.dumps(found), flush=True)
    os._exit(0)
"""


@pytest.fixture(scope="module")
def listing(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Keys by network and label, as a copy of the package with some edits gives them."""
    place = tmp_path_factory.mktemp("copy")
    ignored = shutil.ignore_patterns("__pycache__", "*.gz", "report", "figures")
    shutil.copytree(PACKAGE, place / "iclgd_lens", ignore=ignored)
    plan = fields | {
        "tasks": ["sst2"], "seeds": [0], "permutations": [0], "twins": 1,
        "hypotheses": ["gd", "lcgd", "constant_shift"],
        "controls": ["random", "shuffled", "untrained", "gaussian", "oracle"],
    }  # fmt: skip
    settings = {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", ANSWER, str(place)], text=True, cwd=place,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | settings,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None

    def keys(*edits: tuple[str, Callable[[str], str]]) -> dict[str, str]:
        paths = {file: place / "iclgd_lens" / file for file, _ in edits}
        for file, edit in edits:
            before = paths[file].read_text(encoding="utf-8") if paths[file].is_file() else ""
            paths[file].parent.mkdir(exist_ok=True)
            paths[file].write_text(edit(before), encoding="utf-8")
            assert edit(before) != before, file
        print(json.dumps(plan), file=process.stdin, flush=True)
        answer = json.loads(process.stdout.readline())
        for file, path in paths.items():
            path.unlink()
            if (PACKAGE / file).is_file():
                shutil.copy(PACKAGE / file, path)
        assert answer is not None, "the copy failed; see its traceback above"
        return answer

    yield keys
    process.stdin.close()
    process.wait(timeout=30)


@pytest.fixture(scope="module")
def before(listing: Any) -> dict[str, str]:
    return listing()


def add(text: str) -> Callable[[str], str]:
    return lambda source: f"{source}\n{text}\n"


def swap(old: str, new: str) -> Callable[[str], str]:
    def edit(source: str) -> str:
        assert source.count(old) >= 1, old
        return source.replace(old, new)

    return edit


def docstring(source: str) -> str:
    """Other words in every docstring of a module, and a comment."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        has_one = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        if has_one and ast.get_docstring(node):
            line = node.body[0].lineno - 1
            lines[line] = lines[line].replace('"""', '"""Really: ', 1)
    return "\n".join([*lines, "# A comment."])


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if before[name] != after[name]}


def test_words_and_what_only_shows_change_no_key(listing: Any, before: dict[str, str]) -> None:
    edits = [
        (file, docstring)
        for file in (
            "readout/reader.py",
            "hypotheses/gd.py",
            "job.py",
            "host/base.py",
            "tasks/draws.py",
        )
    ]
    edits += [
        ("controls.py", swap("would any update of this size do?", "does the direction matter?")),
        ("scores.py", swap('"""Every', '"""All')),
        ("hypotheses/lcgd.py", swap('description="', 'description="really ')),
    ]
    edits += [
        (file, add("EXTRA = 1"))
        for file in (
            "report/page.py", "figures/new.py", "results/display.py", "cli/app.py", "cli/bench.py",
            "bench/store.py", "bench/run_tables.py", "results/comparison.py", "verdicts/verdict.py",
            "verdicts/statistics.py", "verdicts/classification.py", "worlds/world.py", "cli/new.py",
            "__init__.py",
        )
    ]  # fmt: skip
    assert changed(before, listing(*edits)) == set()


@pytest.mark.parametrize(
    ("file", "rule"),
    [
        ("hypotheses/gd.py", "gd"),
        ("hypotheses/lcgd.py", "lcgd"),
        ("hypotheses/constant_shift.py", "constant_shift"),
        ("hypotheses/oracle.py", "oracle"),
    ],
)
def test_a_hypothesis_module_changes_its_own_keys_alone(
    listing: Any, before: dict[str, str], file: str, rule: str
) -> None:
    own = {name for name in before if rule in name.replace("[", " ").replace("]", " ").replace(
        "@", " ").split()}  # fmt: skip
    assert own
    assert changed(before, listing((file, add("EXTRA = 1")))) == own


def test_what_rules_share_changes_the_rules_that_import_it(
    listing: Any, before: dict[str, str]
) -> None:
    after = listing(("hypotheses/loss.py", add("EXTRA = 1")))
    found = changed(before, after)
    assert {"trained gd", "trained lcgd", "untrained gd", "trained random[gd]"} <= found
    assert not {"trained ICL", "trained constant_shift", "trained oracle"} & found


@pytest.mark.parametrize(
    "file",
    ["readout/reader.py", "job.py", "nulls.py", "new.py", "bench/session.py", "training/sgd.py"],
)
def test_the_core_changes_every_key(listing: Any, before: dict[str, str], file: str) -> None:
    assert changed(before, listing((file, add("EXTRA = 1")))) == set(before)


def test_a_score_that_is_made_otherwise_changes_every_key(
    listing: Any, before: dict[str, str]
) -> None:
    after = listing(("scores.py", swap(":sim_aou_heads", ":sim_aou")))
    assert changed(before, after) == set(before)


def test_a_control_that_acts_otherwise_changes_its_keys(
    listing: Any, before: dict[str, str]
) -> None:
    after = listing(("controls.py", swap("{_NULLS}:random_update", "{_NULLS}:shuffled")))
    assert changed(before, after) == {n for n in before if "random[" in n}


def test_the_core_stands_on_nothing_that_does_not_count() -> None:
    for file in CORE:
        for module in _imports(file):
            parts = module.split(".")
            if parts[0] != "iclgd_lens" or len(parts) < 2:
                continue
            if parts[1] == "hypotheses" and len(parts) > 2:
                if (PACKAGE / "hypotheses" / f"{parts[2]}.py").is_file():
                    assert f"hypotheses/{parts[2]}.py" in CORE_FILES, (file, module)
            elif file.parent.name != "bench":
                assert parts[1] not in SHOWING - HARMLESS, (file, module)


def test_the_meaning_of_code_is_what_it_does() -> None:
    source = '@hypothesis("a", description="one")\ndef f(b):\n    """Doc."""\n    return b\n'
    assert meaning(source) == meaning(source.replace("one", "two").replace("Doc", "Other"))
    assert meaning(source) == meaning("# Comment\n" + source)
    assert meaning(source) != meaning(source.replace("return b", "return b + 1"))
    assert meaning("f(source=1)") != meaning("f(source=2)"), "no registration"
    assert meaning('raise E("a")') != meaning('raise E("b")')


def test_who_does_the_work_changes_no_number() -> None:
    assert not is_core(Path("workers.py"))
