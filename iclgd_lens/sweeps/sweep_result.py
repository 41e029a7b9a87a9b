"""What a sweep found: scores and controls along the factor, a figure, a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from iclgd_lens.display_names import label as shown_label
from iclgd_lens.display_names import value_of_factor
from iclgd_lens.errors import ComparisonError
from iclgd_lens.phrases import layers_named, listed
from iclgd_lens.ratios import recovery_share
from iclgd_lens.results.archive import write_parquet
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.scores import (
    LABEL_CONTRAST,
    LABEL_SCORES,
    RECOVERY_MOMENTS,
    leading_score,
)
from iclgd_lens.subjects import Subject
from iclgd_lens.sweeps.factors import Factor
from iclgd_lens.verdicts.statistics import nanmean

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

PRIMARY, SECOND = LABEL_CONTRAST, "logit_recovery"
"""The scores that are shown, named before anything was measured."""
ABOVE = "AUC"
"""What the model answers: shown above the scores."""


@dataclass(frozen=True, eq=False)
class Point:
    """One value of the factor.

    Attributes:
        value: The value.
        comparison: What was measured there.
        names: The comparison's name for each hypothesis; empty where that is its own name.
    """

    value: Any
    comparison: Comparison
    names: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def shown(self) -> Any:
        """The value as tables and figures have it."""
        return value_of_factor(self.value)

    def renamed(self, name: str) -> str | None:
        """A label of the comparison as the sweep shows it; None if it belongs to another value."""
        if not self.names:
            return name
        subject = Subject.parse(name)
        for shown, own in self.names.items():
            if subject.rule == own:
                return str(Subject(shown, subject.control, subject.settings))
        # `sweep` numbers values: "gd:2" is another point's, a control of one's own "a:b" is not.
        hypothesis, _, number = subject.rule.rpartition(":")
        return None if hypothesis in self.names and number.isdigit() else name


@dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """Scores of hypotheses and controls along a factor.

    Attributes:
        factor: The factor.
        points: What was measured at each value.
    """

    factor: Factor
    points: tuple[Point, ...]

    @cached_property
    def _frame(self) -> pd.DataFrame:
        import pandas as pd

        frames: list[pd.DataFrame] = []
        known: dict[int, pd.DataFrame] = {}
        for point in self.points:
            whole = known.setdefault(id(point.comparison), point.comparison.frame())
            names = [point.renamed(str(name)) for name in whole["hypothesis"]]
            own = whole.assign(hypothesis=pd.Series(names, index=whole.index, dtype=object))
            own = own[own["hypothesis"].notna()]
            own.insert(0, "value_of_factor", [point.shown] * len(own))
            own.insert(0, "factor", self.factor.name)
            frames.append(cast("pd.DataFrame", own))
        found = pd.concat(frames, ignore_index=True)
        found["rule"] = [Subject.parse(name).rule for name in found["hypothesis"]]
        return found

    def frame(self) -> pd.DataFrame:
        """Return `Comparison.frame()` of every point, after columns factor and value_of_factor."""
        return self._frame.copy()

    def curve(self, score: str = PRIMARY) -> pd.DataFrame:
        """Return the lines of one score over all layers.

        Raises:
            ComparisonError: The score was not measured.
        """
        frame = self._frame
        found = frame[(frame["score"] == score) & (frame["level"] == "all")]
        if found.empty:
            raise ComparisonError(f"This sweep has no score {score!r}.")
        return cast("pd.DataFrame", found.reset_index(drop=True))

    @property
    def hypotheses(self) -> list[str]:
        """Hypotheses under no control."""
        names = dict.fromkeys(str(name) for name in self._frame["hypothesis"])
        return [name for name in names if Subject.parse(name).is_hypothesis]

    @property
    def score(self) -> str:
        """The primary score, or SimAOU where labels were not contrasted."""
        return leading_score(set(self._frame["score"]))

    # -- what it says ----------------------------------------------------------------------------

    def matched_change(self, hypothesis: str) -> tuple[float, float]:
        """Where the hypothesis changes label logits as much as in-context learning does.

        Interpolated between the points of a factor with numbers, over the logarithm of the ratio
        of the changes' norms.

        Returns:
            The primary score there, NaN also where it is undefined, and the best-scaled share of
            ICL's change; NaN where no point reaches it.
        """
        ratios: list[float] = []
        shares: list[float] = []
        scores: list[float] = []
        points = list(self.points)
        if all(isinstance(point.value, Real) for point in points):
            points.sort(key=lambda point: point.value)  # neighbours in size, not as they were given
        for point in points:
            label = point.names.get(hypothesis, hypothesis)
            moments = point.comparison.values.get(label, {}).get(RECOVERY_MOMENTS)
            if moments is None:
                continue
            moments = moments.double().numpy()
            mean = nanmean(moments[np.isfinite(moments).all(-1)], 0)
            ratios.append(float(np.log(np.sqrt(mean[1] / mean[2]))) if mean[1] > 0 else math.nan)
            shares.append(float(recovery_share(mean)))
            scores.append(self._at(hypothesis, point.shown))
        return where_equal(ratios, scores), where_equal(ratios, shares)

    def spread(self) -> pd.DataFrame:
        """Return how far answers move along the factor; meaningless where values differ in queries.

        Returns:
            Columns: hypothesis (ICL and ZS too), spread: the standard deviation over the factor's
            values of a query's label margin (gold minus mean of the others' mean log-probability,
            in nats), mean over queries.
        """
        import pandas as pd

        from iclgd_lens.measures.similarity import label_margin  # needs torch, as nothing else here

        lines: list[dict[str, Any]] = []
        for name in ("ZS", "ICL", *self.hypotheses):
            margins: list[Any] = []
            for point in self.points:
                scores = point.comparison.tensor(LABEL_SCORES, point.names.get(name, name)).double()
                margins.append(label_margin(scores, point.comparison.gold).numpy())
            lines.append({"hypothesis": name, "spread": float(np.std(margins, axis=0).mean())})
        return pd.DataFrame(lines)

    def partial_layers(self) -> pd.DataFrame:
        """Return `Comparison.partial_layers()` of every point, after a column value_of_factor."""
        import pandas as pd

        frames: list[pd.DataFrame] = []
        for point in self.points:
            whole = point.comparison.partial_layers()
            for column in ("hypothesis", "lacking"):
                names = [point.renamed(str(name)) for name in whole[column]]
                whole[column] = pd.Series(names, index=whole.index, dtype=object)
            own = whole[whole["hypothesis"].notna()]
            own.insert(0, "value_of_factor", [point.shown] * len(own))
            frames.append(own)
        return pd.concat(frames, ignore_index=True)

    def _unlike_layers(self, name: str) -> str:
        """Where along the factor a hypothesis's means are over other layers than elsewhere."""
        by_layers: dict[tuple[int, ...], list[str]] = {}
        for point in self.points:
            layers = point.comparison.data.common_layers
            there = layers.of(self.score, point.names.get(name, name))
            by_layers.setdefault(tuple(there), []).append(str(point.shown))
        if len(by_layers) < 2:
            return ""
        said = [
            f"{layers_named(layers) if layers else 'none'} at {listed(values)}"
            for layers, values in by_layers.items()
        ]  # fmt: skip
        return f"; not over the same layers: {', '.join(said)}"

    def _at(self, name: str, value: Any) -> float:
        curve = self.curve(self.score)
        lines = curve[(curve["hypothesis"] == name) & (curve["value_of_factor"] == value)]
        return float(lines["value"].iloc[0]) if len(lines) else math.nan

    def sentence(self) -> str:
        """Say where in-context learning is shown, then for each hypothesis what the factor does.

        A value in words is the score at its highest, beside the best control there: no verdict.
        """
        said = [self._gate()]
        values = [point.shown for point in self.points]
        curve = self.curve(self.score)
        for name in self.hypotheses:
            line = [self._at(name, value) for value in values]
            if not np.isfinite(line).any():
                said.append(f"{shown_label(name)}: {self.score} is undefined at every value.")
                continue
            best = int(np.nanargmax(line))
            low, high = np.nanmin(line), np.nanmax(line)
            text = (
                f"{shown_label(name)}: {self.score} lies between {low:.2f} and {high:.2f} along "
                f"{self.factor.axis}, highest at {values[best]}"
            )
            others = curve[
                (curve["value_of_factor"] == values[best]) & curve["hypothesis"].map(_rival(name))
            ]
            if len(others):
                top = (
                    others.loc[others["value"].idxmax()] if others["value"].notna().any() else None
                )
                if top is not None:
                    text += f", where {shown_label(str(top['hypothesis']))} has {top['value']:.2f}"
            if self.factor.name == "lr":
                score, share = self.matched_change(name)
                if math.isfinite(share):
                    at = f"{score:.2f}" if math.isfinite(score) else "undefined"
                    text += (
                        f"; where it changes label logits as much as in-context learning, "
                        f"{at} (of that change it makes {share:.0%})"
                    )
                else:
                    text += "; at no rate tried does it change label logits as much as ICL"
            said.append(f"{text}{self._unlike_layers(name)}.")
        return " ".join(said)

    def _gate(self) -> str:
        """At how many values there is in-context learning at all."""
        open_at: list[str] = []
        for point in self.points:
            gate = point.comparison.gate()
            if gate is not None and gate.reason_for(labels=False) is None:
                open_at.append(str(point.shown))
        if len(open_at) == len(self.points):
            return "In-context learning is shown at every value."
        where = f"{', '.join(open_at)} alone" if open_at else "no value"
        return f"In-context learning is shown at {where}."

    # -- showing ---------------------------------------------------------------------------------

    def figure(self, scores: Sequence[str] | None = None) -> go.Figure:
        """Return a Plotly figure: behaviour above, then scores with controls, along the factor.

        Raises:
            ComparisonError: None of the scores was measured.
        """
        import pandas as pd

        from iclgd_lens.figures import factor_curves

        chosen = scores or (ABOVE, self.score, SECOND)
        have = set(self._frame["score"])
        measured = [name for name in chosen if name in have]
        if not measured:
            raise ComparisonError(f"This sweep has none of the scores {', '.join(chosen)}.")
        lines = pd.concat([self.curve(name) for name in measured])
        return factor_curves(
            lines, axis_name=self.factor.axis, log=self.factor.log,
            title=f"What changes with {self.factor.axis}",
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Sweep of {self.factor.name}, {len(self.points)} values. {self.sentence()}>"

    def to_parquet(self, path: str | Path) -> None:
        """Write `frame()` as parquet, with the provenance of the first point, atomically.

        Raises:
            ComparisonError: The name ends in another suffix than .parquet.
        """
        frame = self.frame()
        frame["value_of_factor"] = frame["value_of_factor"].astype(str)
        facts = {"provenance": dict(self.points[0].comparison.provenance)}
        write_parquet(Path(path), frame, {**facts, "sentence": self.sentence()})


def _rival(name: str) -> Any:
    def is_rival(other: str) -> bool:
        subject = Subject.parse(other)
        return subject.is_rival and str(subject.bare) == name

    return is_rival


def where_equal(ratios: Sequence[float], values: Sequence[float]) -> float:
    """A value where a ratio's logarithm is 0, between the first neighbours on its two sides."""
    for (a, x), (b, y) in zip(
        zip(ratios, values, strict=True), zip(ratios[1:], values[1:], strict=False), strict=False
    ):
        if math.isfinite(a) and math.isfinite(b) and min(a, b) <= 0 <= max(a, b) and a != b:
            return x + (y - x) * (0 - a) / (b - a)
    return math.nan
