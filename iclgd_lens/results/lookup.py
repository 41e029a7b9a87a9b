"""What a comparison has of a label and score, or an error that says what there is instead."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.results.common_layers import ScoreArrays
from iclgd_lens.results.parts import Part, Parts
from iclgd_lens.scores import FACTS, leading_score

By = Literal["query", "layer", "head"]


def series_of(parts: Parts, label: str) -> Sequence[tuple[Part, ScoreArrays]]:
    """The parts in which a label was measured, with what was.

    Raises:
        ComparisonError: It was not measured at all.
    """
    if label not in parts.series:
        raise ComparisonError(
            f"This comparison has no {label!r}; it has {', '.join(parts.subjects)}."
            + nearest(label, parts.subjects)
        )
    return parts.series[label]


def arrays_of(parts: Parts, score: str, label: str, by: By) -> list[Any]:
    """A score's per-query values in each part that has them: [query], or with layer and head.

    Raises:
        ComparisonError: There is no such score for that label.
    """
    series = series_of(parts, label)
    place = "/head" if by == "head" else ""
    found = [measured[score + place] for _, measured in series if score + place in measured]
    if not found:
        known = [name for name in parts.scores(label) if name not in FACTS]
        have = [name for name in known if any(name + place in each for _, each in series)]
        raise ComparisonError(
            f"{label} has no score {score!r} by {by}; it has {', '.join(have) or 'none'}."
            + nearest(score, have)
        )
    return found


def score_of_heads(parts: Parts, score: str | None, label: str) -> str:
    """A score that a label has by head; None takes the one that verdicts are about first.

    Raises:
        ComparisonError: The label has no such score by head.
    """
    found = score or leading_score(scores_by_head(parts, label))
    arrays_of(parts, found, label, "head")
    return found


def scores_by_head(parts: Parts, label: str) -> set[str]:
    """Scores that a label has by head in some part; none where it was not measured."""
    names = {name for _, measured in parts.series.get(label, ()) for name in measured}
    return {name.removesuffix("/head") for name in names if name.endswith("/head")}
