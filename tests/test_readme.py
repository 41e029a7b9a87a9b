"""The README does what it says: its code runs, its commands and files exist."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer
from typer.main import get_command

import iclgd_lens as lens
from iclgd_lens.cli.app import app
from iclgd_lens.controls import CONTROLS
from iclgd_lens.embedded import embedded_model_folder

TINY = """
models: [embedded]
tasks: [sst2]
data: embedded
shots: 2
queries: 2
seeds: [0]
permutations: [0]
hypotheses: [gd]
controls: []
lr: 0.1
"""


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.+?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


@pytest.mark.slow
def test_the_python_runs_as_one_session(readme: str, tmp_path: Path, root: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    # The README reads runs/quick. In a process of its own, where no argument's type is checked.
    made = (
        'import iclgd_lens\niclgd_lens.run_plan(iclgd_lens.load_plan("tiny.yaml"), "runs/quick")\n'
    )
    code = "\n".join([made, *blocks(readme, "python"), 'assert "gd_values" in lens.HYPOTHESES'])
    (tmp_path / "readme.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "readme.py"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


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
    own = {"films.yaml", "per_head.ipynb", "own.ipynb", "benchmark.ipynb", "worlds.ipynb"}
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


@pytest.fixture
def place(tmp_path: Path, readme: str, root: Path) -> Path:
    """A folder with what the README's commands read: its task, rows, a hypothesis, a plan."""
    (task,) = blocks(readme, "yaml")
    (tmp_path / "films.yaml").write_text(task, encoding="utf-8")
    lines = [
        json.dumps({"text": f"the {noun} is {word}.", "label": label})
        for noun in ("plot", "cast", "acting", "ending")
        for word, label in (("superb", "good"), ("dull", "bad"))
    ]
    (tmp_path / "ROWS/films").mkdir(parents=True)
    (tmp_path / "ROWS/films/train.jsonl").write_text("\n".join(lines[:4]))
    (tmp_path / "ROWS/films/validation.jsonl").write_text("\n".join(lines[4:]))
    (own,) = (each for each in blocks(readme, "python") if "@lens.hypothesis" in each)
    (tmp_path / "FILE.py").write_text(own.partition("lens.compare")[0])
    (tmp_path / "tiny.yaml").write_text(TINY)
    claim = yaml.safe_load((root / "benchmarks/claims/label_flips.yaml").read_text("utf-8"))
    claim |= {"draws": 1, "queries": 2, "sweeps": claim["sweeps"][:1]}
    (tmp_path / "claim.yaml").write_text(yaml.safe_dump(claim))
    return tmp_path


def cheap(words: list[str]) -> list[str]:
    """A command as it stands, on the embedded model, with rows that are there, and small."""
    stands = {
        "gpt2": "embedded", "DIR": "embedded", "NAME": "embedded", "ROWS": "embedded",
        "/shared/run": "shared", "$SLURM_ARRAY_TASK_ID/8": "1/8", "runs/quick": "run",
        "runs/before": "run", "runs/after": "run",
    }  # fmt: skip
    small = {"bench": "tiny.yaml", "sweep": "claim.yaml"}.get(words[0], "")
    words = [stands.get(word, small if "benchmarks/" in word else word) for word in words]
    if words[0] == "compare":
        words += ["--shots", "2", "--queries", "2", "--quick", "--lr", "0.1"]
        words += [] if "--control" in words else ["--control", "random"]
    if words[0] in ("mediate", "sweep") and small not in words:
        words += ["--draws", "1", "--queries", "2", "--lr", "0.1"]
    if "ray" in words:  # tests/bench starts clusters
        words = [word for word in words if word not in ("--engine", "ray")]
    return words


@pytest.mark.slow
def test_every_command_runs(readme: str, place: Path, root: Path) -> None:
    found = [cheap(words[1:]) for words in commands(readme) if words[0] == "iclgd"]
    inline = re.findall(r"`iclgd (compare[^`]*)`", readme)
    told = [shlex.split(text) for text in inline if "ROWS" in text or "FILE.py" in text]
    assert len(told) == 2
    size = ["--shots", "2", "--queries", "2", "--quick", "--lr", "0.1", "--control", "random"]
    told = [[{"NAME": "gd_values"}.get(word, word) for word in words] + size for words in told]
    # All in one process of its own, where no argument's type is checked.
    code = (
        "import json, sys; from iclgd_lens.cli.app import run\n"
        "for words in json.load(sys.stdin):\n    if run(words): sys.exit(f'failed: {words}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, env={**os.environ, "PYTHONPATH": str(root)},
        input=json.dumps([["bench", "tiny.yaml", "--out", "run"], *found, *told]),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gd_values" in done.stdout


def test_what_is_generated_is_known_to_the_tokenizer(readme: str) -> None:
    (prompt,) = re.findall(r'model\.generate\("([^"]+)"', readme)
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder())
    assert tokenizer.unk_token_id not in tokenizer.encode(prompt)


def test_names_are_explained_before_they_are_used(readme: str) -> None:
    for name in ("ICL", "GD", "LCGD", "SimAOU"):
        assert readme.index(f"(**{name}**") < re.search(rf"(?<!\*)\b{name}\b(?!\*)", readme).start()


def test_the_task_of_the_readme_is_one(readme: str, tmp_path: Path) -> None:
    (block,) = blocks(readme, "yaml")
    path = tmp_path / "films.yaml"
    path.write_text(block, encoding="utf-8")
    assert lens.get_task(path).labels == ("bad", "good")
