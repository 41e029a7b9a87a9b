"""A rule along its training: what it has learned after 1, 2, 4, ... passes.

One point on such a curve is no answer to whether attention comes nearer to in-context learning's as
behaviour does. Where a rule trains by this package's own loop the points are stages of one
training; else it is built anew for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from iclgd_lens.building import Builder
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.hypotheses.rows import SIDE_BY_SIDE, row_trainings
from iclgd_lens.hypotheses.sgd import learning_rate
from iclgd_lens.intervention import Intervention
from iclgd_lens.rules import Rule
from iclgd_lens.subjects import Subject

PASSES = (1, 2, 4, 8, 16)


def passes_of(asked: bool | Sequence[int]) -> tuple[int, ...]:
    """After which passes scores are read: True for the usual ones, False for none."""
    if isinstance(asked, bool):
        return PASSES if asked else ()
    return tuple(sorted(set(asked)))


def along(
    builder: Builder, rule: Rule, passes: Sequence[int] = PASSES
) -> Iterator[tuple[int, Intervention, Intervention | None]]:
    """Yield a rule's interventions, from right and wrong labels, after each number of passes.

    Stops where training diverges. Yields nothing for a rule without passes.
    """
    value = rule.value
    if not isinstance(value, Hypothesis) or "epochs" not in value.settings():
        return
    if value.rows is None or not set(rule.settings) <= SIDE_BY_SIDE:
        yield from _anew(builder, rule, passes)
        return
    shown = [builder.episode, *([builder.wrong] if builder.wrong is not None else [])]
    trainings = [_training(builder, rule, value, episode, max(passes)) for episode in shown]
    for count in range(1, max(passes) + 1):
        states = [next(training) for training in trainings]
        if count not in passes:
            continue
        deltas = [
            ParameterDelta({name: each.detach()[0] for name, each in state.delta.items()})
            for state in states
        ]
        if not all(delta.is_finite for delta in deltas):
            return
        yield count, deltas[0], deltas[1] if len(deltas) > 1 else None


def _training(
    builder: Builder, rule: Rule, value: Hypothesis, episode: Episode, passes: int
) -> Iterator[Any]:
    settings = {key: each for key, each in rule.settings.items() if key not in ("lr", "epochs")}
    rate = learning_rate(rule.settings.get("lr"), episode.demonstrations)
    if value.rows is None:
        raise TypeError(f"{value.name} does not train row by row")
    return row_trainings(
        value.rows, builder.host, episode.demonstrations, [rate], passes, **settings
    )


def _anew(
    builder: Builder, rule: Rule, passes: Sequence[int]
) -> Iterator[tuple[int, Intervention, Intervention | None]]:
    quiet = Builder(builder.host, builder.episode, builder.wrong, forgiving=builder.forgiving)
    for count in passes:
        further = replace(rule, settings={**rule.settings, "epochs": count})
        right = quiet.build(further, builder.episode, rule.name)
        if right is None:
            return
        wrong = None
        if builder.wrong is not None:
            wrong = quiet.build(further, builder.wrong, str(Subject(rule.name, "shuffled")))
        yield count, right, wrong
