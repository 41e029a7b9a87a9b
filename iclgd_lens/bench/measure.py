"""Measuring cells: a session holds one loaded model, its untrained copies and the last ZS readouts.

Nothing is computed twice: an untrained copy is built once a model, and ZS is read once for each
set of evaluation rows, whatever the number of seeds and hypotheses.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast

from iclgd_lens.bench.cells import Cell, hypothesis_facts
from iclgd_lens.bench.learning_rate import choose_rate
from iclgd_lens.bench.plan import ModelSpec, Plan, RateChoice
from iclgd_lens.comparing import compare
from iclgd_lens.comparison import Comparison
from iclgd_lens.episode import Episode
from iclgd_lens.errors import DivergedError, HypothesisError, RunError
from iclgd_lens.host import Host, as_host
from iclgd_lens.host.loading import load_model
from iclgd_lens.hypotheses.registry import Hypothesis, get_hypothesis
from iclgd_lens.intervention import UNCOUNTED, Intervention, hooks_of
from iclgd_lens.nulls import untrained
from iclgd_lens.readout import Reader, Readout
from iclgd_lens.writing import load_episode

UNTRAINED: Mapping[str, Literal["embeddings", "norms"]] = {
    "untrained": "embeddings",
    "untrained_norms": "norms",
}
"""Controls that need an untrained copy, and what the copy keeps."""

_TRAINED = ""


class Session:
    """One model of a plan, loaded once, for any number of cells.

    Args:
        plan: The plan.
        model: Which of its models; loaded when the first cell needs it.
    """

    def __init__(self, plan: Plan, model: ModelSpec) -> None:
        self.plan = plan
        self.model = model
        self._hosts: dict[str, Host] = {}
        self._zs: dict[str, tuple[str, Readout]] = {}

    def host(self, variant: str = _TRAINED) -> Host:
        """The model's host, or that of an untrained copy (a name of `UNTRAINED`)."""
        if variant not in self._hosts:
            self._hosts[variant] = (
                self._load()
                if variant == _TRAINED
                else as_host(untrained(self.host(), UNTRAINED[variant], self.plan.control_seed))
            )
        return self._hosts[variant]

    def _load(self) -> Host:
        spec = self.model
        model = load_model(spec.name, dtype=spec.dtype, host=spec.host, revision=spec.revision)
        if spec.untrained is not None:
            model = untrained(model, spec.untrained, self.plan.control_seed)
        return as_host(model)

    def measure(self, cell: Cell, tell: Callable[[str], None] | None = None) -> Comparison:
        """Run ZS and ICL once, then every hypothesis and control of the cell.

        The scores of a hypothesis that diverged or raised an error are NaN; `failures` says why.

        Raises:
            LensError: The episode cannot be made or its rows changed meanwhile, or the model
                cannot read it.
        """
        plan, asked = self.plan, self.plan.controls_of(self.model)
        episode = load_episode(
            cell.task,
            self.host(),
            shots=plan.shots,
            queries=cell.queries,
            seed=cell.seed,
            permutation=cell.permutation,
            data=cell.data,
            protocol=plan.protocol,
        )
        read = [episode.provenance[f"{part}_hash"] for part in ("demonstrations", "queries")]
        if read != cell.facts["rows"]:
            raise RunError("the rows changed after this run began; the same command starts anew")
        guards = {name: _Guard(name, spec.hypothesis) for name, spec in plan.hypotheses.items()}
        settings, rates = self._settings(episode, guards)
        plain = [control for control in asked if control not in UNTRAINED]
        result = self._compare(_TRAINED, episode, guards, settings, plain, tell)
        values, failures = dict(result.values), dict(result.failures)
        for control in asked:
            if control in UNTRAINED:
                # The trained model's rates: the weights are all that differs.
                twin = self._compare(control, episode, guards, settings, (), tell)
                values |= {f"{name}@{control}": found for name, found in twin.values.items()}
                failures |= {f"{name}@{control}": why for name, why in twin.failures.items()}
        facts = {name: hypothesis_facts(spec) for name, spec in plan.hypotheses.items()}
        provenance = dict(result.provenance) | {
            "hypotheses": {
                name: cast("dict[str, Any]", result.provenance["hypotheses"].get(name, {})) | own
                for name, own in facts.items()
            },
            "controls": list(asked),
            "rates": rates,
        }
        return replace(result, values=values, failures=failures, provenance=provenance)

    def _compare(
        self,
        variant: str,
        episode: Episode,
        guards: Mapping[str, _Guard],
        settings: Mapping[str, Mapping[str, Any]],
        controls: Any,
        tell: Callable[[str], None] | None,
    ) -> Comparison:
        plan, host = self.plan, self.host(variant)
        return compare(
            host,
            episode,
            {name: guard.build for name, guard in guards.items()},
            controls=controls,
            settings=settings,
            seed=plan.control_seed,
            tok2attn_queries=plan.tok2attn_queries,
            resamples=plan.resamples,
            zs=self._read_zs(variant, episode),
            progress=tell,
        )

    def _read_zs(self, variant: str, episode: Episode) -> Readout:
        """ZS of the episode's queries: the demonstrations play no part in it."""
        facts = [
            [query.content for query in episode.queries],
            episode.label_tokens,
            episode.demonstrations.bos,
            episode.protocol.readout,
        ]
        name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        if variant not in self._zs or self._zs[variant][0] != name:
            reader = Reader(self.host(variant), episode, first=self.plan.tok2attn_queries)
            self._zs[variant] = (name, reader.zs())
        return self._zs[variant][1]

    def _settings(
        self, episode: Episode, guards: Mapping[str, _Guard]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Each hypothesis's settings with its learning rate, and how that was chosen."""
        settings: dict[str, dict[str, Any]] = {}
        rates: dict[str, Any] = {}
        for name, spec in self.plan.hypotheses.items():
            own, guard = dict(spec.settings), guards[name]
            takes_rate = "lr" in guard.hypothesis.settings() and "lr" not in own
            if takes_rate and isinstance(self.plan.lr, float):
                own["lr"] = self.plan.lr
            elif takes_rate and isinstance(self.plan.lr, RateChoice):
                try:
                    chosen = choose_rate(
                        self.host(), episode, guard.hypothesis, self.plan.lr, spec.settings
                    )
                    own["lr"] = chosen.lr
                    losses = {f"{rate:g}": loss for rate, loss in chosen.losses.items()}
                    rates[name] = {"lr": chosen.lr, "held_out_loss": losses}
                except DivergedError as error:
                    guard.diverged = str(error)
            settings[name] = own
        return settings, rates


class _Guard:
    """A hypothesis whose errors cost its own scores alone, not those of the whole cell."""

    def __init__(self, name: str, registered: str) -> None:
        self.name = name
        self.hypothesis: Hypothesis = get_hypothesis(registered)
        self.diverged: str | None = None

        @functools.wraps(self.hypothesis.build)  # keeps the signature, hence the settings
        def build(host: Host, episode: Episode, **settings: Any) -> Intervention:
            return self._build(host, episode, **settings)

        self.build = build

    def _build(self, host: Host, episode: Episode, **settings: Any) -> Intervention:
        if self.diverged is not None:
            raise DivergedError(self.diverged)
        try:
            found: Any = self.hypothesis.build(host, episode, **settings)
            if not isinstance(found, Intervention):
                raise HypothesisError(f"it returned a {type(found).__name__}, not an Intervention")
            hooks_of(found, host, UNCOUNTED)
        except (DivergedError, MemoryError):
            raise
        except Exception as error:  # a user's function may fail in any way
            if is_out_of_memory(error):
                raise
            # `compare` records this exception for the hypothesis alone, and goes on.
            raise DivergedError(f"{self.name} raised {type(error).__name__}: {error}") from error
        return found


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice: another machine may do better."""
    text = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, RuntimeError) and "memory" in text and "alloc" in text)
        or type(error).__name__ == "OutOfMemoryError"
    )
