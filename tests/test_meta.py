"""The house rules, checked on the source: what imports what, what is forbidden, what must exist."""

from __future__ import annotations

import ast
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.sampling import sampled

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "iclgd_lens"
MODULES = sorted(PACKAGE.rglob("*.py"))

# Data flows from left to right: a room imports only rooms of a smaller number.
ORDER = [
    {
        "registry",
        "files",
        "provenance",
        "ratios",
        "defaults",
        "phrases",
        "model_names",
        "raised",
        "telling",
    },
    {"derangements", "plateaus", "sealed_files", "tokens", "validation", "workers", "yaml_files"},
    {"verdicts"},
    {"controls", "scores"},
    {"subjects", "protocol"},
    {"display_names"},
    {"tasks"},
    {"episode_rows"},
    {"figures", "host"},
    {"demonstrations"},
    {"episode"},
    {"episode_writer"},
    {"episode_loading"},
    {"intervention"},
    {"delta"},
    {"readout"},
    {"cost"},
    {"contexts", "token_attention"},
    {"heads", "measures"},
    {"training"},
    {"hypotheses"},
    {"nulls", "rules"},
    {"budget"},
    {"building", "networks"},
    {"controlled"},
    {"job"},
    {"collapse", "results"},
    {"comparison_groups"},
    {"comparing"},
    {"mediation", "sweeps", "worlds", "calibration"},
    {"calibration_on_networks"},
    {"bench"},
    {"report"},
    {"cli"},
]
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
LEAVES = {"embedded", "errors"}  # any room may import these; they import no room
FACES = {"__init__", "__main__"}  # these only point at the rooms

PICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
FORBIDDEN_CALLS = {
    "eval",
    "exec",
    "compile",
    "torch.load",
    "torch.save",
    "yaml.load",
    "yaml.load_all",
    "yaml.full_load",
    "yaml.unsafe_load",
    "pandas.read_pickle",
    "pd.read_pickle",
}
HEAVY = {
    "datasets",
    "pandas",
    "plotly",
    "pyarrow",
    "ray",
    "scipy",
    "statsmodels",
    "transformer_lens",
    "transformers",
}
IMPORT_SECONDS = 0.3
SLACK = 2.0  # shared machines are slow; what is guarded against is a heavy library, seconds


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def dotted(node: ast.expr) -> str:
    """``torch.load`` for the expression torch.load; empty for anything but names and dots."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
        return f"{left}.{node.attr}"
    return ""


def imports(path: Path, source: ast.Module | None = None) -> Iterator[str]:
    """Every module that a file names in an import, at any depth, typing-only ones included."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]  # of a module and of an __init__
    for node in ast.walk(source or tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield stem
            yield from (f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            if dotted(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
                yield str(node.args[0].value)


def rooms_imported(path: Path, source: ast.Module | None = None) -> set[str]:
    known = LEVEL.keys() | LEAVES | {"cli"}
    parts = (module.split(".") for module in imports(path, source))
    return {part[1] for part in parts if part[0] == "iclgd_lens" and len(part) > 1} & known


def wrong_turns(path: Path, source: ast.Module | None = None) -> set[str]:
    """The rooms that a file imports against the flow."""
    here, there = room(path), rooms_imported(path, source) - LEAVES
    if here in LEAVES:
        return there
    return {other for other in there if other != here and LEVEL[other] >= LEVEL[here]}


def forbidden(source: ast.Module) -> list[str]:
    found: list[str] = []
    for node in ast.walk(source):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.split(".")[0] in PICKLES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module] if node.module.split(".")[0] in PICKLES else []
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [call for call in full if call in FORBIDDEN_CALLS]
        elif isinstance(node, ast.Call):
            call = dotted(node.func)
            found += [call] if call in FORBIDDEN_CALLS else []
            for keyword in node.keywords:
                literal = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in {"trust_remote_code", "allow_pickle"} and literal is not False:
                    found.append(f"{call or 'a call'}({keyword.arg}=...)")
    return found


def collected(path: Path) -> list[str]:
    """The tests that pytest finds in a file: functions, and methods of Test classes."""
    found: list[str] = []
    for node in tree(path).body:
        body = node.body if isinstance(node, ast.ClassDef) and node.name.startswith("Test") else []
        for item in (node, *body):
            if isinstance(item, ast.FunctionDef) and item.name.startswith("test_"):
                found.append(item.name)
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=name)
def test_every_test_file_collects_tests_and_no_other_file_hides_any(path: Path) -> None:
    if path.name.startswith("test_"):
        assert collected(path), f"{name(path)} holds no test that pytest collects"
    else:
        assert not collected(path), f"pytest never looks into {name(path)}: rename it test_*.py"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("test_*.py")), ids=name)
def test_no_test_replaces_another_of_the_same_name(path: Path) -> None:
    top = [n.name for n in tree(path).body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
    assert not {n for n in top if top.count(n) > 1}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_import_one_way(path: Path) -> None:
    here = room(path)
    if here in FACES:
        return
    assert here in LEVEL.keys() | LEAVES, f"{name(path)} is in no room: give {here!r} its place"
    wrong = wrong_turns(path)
    assert not wrong, f"{name(path)} imports {sorted(wrong)}, which stand to its right"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_the_host_room_imports_transformer_lens(path: Path) -> None:
    if room(path) != "host":
        assert "transformer_lens" not in {module.split(".")[0] for module in imports(path)}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_stay_readable(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 350, f"{name(path)} has {lines} lines: cut it in two"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_runs_code_from_data(path: Path) -> None:
    assert not forbidden(tree(path))


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "from torch import load",
        "x = torch.load('f')",
        "x = yaml.load(text, Loader=yaml.Loader)",
        "x = eval('1')",
        "x = load_dataset('d', trust_remote_code=True)",
        "x = numpy.load('f', allow_pickle=flag)",
    ],
)
def test_the_search_for_forbidden_code_finds_it(line: str) -> None:
    assert forbidden(ast.parse(line))


@pytest.mark.parametrize(
    "line",
    ["model.eval()", "yaml.safe_load(t)", "f(trust_remote_code=False)", "re.compile('a')"],
)
def test_the_search_for_forbidden_code_leaves_the_rest_alone(line: str) -> None:
    assert not forbidden(ast.parse(line))


@pytest.mark.parametrize(
    ("file", "line", "wrong"),
    [
        ("subjects.py", "from iclgd_lens.host import Host", {"host"}),
        ("controls.py", "from iclgd_lens import protocol", {"protocol"}),
        ("host/base.py", "from ..tasks import Task", set()),
        ("host/base.py", "from . import hooked", set()),
        ("host/base.py", "def f():\n    from ..comparing import compare", {"comparing"}),
        ("hypotheses/gd.py", "import iclgd_lens.nulls", {"nulls"}),
        ("tasks/__init__.py", "from ..episode import Episode", {"episode"}),
        ("errors.py", "from iclgd_lens.measures.similarity import sim_aou", {"measures"}),
        ("report/page.py", "from iclgd_lens.errors import LensError", set()),
    ],
)
def test_the_map_of_imports_sees_a_wrong_turn(file: str, line: str, wrong: set[str]) -> None:
    assert wrong_turns(PACKAGE / file, ast.parse(line)) == wrong


def listed(path: Path) -> list[str]:
    """The modules that a folder's `__init__.py` lists: indented lines, a name and what it holds."""
    text = ast.get_docstring(tree(path)) or ""
    return re.findall(r"^ {4}([a-z_]+) +[A-Za-z`]", text, flags=re.MULTILINE)


ROOMS = sorted(PACKAGE.glob("*/__init__.py"))


@pytest.mark.parametrize("path", [path for path in ROOMS if len(listed(path)) > 1], ids=name)
def test_a_list_of_modules_names_those_of_its_folder(path: Path) -> None:
    there = {each.stem for each in path.parent.glob("*.py")} - FACES
    assert sorted(listed(path)) == sorted(there)


def test_the_rooms_with_a_list_of_modules_are_seen() -> None:
    seen = {path.parent.name for path in ROOMS if len(listed(path)) > 1}
    assert seen == {"bench", "figures", "mediation", "sweeps"}


def defined(path: Path) -> set[str]:
    """Every name that a module defines, imports or sets, at any depth."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add((node.asname or node.name).rpartition(".")[2])
    return found


def pointed_at(text: str) -> Iterator[list[str]]:
    """The names in backticks that begin with a module or folder of the package."""
    tops = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES} - FACES
    for match in re.findall(r"`(?:iclgd_lens\.)?(\w+(?:\.\w+)+)(?:\(.*?\))?`", text):
        parts = match.split(".")
        if parts[0] in tops and parts[-1] not in {"csv", "py"}:
            yield parts


def leads_nowhere(parts: list[str]) -> bool:
    """Whether a dotted name, walked from the package's folder, names nothing there."""
    here = PACKAGE
    for index, part in enumerate(parts):
        if (here / f"{part}.py").is_file():
            return not set(parts[index + 1 :]) <= defined(here / f"{part}.py")
        if not (here / part).is_dir():
            return part not in defined(here / "__init__.py")
        here = here / part
    return False


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_names_in_backticks_lead_somewhere(path: Path) -> None:
    assert not [p for p in pointed_at(path.read_text(encoding="utf-8")) if leads_nowhere(p)]


@pytest.mark.parametrize(
    "text",
    ["`mediation.effects.MEANINGS`", "`iclgd_lens.verdicts.gone`", "`cost.gone`", "`cost.x.y(1)`"],
)
def test_a_name_that_leads_nowhere_is_seen(text: str) -> None:
    (parts,) = pointed_at(text)
    assert leads_nowhere(parts)


def fresh_import() -> tuple[float, set[str]]:
    """Processor seconds of ``import iclgd_lens`` beyond torch, and what it loaded."""
    code = (
        "import sys, time, torch; before = set(sys.modules); start = time.process_time();"
        "import iclgd_lens; print(time.process_time() - start);"
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before}))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    seconds, _, modules = run.stdout.partition("\n")
    return float(seconds), set(modules.split())


def test_importing_the_package_is_light() -> None:
    runs = [fresh_import() for _ in range(3)]
    assert not runs[0][1] & HEAVY, "import these inside the functions that need them"
    fastest = min(seconds for seconds, _ in runs)
    assert fastest < IMPORT_SECONDS * SLACK, f"importing takes {fastest:.2f} s beyond torch"


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("language", ["sh", "python"])
def test_the_readme_shows_how_to_start(language: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^```{language}\n(.+?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    assert blocks, f"README.md has no ```{language} block"
    if language == "python":
        for block in blocks:
            ast.parse(block)


@pytest.mark.parametrize("major", [3, 4])
def test_pinned_versions_name_releases_alone(major: int) -> None:
    text = (ROOT / f"constraints/tl{major}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pin = re.compile(r'[a-z0-9-]+==[0-9][a-z0-9.]*( ; python_version >= "3\.\d+")?')
    assert [line for line in lines if not pin.fullmatch(line)] == []
    assert any(line.startswith(f"transformer-lens=={major}.") for line in lines)


def test_tests_reach_no_network() -> None:
    # Connecting a datagram socket sends nothing, so that a failure here would not either.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
        with pytest.raises(OSError, match="tests use no network"):
            outside.connect(("192.0.2.1", 9))
        assert outside.connect_ex(("192.0.2.1", 9)) != 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inside:
        inside.connect(("127.0.0.1", 9))


def test_the_table_of_slow_tests_names_tests_that_exist() -> None:
    names = (ROOT / "tests/slow.txt").read_text(encoding="utf-8").splitlines()
    assert names == sorted(set(names))
    assert len(names) > 100
    for name in names:
        file, _, test = name.partition("::")
        assert f"def {test.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), name


class _Item:
    """What `sampled` looks at of a test."""

    def __init__(self, nodeid: str, **params: Any) -> None:
        self.nodeid = nodeid
        if params:
            self.callspec = SimpleNamespace(params=params)


def test_a_sample_tries_every_value_of_every_parameter() -> None:
    items = [
        _Item(f"a.py::test_grid[{kind}-{family}-{size}]", kind=kind, family=family, size=size)
        for kind in ("hooked", "bridge")
        for family in ("gpt2", "llama", "neox")
        for size in (1, True, None)
    ]
    plain = _Item("a.py::test_plain")
    kept = sampled(cast("list[pytest.Item]", [*items, plain]))
    assert plain in kept
    assert len(kept) == 1 + 4
    params = [item.callspec.params for item in items if item in kept]
    for name, count in (("kind", 2), ("family", 3), ("size", 3)):
        assert len({repr(each[name]) for each in params}) == count
