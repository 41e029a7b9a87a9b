"""Values of a run by model and task: "seed query column", queries matched between seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.bench.cellfile import GOLD, CellData, Place
from iclgd_lens.comparison import LABEL_SCORES, MOMENTS

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
F2T = "_f2t"


@dataclass(frozen=True, eq=False)
class Measurements:
    """The per-query values of one cell.

    Attributes:
        data: The cell's file.
    """

    data: CellData

    @property
    def place(self) -> dict[str, Any]:
        """Model, task, seed, permutation."""
        return self.data.facts["place"]

    @property
    def query_rows(self) -> list[int]:
        """Row index of each query in the task's evaluation split."""
        return self.data.facts["provenance"]["cell"]["query_rows"]

    @cached_property
    def values(self) -> dict[Place, NDArray[np.float32]]:
        """Per-query values by hypothesis, score, layer and head."""
        table = self.data.table
        column: Any = table.column("values").combine_chunks()
        flat = np.asarray(column.flatten())
        ends = np.cumsum(np.asarray(column.value_lengths().fill_null(0)))
        starts = ends - np.asarray(column.value_lengths().fill_null(0))
        keys = zip(*(table.column(name).to_pylist() for name in _KEY), strict=True)
        present = ~np.asarray(column.is_null())
        return {
            key: flat[start:end]
            for key, start, end, there in zip(keys, starts, ends, present, strict=True)
            if there
        }

    @cached_property
    def places(self) -> dict[tuple[str, str], list[tuple[int | None, int | None]]]:
        """Layers and heads of each hypothesis's scores, in the file's order."""
        table = self.data.table
        found: dict[tuple[str, str], list[tuple[int | None, int | None]]] = {}
        kinds = table.column("kind").to_pylist()
        keys = zip(*(table.column(name).to_pylist() for name in _KEY), strict=True)
        for kind, (hypothesis, score, layer, head) in zip(kinds, keys, strict=True):
            if kind == "score":
                found.setdefault((hypothesis, score), []).append((layer, head))
        return found

    def raw(self, hypothesis: str, name: str) -> Floats | None:
        """`LABEL_SCORES` or `MOMENTS` as "query column"; None if absent."""
        parts: list[Any] = []
        while (hypothesis, f"{name}/{len(parts)}", None, None) in self.values:
            parts.append(self.values[(hypothesis, f"{name}/{len(parts)}", None, None)])
        return np.stack(parts, axis=-1).astype(np.float64) if parts else None

    def series(
        self, hypothesis: str, score: str, places: Sequence[tuple[int | None, int | None]]
    ) -> Floats:
        """Per-query values "query column" of a score at some layers and heads (NaN: undefined)."""
        base = score.removesuffix(F2T)
        parts = [self.values[(hypothesis, base, layer, head)] for layer, head in places]
        array = np.stack(parts, axis=-1).astype(np.float64)
        if score != base:
            array[~self._false_to_true(hypothesis)[: len(array)]] = np.nan
        return array

    def long(self, score: str | None, hypothesis: str | None) -> pd.DataFrame:
        """Per-query values, one line a query; of one score or hypothesis, or of all (None)."""
        import pandas as pd

        found = {
            key: values
            for key, values in self.values.items()
            if score in (None, key[1]) and hypothesis in (None, key[0]) and key[0] != GOLD
        }
        counts = [len(values) for values in found.values()]
        rows = np.asarray(self.query_rows)
        gold = self.values[(GOLD, GOLD, None, None)].astype(int)
        frame = pd.DataFrame(list(found), columns=list(_KEY))
        frame = frame.astype({"layer": "Int64", "head": "Int64"})
        frame = frame.loc[frame.index.repeat(counts)].reset_index(drop=True)
        nothing = [np.empty(0)]
        frame["query"] = np.concatenate([rows[:count] for count in counts] or nothing)
        frame["gold"] = np.concatenate([gold[:count] for count in counts] or nothing)
        frame["value"] = np.concatenate(list(found.values()) or nothing)
        return frame

    def _false_to_true(self, hypothesis: str) -> NDArray[np.bool_]:
        """Queries with ZS wrong, ICL right and the hypothesis right."""
        suffix = hypothesis[hypothesis.index("@") :] if "@untrained" in hypothesis else ""
        zs, icl, ft = (
            self.values[(name, "accuracy", None, None)] == 1
            for name in (f"ZS{suffix}", f"ICL{suffix}", hypothesis)
        )
        return ~zs & icl & ft


_KEY = ("hypothesis", "score", "layer", "head")


@dataclass(frozen=True, eq=False)
class Block:
    """All finished cells of one model and task.

    Attributes:
        model: The model's label.
        task: The task's name.
        cells: Its cells, by seed and permutation.
    """

    model: str
    task: str
    cells: tuple[Measurements, ...]

    @cached_property
    def rows(self) -> dict[int, int]:
        """Place of each query, by its row in the evaluation split, over all cells."""
        every = dict.fromkeys(row for cell in self.cells for row in cell.query_rows)
        return {row: place for place, row in enumerate(every)}

    @cached_property
    def scores(self) -> dict[tuple[str, str], list[tuple[int | None, int | None]]]:
        """Layers and heads of every (hypothesis, score) that a cell has."""
        found: dict[tuple[str, str], list[tuple[int | None, int | None]]] = {}
        for cell in self.cells:
            for key, places in cell.places.items():
                found.setdefault(key, places)
        return found

    @cached_property
    def hypotheses(self) -> list[str]:
        """Everything measured, settings ZS and ICL and controls included."""
        return list(dict.fromkeys(hypothesis for hypothesis, _ in self.scores))

    def values(
        self,
        hypothesis: str,
        score: str,
        places: Sequence[tuple[int | None, int | None]] = ((None, None),),
    ) -> tuple[list[int], Floats]:
        """Seeds, and a score's values "seed query column", permutations averaged."""
        having = [cell for cell in self.cells if (hypothesis, score) in cell.places]
        return self._by_seed(having, [cell.series(hypothesis, score, places) for cell in having])

    def moments(self, hypothesis: str) -> tuple[list[int], Floats]:
        """Seeds, and recovery moments "seed query 1 moment", permutations averaged."""
        pairs = [(cell, cell.raw(hypothesis, MOMENTS)) for cell in self.cells]
        having = [(cell, array) for cell, array in pairs if array is not None]
        seeds, array = self._by_seed([cell for cell, _ in having], [part for _, part in having])
        return seeds, array[:, :, None, :]

    def label_scores(self, hypothesis: str) -> dict[int, list[Floats]]:
        """Label scores "query label" of each permutation, by seed."""
        found: dict[int, list[Floats]] = {}
        for cell in self.cells:
            array = cell.raw(hypothesis, LABEL_SCORES)
            if array is not None:
                found.setdefault(cell.place["seed"], []).append(self._aligned(cell, array))
        return found

    def _aligned(self, cell: Measurements, array: Floats) -> Floats:
        """A cell's values at the block's places; NaN for queries that it did not measure."""
        whole = np.full((len(self.rows), *array.shape[1:]), np.nan)
        whole[[self.rows[row] for row in cell.query_rows[: len(array)]]] = array
        return whole

    def _by_seed(
        self, cells: Sequence[Measurements], arrays: Sequence[Floats]
    ) -> tuple[list[int], Floats]:
        groups: dict[int, list[Floats]] = {}
        for cell, array in zip(cells, arrays, strict=True):
            groups.setdefault(cell.place["seed"], []).append(self._aligned(cell, array))
        return list(groups), np.stack([nanmean(np.stack(group), 0) for group in groups.values()])


def blocks(cells: Iterable[CellData]) -> list[Block]:
    """Group cells by model and task, in the order given."""
    groups: dict[tuple[str, str], list[Measurements]] = {}
    for data in cells:
        one = Measurements(data)
        groups.setdefault((one.place["model"], one.place["task"]), []).append(one)
    return [Block(model, task, tuple(found)) for (model, task), found in groups.items()]


def nanmean(array: Floats, axis: int) -> Floats:
    """Mean of the finite values along an axis; NaN where there is none, without a warning."""
    finite = np.isfinite(array)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(finite, array, 0.0).sum(axis) / finite.sum(axis))
