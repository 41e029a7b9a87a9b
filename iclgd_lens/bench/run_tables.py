"""`load_run`: a run directory as tidy tables. Opening one needs no torch.

A run is one comparison for each model and task, and says of it what a comparison says, in tables
with model and task in front. `gate`, `verdicts` and `behaviour`, which are objects of a comparison,
are lines of a table here, too; the objects are those of `Run.comparisons`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from iclgd_lens.bench.cell_file import PLACE, CellData, decode, parts_of
from iclgd_lens.bench.figure_data import FORMS, Drawn, ModelAndTask
from iclgd_lens.bench.order_sensitivity import order_sensitivity
from iclgd_lens.bench.read_only_store import ReadOnlyStore
from iclgd_lens.bench.store import Store
from iclgd_lens.errors import RunError, nearest
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.frames import behaviour_frame, gate_frame, head_frame, verdict_frame
from iclgd_lens.sealed_files import opened
from iclgd_lens.subjects import TRAINED

if TYPE_CHECKING:
    import pandas as pd

    from iclgd_lens.results.stacked_table import Tables
    from iclgd_lens.sweeps.sweep_result import Sweep


DAMAGED = "damaged file: "
"""How the reason begins that is given for a cell without scores, where its file is damaged."""


def load_run(where: str | os.PathLike[str]) -> Run:
    """Open a run directory; nothing in it is changed.

    Args:
        where: A local folder, or a URL that fsspec opens.

    Raises:
        RunError: There is no run there, an earlier version wrote it, or its run.json is damaged.
    """
    store = ReadOnlyStore(where)
    store.check_version()
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
        key, place = planned["key"], {name: planned[name] for name in (*PLACE, "subject")}
        data = store.files.read(f"cells/{key}.parquet")
        if data is None:
            record = store.failure(key)
            if record is None:
                missing.append(place)
            else:
                failures.append(place | {"reason": record["reason"]})
            continue
        try:
            cell = decode(data, key)
            # A label is in no key, so a file may hold that of another plan of the same cells.
            cell = replace(cell, facts={**cell.facts, "place": place})
        except RunError as error:
            reason = f"{DAMAGED}{error}; the command that made the run repairs it"
            failures.append(place | {"reason": reason})
            continue
        if cell.facts["failure"]:
            failures.append(place | {"reason": cell.facts["failure"]})
        cells.append(cell)
    studies = _studies(store, facts, failures, missing)
    return Run(os.fspath(where), facts, tuple(cells), failures, missing, studies)


def _studies(
    store: Store, facts: Mapping[str, Any], failures: list[dict[str, Any]],
    missing: list[dict[str, Any]],
) -> dict[str, bytes]:  # fmt: skip
    """The bytes of studies, by key; any other joins the failures or the missing ones."""
    found: dict[str, bytes] = {}
    for study in facts.get("studies", ()):
        key, place = study["key"], {name: study[name] for name in (*PLACE, "subject")}
        data, record = store.study(key), store.failure(key)
        if data is not None:
            try:
                opened(data, key, FORMS[study["kind"]], RunError)
            except RunError as error:
                failures.append(place | {"reason": f"{DAMAGED}{error}"})
            else:
                found[key] = data
        elif record is not None:
            failures.append(place | {"reason": record["reason"]})
        else:
            missing.append(place)
    return found


@dataclass(frozen=True, eq=False)
class Run(Drawn):
    """What a benchmark measured.

    Attributes:
        where: The run directory.
        facts: What run.json holds: plan, cells, environment, timings.
        cells: The measured cells.
        failed: Cells without scores, each with its reason.
        missing: Cells that are planned and neither measured nor failed.
        study_bytes: The plan's studies, by key, as their files hold them.
    """

    where: str
    facts: Mapping[str, Any]
    cells: tuple[CellData, ...]
    failed: Sequence[Mapping[str, Any]]
    missing: Sequence[Mapping[str, Any]]
    study_bytes: Mapping[str, bytes] = field(default_factory=dict[str, bytes])

    @property
    def _own(self) -> Run:
        return self

    @property
    def damaged(self) -> list[Mapping[str, Any]]:
        """Those of `failed` whose file is truncated or changed, not those that could not be had."""
        return [each for each in self.failed if str(each["reason"]).startswith(DAMAGED)]

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

    @cached_property
    def comparisons(self) -> dict[ModelAndTask, Comparison]:
        """One comparison for each model and task, over draws and networks."""
        groups: dict[ModelAndTask, list[CellData]] = {}
        for cell in self.cells:
            place = cell.facts["place"]
            groups.setdefault((place["model"], place["task"]), []).append(cell)
        resamples = int(self.plan["resamples"])
        return {
            where: Comparison(
                parts_of(cells, self._trainings.get(where, ())),
                self._provenance_of(cells), resamples,
            )
            for where, cells in groups.items()
        }  # fmt: skip

    def _provenance_of(self, cells: Sequence[CellData]) -> dict[str, Any]:
        """What the comparison of one model and task says of itself."""
        place, setting = cells[0].facts["place"], cells[0].facts["setting"]
        name = place["model"]
        own = [m["controls"] for m in self.plan["models"] if m["label"] == name]
        own += [each.get("controls") or () for each in self.plan["hypotheses"].values()]
        return {
            "model": {"name": name, "identity": setting["model"], "dtype": setting["dtype"]},
            "episode": {"task": place["task"], "shots": setting["shots"]},
            "versions": setting["versions"],
            "controls": list(dict.fromkeys(chain(self.plan["controls"], *own))),
        }

    def frame(self) -> pd.DataFrame:
        """Return every aggregate: model and task, then the columns of `Comparison.frame()`."""
        frame = self._together(lambda comparison: comparison.frame())
        frame.attrs = {"provenance": self.provenance}
        return frame

    def table(self) -> Tables:
        """Return `Comparison.table()` of every model and task; `print` shows it."""
        from iclgd_lens.results.display import comparison_table
        from iclgd_lens.results.stacked_table import Tables

        each = self.comparisons.items()
        return Tables(
            *(comparison_table(one, title=f"{model}, {task}") for (model, task), one in each)
        )

    def queries(self, score: str | None = None, hypothesis: str | None = None) -> pd.DataFrame:
        """Return per-query values, one line per query; all of them, or of one score or hypothesis.

        Columns: model, task, then those of `Comparison.queries()`; `query` is the row in the
        evaluation split. Large for large runs: name a score.
        """
        return self._together(lambda comparison: comparison.queries(score, hypothesis))

    def verdicts(self) -> pd.DataFrame:
        """Return the verdicts of every model and task, one line each; see `Comparison.verdicts`."""
        return self._together(lambda comparison: verdict_frame(comparison.conclusions))

    def gate(self) -> pd.DataFrame:
        """Return whether there is in-context learning at all, one line a model and task."""
        return self._together(lambda comparison: gate_frame(comparison.conclusions))

    def behaviour(self) -> pd.DataFrame:
        """Return what each hypothesis does to the answers, by model and task."""
        return self._together(lambda comparison: behaviour_frame(comparison.conclusions))

    def differences(self) -> pd.DataFrame:
        """Return paired differences of hypotheses, and of each with its controls."""
        return self._together(lambda comparison: comparison.differences())

    def partial_layers(self) -> pd.DataFrame:
        """Return the layers that means leave out; see `Comparison.partial_layers`."""
        return self._together(lambda comparison: comparison.partial_layers())

    def cost(self) -> pd.DataFrame:
        """Return what building each hypothesis took, counted."""
        return self._together(lambda comparison: comparison.cost())

    def trajectory(self) -> pd.DataFrame:
        """Return scores along the training, where they were read; see `Comparison.trajectory`."""
        return self._together(lambda comparison: comparison.trajectory())

    def sweep(self, factor: str, *, model: str | None = None, task: str | None = None) -> Sweep:
        """Return scores and controls along a factor of the plan's `vary:`, as `lens.sweep` does.

        Args:
            factor: A key of `vary:`.
            model: Which model; None for the first.
            task: Which task, by its name; None for the first.

        Raises:
            RunError: The plan does not vary it, or nothing of it is measured there.
        """
        from iclgd_lens.sweeps.factors import get_factor
        from iclgd_lens.sweeps.sweep_result import Point, Sweep

        values: Mapping[str, list[Any]] = self.plan.get("vary", {})
        if factor not in values:
            raise RunError(f"This run does not vary {factor!r}.{nearest(factor, values)}")
        points: list[Point] = []
        for where, (own_task, varied, value) in self._varied.items():
            if varied != factor or model not in (None, where[0]) or task not in (None, own_task):
                continue
            model, task = where[0], own_task
            points.append(Point(value, self.comparisons[where]))
        if not points:
            raise RunError(f"Nothing is measured along {factor!r} there.")
        return Sweep(get_factor(factor), tuple(points))

    def worlds(self) -> pd.DataFrame:
        """Return what the instrument reads on models whose answer is known; empty if not read.

        Columns: world, theta (degrees between GD and LCGD), rule, value (SimAOU), exact, error
        (largest of any query and layer), kl, recovery.
        """
        import pandas as pd

        return pd.DataFrame(ReadOnlyStore(self.where).worlds() or [])

    def heads(self) -> pd.DataFrame:
        """Return which heads survive correction for their number.

        Columns: model, task, hypothesis, score (the label contrast), layer, head, value,
        p_corrected (Benjamini-Hochberg, over draws), shown (below .05).
        """
        return self._together(lambda comparison: head_frame(comparison.conclusions))

    @cached_property
    def _order(self) -> pd.DataFrame:
        return order_sensitivity(self.comparisons)

    def order_sensitivity(self) -> pd.DataFrame:
        """Return how predictions change when the same demonstrations are permuted.

        Columns: model, task, hypothesis, flip_rate (share of the pairs of orders that disagree
        about a query), ci_low, ci_high (over draws), accuracy_range (highest minus lowest over
        orders), permutations, seeds, n. Empty where no seed was run in several orders (as in the
        published design, which pairs each seed with an order of its own).
        """
        return self._order.copy()

    @property
    def failures(self) -> pd.DataFrame:
        """What has no scores: the cell's place, subject and reason."""
        import pandas as pd

        columns = [*PLACE, "subject", "reason"]
        return pd.DataFrame([dict(row) for row in self.failed], columns=columns)

    @property
    def provenance(self) -> dict[str, Any]:
        """Everything about plan, models, rows, libraries and machines behind the numbers."""
        models: dict[str, Any] = {}
        tasks: dict[str, Any] = {}
        rules: dict[str, Any] = {}
        for cell in self.cells:
            place, setting = cell.facts["place"], cell.facts["setting"]
            models.setdefault(place["model"], setting["model"])
            tasks.setdefault(place["task"], {"prompt_hash": setting["prompt"]})
            if cell.facts["described"] and place["network"] == TRAINED:
                rules.setdefault(place["subject"], cell.facts["described"])
        first = self.cells[0].facts["setting"] if self.cells else {}
        return {
            "name": self.plan["name"],
            "cells": {
                "planned": len(self.facts["cells"]),
                "finished": len(self.cells),
                "failed": len(self.failed),
                "missing": len(self.missing),
            },
            "plan": self.plan,
            "protocol": self.plan["protocol"],
            "models": models,
            "tasks": tasks,
            "hypotheses": rules,
            "chosen_rates": self._chosen_rates(),
            "versions": first.get("versions", {}),
            "environment": self.facts["environment"],
            "timings": self.facts["timings"],
        }
