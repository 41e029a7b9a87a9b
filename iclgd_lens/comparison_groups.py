"""A comparison's draws and networks: measured a few at a time, trained together.

What is built by passes over demonstrations is built for all of a group in the same batches
(`iclgd_lens.training.shared_batches`): the searches for budgets, the trainings at those, and the
trainings of other networks at the model's budgets. Everything else is measured one by one.

Groups are the same however many processes share them, and so are the numbers.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from iclgd_lens.budget.budget import BudgetMode, budgeted, needs_budget
from iclgd_lens.budget.trials import ROOM
from iclgd_lens.building import Pair
from iclgd_lens.controls import Control
from iclgd_lens.cost import sharing
from iclgd_lens.episode import Episode
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.job import Job, reading_key
from iclgd_lens.networks import another_network
from iclgd_lens.nulls import shuffled_labels
from iclgd_lens.raised import raised, warn_of_failure
from iclgd_lens.readout.reader import Readout
from iclgd_lens.results.parts import Part
from iclgd_lens.rules import Options, Rule
from iclgd_lens.subjects import TRAINED
from iclgd_lens.telling import Tell
from iclgd_lens.training.batched import Networks
from iclgd_lens.training.shared_batches import Chain, together

T = TypeVar("T")

AT_ONCE = 4
"""Draws or networks in a group, at most; for a large model, one."""
COPIES = 4
"""How many times its weights' size a network takes in memory: the weights themselves, their copy
laid out as its passes read them, and two more for a batch of several networks, which lays them out
network by network and then stacks them."""
REALISATIONS = 20
"""Repeats of random controls where there is only one draw: so they have a spread of their own."""

_REALISATIONS_APART = 2_000_029
"""Offset between the seeds of a draw's realisations: none shares a seed with another's, or with
its wrong labels."""
Chosen = list[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Each rule's settings and facts on one draw."""


def groups_of(members: Sequence[T], host: Host) -> list[list[T]]:
    """Draws or networks that are measured together: at least two groups, of nearly one size."""
    weights = sum(each.numel() * each.element_size() for each in host.model.parameters())
    room = max(1, min(AT_ONCE, ROOM // max(1, COPIES * weights)))
    count = min(len(members), max(2, -(-len(members) // room)))
    bounds = [index * len(members) // max(1, count) for index in range(count + 1)]
    return [list(members[low:high]) for low, high in itertools.pairwise(bounds)]


@dataclass(frozen=True, kw_only=True)
class ComparisonRequest:
    """What was asked for."""

    host: Host
    draws: Sequence[Episode]
    rules: Mapping[str, Rule]
    controls: Mapping[str, Sequence[Control]]
    budget: BudgetMode
    search: Mapping[str, Any]
    twins: int
    twin_queries: int | None
    realisations: int | None
    passes: tuple[int, ...]
    """After which scores are read along the training; none where none were asked for."""
    other: Episode | None
    seed: int
    options: Options
    tell: Tell
    job: type[Job]
    chosen: list[Chosen] = field(default_factory=list[Chosen])
    """The rules at the model's own budget, by draw."""

    @property
    def contrasted(self) -> bool:
        """Whether right labels are compared with wrong ones."""
        return any(control.name == "shuffled" for control in self.controls["rule"])

    def wrong(self, episode: Episode, draw: int) -> Episode | None:
        """The same demonstrations with wrong labels, where they are asked for."""
        return shuffled_labels(episode, self.seed + draw) if self.contrasted else None

    def rules_at(self, chosen: Chosen) -> list[Rule]:
        """The rules with the settings that were chosen for one draw."""
        pairs = zip(self.rules.values(), chosen, strict=True)
        return [replace(rule, settings=given, facts=facts) for rule, (given, facts) in pairs]


@dataclass(frozen=True)
class _Order:
    """A rule to be built on one network and draw."""

    job: Job
    draw: int
    rule: Rule
    searched: bool
    """Whether it is to be given the budget that this network and draw choose."""


def _built(request: ComparisonRequest, order: _Order, beside: int) -> Chain[tuple[Rule, Pair]]:
    rule, job = order.rule, order.job
    if order.searched:
        try:
            rule = yield from budgeted(rule, job.host, job.episode, beside=beside, **request.search)
        except Exception as error:  # a user's function may fail in any way
            if not request.options.records(error):
                raise
            told = raised(f"{rule.name}, while its budget was chosen,", error)
            rule = replace(rule, facts={**rule.facts, "budget": {"problem": told}})
            warn_of_failure(told)
    pair: Pair = (None, None)
    with job.going_on(rule.name):  # what its trainings in shared batches raise
        pair = yield from job.builder.pairing(rule)
    return rule, pair


def _built_together(
    request: ComparisonRequest, orders: Sequence[_Order], networks: Networks | None = None
) -> list[tuple[Rule, Pair]]:
    """Rules at their budgets, and what they build; trainings share batches."""
    for order in orders:
        searched = order.searched and needs_budget(order.rule)
        what = "choosing rate, epochs and loss on left-out demonstrations" if searched else ""
        order.job.tell(f"{order.rule.name}: {what or 'building the update'}")
    searches = sum(order.searched for order in orders)
    chains = [_built(request, order, searches) for order in orders]
    return [outcome.result() for outcome in together(chains, networks)]


def measure_draws(
    request: ComparisonRequest,
    readouts: dict[str, Readout],
    groups: Sequence[Sequence[int]],
    place: int,
    announce: Tell,
) -> tuple[list[Part], list[Chosen]]:
    """The model itself on a group of draws: settings, every hypothesis, every draw control."""
    jobs: list[Job] = []
    draws = groups[place]
    for draw in draws:
        episode = request.draws[draw]
        key = reading_key(episode)
        where = f"draw {draw + 1} of {len(request.draws)}"
        job = request.job(
            request.host, episode, request.options, wrong=request.wrong(episode, draw),
            zs=readouts.get(key), tell=_numbered(announce, where, len(request.draws)),
        )  # fmt: skip
        job.measure_settings()
        readouts.clear()  # one at a time: draws that share their queries follow one another
        readouts[key] = job.frozen.zs
        jobs.append(job)
    chosen: list[list[Rule]] = [[] for _ in draws]
    for rule in request.rules.values():
        searched = request.budget != "published"
        orders = [_Order(job, draw, rule, searched) for job, draw in zip(jobs, draws, strict=True)]
        made = _built_together(request, orders)
        for job, draw, own, (at, pair) in zip(jobs, draws, chosen, made, strict=True):
            own.append(at)
            job.run(
                at,
                request.controls["rule"],
                pair=pair,
                seed=request.seed + draw,
                other=request.other,
            )
    parts: list[Part] = []
    for job, draw, own in zip(jobs, draws, chosen, strict=True):
        if request.passes and draw == 0:
            for rule in own:
                job.tell(f"{rule.name}: along its training")
                job.follow(rule, request.passes)
        for control in request.controls["alone"]:
            job.run_alone(control, seed=request.seed + draw)
        parts += [part_of(job, draw), *_realisations(request, job, draw)]
    return parts, [[(rule.settings, rule.facts) for rule in own] for own in chosen]


def _realisations(request: ComparisonRequest, job: Job, draw: int) -> list[Part]:
    """More random updates in place of this draw's updates."""
    repeated = [control for control in request.controls["rule"] if control.acts_on == "update"]
    count = request.realisations or (1 if len(request.draws) > 1 else REALISATIONS)
    found: list[Part] = []
    built = [(request.rules[name], pair) for name, pair in job.built.items()]
    for index in range(1, count if repeated else 1):
        again = request.job(
            request.host, job.episode, request.options, wrong=job.wrong, frozen=job.frozen
        )
        for rule, pair in built:
            for control in repeated:
                seed = request.seed + draw + _REALISATIONS_APART * index
                again.run_control(control, rule, pair, seed=seed)
        found.append(dataclasses.replace(part_of(again, draw), index=index))
    return found


@dataclass(frozen=True)
class _Network:
    """Another network on one of the draws.

    Attributes:
        control: The control that makes it.
        index: Its number among the networks of that control.
        draw: The draw whose demonstrations and queries it is given.
        job: Measures it at the model's budget.
        own: Measures it at a budget of its own, where that is asked for.
    """

    control: Control
    index: int
    draw: int
    job: Job
    own: Job | None

    @property
    def jobs(self) -> dict[str, Job]:
        """Its jobs by budget: "" is the model's, "own" its own."""
        return {"": self.job} | ({} if self.own is None else {"own": self.own})


def measure_networks(
    request: ComparisonRequest,
    groups: Sequence[Sequence[tuple[Control, int]]],
    place: int,
    announce: Tell,
) -> list[Part]:
    """A group of other networks, each on one of the draws: at the model's budget, and its own."""
    with ExitStack() as held:
        group = [_made(request, control, index, announce, held) for control, index in groups[place]]
        networks = None
        if len(group) > 1:
            shown = [each.job.episode.demonstrations.sequences() for each in group]
            hosts = [each.job.host for each in group]
            networks = Networks(hosts, [sequence for own in shown for sequence in own])
        for number, rule in enumerate(request.rules.values()):
            if not isinstance(rule.value, Hypothesis):
                continue
            orders: list[_Order] = []
            for each in group:
                at_models = request.rules_at(request.chosen[each.draw])[number]
                orders.append(_Order(each.job, each.draw, at_models, searched=False))
                if each.own is not None and needs_budget(rule):
                    orders.append(_Order(each.own, each.draw, rule, searched=True))
            made = _built_together(request, orders, networks)
            for order, (at, pair) in zip(orders, made, strict=True):
                order.job.run(at, pair=pair)
                if order.searched and request.passes and order.draw == 0:
                    order.job.tell(f"{at.name}: along its training")
                    order.job.follow(at, request.passes)
    return [
        dataclasses.replace(
            part_of(job, each.draw), network=each.control.name, index=each.index, budget=budget
        )
        for each in group
        for budget, job in each.jobs.items()
    ]


def _made(
    request: ComparisonRequest, control: Control, index: int, announce: Tell, held: ExitStack
) -> _Network:
    draw = index % len(request.draws)
    tell = _numbered(announce, f"{control.name} network {index + 1} of {request.twins}", 2)
    tell("making it")
    host = another_network(request.host, control, request.seed + index)
    held.enter_context(host.laid_out())
    held.enter_context(sharing(host))
    episode = first_queries(request.draws[draw], request.twin_queries)
    job = request.job(host, episode, request.options, wrong=request.wrong(episode, draw), tell=tell)
    job.measure_settings()
    own: Job | None = None
    if request.budget == "matched" and any(needs_budget(rule) for rule in request.rules.values()):
        own = request.job(
            host, episode, request.options, wrong=job.wrong, frozen=job.frozen, tell=tell
        )
    return _Network(control, index, draw, job, own)


def first_queries(episode: Episode, count: int | None) -> Episode:
    """The episode with its first queries alone."""
    if count is None or count >= len(episode.queries):
        return episode
    return replace(episode, queries=episode.queries[:count])


def part_of(job: Job, draw: int) -> Part:
    """What a job measured, as a part of a result."""
    values = {
        label: {score: value.numpy() for score, value in found.items()}
        for label, found in job.values.items()
    }
    along = {
        label: {
            count: {score: value.numpy() for score, value in found.items()}
            for count, found in stages.items()
        }
        for label, stages in job.trajectory.items()
    }
    facts = {"rules": job.described, "episode": dict(job.episode.provenance)}
    gold = np.asarray(job.episode.gold, np.int64)
    return Part(
        values, gold, draw, failures=dict(job.failures), facts=facts, network=TRAINED,
        trajectory=along,
    )  # fmt: skip


def _numbered(tell: Tell, where: str, count: int) -> Tell:
    return tell if count < 2 else lambda text: tell(f"{where}: {text}")
