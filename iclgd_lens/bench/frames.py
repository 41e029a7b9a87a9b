"""`load_run`: a run directory as tidy tables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from iclgd_lens.bench.blocks import Block, blocks
from iclgd_lens.bench.cellfile import PLACE, CellData, decode
from iclgd_lens.bench.contrasts import differences, verdicts
from iclgd_lens.bench.order import order_sensitivity
from iclgd_lens.bench.store import Quarantined, Store
from iclgd_lens.bench.summaries import summary_rows
from iclgd_lens.errors import RunError

if TYPE_CHECKING:
    import pandas as pd

_COMPARISON = (
    "hypothesis", "score", "layer", "head", "value", "ci_low", "ci_high", "n", "undefined",
)  # fmt: skip
_SUMMARY = (
    "model", "task", "hypothesis", "score", "layer", "head", "value", "ci_low", "ci_high", "n",
    "seeds",
)  # fmt: skip


def load_run(where: str | os.PathLike[str]) -> Run:
    """Open a run directory; nothing in it is changed.

    Args:
        where: A local folder, or a URL that fsspec opens.

    Raises:
        RunError: There is no run there, or its run.json is damaged.
    """
    store = _ReadOnly(where)
    facts = store.read_run()
    if facts is None:
        damaged = "; ".join(f"{each.name} {each.reason}" for each in store.quarantined)
        raise RunError(
            f"{os.fspath(where)} holds no run"
            + (f": {damaged}. The command that made it repairs it" if damaged else " (no run.json)")
        )
    cells: list[CellData] = []
    failures: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for planned in facts["cells"]:
        key, place = planned["key"], {name: planned[name] for name in PLACE}
        record = store.failure(key)
        data = store.files.read(f"cells/{key}.parquet")
        if record is not None and not record["hypotheses"]:
            failures.append(place | {"hypothesis": None, "reason": record["reason"]})
            continue
        if data is None:
            missing.append(place)
            continue
        try:
            cell = decode(data, key)
        except RunError as error:
            reason = f"damaged file: {error}; the command that made the run repairs it"
            failures.append(place | {"hypothesis": None, "reason": reason})
            continue
        failures += [
            place | {"hypothesis": name, "reason": why}
            for name, why in cell.facts["failures"].items()
        ]
        cells.append(cell)
    return Run(os.fspath(where), facts, tuple(cells), failures, missing)


@dataclass(frozen=True, eq=False)
class Run:
    """What a benchmark measured.

    Attributes:
        where: The run directory.
        facts: What run.json holds: plan, cells, environment, timings.
        cells: The finished cells.
        missing: Cells that are planned and neither finished nor failed.
    """

    where: str
    facts: Mapping[str, Any]
    cells: tuple[CellData, ...]
    failed: Sequence[Mapping[str, Any]]
    missing: Sequence[Mapping[str, Any]]

    def __repr__(self) -> str:
        planned = len(self.facts["cells"])
        return f"<Run {self.where}: {len(self.cells)} of {planned} cells of {self.plan['name']!r}>"

    @property
    def plan(self) -> dict[str, Any]:
        """The plan, as plain values."""
        return self.facts["plan"]

    @property
    def hypotheses(self) -> list[str]:
        """The plan's hypotheses, without settings and controls."""
        return list(self.plan["hypotheses"])

    @property
    def resamples(self) -> int:
        """Bootstrap resamples of the intervals."""
        return int(self.plan["resamples"])

    @cached_property
    def blocks(self) -> list[Block]:
        """The finished cells by model and task."""
        return blocks(self.cells)

    def frame(self) -> pd.DataFrame:
        """Return every cell's scores, one line a hypothesis, score, layer and head.

        Columns: those of `Comparison.frame()` (intervals over queries), then model, task, seed,
        permutation.
        """
        import pandas as pd

        columns = [*_COMPARISON, *PLACE]
        parts = [
            cell.table.drop_columns(["values"]).to_pandas().query("kind == 'score'")[columns]
            for cell in self.cells
        ]
        frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
        integers = ("layer", "head", "n", "undefined", "seed", "permutation")
        return frame.astype(dict.fromkeys(integers, "Int64"))

    def queries(self, score: str | None = None, hypothesis: str | None = None) -> pd.DataFrame:
        """Return per-query values, one line a query; all of them, or of one score or hypothesis.

        Columns: hypothesis, score, layer, head, query (its row in the evaluation split), gold,
        value (NaN: undefined), model, task, seed, permutation. Scores "label_scores/i" are a label
        word's mean log-probability. Large for large runs: name a score.
        """
        import pandas as pd

        columns = ["hypothesis", "score", "layer", "head", "query", "gold", "value", *PLACE]
        parts = [
            cell.long(score, hypothesis).assign(**cell.place)
            for block in self.blocks
            for cell in block.cells
        ]
        if not parts:
            return pd.DataFrame(columns=columns)
        return pd.concat(parts, ignore_index=True).reindex(columns=columns)

    @cached_property
    def _summary(self) -> pd.DataFrame:
        import pandas as pd

        rows = [row for block in self.blocks for row in summary_rows(block, self.resamples)]
        frame = pd.DataFrame(rows, columns=list(_SUMMARY))
        return frame.astype({"layer": "Int64", "head": "Int64", "n": "Int64", "seeds": "Int64"})

    def summary(self) -> pd.DataFrame:
        """Return means over seeds and queries, one line a model, task, hypothesis, score and place.

        Columns: model, task, hypothesis, score, layer, head, value, ci_low, ci_high, n, seeds. The
        intervals resample both seeds and queries (`iclgd_lens.bench.statistics`); orders of one
        seed are averaged first. `n` counts the (seed, query) values that are defined.
        """
        return self._summary.copy()

    @cached_property
    def _differences(self) -> pd.DataFrame:
        return differences(self.blocks, self.hypotheses, resamples=self.resamples)

    def differences(self) -> pd.DataFrame:
        """Return paired differences a - b of hypotheses, and of each with its controls.

        Columns: model, task, score, kind ("hypotheses", "control" or "untrained"), a, b,
        difference, ci_low, ci_high (over seeds and queries), p_value (sign-flip test over queries),
        p_corrected (Holm, over all lines), n, seeds, verdict. A verdict that something is better
        needs p_corrected < 0.05 and an interval without zero.
        """
        return self._differences.copy()

    def verdicts(self) -> pd.DataFrame:
        """Return one sentence a model, hypothesis and score: does it beat its controls?

        Columns: model, hypothesis, score, tasks, beats_all_controls (on how many), verdict.
        """
        return verdicts(self._differences)

    @cached_property
    def _order(self) -> pd.DataFrame:
        return order_sensitivity(self.blocks, resamples=self.resamples)

    def order_sensitivity(self) -> pd.DataFrame:
        """Return how predictions change when the same demonstrations are permuted.

        Columns: model, task, hypothesis, flip_rate (share of the pairs of orders that disagree
        about a query), ci_low, ci_high, accuracy_range (highest minus lowest over orders),
        permutations, seeds, n. Empty where no seed was run in several orders (as in the published
        design, which pairs each seed with an order of its own).
        """
        return self._order.copy()

    def failures(self) -> pd.DataFrame:
        """Return what has no scores: model, task, seed, permutation, hypothesis, reason.

        A missing hypothesis means the whole cell.
        """
        import pandas as pd

        columns = [*PLACE, "hypothesis", "reason"]
        return pd.DataFrame([dict(row) for row in self.failed], columns=columns)

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything about plan, models, rows, libraries and machines behind the numbers."""
        models: dict[str, Any] = {}
        tasks: dict[str, Any] = {}
        rates: list[dict[str, Any]] = []
        for cell in self.cells:
            facts, place = cell.facts["provenance"], cell.facts["place"]
            models.setdefault(place["model"], facts["model"] | {"identity": facts["cell"]["model"]})
            source = ("prompt_hash", "train_source", "train_hash", "validation_source")
            more = ("validation_hash", "train_revision", "validation_revision")
            tasks.setdefault(
                place["task"],
                {name: facts["episode"].get(name) for name in (*source, *more)},
            )
            if facts.get("rates"):
                rates.append({**place, "rates": facts["rates"]})
        planned = len(self.facts["cells"])
        lost = sum(row["hypothesis"] is None for row in self.failed)
        first = self.cells[0].facts["provenance"] if self.cells else {}
        return {
            "name": self.plan["name"],
            "cells": {
                "planned": planned,
                "finished": len(self.cells),
                "failed": lost,
                "missing": len(self.missing),
            },
            "plan": self.plan,
            "protocol": self.plan["protocol"],
            "models": models,
            "tasks": tasks,
            "hypotheses": first.get("hypotheses", {}),
            "chosen_rates": rates,
            "versions": first.get("versions", {}),
            "environment": self.facts["environment"],
            "timings": self.facts["timings"],
        }


class _ReadOnly(Store):
    """A store that notes damaged files and leaves them where they are."""

    def quarantine(self, name: str, reason: str) -> None:
        self.quarantined.append(Quarantined(name, reason, name))


def measured_seconds(where: str | os.PathLike[str]) -> dict[str, float]:
    """Return the seconds that finished cells of a run took, by key."""
    return {
        key: float(seconds)
        for facts in _ReadOnly(where).invocations()
        for key, seconds in facts["cells"].items()
    }
