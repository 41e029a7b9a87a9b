"""Is one more network of a control called "yes"? The rule's rate on networks that learned nothing.

Untrained networks of one model are exchangeable: let each in turn play the model, with the others
as its twins. Whatever is called "yes" is called so by chance (N1). And does a verdict on the model
depend on which networks and directions were drawn (S2)? Both re-use one comparison's numbers:
nothing is measured anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from iclgd_lens.results.parts import Parts
from iclgd_lens.scores import primary_scores
from iclgd_lens.subjects import TRAINED, Subject
from iclgd_lens.verdicts.evidence import ControlEvidence, Evidence
from iclgd_lens.verdicts.shares import Rate
from iclgd_lens.verdicts.verdict import OVERALL, decide

if TYPE_CHECKING:
    from iclgd_lens.results.comparison import Comparison

LEAST = 4
"""Networks that such a trial needs: one that plays the model, three twins."""


def never_trained(
    comparisons: Sequence[Comparison], control: str = "untrained", scores: Sequence[str] = ()
) -> Rate:
    """How often a network of a control is "yes" against the others, with the gate off.

    Where networks had budgets of their own, each is held against the others at those budgets:
    networks that all chose in the same way are exchangeable, networks at the budget that one of
    them chose are not.

    Args:
        comparisons: With several networks of the control each (`twins=`).
        control: The control.
        scores: Which scores; none for the primary ones. Each is a trial, those of one network a
            cluster.
    """
    asked: dict[tuple[object, int], list[bool]] = {}
    for at, comparison in enumerate(comparisons):
        # Networks of one model are the same on every task.
        model = comparison.provenance.get("model", {}).get("name", at)
        for label in comparison.data.hypotheses:
            for score in scores or primary_scores():
                answers = _each_as_model(comparison.data, label, score, control)
                for network, answer in answers.items():
                    asked.setdefault((model, network), []).append(answer == "yes")
    clusters = tuple((sum(answers), len(answers)) for answers in asked.values())
    return Rate(
        f'never-trained networks called "yes" ({control})', sum(yes for yes, _ in clusters),
        sum(trials for _, trials in clusters), (0.0, 0.05), clusters,
    )  # fmt: skip


def _each_as_model(parts: Parts, label: str, score: str, control: str) -> dict[int, str]:
    """The verdict on each network, by its number."""
    subject = Subject.parse(label)
    own = str(Subject(subject.rule, control, {**subject.settings, "budget": "own"}))
    shown = own if own in parts.series else str(subject.under(control))
    values = parts.per_network(score, shown, control)
    if len(values) < LEAST:
        return {}
    found: dict[int, str] = {}
    for one in range(len(values)):
        others = np.delete(values, one)
        evidence = Evidence(
            hypothesis=label, score=score, values=values[one : one + 1],
            controls={control: ControlEvidence("network", others)},
        )  # fmt: skip
        found[one] = decide([evidence], gate=False)[-1].verdict
    return found


def steadiness(comparison: Comparison, *, networks: int, trials: int = 20, seed: int = 0) -> Rate:
    """How often the overall verdicts are the same with other networks drawn from those measured.

    Args:
        comparison: With more networks than `networks`.
        networks: How many are drawn each time, without replacement.
        trials: How often.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    whole = _overall(comparison)
    same = total = 0
    for _ in range(trials):
        drawn = _overall(_thinned(comparison, networks, generator))
        same += sum(drawn.get(place) == answer for place, answer in whole.items())
        total += len(whole)
    return Rate("verdicts that stay the same with other networks", same, total, (0.9, 1.0))


def _overall(comparison: Comparison) -> dict[tuple[str, str], str]:
    return {
        (each.hypothesis, each.score): each.verdict
        for each in comparison.verdicts()
        if each.control == OVERALL
    }


def disjoint(comparison: Comparison, networks: int) -> list[Comparison]:
    """The same comparison with other networks each time, none of them twice.

    Each is what another seed of the networks would give, except for which of them share a draw.

    Args:
        comparison: With several times as many networks of each control.
        networks: How many each has.
    """
    held = min((len(found) for found in _networks(comparison).values()), default=0)
    return [
        _with_networks(
            comparison,
            {
                name: set(sorted(indices)[first : first + networks])
                for name, indices in _networks(comparison).items()
            },
        )
        for first in range(0, held - networks + 1, networks)
    ]


def _thinned(comparison: Comparison, networks: int, generator: np.random.Generator) -> Comparison:
    kept = {
        name: set(generator.permutation(sorted(indices))[:networks].tolist())
        for name, indices in _networks(comparison).items()
    }
    return _with_networks(comparison, kept)


def _networks(comparison: Comparison) -> dict[str, set[int]]:
    """Numbers of the networks that were measured, by control."""
    found: dict[str, set[int]] = {}
    for part in comparison.parts:
        if part.network != TRAINED:
            found.setdefault(part.network, set()).add(part.index)
    return found


def _with_networks(comparison: Comparison, kept: Mapping[str, set[int]]) -> Comparison:
    parts = tuple(
        part
        for part in comparison.parts
        if part.network == TRAINED or part.index in kept[part.network]
    )
    return replace(comparison, parts=parts)
