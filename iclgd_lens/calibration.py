"""Does the verdict rule hold what it promises? Its rates on simulated scores, where truth is known.

Everything goes through the rule itself (`iclgd_lens.verdicts.verdict.decide`), with the gate off.
Scores are drawn with known spreads: between draws of demonstrations (one part shared by hypothesis
and control, since both see the same demonstrations), between queries, and between networks.

- `coverage`: how often an interval holds the true difference (N4: .93 to .97).
- `false_yes`: how often noise is called yes, against controls that vary with the draw and against
  networks (N4: at most .05), also where scores are far from normal.
- `random_direction_null`: a hypothesis that is a random direction, against random directions (N2).
- `shuffled_null`: a hypothesis that learned from shuffled labels, against shuffled labels (N3).
- `other_queries_null`: a hypothesis that is right for the queries asked by chance alone. All draws
  share them, so that a verdict, which is one for these queries, is a yes; that it is shown for
  other queries, too, must not be said (at most .05).
- `power`: how often a true difference is found.

What trained and never-trained models do (N1) needs models: `benchmarks/`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.errors import LensError
from iclgd_lens.verdicts.draws_and_queries import crossed_mean
from iclgd_lens.verdicts.evidence import ControlEvidence, Evidence
from iclgd_lens.verdicts.shares import Rate
from iclgd_lens.verdicts.statistics import paired_t, prediction_t
from iclgd_lens.verdicts.verdict import decide

Floats = NDArray[np.float64]
Shape = Literal["normal", "heavy", "skewed", "two values"]

SHAPES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "normal": lambda generator, shape: generator.standard_normal(shape),
    "heavy": lambda generator, shape: generator.standard_t(3, shape) / 3**0.5,
    "skewed": lambda generator, shape: generator.standard_exponential(shape) - 1,
    "two values": lambda generator, shape: generator.choice((-1.0, 1.0), shape),
}
"""How draws and networks differ: mean 0, standard deviation 1."""


@dataclass(frozen=True)
class Spreads:
    """Standard deviations of simulated scores, in a score's units.

    Attributes:
        shared: Between draws, the same for hypothesis and control.
        draw: Between draws, for hypothesis and control separately.
        network: Between networks.
        query: Between queries of one draw.
        queries: Queries of a draw.
        shape: How draws and networks differ, a key of `SHAPES`.
    """

    shared: float = 0.05
    draw: float = 0.05
    network: float = 0.05
    query: float = 0.3
    queries: int = 32
    shape: Shape = "normal"


COVERS, NEVER_MORE = (0.93, 0.97), (0.0, 0.05)


@dataclass(frozen=True)
class Scores:
    """Simulated aggregates, many comparisons at once.

    Attributes:
        values: The hypothesis in each draw, [draw trial].
        control: The control in each draw, [draw trial].
        twins: The hypothesis on each network, over the same draws, [network trial].
        model: The hypothesis over all draws on the trained network, one more of the population but
            for the effect: [trial].
    """

    values: Floats
    control: Floats
    twins: Floats
    model: Floats


def simulate(
    spreads: Spreads, *, draws: int, networks: int, trials: int, effect: float = 0.0,
    shared_out: bool = False, seed: int = 0,
) -> Scores:  # fmt: skip
    """Draw the scores of many comparisons.

    Args:
        spreads: Their standard deviations.
        draws: Draws of demonstrations.
        networks: Twins.
        trials: Comparisons.
        effect: By how much the hypothesis on the trained model is truly better than its controls.
        shared_out: Whether twin j is measured on draw j mod D alone, not on all draws.
        seed: Of everything that is drawn.

    Raises:
        LensError: A number is out of range, or the shape is unknown.
    """
    if min(draws, networks, trials, spreads.queries) < 1 or spreads.shape not in SHAPES:
        raise LensError(
            f"Nothing can be simulated of {draws} draws, {networks} networks, {spreads}"
        )
    generator, noise = np.random.default_rng(seed), SHAPES[spreads.shape]
    shared = spreads.shared * noise(generator, (draws, trials))
    error = spreads.query / spreads.queries**0.5

    def scores(*shape: int) -> Floats:
        """By draw: what all draws share in, their own part, and the mean of their queries."""
        own = spreads.draw * noise(generator, shape) + error * generator.standard_normal(shape)
        return shared + own

    whims = spreads.network * noise(generator, (networks + 1, trials))
    values = effect + scores(draws, trials)
    by_draw = scores(networks, draws, trials)
    one_draw = by_draw[np.arange(networks), np.arange(networks) % draws]
    twins = whims[1:] + (one_draw if shared_out else by_draw.mean(1))
    return Scores(values, scores(draws, trials), twins, whims[0] + values.mean(0))


def coverage(
    spreads: Spreads, *, draws: int, networks: int = 8, trials: int = 2000, seed: int = 0
) -> list[Rate]:
    """How often the intervals hold the truth: over draws, and of the next network."""
    effect = 0.2
    drawn = simulate(
        spreads, draws=draws, networks=networks, trials=trials, effect=effect, seed=seed
    )
    paired = paired_t(drawn.values - drawn.control)
    over_draws = (paired.low <= effect) & (effect <= paired.high)
    # The trained network differs from the next of the population by nothing but the effect.
    against = prediction_t(drawn.model, drawn.twins)
    over_networks = (against.low <= effect) & (effect <= against.high)
    return [
        Rate(
            f"t interval over {draws} draws holds the truth", int(over_draws.sum()), trials, COVERS
        ),
        Rate(
            f"prediction interval over {networks} networks holds the truth",
            int(over_networks.sum()), trials, COVERS,
        ),
    ]  # fmt: skip


def false_yes(
    spreads: Spreads, *, draws: int, networks: int = 8, trials: int = 1000,
    shared_out: bool = False, seed: int = 0,
) -> list[Rate]:  # fmt: skip
    """How often noise is called yes, against a control of each draw and against networks."""
    return _yes(
        spreads, 0.0, NEVER_MORE, draws=draws, networks=networks, trials=trials,
        shared_out=shared_out, seed=seed,
    )  # fmt: skip


def power(
    spreads: Spreads, effects: Sequence[float], *, draws: int, networks: int = 8,
    trials: int = 300, seed: int = 0,
) -> dict[float, list[Rate]]:  # fmt: skip
    """How often a true difference is found, for each size of it."""
    return {
        each: _yes(
            spreads, each, None, draws=draws, networks=networks, trials=trials, seed=seed
        )
        for each in effects
    }  # fmt: skip


def _yes(
    spreads: Spreads, effect: float, expected: tuple[float, float] | None, *, draws: int,
    networks: int, trials: int, seed: int, shared_out: bool = False,
) -> list[Rate]:  # fmt: skip
    drawn = simulate(
        spreads, draws=draws, networks=networks, trials=trials, effect=effect,
        shared_out=shared_out, seed=seed,
    )  # fmt: skip
    # The trained network's own whim is one number, the same in every draw.
    values = drawn.values + (drawn.model - drawn.values.mean(0))
    against_draws = (
        _evidence(one, {"random": ControlEvidence("draw", other)})
        for one, other in zip(drawn.values.T, drawn.control.T, strict=True)
    )
    against_networks = (
        _evidence(one, {"untrained": ControlEvidence("network", twins)})
        for one, twins in zip(values.T, drawn.twins.T, strict=True)
    )
    where = f"yes against {{}}, {draws} draws, {networks} networks, {spreads.shape} scores"
    return [
        _counted(where.format("a control of each draw"), against_draws, trials, expected),
        _counted(where.format("untrained networks"), against_networks, trials, expected),
    ]


def random_direction_null(
    *, draws: int = 5, trials: int = 300, queries: int = 16, layers: int = 2, width: int = 32,
    seed: int = 0,
) -> Rate:  # fmt: skip
    """N2: a random direction, held against random directions.

    In-context learning's change is mostly one direction common to all queries, as on real models,
    so that a draw's queries are nearly one measurement.
    """
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((trials, draws, 1, layers, width))
    change = common + 0.5 * generator.standard_normal((trials, draws, queries, layers, width))
    change /= np.linalg.norm(change, axis=-1, keepdims=True)

    def scored() -> Floats:
        """Mean cosine with a direction of each draw and layer: [trial draw]."""
        direction = generator.standard_normal((trials, draws, 1, layers, width))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        return (change * direction).sum(-1).mean((-1, -2))

    return _exchangeable("a random direction is called yes", "random", scored(), scored())


def shuffled_null(
    *, draws: int = 5, trials: int = 300, queries: int = 16, shots: int = 16, labels: int = 4,
    seed: int = 0,
) -> Rate:  # fmt: skip
    """N3: learned from demonstrations with shuffled labels, held against shuffled labels.

    In-context learning is a kernel classifier on the right labels, and the hypothesis the same on
    shuffled ones: the score is the cosine of what right in place of wrong labels change.
    """
    generator = np.random.default_rng(seed)
    weights = generator.standard_exponential((trials, draws, queries, shots))  # of demonstrations
    gold = np.arange(shots) % labels

    def shuffled() -> NDArray[np.int64]:
        return generator.permuted(np.broadcast_to(gold, (trials, draws, shots)), axis=-1)

    def answers(given: NDArray[np.int64]) -> Floats:
        return weights @ np.eye(labels)[given]  # [trial draw query label]

    wrong = answers(shuffled())
    right = answers(np.broadcast_to(gold, (trials, draws, shots))) - wrong

    def scored() -> Floats:
        learned = answers(shuffled()) - wrong
        norms = np.linalg.norm(right, axis=-1) * np.linalg.norm(learned, axis=-1)
        return ((right * learned).sum(-1) / norms).mean(-1)

    return _exchangeable("shuffled labels are called yes", "shuffled", scored(), scored())


def other_queries_null(
    *, draws: int = 5, trials: int = 300, spreads: Spreads | None = None, seed: int = 0
) -> list[Rate]:
    """How often what fits the shared queries by chance is a yes, and is said of other queries."""
    given = spreads or Spreads(draw=0.02)
    generator = np.random.default_rng(seed)
    # Most of what queries differ in is the same in every draw; the rest is each draw's own.
    common, rest = given.query * 0.8**0.5, given.query * 0.2**0.5
    fits = common * generator.standard_normal((trials, 1, given.queries))
    own = given.draw * generator.standard_normal((2, trials, draws, 1))
    values, others = own + rest * generator.standard_normal((2, trials, draws, given.queries))
    values = values + fits
    answers, shown = 0, 0
    for one, other in zip(values, others, strict=True):
        evidence = _evidence(one.mean(-1), {"random": ControlEvidence("draw", other.mean(-1))})
        verdict = decide([evidence], margin=0.0, gate=False)[-1].verdict
        answers += verdict == "yes"
        shown += verdict == "yes" and crossed_mean(one - other, confidence=0.95).above
    what = f"what fits {given.queries} queries by chance is {{}}, {draws} draws"
    return [
        Rate(what.format("called yes for these"), answers, trials),
        Rate(what.format("shown for others, too"), shown, trials, NEVER_MORE),
    ]


def calibrate(*, trials: int = 1000, seed: int = 0) -> list[Rate]:
    """Every rate of this module, for 5 and 10 draws."""
    found: list[Rate] = []
    for draws in (5, 10):
        found += coverage(Spreads(), draws=draws, trials=10 * trials, seed=seed)
        for shape in SHAPES:
            spreads = replace(Spreads(), shape=shape)
            found += false_yes(spreads, draws=draws, trials=trials, seed=seed)
        found.append(random_direction_null(draws=draws, trials=trials, seed=seed))
        found.append(shuffled_null(draws=draws, trials=trials, seed=seed))
        found += other_queries_null(draws=draws, trials=trials, seed=seed)
    return found


# -- counting ------------------------------------------------------------------------------------


def _exchangeable(what: str, control: str, values: Floats, others: Floats) -> Rate:
    """Count yes for a hypothesis that is one more of its control: [trial draw] each."""
    evidences = (
        _evidence(one, {control: ControlEvidence("draw", other)})
        for one, other in zip(values, others, strict=True)
    )
    return _counted(f"{what}, {values.shape[1]} draws", evidences, len(values), NEVER_MORE)


def _evidence(values: Floats, controls: dict[str, ControlEvidence]) -> Evidence:
    return Evidence(hypothesis="simulated", score="score", values=values, controls=controls)


def _counted(
    what: str, evidences: Iterable[Evidence], trials: int, expected: tuple[float, float] | None
) -> Rate:
    """Each trial is a comparison of its own; margin 0, so that nothing but noise is at stake."""
    answers = (decide([each], margin=0.0, gate=False)[-1].verdict for each in evidences)
    return Rate(what, sum(answer == "yes" for answer in answers), trials, expected)
