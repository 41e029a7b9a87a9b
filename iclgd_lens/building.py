"""Builds a rule's interventions, from right and from wrong demonstrations and along its training.

Along its training: what a rule has learned after 1, 2, 4, ... passes. One point on such a curve
cannot tell whether attention comes nearer to in-context learning's as behaviour does. Where a rule
trains by this package's own loop the points are stages of one training; else it is built anew for
each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from iclgd_lens.budget.training_rows import SIDE_BY_SIDE, built_beside, row_trainings, rule_of
from iclgd_lens.cost import Ledger, counted
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.errors import DivergedError, HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.intervention import Batch, Intervention, hooks_of
from iclgd_lens.raised import raised, warn_of_failure
from iclgd_lens.rules import Options, Rule
from iclgd_lens.subjects import Subject
from iclgd_lens.training.sgd import learning_rate
from iclgd_lens.training.shared_batches import Chain, alone

Pair = tuple["Intervention | None", "Intervention | None"]
"""Interventions from right and from wrong labels; None where one could not be built."""


class Builder:
    """Builds rules on one network and one draw of demonstrations.

    Args:
        host: The network.
        episode: The draw's demonstrations, and the queries.
        wrong: The same demonstrations with wrong labels, or None.
        options: Which errors of a hypothesis are recorded as its failure.

    Attributes:
        failures: Why a label could not be built.
        described: Settings, metadata, version and cost of each rule.
    """

    def __init__(
        self, host: Host, episode: Episode, wrong: Episode | None, options: Options | None = None
    ) -> None:
        self.host, self.episode, self.wrong = host, episode, wrong
        self.options = options or Options()
        self.failures: dict[str, str] = {}
        self.described: dict[str, dict[str, Any]] = {}

    def build(self, rule: Rule, episode: Episode, label: str) -> Intervention | None:
        """Build a rule's intervention from an episode's demonstrations; None where it failed.

        An intervention that exists already was built from this draw's own demonstrations.
        """
        value = rule.value
        if isinstance(value, Intervention):
            if episode is self.episode:
                self.described[rule.name] = {"settings": {}, **rule.facts}
            return value if episode is self.episode else None
        ledger = Ledger()
        try:
            with counted(self.host) as ledger:
                found: Any = value.built(self.host, episode, **rule.settings)
            if not isinstance(found, Intervention):
                raise HypothesisError(
                    f"{rule.name} returned a {type(found).__name__}, not an Intervention."
                )
            if self.options.on_error == "record_builds":  # what its hooks raise belongs to it, too
                hooks_of(found, self.host, self._first_query())
        except DivergedError as error:
            self.failures[label] = str(error)
            found = None
        except Exception as error:  # a user's function may fail in any way
            if not self.options.records(error, building=True):
                raise
            self.failures[label] = raised(rule.name, error)
            found = None
            if self.options.on_error != "record_builds":  # a benchmark tells of it with its cell
                warn_of_failure(self.failures[label])
        if episode is self.episode:
            self._describe(rule, value, found, ledger)
        return found

    def _first_query(self) -> Batch:
        """One row: hooks may hold a value per query."""
        return Batch(self.host.tensor([0])[0])

    def _describe(
        self, rule: Rule, value: Hypothesis, built: Intervention | None, ledger: Ledger
    ) -> None:
        facts: dict[str, Any] = {
            "settings": {key: repr(item) for key, item in rule.settings.items()},
            "rule": value.name,
            "version": value.version,
            "kind": value.kind,
            "cost": ledger.as_dict(),
            **rule.facts,
        }
        metadata: Any = getattr(built, "metadata", None)
        if isinstance(metadata, Mapping):
            known: Mapping[str, Any] = metadata
            facts["delta"] = {key: item for key, item in known.items() if key != "loss_sum"}
        self.described[rule.name] = facts

    def pair(self, rule: Rule) -> Pair:
        """A rule's interventions from right and from wrong labels."""
        return alone(self.pairing(rule))

    def pairing(self, rule: Rule) -> Chain[Pair]:
        """The same beside others; see `iclgd_lens.training.shared_batches`."""
        label = str(Subject(rule.name, "shuffled"))
        if self.wrong is not None:
            pair = yield from self._built_beside(rule, self.wrong, label)
            if pair is not None:
                return pair
        right = self.build(rule, self.episode, rule.name)
        return right, None if self.wrong is None else self.build(rule, self.wrong, label)

    def _built_beside(self, rule: Rule, wrong: Episode, label: str) -> Chain[Pair | None]:
        """Both at once, as rows of one batch; None where the rule or its texts do not allow it."""
        value = rule.value
        step = rule_of(value, rule.settings) if isinstance(value, Hypothesis) else None
        if not isinstance(value, Hypothesis) or step is None:
            return None
        own = {key: item for key, item in rule.settings.items() if key in SIDE_BY_SIDE}
        shown = [self.episode.demonstrations, wrong.demonstrations]
        made = yield from built_beside(step, value.name, self.host, shown, **own)
        if made is None:
            return None
        built, cost = made
        found: list[Intervention | None] = []
        for one, where in zip(built, (rule.name, label), strict=True):
            failed = isinstance(one, DivergedError)
            if failed:
                self.failures[where] = str(one)
            found.append(None if failed else one)
        self._describe(rule, value, found[0], cost)
        return found[0], found[1]


PASSES = (1, 2, 4, 8, 16)


def passes_of(asked: bool | Sequence[int]) -> tuple[int, ...]:
    """After which passes scores are read: True for the usual ones, False for none."""
    if isinstance(asked, bool):
        return PASSES if asked else ()
    return tuple(sorted(set(asked)))


def along(
    builder: Builder, rule: Rule, passes: Sequence[int] = PASSES
) -> Iterator[tuple[int, Intervention, Intervention | None]]:
    """Yield a rule's interventions, from right and wrong labels, after each number of passes.

    Stops where training diverges. Yields nothing for a rule without passes.
    """
    value = rule.value
    if not isinstance(value, Hypothesis) or "epochs" not in value.settings():
        return
    if value.rows is None or not set(rule.settings) <= SIDE_BY_SIDE:
        yield from _anew(builder, rule, passes)
        return
    shown = [builder.episode, *([builder.wrong] if builder.wrong is not None else [])]
    trainings = [_training(builder, rule, value, episode, max(passes)) for episode in shown]
    for count in range(1, max(passes) + 1):
        states = [next(training) for training in trainings]
        if count not in passes:
            continue
        deltas = [
            ParameterDelta({name: each.detach()[0] for name, each in state.delta.items()})
            for state in states
        ]
        if not all(delta.is_finite for delta in deltas):
            return
        yield count, deltas[0], deltas[1] if len(deltas) > 1 else None


def _training(
    builder: Builder, rule: Rule, value: Hypothesis, episode: Episode, passes: int
) -> Iterator[Any]:
    settings = {key: each for key, each in rule.settings.items() if key not in ("lr", "epochs")}
    rate = learning_rate(rule.settings.get("lr"), episode.demonstrations)
    if value.rows is None:
        raise TypeError(f"{value.name} does not train row by row")
    return row_trainings(
        value.rows, builder.host, episode.demonstrations, [rate], passes, **settings
    )


def _anew(
    builder: Builder, rule: Rule, passes: Sequence[int]
) -> Iterator[tuple[int, Intervention, Intervention | None]]:
    quiet = Builder(builder.host, builder.episode, builder.wrong, builder.options)
    for count in passes:
        further = replace(rule, settings={**rule.settings, "epochs": count})
        right = quiet.build(further, builder.episode, rule.name)
        if right is None:
            return
        wrong = None
        if builder.wrong is not None:
            wrong = quiet.build(further, builder.wrong, str(Subject(rule.name, "shuffled")))
        yield count, right, wrong
