"""What mediation found: effects of heads with intervals, beside the scores of the same heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.files import check_suffix, write_whole
from iclgd_lens.mediation import storage
from iclgd_lens.mediation.display import ShownMediation
from iclgd_lens.mediation.head_maps import (
    ICL,
    KEPT,
    MEANINGS,
    NECESSITY,
    SUBSTITUTION,
    ZS,
    Curve,
    DrawEffects,
    HeadMap,
    Verification,
    balanced,
    jaccard,
    mean_map,
    ratio_map,
    share_of_means,
    spearman,
    unit_of,
)
from iclgd_lens.results.aggregates import COLUMNS, Resampling, Row
from iclgd_lens.results.archive import write_parquet
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.scores import leading_score
from iclgd_lens.verdicts.statistics import nanmean

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Mediation(ShownMediation):
    """Which heads do the work, and whether an update does it there.

    A head on whose output demonstrations change nothing at a query's readout token (up to rounding)
    has no effect there: undefined, counted. `substitution` also needs a head whose necessity's
    interval excludes 0: there is no share of nothing. For heads that were not measured exactly
    (those not in `exact`) the exact effects are undefined, and only attribution is left.

    Attributes:
        draws: Effects of each draw.
        comparison: Scores of the same hypotheses and controls, from the same readouts.
        exact: Heads whose effects were measured exactly; None for all.
        verification: Attribution beside exact interventions.
        group: Query heads that share a key and value head: effects are of query heads, updates of
            keys and values of a whole group.
        named: Heads by what they are known to do, [layer head] by name.
        provenance: Everything that the numbers depend on.
    """

    draws: tuple[DrawEffects, ...]
    comparison: Comparison
    exact: tuple[tuple[int, int], ...] | None
    verification: Verification
    group: int
    named: Mapping[str, Any] = field(default_factory=dict[str, Any])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def _own(self) -> Mediation:
        return self

    @property
    def labels(self) -> tuple[str, ...]:
        """In-context learning ("ICL"), hypotheses, controls."""
        return tuple(self.draws[0].heads)

    @property
    def hypotheses(self) -> tuple[str, ...]:
        """Labels of hypotheses under no control."""
        return tuple(label for label in self.labels if label in self.comparison.hypotheses)

    @property
    def failures(self) -> dict[str, str]:
        """Why something is undefined altogether."""
        found = dict(self.comparison.failures)
        for draw in self.draws:
            found |= draw.failures
        return found

    @property
    def how(self) -> Resampling:
        """How intervals are made."""
        return self.comparison.how

    # -- effects of heads ------------------------------------------------------------------------

    def effects(self, label: str = ICL) -> tuple[str, ...]:
        """Names of the effects that a label has."""
        known = list(self.draws[0].heads[self._label(label)])
        if KEPT in known:
            known.insert(0, SUBSTITUTION)
        return tuple(name for name in MEANINGS if name in known)

    def map(self, effect: str, label: str = ICL) -> HeadMap:
        """An effect of every head: value, interval, corrected p-value, [layer head].

        Args:
            effect: A name of `effects(label)`.
            label: "ICL", a hypothesis or a control.

        Raises:
            ComparisonError: There is no such effect.
        """
        return self._map(effect, self._label(label))

    def _label(self, label: str) -> str:
        if label not in self.labels:
            raise ComparisonError(
                f"This mediation has no {label!r}; it has {', '.join(self.labels)}."
                + nearest(label, self.labels)
            )
        return label

    def _map(self, effect: str, label: str) -> HeadMap:
        if (effect, label) not in self._maps:
            if effect not in self.effects(label):
                known = self.effects(label)
                raise ComparisonError(
                    f"{label} has no effect {effect!r}; it has {', '.join(known)}."
                    + nearest(effect, known)
                )
            self._maps[effect, label] = self._measured(effect, label)
        return self._maps[effect, label]

    @cached_property
    def _maps(self) -> dict[tuple[str, str], HeadMap]:
        return {}

    def _measured(self, effect: str, label: str) -> HeadMap:
        if effect != SUBSTITUTION:
            return mean_map(self._per_draw(effect, label), self.how)
        needed = self._map(NECESSITY, ICL)
        with np.errstate(invalid="ignore"):
            defined = (needed.low > 0) | (needed.high < 0)
        return ratio_map(
            self._per_draw(KEPT, label), self._per_draw(NECESSITY, ICL), defined, self.how
        )

    def _per_draw(self, effect: str, label: str) -> list[Any]:
        """Effects of each draw, every gold label counting alike."""
        return [
            balanced(draw.heads[label][effect], part.gold)
            for draw, part in zip(self.draws, self.comparison.parts, strict=True)
        ]

    def _margin(self, draw: int, name: str, asked: Sequence[int] | None = None) -> float:
        """A draw's mean label margin, every gold label counting alike."""
        gold, margins = self.comparison.parts[draw].gold, self.draws[draw].margins[name]
        if asked is not None:
            gold, margins = gold[list(asked)], margins[list(asked)]
        return float(balanced(margins, gold).mean())

    # -- sets of heads, agreement ----------------------------------------------------------------

    def curve(self, label: str = ICL) -> Curve:
        """Faithfulness against the number of heads put into ZS.

        Raises:
            ComparisonError: Curves were not measured, or not of this label.
        """
        if self._label(label) not in self.draws[0].curves:
            raise ComparisonError("Curves of sets of heads were not measured.")
        reached, gains = [], []
        for number, draw in enumerate(self.draws):
            asked = draw.curve_queries
            zs, icl = (self._margin(number, name, asked) for name in (ZS, ICL))
            gold = self.comparison.parts[number].gold[list(asked)]
            reached.append(balanced(draw.curves[label], gold).mean(0) - zs)
            gains.append(icl - zs)
        return Curve(label, self.draws[0].sizes, share_of_means(reached, gains))

    def agreement(self, k: int = 10) -> pd.DataFrame:
        """Whether an update works through the heads that in-context learning works through.

        Args:
            k: How many heads are compared as sets.

        Returns:
            Columns: hypothesis, margin_gain (of the label margin, as a share of ICL's), spearman
            (rank correlation over heads of necessity and what is kept), jaccard (of their first
            `k`), area and gap of the set curve.
        """
        import pandas as pd

        needed = self._map(NECESSITY, ICL).value
        lines: list[dict[str, Any]] = []
        for label in self.labels:
            line: dict[str, Any] = {"hypothesis": label, "margin_gain": self._gain(label)}
            if label != ICL:
                kept = self._map(KEPT, label).value
                line |= {"spearman": spearman(needed, kept), "jaccard": jaccard(needed, kept, k)}
            if self.draws[0].curves:
                curve = self.curve(label)
                line |= {"area": curve.area, "gap": curve.gap}
            lines.append(line)
        return pd.DataFrame(lines)

    def _gain(self, label: str) -> float:
        margins = [
            [self._margin(number, name) for name in (ZS, ICL, label)]
            for number in range(len(self.draws))
        ]
        zs, icl, own = np.transpose(margins)
        return float(share_of_means(own - zs, icl - zs))

    # -- tables ----------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[Row, float]]:
        """Lines of `frame()` with their corrected p-values."""
        for label in self.labels:
            for name in self.effects(label):
                found = self._map(name, label)
                for layer, head in np.ndindex(*found.value.shape):
                    at = layer, head
                    yield (
                        Row(
                            hypothesis=label, score=name, layer=layer, head=head,
                            value=float(found.value[at]), ci_low=float(found.low[at]),
                            ci_high=float(found.high[at]), n=int(found.n[at]),
                            undefined=int(found.undefined[at]),
                        ),
                        float(found.p[at]),
                    )  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """Return a tidy table: one line per hypothesis, effect, layer and head.

        Columns are those of `Comparison.frame()`, the effect's name in "score", and p_corrected
        (of zero, for the number of heads, by sign flips; see `mediation.head_maps`). "ICL" has the
        effects of in-context learning itself. `attrs` says what p-values count, and holds the
        verification of attribution and the provenance.
        """
        import pandas as pd

        lines = [row.as_dict() | {"p_corrected": p} for row, p in self.rows()]
        frame = pd.DataFrame(lines, columns=[*COLUMNS, "p_corrected"])
        frame.attrs = {
            "provenance": dict(self.provenance), "units": unit_of(len(self.draws)),
            "draws": len(self.draws), "verification": vars(self.verification),
        }  # fmt: skip
        return frame.astype({"layer": "Int64", "head": "Int64"})

    def heads(self, score: str | None = None, hypothesis: str | None = None) -> pd.DataFrame:
        """Return one line per head: the work it does, and whether the update does it there.

        Args:
            score: A score of heads; None for the label contrast where it was measured, else SimAOU.
            hypothesis: Whose substitution and score; None for the first.

        Returns:
            Columns: layer, head, kv_head (whose keys and values it reads), the effects of ICL
            (necessity with its interval and p_corrected first), substitution and kept of the
            hypothesis, its score, and what heads are known to do.
        """
        import pandas as pd

        needed = self._map(NECESSITY, ICL)
        layers, heads = np.indices(needed.value.shape)
        columns: dict[str, Any] = {
            "layer": layers.ravel(), "head": heads.ravel(),
            "kv_head": heads.ravel() // self.group, NECESSITY: needed.value.ravel(),
            "ci_low": needed.low.ravel(), "ci_high": needed.high.ravel(),
            "p_corrected": needed.p.ravel(),
        }  # fmt: skip
        for name in self.effects(ICL):
            columns.setdefault(name, self._map(name, ICL).value.ravel())
        own = self._first(hypothesis)
        if own is not None:
            for name in self.effects(own):
                columns[name] = self._map(name, own).value.ravel()
            name = score or leading_score(self.comparison.data.scores(own))
            columns[name] = self._head_score(name, own)
        columns |= {
            name: np.asarray(value, np.float64).ravel() for name, value in self.named.items()
        }
        frame = pd.DataFrame(columns)
        frame.attrs = {"hypothesis": own}
        return frame

    def top(self, k: int = 5, by: str = NECESSITY, hypothesis: str | None = None) -> pd.DataFrame:
        """Return the `k` heads of the largest effect, largest first: lines of `heads()`.

        Args:
            k: How many heads.
            by: A column of `heads()`; of heads that were not measured exactly, an attribution.
            hypothesis: Whose substitution and score; None for the first.

        Raises:
            ComparisonError: There is no such column.
        """
        frame = self.heads(hypothesis=hypothesis)
        if by not in frame:
            known = [str(column) for column in frame.columns]
            raise ComparisonError(
                f"There is no {by!r} to choose heads by; there are {', '.join(known)}."
                + nearest(by, known)
            )
        return frame.sort_values(by, ascending=False, kind="stable").head(k).reset_index(drop=True)

    def _first(self, hypothesis: str | None) -> str | None:
        if hypothesis is not None:
            return self._label(hypothesis)
        others: Sequence[str] = self.hypotheses or self.labels[1:]
        return others[0] if others else None

    def _head_score(self, score: str, label: str) -> Any:
        units = self.comparison.data.units(label)
        maps = [self.comparison.data.by_place(score, unit, "head") for unit in units]
        return nanmean(np.stack(maps), 0).ravel()

    def save(self, path: str | Path) -> None:
        """Write all effects of all queries (.safetensors); `ComparisonError` for another suffix."""
        place = check_suffix(Path(path), ".safetensors", ComparisonError)
        write_whole(place, storage.encode(self))

    @classmethod
    def load(cls, path: str | Path) -> Mediation:
        """Read a file that `save` wrote; torch is not needed.

        Raises:
            ComparisonError: The file is missing, truncated, changed, or no mediation.
        """
        return cls(**storage.read(Path(path)))

    def to_parquet(self, path: str | Path) -> None:
        """Write `frame()` as parquet with the provenance; `ComparisonError` for another suffix."""
        facts = {
            "provenance": dict(self.provenance), "failures": self.failures,
            "verification": vars(self.verification),
        }  # fmt: skip
        write_parquet(Path(path), self.frame(), facts)
