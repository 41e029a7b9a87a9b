"""Measures a score and its controls along a factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from iclgd_lens import defaults
from iclgd_lens.collapse import ResidualReader
from iclgd_lens.comparing import as_draws, compare
from iclgd_lens.display_names import value_of_factor
from iclgd_lens.episode import Episode
from iclgd_lens.episode_loading import load_episodes
from iclgd_lens.errors import ComparisonError, nearest
from iclgd_lens.host import as_host
from iclgd_lens.hypotheses.registry import get_hypothesis
from iclgd_lens.job import reading_key
from iclgd_lens.protocol import DEFAULT, Protocol
from iclgd_lens.readout.reader import Reader, Readout
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.rules import HypothesisLike
from iclgd_lens.sweeps.factors import Factor, Kind, get_factor
from iclgd_lens.sweeps.sweep_result import Point, Sweep
from iclgd_lens.tasks import Data, Task
from iclgd_lens.telling import Tell, silent
from iclgd_lens.validation import checks_types

SWEEP_CONTROLS = ("random", "shuffled")


@dataclass(frozen=True)
class _Asked:
    """What is measured at every point, and on what."""

    names: tuple[str, ...]
    settings: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]
    tell: Tell
    task: str | Path | Task | Episode | Sequence[Episode]
    shots: int
    drawing: Mapping[str, Any]
    """How a task's episodes are drawn, but for the number of demonstrations."""
    load: Callable[[str], Any]

    def episodes(self, host: Any, shots: int) -> Sequence[Episode]:
        """The draws: a task's, with so many demonstrations, or those that were given."""
        if isinstance(self.task, (str, Path, Task)):
            return load_episodes(self.task, host, shots=shots, **self.drawing)
        return as_draws(self.task)


@checks_types(ComparisonError)
def sweep(
    model: Any,
    task: str | Path | Task | Episode | Sequence[Episode],
    factor: str,
    values: Sequence[Any] | None = None,
    *,
    hypotheses: str | Sequence[str] = defaults.HYPOTHESES,
    controls: str | Sequence[str] = SWEEP_CONTROLS,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    lr: float | None = None,
    shots: int = defaults.SHOTS,
    queries: int = defaults.SWEEP_QUERIES,
    draws: int = defaults.SWEEP_DRAWS,
    seed: int = 0,
    data: Data = None,
    protocol: Protocol | str = DEFAULT,
    auxiliary: Sequence[str | Path | Task] = (),
    load: Callable[[str], Any] | None = None,
    progress: Tell | None = None,
    **options: Any,
) -> Sweep:
    """Measure hypotheses and their controls at every value of a factor.

    Args:
        model: A model or its host; of the factor "model", a sequence of names for `load`.
        task: A task's name, its YAML file or a `Task`; or episodes. Those of the factors "shots"
            and "model" are drawn, so they take a task.
        factor: A name of `FACTORS`.
        values: Its values; None for the usual ones.
        hypotheses: Registered names. A factor of the rule is a setting that each of them takes.
        controls: Measured at every point.
        settings: Settings by hypothesis name; of a factor of the rule, one that acts at some of its
            values alone is given there alone.
        lr: Learning rate of every hypothesis that takes one; None chooses a budget at every point.
        shots: Demonstrations per draw, where a task is given.
        queries: Evaluation rows.
        draws: Draws of demonstrations.
        seed: Of the first draw and of controls.
        data: Where rows come from.
        protocol: How a task's rows are written and read; see `load_episodes`.
        auxiliary: Other tasks, for hypotheses that read their demonstrations.
        load: Loads a model by name, for the factor "model".
        progress: Called with a short text at each stage.
        options: What else `compare` takes: twins, budget, realisations, collapse.

    Raises:
        ComparisonError: A factor, or a value of it, cannot be had here, settings are given for
            another hypothesis, or an argument is of another type.
        HypothesisError: A hypothesis does not take the factor's setting, or a setting would do
            nothing beside the others.
    """
    chosen = get_factor(factor)
    points = tuple(chosen.values if values is None else values)
    if chosen.kind == "model" and not points:
        points = tuple(model)
    _check_values(chosen, points)
    if chosen.kind in ("draw", "model") and not isinstance(task, (str, Path, Task)):
        raise ComparisonError(f"{factor} draws demonstrations anew: give a task, no episodes.")
    names = (hypotheses,) if isinstance(hypotheses, str) else tuple(hypotheses)
    for name in settings or {}:
        if name not in names:
            raise ComparisonError(
                f"settings are given for {name!r}, but the hypotheses are {', '.join(names)}."
                + nearest(name, names)
            )
    asked = _Asked(
        names, settings or {},
        {"controls": controls, "lr": lr, "seed": seed, "tok2attn_queries": 0, **options},
        progress or silent, task, shots,
        {"draws": draws, "seed": seed, "queries": queries, "data": data, "protocol": protocol,
         "auxiliary": auxiliary},
        load or _by_name,
    )  # fmt: skip
    return Sweep(chosen, tuple(_ALONG[chosen.kind](model, chosen, points, asked)))


def _check_values(factor: Factor, values: Sequence[Any]) -> None:
    if not values:
        raise ComparisonError(f"{factor.name} needs at least one value.")
    for value in values:
        factor.check(value)
    if len({value_of_factor(value) for value in values}) < len(values):
        raise ComparisonError(f"{factor.name}: a value is given twice.")


def _by_name(name: str) -> Any:
    from iclgd_lens.host.loading import load_model

    return load_model(name)


# -- one way for each kind of factor ---------------------------------------------------------------


_OF_QUERIES = ("queries_hash", "unknown_share", "common_queries")


def _asking(episodes: Sequence[Episode], most: Sequence[Episode]) -> list[Episode]:
    """The episodes with the queries of others, draw by draw."""
    found: list[Episode] = []
    for episode, other in zip(episodes, most, strict=True):
        facts = {name: other.provenance[name] for name in _OF_QUERIES}
        found.append(
            replace(episode, queries=other.queries, provenance={**episode.provenance, **facts})
        )
    return found


def _along_draws(
    model: Any, factor: Factor, values: Sequence[Any], asked: _Asked
) -> Iterator[Point]:
    """A comparison per number of demonstrations, drawn for it."""
    counts = [int(value) for value in values]
    # What the most demonstrations leave is asked at every point: fewer are among them.
    most = asked.episodes(model, max(counts))
    drawn = [
        most if count == max(counts) else _asking(asked.episodes(model, count), most)
        for count in counts
    ]
    for value, episodes in zip(values, drawn, strict=True):
        asked.tell(f"{factor.name} {value}")
        yield Point(value, _compare(model, episodes, asked))


def _along_models(
    model: Any, factor: Factor, values: Sequence[Any], asked: _Asked
) -> Iterator[Point]:
    """A comparison per model, each loaded for it."""
    for value in values:
        asked.tell(f"{factor.name} {value}")
        own = asked.load(str(value))
        yield Point(value, _compare(own, asked.episodes(own, asked.shots), asked))


def _along_settings(
    model: Any, factor: Factor, values: Sequence[Any], asked: _Asked
) -> Iterator[Point]:
    """Every value as a subject of one comparison: the model's own settings are read once."""
    episodes = asked.episodes(model, asked.shots)
    variants: dict[str, HypothesisLike] = {}
    settings: dict[str, dict[str, Any]] = {}
    for name in asked.names:
        hypothesis = get_hypothesis(name)
        hypothesis.check_names([factor.setting or factor.name])
        takes = hypothesis.settings()
        beside = {key: value for key, value in (factor.beside or {}).items() if key in takes}
        fixed = {**beside, **asked.settings.get(name, {})}
        varied = [factor.settings(value) for value in values]
        at = hypothesis.settings_at(fixed, varied, searched=asked.options["lr"] is None)
        for number, own in enumerate(at):
            variants[f"{name}:{number}"] = hypothesis
            settings[f"{name}:{number}"] = own
    options = dict(asked.options)
    together = compare(model, episodes, variants, settings=settings, progress=asked.tell, **options)
    for number, value in enumerate(values):
        yield Point(value, together, {name: f"{name}:{number}" for name in asked.names})


def _along_episodes(
    model: Any, factor: Factor, values: Sequence[Any], asked: _Asked
) -> Iterator[Point]:
    """A comparison per value; queries stay, so ZS is read once."""
    episodes = asked.episodes(model, asked.shots)
    host, zs = as_host(model), dict[str, Readout]()
    reader = ResidualReader if asked.options.get("collapse") else Reader
    for value in values:
        asked.tell(f"{factor.name} {value}")
        altered = [factor.altered(episode, value) for episode in episodes]
        key = reading_key(altered[0])
        if key not in zs:
            zs[key] = reader(host, altered[0]).zs()
        yield Point(value, _compare(host, altered, asked, zs[key]))


def _compare(
    model: Any, episodes: Sequence[Episode], asked: _Asked, zs: Readout | None = None
) -> Comparison:
    own = {name: value for name, value in asked.settings.items() if name in asked.names}
    return compare(
        model, episodes, list(asked.names), settings=own, zs=zs, progress=asked.tell,
        **asked.options,
    )  # fmt: skip


_ALONG: Mapping[Kind, Callable[[Any, Factor, Sequence[Any], _Asked], Iterator[Point]]] = {
    "rule": _along_settings,
    "episode": _along_episodes,
    "draw": _along_draws,
    "model": _along_models,
}
