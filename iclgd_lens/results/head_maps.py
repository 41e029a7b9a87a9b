"""A score of each head, with its test over draws."""

from __future__ import annotations

from typing import Any

from iclgd_lens.results.parts import Parts
from iclgd_lens.verdicts.statistics import benjamini_hochberg, nanmean, paired_t


def head_map(parts: Parts, score: str, label: str, control: str | None) -> list[dict[str, Any]]:
    """A score of each head over draws, corrected for the number of heads.

    Args:
        parts: The comparison's parts.
        score: A score of each head.
        label: Whose.
        control: What it is held against, draw by draw; None for zero.
    """
    values = parts.by_draw(score, label, "head")
    # Draw by draw; a draw without its control has no difference.
    change = values - parts.by_draw(score, control, "head") if control else values
    flat = change.reshape(len(change), -1)
    p = paired_t(flat).p
    corrected = benjamini_hochberg(p, count_undefined=True)
    grid = [(i, j) for i in range(values.shape[1]) for j in range(values.shape[2])]
    mean, difference = nanmean(values.reshape(len(values), -1), 0), nanmean(flat, 0)
    return [
        {
            "layer": layer, "head": head, "value": float(mean[at]),
            "difference": float(difference[at]), "p_value": float(p[at]),
            "p_corrected": float(corrected[at]),
            "against": control or "zero",
        }
        for at, (layer, head) in enumerate(grid)
    ]  # fmt: skip
