"""Users' own scores: called one by one, and checked for the shape that their level needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from iclgd_lens.errors import LensError, ScoreError
from iclgd_lens.measures.readings import Readings
from iclgd_lens.raised import FailureWarning, is_out_of_memory, raised, warn_of_failure
from iclgd_lens.registry import resolve
from iclgd_lens.scores import Score

_AXES = {"query": "[query]", "layer": "[query layer]", "head": "[query layer head]"}


def own_score(
    score: Score, readings: Readings, failures: dict[str, str] | None
) -> dict[str, Tensor | None]:
    """One score of a subject, by name, and by "name/head" where it exists for heads.

    Args:
        score: A score whose function is a user's own.
        readings: What it looks at.
        failures: Where what it raises is recorded, by its name; its values then do not exist. None
            raises it.

    Raises:
        ScoreError: It returned something of another shape than its level needs, or raised where
            nothing is recorded.
    """
    try:
        return _values(score, readings)
    except (LensError, FailureWarning):
        raise
    except Exception as error:  # a user's function may fail in any way
        if is_out_of_memory(error):
            raise
        told = raised(f"The score {score.name!r}", error)
        if failures is None:
            raise ScoreError(told) from error
        if failures.get(score.name) != told:
            warn_of_failure(told)
        failures[score.name] = told
    shapes = _shapes(readings)
    found: dict[str, Tensor | None] = {
        score.name: torch.full(shapes["query" if score.level == "query" else "layer"], torch.nan)
    }
    if score.by_head is not None:
        found[f"{score.name}/head"] = torch.full(shapes["head"], torch.nan)
    return found


def _values(score: Score, readings: Readings) -> dict[str, Tensor | None]:
    if score.by_head is None:
        level = "layer" if score.level == "head" else score.level
        return {score.name: _checked(score, level, resolve(score.function)(readings), readings)}
    by_head = _checked(score, "head", resolve(score.by_head)(readings), readings)
    # Asked for second, since the mean over heads of a wrong shape fails without explaining
    # anything.
    whole = None if by_head is None else resolve(score.function)(readings)
    return {
        score.name: _checked(score, "layer", whole, readings),
        f"{score.name}/head": by_head,
    }


def _checked(score: Score, level: str, value: Any, readings: Readings) -> Tensor | None:
    """What a score returned, where it fits its level; None was not measured."""
    if value is None:
        return None
    shape = _shapes(readings)[level]
    if not isinstance(value, Tensor):
        given = f"a {type(value).__name__}"
    elif tuple(value.shape) != shape and not _of_first_queries(value, shape, readings):
        given = f"a tensor of shape {tuple(value.shape)}"
    else:
        return value
    raise ScoreError(
        f"The score {score.name!r} (level={score.level!r}) returned {given}; it must return a "
        f"tensor {_AXES[level]}, here {shape}, or None where it was not measured."
    )


def _of_first_queries(value: Tensor, shape: tuple[int, ...], readings: Readings) -> bool:
    """Whether it is only of the queries whose demonstration scores are kept, as Tok2Attn is."""
    kept = readings.icl.demonstration_scores
    return kept is not None and tuple(value.shape) == (len(kept), *shape[1:])


def _shapes(readings: Readings) -> dict[str, tuple[int, ...]]:
    queries, layers, heads = readings.icl.z.shape[:3]
    return {"query": (queries,), "layer": (queries, layers), "head": (queries, layers, heads)}
