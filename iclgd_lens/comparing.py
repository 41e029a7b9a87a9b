"""The main job: in-context learning against hypotheses and controls, on one model.

Over draws of demonstrations: the model's own settings are read, each hypothesis is built from right
and from wrong labels, and its controls are measured beside it. Then, for each control that is
another network, the same on a few such networks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast, get_args

from iclgd_lens import defaults
from iclgd_lens.budget.asked_search import SEARCHED, BudgetMode, check_search, usual_budget
from iclgd_lens.building import passes_of
from iclgd_lens.collapse import CollapseJob
from iclgd_lens.comparison_groups import (
    ComparisonRequest,
    groups_of,
    measure_draws,
    measure_networks,
)
from iclgd_lens.controls import DEFAULT_CONTROLS
from iclgd_lens.cost import sharing
from iclgd_lens.episode import Demonstrations, Episode
from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.host import Host, as_host, own_precision
from iclgd_lens.host.condition import model_provenance
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.job import Job, reading_key
from iclgd_lens.nulls import with_foreign
from iclgd_lens.provenance import library_versions
from iclgd_lens.readout.reader import Readout
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.parts import Part
from iclgd_lens.rules import (
    HypothesisLike,
    Options,
    Rule,
    resolve_rules,
    split_controls,
)
from iclgd_lens.tasks import Task
from iclgd_lens.telling import Tell, silent
from iclgd_lens.validation import checks_types
from iclgd_lens.workers import how_many, spread

_BUDGETS = get_args(BudgetMode)


def as_draws(episodes: object) -> tuple[Episode, ...]:
    """What was given as episodes, one or several.

    Raises:
        ComparisonError: It is something else, such as a task.
    """
    if isinstance(episodes, Episode):
        return (episodes,)
    if isinstance(episodes, (str, Path, Task)):
        task = str(getattr(episodes, "name", episodes) if isinstance(episodes, Task) else episodes)
        raise ComparisonError(
            f"{task!r} is a task, where its episodes are needed: give load_episodes({task!r}, "
            "model)."
        )
    given = (
        tuple(cast("Iterable[Any]", episodes)) if isinstance(episodes, Iterable) else (episodes,)
    )
    for each in given:
        if not isinstance(each, Episode):
            raise ComparisonError(
                f"episodes must be an Episode or a list of them, as load_episodes gives; "
                f"this is a {type(each).__name__}."
            )
    return cast("tuple[Episode, ...]", given)


def check_draws(draws: Sequence[Episode], twins: int) -> None:
    """Refuse draws that do not belong together.

    Raises:
        ComparisonError: There are none, or they differ in protocol or label words.
    """
    if not draws:
        raise ComparisonError("There is no episode to compare on; give at least one.")
    first = draws[0]
    for number, episode in enumerate(draws):
        if episode.protocol != first.protocol or episode.label_tokens != first.label_tokens:
            raise ComparisonError(
                f"Episode {number} has another protocol or other label words than the first: "
                "episodes of one comparison differ in their demonstrations (and queries) alone."
            )
    shown = [_without_order(episode.demonstrations) for episode in draws]
    for number, each in enumerate(shown):
        if each and each in shown[:number]:
            raise ComparisonError(
                f"Episodes {shown.index(each)} and {number} have the same demonstrations: a draw "
                "counted twice makes chance look sure. Give draws with seeds of their own "
                "(load_episodes); orders of one draw are a plan's `permutations`."
            )
    if twins < 0:
        raise ComparisonError(f"twins is {twins}; it must be 0 or more.")


def _without_order(shown: Demonstrations) -> list[tuple[Any, ...]]:
    return sorted((each.content, each.label) for each in shown.examples)


def budget_mode(
    asked: BudgetMode | Mapping[str, Any] | None, draws: Sequence[Episode]
) -> tuple[BudgetMode, dict[str, Any]]:
    """How budgets are found, and where their search differs from the default.

    Where nothing is asked: published under the reference protocol, else matched.

    Raises:
        ComparisonError: The way is unknown, or a part of the search is unknown or of another type.
    """
    if isinstance(asked, Mapping):
        check_search(asked, ComparisonError)
        return "matched", dict(asked)
    if asked is None:
        return (usual_budget(draws[0].protocol) if draws else "matched"), {}
    if asked not in _BUDGETS:
        raise ComparisonError(
            f"budget is {asked!r}; allowed: {', '.join(_BUDGETS)}, or a mapping of what is "
            f"searched ({', '.join(SEARCHED)})." + nearest(str(asked), _BUDGETS)
        )
    return asked, {}


def provenance(host: Host, draws: Sequence[Episode]) -> dict[str, Any]:
    """Everything about model, episodes and libraries that the numbers depend on."""
    first = draws[0]
    dtype = str(host.dtype).removeprefix("torch.")
    return {
        "model": model_provenance(host.model)
        | {
            "device": host.device.type,
            "n_layers": host.n_layers,
            "n_heads": host.n_heads,
            "n_key_value_heads": host.n_key_value_heads,
            "d_model": host.d_model,
        },
        "precision": f"activations {dtype}, deltas and scores fp32",
        "protocol": first.protocol.as_dict() | {"hash": first.protocol.hash},
        "episode": dict(first.provenance) | {"hash": first.hash, "queries": len(first.queries)},
        "draws": [
            dict(each.provenance) | {"hash": each.hash, "warnings": list(each.warnings)}
            for each in draws
        ],
        "versions": library_versions(),
    }


@checks_types(ComparisonError)
@own_precision()
def compare(
    model: Any,
    episodes: Episode | Sequence[Episode],
    hypotheses: str | Sequence[str] | Mapping[str, HypothesisLike] = defaults.HYPOTHESES,
    *,
    controls: str | Iterable[str] = DEFAULT_CONTROLS,
    lr: float | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    budget: BudgetMode | Mapping[str, Any] | None = None,
    twins: int = defaults.TWINS,
    twin_queries: int | None = defaults.TWIN_QUERIES,
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
    progress: Tell | None = None,
) -> Comparison:
    """Compare what hypotheses do to attention with what in-context learning does.

    What a hypothesis, or a control or score of your own, raises is its failure alone
    (`Comparison.failures`, with a `FailureWarning`); errors about what was asked for are raised.

    The model is never changed. On a CPU a HookedTransformer's weights of attention and of gated
    MLPs take twice their memory meanwhile (`Host.laid_out`).

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
            with a search of your own: grid, epochs, losses, folds, left_out of `choose_budget`.
        twins: Networks of each control that is another network (untrained twins, say).
        twin_queries: Queries that each of these is asked at most; None for all.
        realisations: Random updates in place of each update; None for one per draw, or 20 where
            there is only one draw, so that they have a spread of their own.
        trajectory: Also read scores along the training of each hypothesis that has epochs, on the
            first draw and on the twins; see `Comparison.trajectory`. True reads them after the
            passes `building.PASSES`; a sequence names others.
        other: Demonstrations for the control "other_task"; None draws those of the task that the
            episode's own names as another one (`Task.other_task`), from the same source.
        seed: Seed of random controls, twins and the bootstrap; draw d uses seed + d.
        batch_size: Queries run together at most; None fits it to the prompt.
        pad_queries: Run queries of unequal length together: faster, equal but for rounding.
        tok2attn_queries: Tok2Attn is measured on this many of the first queries (it is the one
            score whose cost grows with queries times demonstrations); its `n` says so.
        collapse: Also measure `label_collapse`, for which the residual stream is kept. Other
            networks are then asked every query: the score depends on how many there are.
        resamples: Bootstrap resamples, where there is one draw.
        confidence: Coverage of the intervals.
        zs: The ZS readout of these queries on this model, where it was read before (by
            `Reader.zs` with `first=tok2attn_queries`); it is not read again.
        workers: Copies of this process that measure draws and other networks beside one another,
            each on one thread (Linux, on a CPU). None takes one per thread of PyTorch's for a small
            model, else 1: no copies. Numbers are those of one thread: those of several differ by
            rounding, which training at a high rate magnifies.
        progress: Called with a short text at each stage.

    Raises:
        ComparisonError: There is no episode, episodes do not belong together, a number is out of
            range, or an argument is of another type.
        ControlError: A control is unknown or cannot be built.
        HypothesisError: A hypothesis or setting is unknown, or a setting is of another type or
            would do nothing beside the others.
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
    draws = as_draws(episodes)
    mode, search = budget_mode(budget, draws)
    check_draws(draws, twins)
    rules = resolve_rules(hypotheses, settings, searched=lr is None and mode == "matched")
    asked = split_controls(controls if isinstance(controls, str) else list(controls), rules)
    request = ComparisonRequest(
        host=host, draws=draws, rules=_rated(rules, lr), controls=asked, budget=mode,
        search=search, twins=twins, twin_queries=None if collapse else twin_queries,
        realisations=realisations, passes=passes_of(trajectory),
        other=None if other is None else with_foreign(draws[0], other), seed=seed,
        options=Options(batch_size, pad_queries, tok2attn_queries, "record_theirs"),
        tell=progress or silent, job=CollapseJob if collapse else Job,
    )  # fmt: skip
    readouts = {} if zs is None else {reading_key(draws[0]): zs}
    crew = how_many(workers, host.model)
    parts: list[Part] = []
    groups = groups_of(range(len(draws)), host)
    one = partial(measure_draws, request, readouts, groups)
    spreading = spread(one, len(groups), crew, request.tell)
    with host.laid_out(), sharing(host), closing(spreading) as found:
        for measured, chosen in found:
            request.chosen.extend(chosen)
            parts += measured
    networks = [(control, j) for control in asked["network"] for j in range(twins)]
    others = groups_of(networks, host)
    twin = partial(measure_networks, request, others)
    with closing(spread(twin, len(others), crew, request.tell)) as found:
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
