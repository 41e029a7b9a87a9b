"""The main job: in-context learning against hypotheses and controls, on one model.

Over draws of demonstrations: the model's own settings are read, each hypothesis is built from right
and from wrong labels, and its controls are measured beside it. Then, for each control that is
another network, the same on a few such networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from iclgd_lens.budgeting import needs_budget, with_budget
from iclgd_lens.collapse import CollapseJob
from iclgd_lens.comparison import Comparison
from iclgd_lens.controls import DEFAULT_CONTROLS, Control
from iclgd_lens.cost import sharing
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.host import Host, as_host, own_precision
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.job import Job, reading_key
from iclgd_lens.nulls import shuffled_labels, with_foreign
from iclgd_lens.parts import Part
from iclgd_lens.readout import Readout
from iclgd_lens.recording import BudgetMode, budget_mode, check_draws, provenance
from iclgd_lens.registry import resolve
from iclgd_lens.rules import (
    HypothesisLike,
    Options,
    Progress,
    Rule,
    resolve_rules,
    silent,
    split_controls,
)
from iclgd_lens.subjects import TRAINED
from iclgd_lens.trajectories import passes_of
from iclgd_lens.workers import how_many, spread

TWINS = 8
TWIN_QUERIES = 16
"""Queries that another network is asked: its spread is between networks, not between queries."""
REALISATIONS = 20
"""Of random controls where there is one draw alone, so that they have a spread of their own."""

Chosen = list[tuple[Mapping[str, Any], Mapping[str, Any]]]
"""Each rule's settings and facts on one draw."""


@own_precision()
def compare(
    model: Any,
    episodes: Episode | Sequence[Episode],
    hypotheses: str | Sequence[str] | Mapping[str, HypothesisLike] = ("gd", "lcgd"),
    *,
    controls: str | Iterable[str] = DEFAULT_CONTROLS,
    lr: float | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    budget: BudgetMode | Mapping[str, Any] | None = None,
    twins: int = TWINS,
    twin_queries: int | None = TWIN_QUERIES,
    realisations: int | None = None,
    trajectory: bool | Sequence[int] = False,
    other: Episode | Demonstrations | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    pad_queries: bool = True,
    tok2attn_queries: int = 32,
    collapse: bool = False,
    resamples: int = 1000,
    confidence: float = 0.95,
    zs: Readout | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare what hypotheses do to attention with what in-context learning does.

    The model is never changed. On a CPU a HookedTransformer's attention weights take twice their
    memory meanwhile (`Host.laid_out`).

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        episodes: Demonstrations and queries: one episode, or several draws of demonstrations
            (`load_episodes`). A verdict needs at least two.
        hypotheses: Registered names, or a mapping from a name of your choice to a registered name,
            a hypothesis, a function `(host, episode, **settings) -> Intervention`, or an
            intervention.
        controls: Names from `CONTROLS`; `()` for none. Controls that build an update anew (wrong
            demonstrations, other networks) leave out what is given as an `Intervention`: it was
            built already, from this model and these demonstrations.
        lr: Learning rate of every hypothesis that takes one; None leaves the choice to `budget`.
        settings: Settings by hypothesis name, over `lr`.
        budget: How rate, epochs and loss tokens are found where `lr` and `settings` do not give the
            rate. "matched": by the label loss of left-out demonstrations, for each network and
            draw by itself. "published": the task's published rate, one epoch, the protocol's loss.
            None: "published" under the reference protocol, else "matched". A mapping is "matched"
            with a search of your own: grid, epochs, losses, folds of `choose_budget`.
        twins: Networks of each control that is another network (untrained twins, say).
        twin_queries: Queries that each of these is asked at most; None for all.
        realisations: Random updates in place of each update; None for one a draw, or 20 where there
            is one draw alone, so that they have a spread of their own.
        trajectory: Also read scores along the training of each hypothesis that has epochs, on the
            first draw and on the twins; see `Comparison.trajectory`. True reads them after the
            passes `trajectories.PASSES`; a sequence names others.
        other: Demonstrations for the control "other_task"; None draws those of the next task from
            the same source.
        seed: Seed of random controls, twins and the bootstrap; draw d uses seed + d.
        batch_size: Queries run together at most; None fits it to the prompt.
        pad_queries: Run queries of unequal length together: faster, equal but for rounding.
        tok2attn_queries: Tok2Attn is measured on the first so many queries (it is the one score
            whose cost grows with queries times demonstrations); its `n` says so.
        collapse: Also measure `label_collapse`, for which the residual stream is kept.
        resamples: Bootstrap resamples, where there is one draw.
        confidence: Coverage of the intervals.
        zs: The ZS readout of these queries on this model, where it was read before (by
            `Reader.zs` with `first=tok2attn_queries`); it is not read again.
        workers: Copies of this process that measure draws and other networks beside one another,
            each on one thread (Linux, on a CPU). None takes one a thread of PyTorch's for a small
            model, else 1: no copies. Numbers are those of one thread: those of several differ by
            rounding, which training at a high rate magnifies.
        progress: Called with a short text at each stage.

    Raises:
        ComparisonError: There is no episode, episodes do not belong together, or a number is out of
            range.
        ControlError: A control is unknown or cannot be built.
        HypothesisError: A hypothesis or setting is unknown.
        EpisodeError: The model cannot read an episode whole.
        LensError: `workers` is less than 1.

    Examples:
        >>> import iclgd_lens as lens
        >>> model = lens.load_model("embedded")
        >>> episode = lens.load_episode("sst2", model, shots=8, queries=4)
        >>> result = compare(model, episode, ["oracle"], controls=())
        >>> round(float(result.tensor("SimAOU", "oracle").mean()), 3)
        1.0
    """
    host = as_host(model)
    draws = (episodes,) if isinstance(episodes, Episode) else tuple(episodes)
    mode, search = budget_mode(budget, draws)
    check_draws(draws, twins)
    rules = resolve_rules(hypotheses, settings)
    asked = split_controls(controls if isinstance(controls, str) else list(controls), rules)
    plan = _Plan(
        host, draws, _rated(rules, lr), asked, mode, search, twins,
        twin_queries, realisations, passes_of(trajectory),
        None if other is None else with_foreign(draws[0], other), seed,
        Options(batch_size, pad_queries, tok2attn_queries), progress or silent,
        CollapseJob if collapse else Job,
    )  # fmt: skip
    readouts = {} if zs is None else {reading_key(draws[0]): zs}
    crew = how_many(workers, host.model)
    parts: list[Part] = []
    one = partial(_measure_draw, plan, readouts)
    with host.laid_out(), sharing(host), closing(spread(one, len(draws), crew, plan.tell)) as found:
        for measured, chosen in found:
            plan.chosen.append(chosen)
            parts += measured
    networks = [(control, j) for control in asked["network"] for j in range(twins)]
    twin = partial(_measure_twin, plan, networks)
    with closing(spread(twin, len(networks), crew, plan.tell)) as found:
        parts += [part for measured in found for part in measured]
    names = [each.name for group in asked.values() for each in group]
    facts = provenance(host, draws) | {
        "hypotheses": dict(parts[0].facts.get("rules", {})),
        "controls": names,
        "twins": twins if asked["network"] else 0,
        "seed": seed,
        "budget": {"mode": mode, **search},
        "tok2attn_queries": tok2attn_queries,
    }
    return Comparison(tuple(parts), facts, resamples, confidence, seed)


@dataclass(frozen=True)
class _Plan:
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
    """After which scores are read along the training; none where nobody asked."""
    other: Episode | None
    seed: int
    options: Options
    tell: Progress
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


def _measure_draw(
    plan: _Plan, readouts: dict[str, Readout], draw: int, announce: Progress
) -> tuple[list[Part], Chosen]:
    """The model itself on one draw: its settings, every hypothesis, and every draw control."""
    episode = plan.draws[draw]
    key = reading_key(episode)
    job = plan.job(
        plan.host, episode, plan.options, wrong=plan.wrong(episode, draw), zs=readouts.get(key),
        tell=_numbered(announce, f"draw {draw + 1} of {len(plan.draws)}", len(plan.draws)),
    )  # fmt: skip
    job.measure_settings()
    readouts.clear()  # one at a time: draws that share their queries follow one another
    readouts[key] = job.frozen.zs
    seed = plan.seed + draw
    rules = _budgeted(plan, job, plan.rules.values())
    for rule in rules:
        job.run(rule, plan.controls["rule"], seed=seed, other=plan.other)
    if plan.passes and draw == 0:
        for rule in rules:
            job.tell(f"{rule.name}: along its training")
            job.follow(rule, plan.passes)
    for control in plan.controls["alone"]:
        job.run_alone(control, seed=seed)
    chosen = [(rule.settings, rule.facts) for rule in rules]
    return [_part(job, draw), *_realisations(plan, job, draw)], chosen


def _realisations(plan: _Plan, job: Job, draw: int) -> list[Part]:
    """More random updates in place of this draw's updates."""
    repeated = [control for control in plan.controls["rule"] if control.acts_on == "update"]
    count = plan.realisations or (1 if len(plan.draws) > 1 else REALISATIONS)
    found: list[Part] = []
    built = dict(job.built)
    for index in range(1, count if repeated else 1):
        again = plan.job(plan.host, job.episode, plan.options, wrong=job.wrong, frozen=job.frozen)
        for name, pair in built.items():
            for control in repeated:
                again.measure_update_control(control, name, pair, plan.seed + index)
        found.append(dataclasses.replace(_part(again, draw), index=index))
    return found


def _measure_twin(
    plan: _Plan, networks: Sequence[tuple[Control, int]], place: int, announce: Progress
) -> list[Part]:
    """Another network on one of the draws: at the model's budget, and at its own."""
    control, index = networks[place]
    draw = index % len(plan.draws)
    tell = _numbered(announce, f"{control.name} network {index + 1} of {plan.twins}", 2)
    tell("making it")
    twin = as_host(resolve(control.function)(plan.host, plan.seed + index))
    episode = first_queries(plan.draws[draw], plan.twin_queries)
    job = plan.job(twin, episode, plan.options, wrong=plan.wrong(episode, draw), tell=tell)
    jobs = {"": job}
    with twin.laid_out(), sharing(twin):
        job.measure_settings()
        for rule in plan.rules_at(plan.chosen[draw]):
            if isinstance(rule.value, Hypothesis):
                job.run(rule)
        open_ = [each for each in plan.rules.values() if needs_budget(each)]
        own = _budgeted(plan, job, open_) if plan.budget == "matched" else []
        if own:
            jobs["own"] = plan.job(
                twin, episode, plan.options, wrong=job.wrong, frozen=job.frozen, tell=tell
            )
        for rule in own:
            jobs["own"].run(rule)
            if plan.passes and draw == 0:
                tell(f"{rule.name}: along its training")
                jobs["own"].follow(rule, plan.passes)
    return [
        dataclasses.replace(_part(each, draw), network=control.name, index=index, budget=budget)
        for budget, each in jobs.items()
    ]


def _budgeted(plan: _Plan, job: Job, rules: Iterable[Rule]) -> list[Rule]:
    """Rules with the rate, epochs and loss that they are to be given on this network and draw."""
    if plan.budget == "published":
        return list(rules)
    found: list[Rule] = []
    for rule in rules:
        if needs_budget(rule):
            job.tell(f"{rule.name}: choosing rate, epochs and loss on left-out demonstrations")
        found.append(with_budget(rule, job.host, job.episode, **plan.search))
    return found


def first_queries(episode: Episode, count: int | None) -> Episode:
    """The episode with its first queries alone."""
    if count is None or count >= len(episode.queries):
        return episode
    return replace(episode, queries=episode.queries[:count])


def _rated(rules: Mapping[str, Rule], lr: float | None) -> dict[str, Rule]:
    """Rules with the given learning rate, where they take one and have none yet."""
    if lr is None:
        return dict(rules)
    return {
        name: replace(rule, settings={"lr": lr, **rule.settings})
        if isinstance(rule.value, Hypothesis) and rule.value.takes_rate
        else rule
        for name, rule in rules.items()
    }


def _part(job: Job, draw: int) -> Part:
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


def _numbered(tell: Progress, where: str, count: int) -> Progress:
    return tell if count < 2 else lambda text: tell(f"{where}: {text}")
