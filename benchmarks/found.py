"""What a run of the zoo found, hypothesis by hypothesis, in sentences for the documentation.

    iclgd bench benchmarks/zoo.yaml --out runs/zoo
    python -m benchmarks.found runs/zoo docs/found.json

The file maps each registered hypothesis to what its lines of the leaderboard say; the leaderboard
itself is printed as a Markdown table, for `docs/zoo.md`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from iclgd_lens import load_run
from iclgd_lens.display_names import label
from iclgd_lens.report.leaderboard import leaderboard
from iclgd_lens.report.run_records import RunRecords, read_run


def found(shown: RunRecords) -> dict[str, list[str]]:
    """Sentences by registered name: one a model and variant."""
    facts: Mapping[str, Any] = shown.provenance.get("hypotheses") or {}
    heads = {label(name): str((facts.get(name) or {}).get("rule") or name) for name in shown.own()}
    sentences: dict[str, list[str]] = {}
    for model in shown.models:
        board = leaderboard(shown, model)
        for line in board.rows if board is not None else ():
            if line.head not in heads or line.cells[0].text == "world":
                continue
            assert board is not None
            parts = [
                f"{column} {item.text}" + (f" ({item.small})" if item.small else "")
                for column, item in zip(board.columns[2:], line.cells[1:], strict=True)
                if item.text
            ]
            where = f" ({line.small})" if line.small else ""
            told = f"{line.head} on {model}{where}: {'; '.join(parts)}."
            sentences.setdefault(heads[line.head], []).append(told)
    return sentences


COLUMNS = (
    "kind", "AUC", "accuracy", "KL_removed", "SimAOU_label", "SimAOU_label_centred", "SimAOU",
    "SimAM", "cost, times LCGD",
)  # fmt: skip


def table(shown: RunRecords) -> Iterator[str]:
    """Yield the lines of the leaderboards in Markdown: means over tasks, without controls."""
    for model in shown.models:
        board = leaderboard(shown, model)
        if board is None:
            continue
        places = [board.columns.index(name) - 1 for name in COLUMNS if name in board.columns]
        yield f"| on {model} | {' | '.join(board.columns[place + 1] for place in places)} |"
        yield "|---" * 2 + "|---:" * (len(places) - 1) + "|"
        for line in board.rows:
            if line.cells[0].text != "world":
                head = f"{line.head}, {line.small}" if line.small else line.head
                yield f"| {head} | {' | '.join(line.cells[p].text for p in places)} |"


def main(run: str, out: str) -> None:
    """Write the sentences of a run to a JSON file, and print its leaderboard."""
    shown = read_run(load_run(run))
    text = json.dumps(found(shown), indent=1, ensure_ascii=False, sort_keys=True)
    Path(out).write_text(text + "\n", encoding="utf-8")
    print(*table(shown), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
