"""The README does what it says: its code runs, its commands and files exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

import iclgd_lens as lens
from iclgd_lens.cli.app import app, run
from iclgd_lens.controls import CONTROLS


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.+?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.slow
def test_the_python_runs_as_one_session(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "\n".join(blocks(readme, "python"))
    plan = tmp_path / "tiny.yaml"
    plan.write_text(
        "models: [embedded]\ntasks: [sst2]\ndata: embedded\nshots: 2\nqueries: 2\nseeds: [0]\n"
        "permutations: [0]\nhypotheses: [gd]\ncontrols: []\nlr: 0.1\n"
    )
    monkeypatch.chdir(tmp_path)  # the README reads runs/quick
    assert run(["bench", str(plan), "--out", "runs/quick"]) == 0
    monkeypatch.setattr(lens.HYPOTHESES, "_entries", dict(lens.HYPOTHESES.known()))
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert "gd_values" in lens.list_hypotheses()


def test_every_command_and_option_exists(readme: str) -> None:
    command = get_command(app)
    found = [words for words in commands(readme) if words[0] == "iclgd"]
    assert len(found) >= 7
    for words in found:
        sub = command.commands[words[1]]  # type: ignore[attr-defined]
        known = {name for parameter in sub.params for name in parameter.opts}
        assert {word for word in words[2:] if word.startswith("-")} <= known, words


def test_every_make_target_exists(readme: str, root: Path) -> None:
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    targets = [words[1] for words in commands(readme) if words[0] == "make"]
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_every_file_that_is_named_exists(readme: str, root: Path) -> None:
    named = re.findall(r"\]\((?!http)([^)]+)\)", readme)
    named += re.findall(r"`([\w./-]+\.(?:md|py|ipynb|yaml))`", readme)
    named += [word for words in commands(readme) for word in words if word.endswith(".yaml")]
    assert len(named) >= 6
    own = {"colours.yaml"}
    assert {name for name in named if not (root / name).exists()} <= own


def test_the_pictures_are_png(readme: str, root: Path) -> None:
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert len(pictures) == 2
    for picture in pictures:
        assert (root / picture).read_bytes().startswith(b"\x89PNG")


def test_every_control_is_explained_and_no_other(readme: str) -> None:
    section = readme.split("## Controls")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(CONTROLS)


def test_the_task_of_the_readme_is_one(readme: str, tmp_path: Path) -> None:
    (block,) = blocks(readme, "yaml")
    path = tmp_path / "colours.yaml"
    path.write_text(block, encoding="utf-8")
    assert lens.get_task(path).labels == ("red", "green")
