"""The job: from draws, hypotheses and controls to what each head does, and what updates keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iclgd_lens import defaults
from iclgd_lens.budget.budget import BudgetMode, with_budget, with_settings_of
from iclgd_lens.building import Pair
from iclgd_lens.comparing import as_draws, budget_mode, check_draws, provenance
from iclgd_lens.comparison_groups import part_of
from iclgd_lens.controlled import controlled
from iclgd_lens.controls import Control
from iclgd_lens.episode import Episode
from iclgd_lens.errors import ComparisonError, ControlError, LensError
from iclgd_lens.heads import indirect_effects, induction_scores
from iclgd_lens.host import Host, as_host, own_precision
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.job import Job
from iclgd_lens.mediation.effects import Measuring, Wanted
from iclgd_lens.mediation.head_maps import (
    ESTIMATED,
    ICL,
    NECESSITY,
    SUFFICIENCY,
    DrawEffects,
    Verification,
    pearson,
)
from iclgd_lens.mediation.mediation_result import Mediation
from iclgd_lens.mediation.patching import PATCHED_TOKENS_AT_ONCE
from iclgd_lens.nulls import shuffled_labels
from iclgd_lens.readout.reader import Readout
from iclgd_lens.registry import resolve
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Part
from iclgd_lens.rules import (
    HypothesisLike,
    Options,
    Rule,
    resolve_rules,
    split_controls,
)
from iclgd_lens.subjects import Subject
from iclgd_lens.telling import Tell, silent
from iclgd_lens.validation import checks_types
from iclgd_lens.verdicts.statistics import nanmean

EXACT_HEADS = 200
"""The number of heads up to which all are measured exactly by default."""
TOP_SHARE, RANDOM_HEADS = 0.05, 20
"""Heads on which attribution is held against exact interventions: the first of its ranking, and
some at random."""
MEDIATION_CONTROLS = ("random", "shuffled")


@checks_types(ComparisonError)
@own_precision()
def mediate(
    model: Any,
    episodes: Episode | Sequence[Episode],
    hypotheses: str | Sequence[str] | Mapping[str, HypothesisLike] = defaults.HYPOTHESES,
    *,
    controls: str | Iterable[str] = MEDIATION_CONTROLS,
    exact: bool | None = None,
    visibility: bool = True,
    curves: bool = True,
    name_heads: bool = True,
    lr: float | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    budget: BudgetMode | Mapping[str, Any] | None = None,
    seed: int = 0,
    tokens_at_once: int = PATCHED_TOKENS_AT_ONCE,
    resamples: int = 1000,
    confidence: float = 0.95,
    progress: Tell | None = None,
) -> Mediation:
    """Measure which heads do in-context learning's work, and whether an update does it there.

    Effects are on the label margin, the gold label's logit minus the mean of the others', in nats,
    at the last token of a query's content: see `mediation.head_maps.MEANINGS`. The model is never
    changed.

    Cost, beside reading ZS, ICL and each hypothesis: L x H last-token passes per query for each of
    sufficiency and necessity, and for each hypothesis and control; L x H passes of a whole query
    for visibility; two differentiated passes. Memory: no pass holds more than `tokens_at_once`
    tokens (a quarter, where it is differentiated), prompts counted for each row.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        episodes: Demonstrations and queries: one episode, or several draws.
        hypotheses: As `compare` takes them; `()` for in-context learning alone.
        controls: Controls that give an intervention: on the update ("random"), on the
            demonstrations ("shuffled"), alone ("oracle", "zero").
        exact: Whether every head is measured exactly. None: where there are at most 200 heads.
            False: attribution for all, exact interventions on the first 5 % of its ranking and 20
            random heads.
        visibility: Whether each head alone is shown the demonstrations.
        curves: Whether sets of heads are put in.
        name_heads: Whether induction and function-vector scores of heads are added.
        lr: Learning rate of every hypothesis that takes one; None leaves the choice to `budget`.
        settings: Settings by hypothesis name.
        budget: How rates are found; see `compare`.
        seed: Of random controls, random heads and the bootstrap; draw d uses seed + d.
        tokens_at_once: Tokens of a pass at most.
        resamples: Bootstrap resamples, where there is one draw.
        confidence: Coverage of the intervals.
        progress: Called with a short text at each stage.

    Raises:
        ComparisonError: There is no episode, episodes do not belong together, or an argument is of
            another type.
        ControlError: A control is unknown, or gives no intervention on this model.
        HypothesisError: A hypothesis or setting is unknown.
        EpisodeError: The model cannot read an episode whole, or label words begin alike.
    """
    host = as_host(model)
    given = as_draws(episodes)
    mode, search = budget_mode(budget, given)
    check_draws(given, 0)
    if tokens_at_once < 4:
        raise ComparisonError(f"tokens_at_once is {tokens_at_once}; it must be 4 or more.")
    rules = resolve_rules(hypotheses, settings, searched=lr is None and mode == "matched")
    if lr is not None:
        rules = {name: with_settings_of(rule, {"lr": lr}) for name, rule in rules.items()}
    asked = split_controls(controls if isinstance(controls, str) else list(controls), rules)
    _check_controls(asked)
    all_heads = host.n_layers * host.n_heads <= EXACT_HEADS if exact is None else exact
    # The label is predicted after the content, wherever the protocol reads.
    draws = [_at_the_end(episode) for episode in given]
    tell = progress or silent
    found: list[DrawEffects] = []
    parts: list[Part] = []
    which: tuple[tuple[int, int], ...] | None = None
    with host.laid_out():
        for number, episode in enumerate(draws):
            said = _numbered(tell, number, len(draws))
            draw = _Draw(
                host, episode, rules, asked, seed + number, mode == "matched", search, said
            )
            job, changed = _read(draw)
            measuring = Measuring(host, episode, job.frozen, changed, tokens_at_once)
            if not all_heads and which is None:
                which = _verified(measuring, seed)
            said("heads: exact interventions")
            wanted = Wanted(visibility, curves, which)
            found.append(measuring.measure(wanted))
            parts.append(part_of(job, number))
        named = _named(host, draws[0], seed, tell) if name_heads else {}
    facts = provenance(host, given) | {
        "hypotheses": dict(parts[0].facts.get("rules", {})),
        "controls": [each.name for group in asked.values() for each in group],
        "seed": seed,
        "budget": {"mode": mode, **search},
        "margin": "gold label's logit minus the mean of the others', last token of the content",
    }
    heads = which or _verification_heads(found, seed)
    return Mediation(
        tuple(found), Comparison(tuple(parts), facts, resamples, confidence, seed), which,
        _verification(found, heads), host.n_heads // host.n_key_value_heads, named, facts,
    )  # fmt: skip


def _check_controls(asked: Mapping[str, Sequence[Control]]) -> None:
    for group in asked.values():
        for control in group:
            if control.acts_on in ("network", "change"):
                raise ControlError(
                    f"The control {control.name!r} gives no update of this model, so none of its "
                    "heads' outputs can be put in; mediation takes controls that do, such as "
                    "random, shuffled and oracle."
                )


def _at_the_end(episode: Episode) -> Episode:
    protocol = episode.protocol
    if protocol.readout == "last_prompt_token":
        return episode
    shown = dataclasses.replace(
        episode.demonstrations, protocol=protocol.replace(readout="last_prompt_token")
    )
    return dataclasses.replace(episode, demonstrations=shown)


# -- reading -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draw:
    """What is read of one draw."""

    host: Host
    episode: Episode
    rules: Mapping[str, Rule]
    controls: Mapping[str, Sequence[Control]]
    seed: int
    matched: bool
    search: Mapping[str, Any]
    tell: Tell


def _read(draw: _Draw) -> tuple[Job, dict[str, Readout]]:
    """Read the model itself, then every hypothesis and control; score them on the way."""
    contrasted = any(control.name == "shuffled" for control in draw.controls["rule"])
    wrong = shuffled_labels(draw.episode, draw.seed) if contrasted else None
    options = Options(tok2attn_queries=0, on_error="record_theirs")
    job = Job(draw.host, draw.episode, options, wrong=wrong, tell=draw.tell)
    job.measure_settings()
    changed: dict[str, Readout] = {}

    def read(label: str, right: Intervention | None, wrong: Intervention | None) -> None:
        if right is None:
            job.measure(label, None)
            return
        draw.tell(f"{label}: each query alone")
        readout = job.reader.ftzs(right)
        job.measure(label, right, wrong, readout=readout)
        if readout.is_finite:
            changed[label] = readout

    for rule in draw.rules.values():
        draw.tell(f"{rule.name}: building the update")
        pair: Pair = (None, None)
        with job.going_on(rule.name):
            if draw.matched:
                rule = with_budget(rule, draw.host, draw.episode, **draw.search)
            pair = job.builder.pair(rule)
            read(rule.name, *pair)
        for control in draw.controls["rule"]:
            label = str(Subject(rule.name, control.name))
            with job.going_on(label):
                made = controlled(job.builder, control, rule, pair, seed=draw.seed, tell=draw.tell)
                if made is not None:
                    read(label, *made)
    for control in draw.controls["alone"]:
        with job.going_on(control.name):
            rule = Rule(
                control.name, Hypothesis(name=control.name, build=resolve(control.function))
            )
            read(control.name, job.builder.build(rule, draw.episode, control.name), None)
    return job, changed


# -- attribution verified ------------------------------------------------------------------------


def _verified(measuring: Measuring, seed: int) -> tuple[tuple[int, int], ...]:
    found, _ = measuring.attributed
    return _chosen(found[ICL][ESTIMATED[NECESSITY]].astype(np.float64), seed)


def _verification_heads(draws: Sequence[DrawEffects], seed: int) -> tuple[tuple[int, int], ...]:
    return _chosen(draws[0].heads[ICL][ESTIMATED[NECESSITY]].astype(np.float64), seed)


def _chosen(attributed: Any, seed: int) -> tuple[tuple[int, int], ...]:
    """The first 5 % of heads by the size of their attribution, and 20 at random."""
    shape = attributed.shape[1:]
    size = np.nan_to_num(np.abs(nanmean(attributed, 0)), nan=-1.0).ravel()
    order = np.argsort(-size, kind="stable")
    first = order[: max(1, int(np.ceil(TOP_SHARE * len(order))))]
    others = np.random.default_rng(seed).permutation(len(order))[:RANDOM_HEADS]
    heads = sorted({*first.tolist(), *others.tolist()})
    return tuple((index // shape[1], index % shape[1]) for index in heads)


def _verification(draws: Sequence[DrawEffects], heads: tuple[tuple[int, int], ...]) -> Verification:
    rows, columns = (list(part) for part in zip(*heads, strict=True))

    def mean(effect: str) -> Any:
        each = [draw.heads[ICL][effect].astype(np.float64) for draw in draws]
        return nanmean(np.concatenate(each), 0)[rows, columns]

    pairs = {name: pearson(mean(name), mean(ESTIMATED[name])) for name in (SUFFICIENCY, NECESSITY)}
    return Verification(heads, pairs[SUFFICIENCY], pairs[NECESSITY])


def _named(host: Host, episode: Episode, seed: int, tell: Tell) -> dict[str, Any]:
    """What heads are known to do; left out where the model does not show it."""
    found: dict[str, Any] = {}
    for name in ("induction", "function_vector"):
        tell(f"{name} scores of heads")
        try:
            scores = (
                induction_scores(host, bos=episode.demonstrations.bos, seed=seed)
                if name == "induction"
                else indirect_effects(host, episode, seed=seed)
            )
        except LensError:
            continue
        found[name] = scores.values.float().cpu().numpy()
    return found


def _numbered(tell: Tell, number: int, count: int) -> Tell:
    return tell if count < 2 else lambda text: tell(f"draw {number + 1} of {count}: {text}")
