"""Studies: what is looked at once per model and task, beside its cells, for figures of a few rules.

trajectory   scores along the training on the first draw, twins of that draw beside it
attention    which tokens the readout token of one query attends to, in ZS, ICL and after each rule
mediation    which heads do the work, and whether a rule does it there, over all draws

A study is named by a hash of the cells that it belongs to and of its own code: it is made once,
when those cells are there, and again when one of their numbers could have changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from iclgd_lens.bench.cells import OWN, Cell
from iclgd_lens.bench.digests import rooms_digest
from iclgd_lens.bench.figure_data import FORMS
from iclgd_lens.bench.plan import MATCHED, Plan
from iclgd_lens.bench.plan_entries import Setting
from iclgd_lens.bench.session import Session, reason_of
from iclgd_lens.bench.store import Store
from iclgd_lens.cost import sharing
from iclgd_lens.errors import RunError
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.job import Job
from iclgd_lens.mediation import storage
from iclgd_lens.mediation.mediation_job import mediate
from iclgd_lens.results.archive import archived
from iclgd_lens.results.parts import Part
from iclgd_lens.sealed_files import opened, sealed
from iclgd_lens.subjects import TRAINED
from iclgd_lens.telling import Tell
from iclgd_lens.token_attention import readout_attention


@dataclass(frozen=True)
class Study:
    """One study of one model and task.

    Attributes:
        key: 32 hexadecimal digits.
        kind: "trajectory", "attention" or "mediation".
        settings: The model's own draws, in the plan's first order of each.
        twins: Other networks that share the first draw.
        cells: Keys of the cells that must be there first.
    """

    key: str
    kind: str
    settings: tuple[Setting, ...]
    twins: tuple[Setting, ...]
    cells: tuple[str, ...] = field(repr=False)

    @property
    def place(self) -> dict[str, Any]:
        """Where it lies in the grid."""
        first = self.settings[0]
        return {**first.place, "budget": "", "subject": self.kind}

    def __str__(self) -> str:
        first = self.settings[0]
        return f"{first.model.label}, {first.label}: {self.kind}"


def list_studies(plan: Plan, cells: Sequence[Cell]) -> list[Study]:
    """The plan's studies, model by model and task by task."""
    spec = plan.studies
    if spec is None:
        return []
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        setting = cell.setting
        if cell.subject.rule in spec.hypotheses and setting.problem is None:
            groups.setdefault((setting.model.label, setting.label), []).append(cell)
    found: list[Study] = []
    for group in groups.values():
        every = {cell.setting.key: cell.setting for cell in group}.values()
        own = [each for each in every if each.network == TRAINED]
        first_order = [each for each in own if each.permutation == own[0].permutation]
        twins = [each for each in every if each.trained is not None and each.trained is own[0]]
        for kind in spec.kinds:
            keys = tuple(cell.key for cell in group)
            facts = [kind, list(spec.hypotheses), keys, rooms_digest(*_CODE[kind])]
            key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
            found.append(Study(key, kind, tuple(first_order), tuple(twins), keys))
    return found


def run_studies(
    plan: Plan, studies: Sequence[Study], store: Store, tell: Tell, *, fresh: bool, retry: bool
) -> Iterator[Study]:
    """Make the studies whose cells are there and that are not there yet; yields each.

    What a study raises is its own failure, written beside those of cells; like them, it is tried
    again where that is asked for.
    """
    session: Session | None = None
    for study in studies:
        ready = all(store.is_written(key) for key in study.cells)
        failed = store.failure(study.key) is not None and not retry
        if not ready or (not fresh and (failed or _is_there(store, study))):
            continue
        model = study.settings[0].model
        if session is None or session.model != model:
            session = None  # frees the last model before the next is loaded
            session = Session(plan, model, store)

        def stage(text: str, study: Study = study) -> None:
            tell(f"{study}: {text}")

        try:
            data = _MAKERS[study.kind](session, study, stage)
        except Exception as error:  # of a hypothesis, the rows, the machine
            store.fail(study, reason_of(error))
        else:
            store.keep_study(study.key, data)
        yield study


def _is_there(store: Store, study: Study) -> bool:
    """Whether its file is whole; a damaged one is moved aside."""
    data = store.study(study.key)
    if data is None:
        return False
    try:
        opened(data, study.key, FORMS[study.kind], RunError)
    except RunError as error:
        store.refuse_study(study.key, str(error))
        return False
    return True


# -- making --------------------------------------------------------------------------------------


def _trajectory(session: Session, study: Study, tell: Tell) -> bytes:
    parts: list[Part] = []
    for setting in (study.settings[0], *study.twins):
        chosen = session.plan.budget == MATCHED and setting.network != TRAINED
        with _at_work(session, setting, tell) as job:
            for name in _names(session.plan):
                tell(f"{name} along its training")
                takes = get_hypothesis(session.plan.hypotheses[name].hypothesis).takes_budget
                budget = OWN if chosen and takes else ""
                job.follow(session.rule(job, setting, name, {}, budget))
                if job.trajectory:
                    parts.append(_part(job, setting, budget))
                    job.trajectory = {}
    return archived(FORMS["trajectory"], parts, {})


def _attention(session: Session, study: Study, tell: Tell) -> bytes:
    setting = study.settings[0]
    with _at_work(session, setting, tell) as job:
        built: dict[str, Intervention] = {}
        for name in _names(session.plan):
            tell(f"building {name}")
            rule = session.rule(job, setting, name, {}, "")
            found = job.builder.build(rule, job.episode, name)
            if found is not None:
                built[name] = found
        frame = readout_attention(job.host, job.episode, built)
    weights = frame.pop("weight").to_numpy(dtype=np.float64)
    return sealed(FORMS["attention"], {"weight": weights}, {"lines": frame.to_dict("list")})


def _mediation(session: Session, study: Study, tell: Tell) -> bytes:
    plan, names = session.plan, _names(session.plan)
    specs = {name: plan.hypotheses[name] for name in names}
    found = mediate(
        session.host(study.settings[0]), [session.episode(each) for each in study.settings],
        {name: spec.hypothesis for name, spec in specs.items()},
        settings={name: spec.settings for name, spec in specs.items()},
        lr=plan.lr if isinstance(plan.lr, float) else None,
        budget=plan.search.asked() or plan.budget, seed=plan.control_seed, progress=tell,
    )  # fmt: skip
    return storage.encode(found)


_MAKERS: Mapping[str, Callable[[Session, Study, Tell], bytes]] = {
    "trajectory": _trajectory,
    "attention": _attention,
    "mediation": _mediation,
}
_CODE: Mapping[str, tuple[str, ...]] = {
    "trajectory": ("bench/studies.py",),
    "attention": ("bench/studies.py", "token_attention.py"),
    "mediation": ("bench/studies.py", "mediation", "heads.py"),
}
"""The code that makes each, beside the core, whose digest is in the keys of cells."""


@contextlib.contextmanager
def _at_work(session: Session, setting: Setting, tell: Tell) -> Generator[Job, None, None]:
    """A session's job on one setting, ready to build and to read."""
    host, episode = session.host(setting), session.episode(setting)
    with host.laid_out(), sharing(host):
        yield session.job(setting, episode, tell)


def _names(plan: Plan) -> tuple[str, ...]:
    return () if plan.studies is None else plan.studies.hypotheses


def _part(job: Job, setting: Setting, budget: str) -> Part:
    along = {
        label: {
            passes: {score: value.numpy() for score, value in found.items()}
            for passes, found in stages.items()
        }
        for label, stages in job.trajectory.items()
    }
    gold = np.asarray(job.episode.gold, np.int64)
    return Part(
        {}, gold, order=setting.permutation, network=setting.network, index=setting.index,
        budget=budget, trajectory=along,
    )  # fmt: skip
