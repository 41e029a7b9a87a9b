"""What is known to go wrong, or to mislead, before a model is loaded: of rows, in one line each."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator, Sequence

from iclgd_lens.bench.cells import Cell, settings_of
from iclgd_lens.phrases import count, listed
from iclgd_lens.subjects import TRAINED


def known_before(cells: Sequence[Cell]) -> list[str]:
    """One line for each task whose rows cannot be had, or hold one label alone.

    Draws that the same is true of are named together; none is, where it is true of all.
    """
    own = [each for each in settings_of(list(cells)) if each.network == TRAINED]
    seeds: dict[str, dict[int, None]] = {}
    found: dict[tuple[str, str], dict[int, None]] = {}
    for setting in own:
        seeds.setdefault(setting.label, {})[setting.seed] = None
        problem = [] if setting.problem is None else [f"cannot be measured: {setting.problem}"]
        for sentence in (*problem, *setting.one_label):
            found.setdefault((setting.label, sentence), {})[setting.seed] = None
    lines: list[str] = []
    for (label, sentence), these in found.items():
        which = "" if len(these) == len(seeds[label]) else f", {_seeds(list(these))}"
        lines.append(f"{label}{which}: {sentence}")
    return lines


def _seeds(seeds: Sequence[int]) -> str:
    if len(seeds) > _NAMED:
        return f"{count(len(seeds), 'seed')}, {seeds[0]} among them"
    return f"seed{'s' if len(seeds) > 1 else ''} {listed([str(seed) for seed in seeds])}"


_NAMED = 6


@contextlib.contextmanager
def told_already(cells: Sequence[Cell]) -> Generator[None, None, None]:
    """Let episodes not say again what was said of their rows before the first of them was made."""
    sentences = {each for cell in cells for each in cell.setting.one_label}
    with warnings.catch_warnings():
        for sentence in sentences:
            warnings.filterwarnings("ignore", message=f".*{re.escape(sentence)}")
        yield
