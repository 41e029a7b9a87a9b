"""The model card names commands that run, as they stand in the shipped folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from examples.embedded_model.card import write_card
from examples.embedded_model.grammar import TASKS
from examples.embedded_model.measurements import CONDITIONS, Measurements
from examples.embedded_model.scoring import SHOTS
from iclgd_lens.embedded import embedded_model_folder

COMMAND = re.compile(r"python -m (\S+?)(?= |`)")
TRAINING = {
    "architecture": {"layers": 1, "width": 8, "heads": 1, "parameters": 10, "words": 5},
    "seed": 0, "steps": 7, "seconds": 60, "cores": 2, "other_tokens": 0.2,
    "stages": [{"name": "words", "description": "single words", "until_step": 7}],
}  # fmt: skip


def test_a_new_card_names_the_commands_of_the_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(10))
    measured = Measurements(
        {name: {task: [0.5] * len(SHOTS) for task in TASKS} for name in CONDITIONS},
        torch.full((1, 1), 0.5), 180, 0,
    )  # fmt: skip
    write_card(tmp_path, measured, TRAINING)
    shipped = (embedded_model_folder() / "README.md").read_text()
    written = (tmp_path / "README.md").read_text()
    commands = COMMAND.findall(shipped)
    assert commands == COMMAND.findall(written)
    assert set(commands) == {"examples.embedded_model.train", "examples.embedded_model.evaluate"}
    # The card's fixed sentences are those of the template, too.
    assert (
        shipped.partition("## Data")[2].partition("## Training")[0]
        == (written.partition("## Data")[2].partition("## Training")[0])
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_the_commands_run_from_the_root_of_the_repository(root: Path, command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"examples.embedded_model.{command}", "--help"],
        cwd=root, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "embedded" in done.stdout
