"""Measuring cells: a session holds one loaded model, its other networks and the last ZS readouts.

Nothing is computed twice: a network is made once, ZS is read once for each set of evaluation rows,
a network's own readouts are kept beside the cells, and a rule is built once for itself and its
controls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from iclgd_lens.bench.cells import OWN, Cell, key_of
from iclgd_lens.bench.plan import MATCHED, Plan
from iclgd_lens.bench.plan_entries import HypothesisSpec, ModelSpec, Setting
from iclgd_lens.bench.readings_file import decode_readings, encode_readings
from iclgd_lens.bench.store import Measured, Store
from iclgd_lens.budget.budget import needs_budget, with_budget, with_settings_of
from iclgd_lens.controls import CONTROLS
from iclgd_lens.cost import sharing
from iclgd_lens.episode import Episode
from iclgd_lens.episode_loading import load_episode
from iclgd_lens.errors import RunError
from iclgd_lens.host import Host, as_host
from iclgd_lens.host.loading import identify_model, load_model
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.job import Job, reading_key
from iclgd_lens.measures.readings import Frozen
from iclgd_lens.networks import another_network
from iclgd_lens.nulls import shuffled_labels, untrained
from iclgd_lens.raised import is_out_of_memory
from iclgd_lens.readout.passes import read_alike
from iclgd_lens.readout.reader import Reader, Readout
from iclgd_lens.rules import Options, Rule
from iclgd_lens.subjects import TRAINED, Subject
from iclgd_lens.sweeps.factors import get_factor
from iclgd_lens.telling import Tell

_NOTHING = "it was not measured: its rule or control gave nothing"


class Session:
    """One model of a plan, loaded once, for any number of settings.

    Args:
        plan: The plan.
        model: Which of its models; loaded when the first setting needs it.
        store: Where readouts are kept.
        fresh: Whether everything is measured anew, whatever the store has of it.
    """

    def __init__(self, plan: Plan, model: ModelSpec, store: Store, *, fresh: bool = False) -> None:
        self.plan, self.model, self.store, self.fresh = plan, model, store, fresh
        self._trained: Host | None = None
        self._other: tuple[tuple[str, int], Host] | None = None
        self._zs: tuple[str, str, Readout] | None = None
        self._rules: dict[tuple[str, str, str], Rule] = {}
        self._read: set[str] = set()

    # -- networks --------------------------------------------------------------------------------

    def host(self, setting: Setting) -> Host:
        """The setting's network; the last one that is not the model's own is held."""
        if self._trained is None:
            self._trained = self._load(str(setting.facts["model"]))
        if setting.network == TRAINED:
            return self._trained
        name = (setting.network, setting.index)
        if self._other is None or self._other[0] != name:
            self._other = None  # frees it before the next is made
            control, seed = CONTROLS[setting.network], self.plan.control_seed + setting.index
            self._other = (name, another_network(self._trained, control, seed))
        return self._other[1]

    def _load(self, identity: str) -> Host:
        """Load the model.

        Raises:
            RunError: It is not the one that the run began with.
        """
        spec = self.model
        model = load_model(spec.name, dtype=spec.dtype, host=spec.host, revision=spec.revision)
        if spec.untrained is not None:
            model = untrained(model, spec.untrained, self.plan.control_seed)
        if identify_model(spec.name, spec.revision) != identity:
            raise RunError(
                f"the model {spec.name} changed after this run began; the same command starts anew"
            )
        return as_host(model)

    # -- measuring -------------------------------------------------------------------------------

    def measure(
        self, setting: Setting, cells: Sequence[Cell], tell: Tell | None = None
    ) -> Iterator[tuple[Cell, Measured | str]]:
        """Measure some cells of one setting, rule by rule; yields each as soon as it is there.

        What a hypothesis raises is its own cells' failure alone: their values do not exist. Where
        memory ran out there are no values, only the reason.

        Raises:
            LensError: The episode cannot be made or its rows changed meanwhile, or the model
                cannot read it.
        """
        episode, host = self.episode(setting), self.host(setting)
        with host.laid_out(), sharing(host):
            job = self.job(setting, episode, tell)
            for group in _groups(cells):
                problem, lost = _NOTHING, False
                try:
                    self._measure_group(job, setting, group)
                except RunError:
                    raise
                except Exception as error:  # a user's function may fail in any way
                    problem, lost = reason_of(error), is_out_of_memory(error)
                yield from self._taken(job, group, problem, lost=lost)

    def _measure_group(self, job: Job, setting: Setting, cells: Sequence[Cell]) -> None:
        subject, seed = cells[0].subject, self.plan.control_seed + setting.seed
        if subject.is_setting:
            job.measure_settings()
        elif subject.control == subject.rule:
            job.run_alone(CONTROLS[subject.rule], seed=seed)
        else:
            self._run(job, setting, cells, seed)

    def _run(self, job: Job, setting: Setting, cells: Sequence[Cell], seed: int) -> None:
        """Measure a rule, its controls, or both: as many as are missing."""
        bare, budget = cells[0].subject.bare, cells[0].budget
        rule = self.rule(job, setting, bare.rule, dict(bare.settings), budget)
        controls = [CONTROLS[c.subject.control] for c in cells if c.subject.control is not None]
        job.run(
            Rule(str(bare), rule.value, rule.settings, rule.facts), controls, seed=seed,
            own=any(cell.subject.control is None for cell in cells),
        )  # fmt: skip

    def rule(
        self, job: Job, setting: Setting, name: str, varied: dict[str, Any], budget: str
    ) -> Rule:
        """A rule with its settings; another network's has the model's unless it has its own."""
        spec: HypothesisSpec = self.plan.hypotheses[name]
        rule = Rule(name, get_hypothesis(spec.hypothesis), {**spec.settings, **varied})
        if isinstance(self.plan.lr, float):
            return with_settings_of(rule, {"lr": self.plan.lr})
        if self.plan.budget != MATCHED:
            return rule
        at = setting if budget == OWN else setting.trained or setting
        return self._with_budget(at, rule, Subject(name, None, varied), budget)

    def _with_budget(self, setting: Setting, rule: Rule, subject: Subject, budget: str) -> Rule:
        """The rule at the budget of a setting's network: chosen once, or read from a finished cell.

        Args:
            setting: The setting whose network and demonstrations choose.
            rule: The rule without one.
            subject: The subject of its cell there.
            budget: That cell's.
        """
        known = (setting.key, budget, str(subject))
        if known not in self._rules:
            found = self._recorded(setting, rule, subject, budget)
            if found is None:
                host = self.host(setting)
                with host.laid_out():
                    search = self.plan.search.asked()
                    found = with_budget(rule, host, self.episode(setting), **search)
            self._rules[known] = found
        return self._rules[known]

    def _recorded(self, setting: Setting, rule: Rule, subject: Subject, budget: str) -> Rule | None:
        """The same from the cell in which it was measured, in whatever process that was."""
        if not needs_budget(rule):
            return rule
        if self.fresh:
            return None
        key = key_of(self.plan, setting, subject, budget)
        cell = None if key is None else self.store.cell(key)
        facts = None if cell is None else cell.facts["described"].get("budget")
        if facts is None:
            return None
        chosen = with_settings_of(rule, facts.get("settings", {}))
        return replace(chosen, facts={**rule.facts, "budget": facts})

    def _taken(
        self, job: Job, cells: Sequence[Cell], problem: str, *, lost: bool
    ) -> Iterator[tuple[Cell, Measured | str]]:
        """Hand on what the job has measured of a group; what is missing has a reason.

        If it is `lost`, nothing counts as measured: another machine may have the memory.
        """
        gold = np.asarray(job.episode.gold, np.int64)
        values, failures = dict(job.values), dict(job.failures)
        job.values.clear()
        job.failures.clear()
        for cell in cells:
            label, bare = str(cell.subject), str(cell.subject.bare)
            found, failure = values.get(label), failures.get(label)
            if found is None and lost:
                yield cell, problem
                continue
            if found is None:
                found = job.undefined()
                failure = failure or failures.get(bare) or problem
            arrays = {name: value.numpy() for name, value in found.items()}
            facts = job.described.get(bare, {})
            yield cell, Measured(arrays, gold, failure, facts)

    # -- reading ---------------------------------------------------------------------------------

    def episode(self, setting: Setting) -> Episode:
        """A setting's demonstrations and queries.

        Raises:
            RunError: They are not those that the run began with.
        """
        plan = self.plan
        host = self.host(setting if setting.trained is None else setting.trained)
        episode = load_episode(
            setting.task, host, shots=setting.shots, queries=setting.queries, seed=setting.seed,
            permutation=setting.permutation, data=setting.data, protocol=plan.protocol,
            auxiliary=plan.others(setting.task) if setting.auxiliary else (),
        )  # fmt: skip
        shown = episode.provenance["demonstrations_hash"]
        same = shown == setting.facts["rows"][0]
        if setting.trained is None:
            same = same and episode.provenance["queries_hash"] == setting.facts["rows"][1]
        if not same:
            raise RunError("the rows changed after this run began; the same command starts anew")
        if setting.varied is None:
            return episode
        name, value = setting.varied
        return get_factor(name).altered(episode, value)

    def job(self, setting: Setting, episode: Episode, tell: Tell | None) -> Job:
        """The job that measures on a setting, with its network's own readouts read or found."""
        host = self.host(setting)
        wrong = shuffled_labels(episode, self.plan.control_seed + setting.seed)
        options = Options(tok2attn_queries=self.plan.tok2attn_queries, on_error="record_builds")
        zs = self._zs
        key = reading_key(episode)
        shared = zs[2] if zs is not None and zs[:2] == (key, str(setting.reading[2:4])) else None
        job = Job(
            host, episode, options, wrong=wrong, zs=shared, tell=tell,
            frozen=self._kept(setting, host, episode, shared),
        )  # fmt: skip
        fresh = job.has_readouts
        frozen = job.frozen
        self._zs = (key, str(setting.reading[2:4]), frozen.zs)
        if not fresh:
            self.store.keep_readings(setting.key, encode_readings(frozen, setting.key))
            self._read.add(setting.key)
        return job

    def _kept(
        self, setting: Setting, host: Host, episode: Episode, shared: Readout | None
    ) -> Frozen | None:
        """The network's own readouts as they are stored; `shared` is ZS as it was read here."""
        fresh = self.fresh and setting.key not in self._read
        data = None if fresh else self.store.readings(setting.key)
        if data is None:
            return None
        try:
            found = decode_readings(data, setting.key, host.device)
        except RunError:  # damaged or foreign: read anew
            self.store.refuse_readings(setting.key)
            return None
        zs = read_alike(found["zs"], shared or Reader(host, episode).zs())
        return Frozen.read(host, episode, zs, found["icl"], found["icl_shuffled"])


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that are measured together: settings, each rule at each budget, each lone control."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        subject = cell.subject
        name = "" if subject.is_setting else str(subject.bare)
        found.setdefault((name, cell.budget), []).append(cell)
    return list(found.values())


def reason_of(error: Exception) -> str:
    """Why something could not be measured, in one line."""
    text = " ".join(str(error).split()) or "no message"
    if is_out_of_memory(error):
        return f"out of memory: {text[:300]}"
    return f"{type(error).__name__}: {text[:600]}"
