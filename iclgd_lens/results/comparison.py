"""What a comparison found: per-query scores, their means with intervals, tables and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.errors import ComparisonError
from iclgd_lens.results.aggregates import COLUMNS, OVER_QUERIES, OVER_UNITS, Resampling, Row, rows
from iclgd_lens.results.archive import read_archive, write_archive, write_parquet
from iclgd_lens.results.conclusions import Conclusions
from iclgd_lens.results.display import Shown
from iclgd_lens.results.lookup import By, arrays_of, score_of_heads, series_of
from iclgd_lens.results.parts import Part, Parts, parts_of
from iclgd_lens.scores import SCORES
from iclgd_lens.verdicts.behaviour import Behaviour
from iclgd_lens.verdicts.gate import Gate
from iclgd_lens.verdicts.verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Shown):
    """Scores of each hypothesis and control against in-context learning, query by query.

    Settings ZS, ICL and ICL_shuffled (after wrong labels) are subjects of their own; `gd@untrained`
    is the hypothesis gd on untrained networks, `random[gd]` random updates with gd's norms.
    Undefined scores (0/0, zero changes) are NaN and counted, never a number.

    Attributes:
        parts: What was measured, one part for each network and draw of demonstrations.
        provenance: Everything that the numbers depend on.
        resamples: Bootstrap resamples of each interval over queries.
        confidence: Coverage of each interval.
        seed: Seed of the bootstrap.
    """

    parts: tuple[Part, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    resamples: int = 1000
    confidence: float = 0.95
    seed: int = 0

    @classmethod
    def of(
        cls, values: Mapping[str, Mapping[str, Any]], gold: Any, *,
        failures: Mapping[str, str] | None = None, **fields: Any,
    ) -> Comparison:  # fmt: skip
        """Build a comparison of one draw from tensors or arrays by label and score.

        A label under a control that is another network (`gd@untrained`) is that network's.
        """
        parts = parts_of(values, np.asarray(gold, np.int64), failures or {})
        return cls(parts, **fields)

    @property
    def _own(self) -> Comparison:
        return self

    # -- reading -------------------------------------------------------------------------------

    @cached_property
    def data(self) -> Parts:
        """The parts by label and unit, with the layers that means are taken over."""
        return Parts(self.parts)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of everything that was measured: settings, hypotheses, then controls."""
        return tuple(self.data.subjects)

    @property
    def hypotheses(self) -> tuple[str, ...]:
        """Labels of hypotheses under no control."""
        return tuple(self.data.hypotheses)

    @property
    def gold(self) -> Tensor:
        """Gold label ids of the queries, draw after draw."""
        import torch

        own = [part.gold for part in self.parts if part.is_models_own]
        return torch.from_numpy(np.concatenate(own))

    @property
    def failures(self) -> dict[str, str]:
        """What diverged, raised or gave non-finite activations, with the reason."""
        several = len(self.data.draws) > 1
        found: dict[str, str] = {}
        for part in self.parts:
            for own, why in part.failures.items():
                where = f"draw {part.draw}: {why}" if several else why
                found.setdefault(part.label(own), where)
        return found

    @property
    def values(self) -> dict[str, dict[str, Tensor]]:
        """Per-query values by label and score: "SimAOU" [query layer], "SimAOU/head" and so on.

        Queries of several draws, or of several networks of a control, follow one another.
        """
        from iclgd_lens.results.frames import tensors

        return tensors(self.data)

    def tensor(self, score: str, hypothesis: str, by: By = "layer") -> Tensor:
        """Return a score's per-query values: [query], [query layer] or [query layer head].

        Raises:
            ComparisonError: There is no such score for that hypothesis.
        """
        import torch

        arrays = arrays_of(self.data, score, hypothesis, by)
        if by == "query" and arrays[0].ndim > 1:
            series = [(p, m[score]) for p, m in self.data.series[hypothesis] if score in m]
            means = (self.data.per_query(score, *each, hypothesis) for each in series)
            arrays = [each.astype(np.float32) for each in means]
        return torch.from_numpy(np.concatenate(arrays))

    # -- tables ----------------------------------------------------------------------------------

    @property
    def how(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.confidence, self.resamples, self.seed)

    def rows(self) -> Iterator[Row]:
        """Yield the lines of `frame()`."""
        yield from self._rows

    @cached_property
    def _rows(self) -> list[Row]:
        return list(rows(self.data, self.how))

    def frame(self) -> pd.DataFrame:
        """Return a tidy table: one line per hypothesis, score, layer and head.

        Columns: hypothesis (the label), rule, control, model_state, settings, score, level ("all",
        "layer" or "head"), layer, head, value, ci_low, ci_high, n (values it rests on), undefined
        (values that do not exist). With several draws an interval is Student's t over draws (over
        networks, for a control that is another network), with one a bootstrap over its queries;
        `attrs` says which, and carries the provenance.
        """
        import pandas as pd

        frame = pd.DataFrame([row.as_dict() for row in self.rows()], columns=list(COLUMNS))
        frame.attrs = {
            "provenance": dict(self.provenance),
            "interval": OVER_UNITS if len(self.data.draws) > 1 else OVER_QUERIES,
            "draws": len(self.data.draws),
        }
        return frame.astype({"layer": "Int64", "head": "Int64"})

    def queries(self, score: str | None = None, hypothesis: str | None = None) -> pd.DataFrame:
        """Return every query's own values, of all or of one score or hypothesis.

        Columns: hypothesis, score, layer, head, draw, network (which of a control's), query (its
        place, or its row in the evaluation split), gold, value.
        """
        from iclgd_lens.results.frames import query_frame

        return query_frame(self.data, score, hypothesis)

    def partial_layers(self) -> pd.DataFrame:
        """Return the layers that means leave out, by hypothesis; see `results.common_layers`.

        Columns: hypothesis (whose means, and its controls'), score, layer, lacking (what has no
        such score there, in some draw or network).
        """
        from iclgd_lens.results.frames import partial_layer_frame

        return partial_layer_frame(self.data)

    def top_heads(
        self, score: str | None = None, hypothesis: str = "lcgd", k: int = 5, *,
        control: str | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Return the k heads that score highest on one half of the queries, scored on the other.

        Picked for its score, a head scores too high; the other half, of the same draws, less so.

        Args:
            score: A score of heads; None for what verdicts are about, the label contrast
                (SimAOU_label), where it was measured, else SimAOU. `attrs["score"]` says which.
            hypothesis: Its label.
            k: How many heads.
            control: A control's label to set beside; None takes the first rival that was measured.

        Returns:
            Columns: layer, head, selected_on (its mean on the half that picked it), value (its mean
            on the other half), control (the control's mean on that half), control_label.
        """
        from iclgd_lens.results.frames import top_heads

        score = score_of_heads(self.data, score, hypothesis)
        return top_heads(self.data, score, hypothesis, k, control)

    def origin(self, score: str, hypothesis: str) -> str:
        """Return where a number of `frame()` comes from, in three steps."""
        series = series_of(self.data, hypothesis)
        entry = SCORES[score]
        how = entry.made_by() or f"{entry.statistic} of {entry.fact}"
        made = how if isinstance(how, str) else f"{how.__module__}:{how.__qualname__}"
        count = len(series)
        return (
            f"1. frame(): the line hypothesis={hypothesis!r}, score={score!r}, made by "
            f"iclgd_lens.results.aggregates:score_rows\n"
            f"2. values[{hypothesis!r}][{entry.fact or score!r}], per query, in {count} part"
            f"{'s' if count > 1 else ''} (network and draw), measured by iclgd_lens.job:Job\n"
            f"3. {made}: {entry.meaning}"
        )

    # -- what may be said ------------------------------------------------------------------------

    @cached_property
    def conclusions(self) -> Conclusions:
        """Gate, verdicts, behaviour, differences and costs of these parts."""
        asked = tuple(self.provenance.get("controls", ()))
        if not asked:  # of a file or run that does not say: whatever was measured
            entries = (subject.control for subject in self.data.subjects.values())
            asked = tuple(dict.fromkeys(name for name in entries if name is not None))
        return Conclusions(self.data, asked, self.confidence, self.seed)

    @cached_property
    def _gate(self) -> Gate | None:
        return self.conclusions.gate()

    def gate(self) -> Gate | None:
        """Return whether there is in-context learning at all; None where ICL was not measured.

        Where there is none, no verdict applies. See `iclgd_lens.verdicts.gate`.
        """
        return self._gate

    def verdicts(self, scores: Sequence[str] | None = None, *, gate: bool = True) -> list[Verdict]:
        """Return the verdicts: of each hypothesis on each score, by control and overall.

        Args:
            scores: Which scores; None for the primary ones (`SCORES[name].primary`).
            gate: False gives verdicts also where they do not apply, to measure how often they are
                wrong there.
        """
        return self.conclusions.verdicts(scores, gate=gate)

    def behaviour(self) -> list[Behaviour]:
        """Return whether each hypothesis classifies better than ZS, and comes nearer to ICL."""
        return self.conclusions.behaviour()

    def differences(self, scores: Sequence[str] | None = None) -> pd.DataFrame:
        """Return paired differences a - b of hypotheses, and of each with its controls.

        Columns: score, kind ("hypotheses", "control", "network"), a, b, difference, ci_low,
        ci_high, p_value, p_corrected (Holm), n, method, verdict.
        """
        from iclgd_lens.results.frames import difference_frame

        return difference_frame(self.conclusions.differences(scores))

    def cost(self) -> pd.DataFrame:
        """Return what building each hypothesis took, counted; see `iclgd_lens.cost`.

        Columns: hypothesis, kind, block_forwards, block_backwards, unembeddings, demonstrations,
        times_lcgd (block passes beside LCGD's).
        """
        import pandas as pd

        return pd.DataFrame(self.conclusions.cost())

    def trajectory(self, scores: Sequence[str] | None = None) -> pd.DataFrame:
        """Return scores along the training of each hypothesis, where they were read.

        Does attention come nearer to in-context learning's as behaviour does? One line per label,
        network, number of passes and score; `KL_removed` is the share of ZS's KL to ICL that the
        update has removed by then.

        Columns: hypothesis (the label), rule, control, network, draw, passes, score, value.
        """
        from iclgd_lens.results.frames import trajectory_frame

        return trajectory_frame(self.data, scores)

    def head_map(self, score: str | None = None, hypothesis: str = "lcgd") -> pd.DataFrame:
        """Return a score of each head over draws, corrected for the number of heads.

        `score` None is what it is in `top_heads`. Columns: layer, head, value, difference (from the
        null), p_value, p_corrected (Benjamini-Hochberg), against.
        """
        import pandas as pd

        score = score_of_heads(self.data, score, hypothesis)
        frame = pd.DataFrame(self.conclusions.head_map(score, hypothesis))
        frame.attrs = {"score": score}
        return frame

    # -- showing -------------------------------------------------------------------------------

    def __repr__(self) -> str:
        facts = self.provenance.get("model", {}).get("name", "model")
        task = self.provenance.get("episode", {}).get("task", "task")
        draws = len(self.data.draws)
        names = ", ".join(self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
        queries = sum(len(part.gold) for part in self.parts if part.is_models_own)
        return (
            f"<Comparison of {names} on {facts}, {task}: {draws} draw{'s' if draws != 1 else ''}, "
            f"{queries} queries, {len(self.labels)} subjects; .table(), .frame(), .verdicts()>"
        )

    # -- on disk -------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write values and provenance (.safetensors); `ComparisonError` for another suffix."""
        facts = {"provenance": dict(self.provenance), **self.how.as_dict()}
        write_archive(Path(path), self.parts, facts)

    @classmethod
    def load(cls, path: str | Path) -> Comparison:
        """Read a file that `save` wrote.

        Raises:
            ComparisonError: The file is missing, truncated, changed, or not a comparison.
        """
        parts, facts = read_archive(Path(path))
        try:
            return cls(parts, **facts)
        except TypeError as error:
            raise ComparisonError(f"{Path(path).name} holds other facts: {error}") from error

    def to_parquet(self, path: str | Path) -> None:
        """Write `frame()` as parquet with the provenance; `ComparisonError` for another suffix."""
        facts = {"provenance": dict(self.provenance), "failures": self.failures}
        write_parquet(Path(path), self.frame(), facts)
