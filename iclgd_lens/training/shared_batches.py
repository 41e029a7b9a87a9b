"""Trainings that are run together: what each asks for next, and the batches that serve it.

A training is a chain, a generator that yields the laps it wants run: passes over demonstrations by
the rows of one `Lane`. What it does between two laps (ask left-out demonstrations, decide which
rates go on) is its own affair, and the same whatever runs beside it. The steps of `together`:

1. Every chain goes on until it wants a lap.
2. Laps that can share a batch (`Lane.joins`) do, each by its own rows, for as many steps as the
   shortest of them has left.
3. A chain whose lap is done goes on to its next one; what runs beside it changes rounding, and
   nothing else.

One step of a small model costs mostly the calls of its kernels, so a batch of many rows takes
little longer than one of two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import InitVar, astuple, dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch

from iclgd_lens.cost import Ledger, counted
from iclgd_lens.demonstrations import TrainingSequence
from iclgd_lens.host import Host, frozen
from iclgd_lens.training.batched import Networks, Training
from iclgd_lens.training.sgd import UpdateRule

T = TypeVar("T")

TRAINED_TOKENS_AT_ONCE = 2048
"""Tokens of laps that share a batch, at most: beyond, kernels are busy and nothing is gained."""


@dataclass
class Lane:
    """Rows that learn from sets of demonstrations.

    Attributes:
        host: The network that they belong to.
        rule: What one step does.
        training: The rows, set by set, equally many of each.
        steps: What is read, step by step, again and again: one sequence of each set.
        done: How many steps were taken.
    """

    host: Host
    rule: UpdateRule
    training: Training
    steps: Sequence[TrainingSequence]
    done: int = 0

    def next_sequence(self) -> TrainingSequence:
        """What the rows that are left read in the next step."""
        first = self.steps[self.done % len(self.steps)]
        self.done += 1
        copies = self.training.rows // (1 + len(first.beside) + len(first.others))
        others = tuple(dataclasses.replace(each, copies=copies) for each in first.others)
        return dataclasses.replace(first, copies=copies, others=others)

    @property
    def tokens(self) -> int:
        """Tokens of its longest step, over all of its rows."""
        return self.training.rows * max(each.longest for each in self.steps)

    def joins(self, other: Lane, networks: Networks | None) -> bool:
        """Whether the two can be rows of one batch."""
        served = self.host is other.host or (
            networks is not None
            and _knows_passes_alone(self.rule)
            and networks.serve(self.host, other.host)
        )
        return (
            served
            and self.host.can_pad
            and _same_rule(self.rule, other.rule)
            and self.training.shapes == other.training.shapes
        )


@dataclass
class Lap:
    """Steps that a lane is to take: a number of passes over its demonstrations."""

    lane: Lane
    passes: InitVar[int]
    steps: int = field(init=False)
    cost: Ledger = field(default_factory=Ledger)

    def __post_init__(self, passes: int) -> None:
        self.steps = passes * len(self.lane.steps)


Chain = Generator[Lap, Ledger, T]
"""Yields laps, is sent what each of them cost, and returns what came of it."""


def alone(chain: Chain[T]) -> T:
    """Run a chain by itself, and return what came of it."""
    (outcome,) = together([chain])
    return outcome.result()


def together(chains: Sequence[Chain[T]], networks: Networks | None = None) -> list[Future[T]]:
    """Run chains beside one another; what one of them raises is kept until its result is asked for.

    Args:
        chains: They must not depend on one another.
        networks: The networks whose rows can share a batch; without it, only rows of one
            network can.
    """
    outcomes: list[Future[T]] = [Future() for _ in chains]
    waiting: dict[int, Lap] = {}
    try:
        for index, chain in enumerate(chains):
            _go_on(chain, partial(next, chain), index, waiting, outcomes)
        while waiting:
            batch = _batch(waiting, networks)
            laps = [waiting[index] for index in batch]
            steps = min(lap.steps for lap in laps)
            try:
                run([lap.lane for lap in laps], steps, networks, [lap.cost for lap in laps])
            except Exception as error:
                for index in batch:
                    resume = partial(chains[index].throw, error)
                    _go_on(chains[index], resume, index, waiting, outcomes)
                continue
            for index, lap in zip(batch, laps, strict=True):
                lap.steps -= steps
                if not lap.steps:
                    resume = partial(chains[index].send, lap.cost)
                    _go_on(chains[index], resume, index, waiting, outcomes)
    finally:
        for chain in chains:
            chain.close()
    return outcomes


def _go_on(
    chain: Chain[T],
    resume: Callable[[], Lap],
    index: int,
    waiting: dict[int, Lap],
    outcomes: Sequence[Future[T]],
) -> None:
    """Let a chain go on to its next lap, or to its end."""
    waiting.pop(index, None)
    try:
        lap = resume()
        while not lap.steps:
            lap = chain.send(lap.cost)
        waiting[index] = lap
    except StopIteration as end:
        outcomes[index].set_result(end.value)
    except Exception as error:
        outcomes[index].set_exception(error)


def _batch(waiting: Mapping[int, Lap], networks: Networks | None) -> list[int]:
    """The first chain that waits, and those whose laps it can run with its own."""
    order = sorted(waiting)
    first = waiting[order[0]].lane
    chosen, tokens = order[:1], first.tokens
    for index in order[1:]:
        lane = waiting[index].lane
        if tokens + lane.tokens <= TRAINED_TOKENS_AT_ONCE and first.joins(lane, networks):
            chosen.append(index)
            tokens += lane.tokens
    return chosen


def run(
    lanes: Sequence[Lane],
    steps: int,
    networks: Networks | None = None,
    costs: Sequence[Ledger] = (),
) -> None:
    """Take steps of several lanes as rows of one batch.

    The caller's model is frozen meanwhile, and as before afterwards.

    Args:
        lanes: Lanes that can share a batch (`Lane.joins`).
        steps: How many.
        networks: Given where the lanes belong to several networks.
        costs: Where each lane's share of the passes through the model is added.
    """
    first, parts = lanes[0], [lane.training for lane in lanes]
    host = first.host
    spans = [(lane.host, lane.training.rows) for lane in lanes]
    own = [] if networks is None else networks.hooks(spans)
    whole = parts[0] if len(parts) == 1 else Training.joined(parts)
    try:
        with counted(host) as ledger:
            # Steps change deltas in place, so the hooks that apply them stay for all of the steps.
            with (
                frozen(host.model), torch.enable_grad(), host.laid_out(),
                host.hooked([*own, *whole.hooks()], forced=False),
            ):  # fmt: skip
                for _ in range(steps):
                    sequence, *more = (lane.next_sequence() for lane in lanes)
                    read = dataclasses.replace(sequence, others=(*sequence.others, *more))
                    first.rule(host, whole.delta, read, whole.learner(read.counts))
    finally:
        if whole is not parts[0]:
            whole.parted(parts)
    for part, cost in zip(parts, costs, strict=False):
        cost.add(*(value * part.rows // whole.rows for value in astuple(ledger)))


def _knows_passes_alone(rule: Any) -> bool:
    """Whether a step is this package's own: those read no weight of a block.

    Rows of several networks pass through the first of them. A plugin's step that read its weights
    would learn from the wrong network, in silence: plugins' networks are trained one by one.
    """
    function = rule.func if isinstance(rule, partial) else rule
    return str(getattr(function, "__module__", "")).startswith("iclgd_lens.")


def _same_rule(one: Any, other: Any) -> bool:
    if isinstance(one, partial) and isinstance(other, partial):
        return (one.func, one.args, one.keywords) == (other.func, other.args, other.keywords)
    return one is other
