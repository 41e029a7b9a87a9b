"""What a comparison found: per-query scores, their means with intervals, tables and figures."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from iclgd_lens import measures
from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.statistics import Intervals, bootstrap_mean, bootstrap_ratio

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from rich.table import Table

FORMAT = "iclgd_lens.Comparison/1"
COLUMNS = ("hypothesis", "score", "layer", "head", "value", "ci_low", "ci_high", "n", "undefined")
LAYER_SCORES = ("SimAOU", "SimAM", "Tok2Attn")
"""Scores that exist for each layer and each head."""
MOMENTS = "recovery_moments"
LABEL_SCORES = "label_scores"
"""Per-query facts that are no scores: what `logit_recovery` is computed from, and each label word's
mean log-probability [query label], from which predictions follow."""
_RECOVERY = {
    "logit_recovery": measures.recovery_share,
    "logit_scale": measures.recovery_scale,
    "logit_recovery_unscaled": measures.recovery_unscaled,
}
By = Literal["query", "layer", "head"]


@dataclass(frozen=True)
class Row:
    """One line of `Comparison.frame()`."""

    hypothesis: str
    score: str
    layer: int | None
    head: int | None
    value: float
    ci_low: float
    ci_high: float
    n: int
    undefined: int


@dataclass(frozen=True)
class Comparison:
    """Scores of each hypothesis and control against in-context learning, query by query.

    Settings ZS and ICL are rows of their own; `gd@untrained` is the hypothesis gd on the untrained
    control, `random[gd]` a random delta with gd's norms. Undefined scores (0/0, zero changes) are
    NaN and counted, never a number.

    Attributes:
        values: Hypothesis to score to tensor: "accuracy" [query], "SimAOU" [query layer],
            "SimAOU/head" [query layer head], and so on. fp32, on the CPU.
        gold: Gold label ids of the queries.
        failures: Hypotheses that diverged or gave non-finite activations, with the reason.
        provenance: Everything that the numbers depend on.
        resamples: Bootstrap resamples of each interval.
        confidence: Coverage of each interval.
        seed: Seed of the bootstrap.
    """

    values: Mapping[str, Mapping[str, Tensor]]
    gold: Tensor
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    # -- reading -------------------------------------------------------------------------------

    @property
    def hypotheses(self) -> tuple[str, ...]:
        """Everything that was measured: settings ZS and ICL, hypotheses, then controls."""
        return tuple(self.values)

    def tensor(self, score: str, hypothesis: str, by: By = "layer") -> Tensor:
        """Return a score's per-query values: [query], [query layer] or [query layer head].

        Raises:
            ComparisonError: There is no such score for that hypothesis.
        """
        if hypothesis not in self.values:
            raise ComparisonError(
                f"This comparison has no {hypothesis!r}; it has {', '.join(self.values)}."
                + nearest(hypothesis, self.values)
            )
        found = self.values[hypothesis]
        key = f"{score}/head" if by == "head" else score
        if key not in found:
            have = sorted({name.split("/")[0] for name in found} - {MOMENTS, LABEL_SCORES})
            raise ComparisonError(
                f"{hypothesis} has no score {score!r} by {by}; it has {', '.join(have)}."
                + nearest(score, have)
            )
        value = found[key]
        return value.nanmean(1) if by == "query" and value.ndim > 1 else value

    def frame(self) -> pd.DataFrame:
        """Return a tidy table: one line a hypothesis, score, layer and head.

        Columns: hypothesis, score, layer and head (missing for aggregates), value, ci_low, ci_high
        (percentile bootstrap over queries), n (queries the value rests on), undefined (queries on
        which the score does not exist).
        """
        import pandas as pd

        frame = pd.DataFrame([vars(row) for row in self.rows()], columns=list(COLUMNS))
        return frame.astype({"layer": "Int64", "head": "Int64"})

    def rows(self) -> Iterator[Row]:
        """Yield the lines of `frame()`."""
        for hypothesis, found in self.values.items():
            for score, value in found.items():
                if score == MOMENTS:
                    for name, statistic in _RECOVERY.items():
                        interval = bootstrap_ratio(value.numpy(), statistic, **self._settings)
                        yield from _lines(hypothesis, name, interval)
                elif "/" not in score and score != LABEL_SCORES:
                    yield from self._score_rows(hypothesis, score, value)
                    if (
                        score in ("SimAOU", "SimAM")
                        and (right := self._f2t(hypothesis)) is not None
                    ):
                        masked = torch.where(right[:, None], value, math.nan)
                        yield from self._score_rows(hypothesis, f"{score}_f2t", masked)

    def _score_rows(self, hypothesis: str, score: str, value: Tensor) -> Iterator[Row]:
        if value.ndim == 1:
            yield from _lines(hypothesis, score, bootstrap_mean(value.numpy(), **self._settings))
            return
        head = self.values[hypothesis].get(f"{score}/head")
        parts = [value.nanmean(1, keepdim=True), value]
        if head is not None:
            parts.append(head.flatten(1))
        interval = bootstrap_mean(torch.cat(parts, dim=1).numpy(), **self._settings)
        n_layers = value.shape[1]
        n_heads = 0 if head is None else head.shape[2]
        places: list[tuple[int | None, int | None]] = [(None, None)]
        places += [(layer, None) for layer in range(n_layers)]
        places += [(layer, index) for layer in range(n_layers) for index in range(n_heads)]
        yield from _lines(hypothesis, score, interval, places)

    @property
    def _settings(self) -> dict[str, Any]:
        return {
            "resamples": self.resamples,
            "confidence": self.confidence,
            "seed": self.seed,
        }

    def _f2t(self, hypothesis: str) -> Tensor | None:
        """Queries with ZS wrong, ICL right and FTZS right (the f2t subset)."""
        suffix = hypothesis[hypothesis.index("@") :] if "@untrained" in hypothesis else ""
        names = (f"ZS{suffix}", f"ICL{suffix}", hypothesis)
        if any("accuracy" not in self.values.get(name, {}) for name in names):
            return None
        zs, icl, ft = (self.values[name]["accuracy"] == 1 for name in names)
        return measures.f2t(zs, icl, ft)

    # -- showing -------------------------------------------------------------------------------

    def table(self) -> Table:
        """Return a Rich table: one line a hypothesis, with layers' SimAOU and SimAM."""
        from iclgd_lens.tables import comparison_table

        return comparison_table(self)

    def heatmap(self, score: str = "SimAOU", hypothesis: str = "lcgd") -> go.Figure:
        """Return a Plotly figure of a score's mean over queries: layer by head."""
        from iclgd_lens.figures import heatmap

        value = self.tensor(score, hypothesis, by="head").nanmean(0)
        return heatmap(value.numpy(), title=f"{score} of {hypothesis} with in-context learning")

    def layers(self, score: str = "SimAOU") -> go.Figure:
        """Return a Plotly figure of a score by layer, with intervals, one line a hypothesis."""
        from iclgd_lens.figures import layer_profiles

        frame = self.frame()
        frame = frame[(frame["score"] == score) & frame["head"].isna() & frame["layer"].notna()]
        if frame.empty:
            raise ComparisonError(f"No hypothesis has a score {score!r} by layer.")
        return layer_profiles(
            cast("pd.DataFrame", frame), title=f"{score} with in-context learning, by layer"
        )

    # -- on disk -------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write one safetensors file with every per-query value and the provenance, atomically."""
        from safetensors.torch import save

        tensors = {
            f"{hypothesis}|{score}": value.contiguous()
            for hypothesis, found in self.values.items()
            for score, value in found.items()
        }
        facts = {
            "failures": dict(self.failures),
            "provenance": dict(self.provenance),
            "order": list(tensors),
            **self._settings,
        }
        # One entry: safetensors writes several in no fixed order, and the same comparison gives the
        # same bytes.
        data = save({**tensors, "gold": self.gold}, {FORMAT: json.dumps(facts)})
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_bytes(data)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read a file that `save` wrote.

        Raises:
            ComparisonError: The file is missing, truncated, or not a comparison.
        """
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise ComparisonError(f"There is no comparison file {str(path)!r}.")
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                if FORMAT not in header:
                    raise ComparisonError(f"{path.name} is not a comparison (format {FORMAT}).")
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (SafetensorError, OSError) as error:
            raise ComparisonError(f"{path.name} is truncated or unreadable: {error}") from error
        facts = json.loads(header[FORMAT])
        values: dict[str, dict[str, Tensor]] = {}
        for key in facts.pop("order"):
            hypothesis, score = key.split("|")
            values.setdefault(hypothesis, {})[score] = tensors[key]
        return cls(values, tensors["gold"], **facts)

    def to_parquet(self, path: str | Path) -> None:
        """Write `frame()` as parquet with the provenance in its metadata, atomically."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.frame(), preserve_index=False)
        facts = {"provenance": self.provenance, "failures": self.failures}
        metadata = cast(dict[bytes, bytes], dict(table.schema.metadata or {}))
        table = table.replace_schema_metadata(
            metadata | {b"iclgd_lens": json.dumps(facts).encode()}
        )
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            pq.write_table(table, partial)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def _lines(
    hypothesis: str,
    score: str,
    interval: Intervals,
    places: list[tuple[int | None, int | None]] | None = None,
) -> Iterator[Row]:
    parts = [
        np.atleast_1d(part)
        for part in (interval.value, interval.low, interval.high, interval.n, interval.undefined)
    ]
    for index, (layer, head) in enumerate(places or [(None, None)]):
        value, low, high, n, undefined = (part[index] for part in parts)
        yield Row(
            hypothesis, score, layer, head, float(value), float(low), float(high), int(n),
            int(undefined),
        )  # fmt: skip
