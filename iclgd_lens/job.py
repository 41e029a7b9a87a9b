"""One network on one draw of demonstrations: what it leaves, and every subject measured on it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property

import torch
from einops import einsum, repeat
from torch import Tensor

from iclgd_lens.building import PASSES, Builder, Pair, along
from iclgd_lens.controlled import controlled
from iclgd_lens.controls import Control
from iclgd_lens.episode import Episode
from iclgd_lens.errors import ComparisonError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.intervention import Injection, Intervention
from iclgd_lens.measures.readings import Frozen, Readings
from iclgd_lens.measures.score_functions import measured, measured_setting
from iclgd_lens.raised import raised, warn_of_failure
from iclgd_lens.readout.reader import Reader, Readout
from iclgd_lens.registry import resolve
from iclgd_lens.rules import Options, Rule, returned_by
from iclgd_lens.scores import CHANGE_NORMS, KL_MOMENTS, LABEL_SCORES, RECOVERY_MOMENTS, SCORES
from iclgd_lens.subjects import Subject
from iclgd_lens.telling import Tell, silent

Values = dict[str, dict[str, Tensor]]


class Job:
    """Measures subjects on one network and one draw of demonstrations.

    Args:
        host: The network.
        episode: The draw's demonstrations, and the queries.
        options: How queries are read.
        wrong: The same demonstrations with wrong labels, for the label contrast; None for none.
        zs: The ZS readout of these queries on this network, where it was read before.
        frozen: All of the network's own readouts, where they were read before.
        tell: Called with a short text at each stage.

    Attributes:
        values: What was measured, by label and score; on the CPU.
        failures: Why a label, or a user's own score, has no values.
        described: Settings, metadata and version of each rule.
        built: Each rule's interventions, from right and from wrong demonstrations.
        trajectory: Scores along the training, by label and number of passes.
    """

    reads_with: type[Reader] = Reader

    def __init__(
        self,
        host: Host,
        episode: Episode,
        options: Options,
        *,
        wrong: Episode | None = None,
        zs: Readout | None = None,
        frozen: Frozen | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.host, self.episode, self.wrong, self.options = host, episode, wrong, options
        self.tell: Tell = tell or silent
        self.values: Values = {}
        self.builder = Builder(host, episode, wrong, options)
        self.failures = self.builder.failures
        self.described = self.builder.described
        self.trajectory: dict[str, dict[int, dict[str, Tensor]]] = {}
        self.built: dict[str, Pair] = {}
        self._zs, self._given = zs, frozen
        if zs is not None and len(zs.label_scores) != len(episode.queries):
            raise ComparisonError(
                f"zs= holds {len(zs.label_scores)} queries; the episode has {len(episode.queries)}."
            )
        self._readers: dict[int, Reader] = {}

    # -- the frozen model ------------------------------------------------------------------------

    def _reader(self, episode: Episode) -> Reader:
        options = self.options
        return self.reads_with(
            self.host, episode, batch_size=options.batch_size, pad_queries=options.pad_queries,
            first=options.tok2attn_queries,
        )  # fmt: skip

    @cached_property
    def reader(self) -> Reader:
        """Reads this draw's queries."""
        return self._reader(self.episode)

    @cached_property
    def frozen(self) -> Frozen:
        """What the network itself leaves: each query alone, and after the demonstrations."""
        if self._given is not None:
            return self._given
        zs = self._zs
        if zs is None:
            self.tell("ZS: each query alone")
            zs = self.reader.zs()
        self.tell("ICL: demonstrations once, then each query")
        icl = self.reader.icl()
        self.reader.release()
        wrong: Readout | None = None
        if self.wrong is not None:
            self.tell("ICL with wrong labels")
            wrong = self._reader(self.wrong).icl()
        return Frozen.read(self.host, self.episode, zs, icl, wrong)

    @property
    def has_readouts(self) -> bool:
        """Whether all of the network's own readouts were given."""
        return self._given is not None

    def measure_settings(self) -> None:
        """Measure what the network itself answers: ZS, ICL, and ICL after wrong labels."""
        frozen = self.frozen
        settings = {"ZS": frozen.zs, "ICL": frozen.icl, "ICL_shuffled": frozen.icl_shuffled}
        for name, readout in settings.items():
            if readout is None:
                continue
            self.values[name] = measured_setting(frozen, readout)
            if not readout.is_finite:
                self.failures[name] = "Some of the model's activations are not finite."

    # -- hypotheses ------------------------------------------------------------------------------

    def run(
        self, rule: Rule, controls: Sequence[Control] = (), *, pair: Pair | None = None,
        seed: int = 0, own: bool = True, other: Episode | None = None,
    ) -> None:  # fmt: skip
        """Build a rule from right and wrong demonstrations, and measure it and its controls.

        Args:
            rule: The hypothesis.
            controls: Its controls that act on the update or on the demonstrations.
            pair: What `Builder.pair` returned, where it was built before.
            seed: Of the controls.
            own: Whether the rule itself is measured too, or only its controls.
            other: Demonstrations for the control "other_task"; None draws them.
        """
        todo = "building the update, then each query alone" if pair is None else "each query alone"
        self.tell(f"{rule.name}: {todo}")
        # Both always, and so in the same way whatever of it is wanted: numbers do not depend on
        # what else is measured.
        right, wrong = self.builder.pair(rule) if pair is None else pair
        self.built[rule.name] = right, wrong
        changed_by_wrong: Readout | None = None
        if own:
            with self.going_on(rule.name):
                changed_by_wrong = self.measure(rule.name, right, wrong)
        for control in controls:
            self.run_control(
                control, rule, (right, wrong), seed=seed, other=other,
                changed_by_wrong=changed_by_wrong,
            )  # fmt: skip

    def run_control(
        self, control: Control, rule: Rule, pair: Pair, *, seed: int = 0,
        other: Episode | None = None, changed_by_wrong: Readout | None = None,
    ) -> None:  # fmt: skip
        """Measure what a control puts in place of a rule's interventions; see `controlled`.

        Args:
            control: It acts on the update or on the demonstrations.
            rule: The hypothesis.
            pair: Its interventions from right and from wrong labels.
            seed: Of the control.
            other: Demonstrations for the control "other_task"; None draws them.
            changed_by_wrong: What the intervention from wrong labels leaves, where it was read.
        """
        label = str(Subject(rule.name, control.name))
        with self.going_on(label):
            made = controlled(
                self.builder, control, rule, pair, seed=seed, other=other, tell=self.tell
            )
            if made is not None:
                readout = changed_by_wrong if made[0] is pair[1] else None
                self.measure(label, *made, readout=readout)

    def run_alone(self, control: Control, *, seed: int = 0) -> None:
        """Measure a control that belongs to no hypothesis."""
        with self.going_on(control.name):
            if control.acts_on == "change":
                self._measure_directions(control, seed)
                return
            self.tell(f"{control.name}: building it, then each query alone")
            rule = Rule(
                control.name, Hypothesis(name=control.name, build=resolve(control.function))
            )
            right = self.builder.build(rule, self.episode, control.name)
            wrong = None
            if self.wrong is not None:
                wrong = self.builder.build(rule, self.wrong, str(Subject(control.name, "shuffled")))
            self.measure(control.name, right, wrong)

    @contextmanager
    def going_on(self, label: str) -> Generator[None, None, None]:
        """Where errors are survived, record one raised inside as the label's failure, and go on."""
        try:
            yield
        except Exception as error:  # a user's function may fail in any way
            if not self.options.records(error):
                raise
            self.failures[label] = raised(label, error)
            self.values.setdefault(label, self.undefined())
            warn_of_failure(self.failures[label])

    # -- measuring -------------------------------------------------------------------------------

    def measure(
        self, label: str, right: Intervention | None, wrong: Intervention | None = None, *,
        readout: Readout | None = None,
    ) -> Readout | None:  # fmt: skip
        """Run the changed model on the queries and score it against ICL.

        Args:
            label: What results call it.
            right: The intervention; None where it could not be built.
            wrong: The same rule's intervention from wrong labels, for the label contrast.
            readout: The readout under `right`, where it was read before.

        Returns:
            What `wrong` leaves.
        """
        if right is None:
            self.values[label] = self.undefined()
            return None
        ft = self.reader.ftzs(right) if readout is None else readout
        if not ft.is_finite:
            self.failures[label] = "Some activations of the intervened model are not finite."
        changed = None if wrong is None else self.reader.ftzs(wrong)
        readings = Readings(self.frozen, ft, changed, lambda: self._attention(right, ft))
        self.values[label] = self._scores(readings)
        return changed

    def _scores(self, readings: Readings) -> dict[str, Tensor]:
        return measured(
            readings, self.failures if self.options.on_error == "record_theirs" else None
        )

    def follow(self, rule: Rule, passes: Sequence[int] = PASSES) -> None:
        """Score a rule along its training, after each number of passes over the demonstrations.

        Nothing is kept of a rule that has no passes.
        """
        with self.going_on(rule.name):
            for count, right, wrong in along(self.builder, rule, passes):
                ft = self.reader.ftzs(right)
                changed = None if wrong is None else self.reader.ftzs(wrong)
                found = {rule.name: self._scores(Readings(self.frozen, ft, changed))}
                if changed is not None:
                    label = str(Subject(rule.name, "shuffled"))
                    found[label] = self._scores(Readings(self.frozen, changed))
                for label, values in found.items():
                    self.trajectory.setdefault(label, {})[count] = values

    def _measure_directions(self, control: Control, seed: int) -> None:
        """Score random directions in place of an intervention's change."""
        frozen = self.frozen
        made = resolve(control.function)(frozen.zs, frozen.icl, seed, frozen.normalize)
        found: Mapping[str, Tensor] = returned_by(control, made)
        by_head = found["SimAM"].masked_fill(frozen.same_scores, torch.nan)
        outputs = found["SimAOU"].masked_fill(frozen.same_outputs, torch.nan)
        self.values[control.name] = {
            "SimAOU": outputs.float().cpu(),
            "SimAM": by_head.nanmean(-1).float().cpu(),
            "SimAM/head": by_head.float().cpu(),
        }

    def _attention(self, intervention: Intervention, ft: Readout) -> Tensor | None:
        """The changed model's attention to the demonstrations' tokens as training text."""
        if isinstance(intervention, Injection):
            return ft.demonstration_scores
        keys = None if ft.queries is None else self.reader.training_keys(intervention)
        if keys is None or ft.queries is None:
            return None
        group = self.host.n_heads // self.host.n_key_value_heads
        by_layer = [
            einsum(
                ft.queries[:, layer],
                repeat(k, "token kv_head d_head -> token (kv_head group) d_head", group=group),
                "query head d_head, token head d_head -> query head token",
            )
            for layer, k in enumerate(keys)
        ]
        return torch.stack(by_layer, dim=1)

    def undefined(self) -> dict[str, Tensor]:
        """The scores of what could not be built: NaN on every query, never missing."""
        n, layers, heads = len(self.episode.queries), self.host.n_layers, self.host.n_heads
        shapes = {"query": (n,), "layer": (n, layers), "head": (n, layers)}
        found: dict[str, Tensor] = {}
        for name, score in SCORES.items():
            if not score.function or (score.needs and self.wrong is None) or score.first_queries:
                continue
            found[name] = _nan(*shapes[score.level])
            if score.by_head is not None:
                found[f"{name}/head"] = _nan(n, layers, heads)
        columns = {
            LABEL_SCORES: self.episode.n_labels, RECOVERY_MOMENTS: 3, KL_MOMENTS: 2,
            CHANGE_NORMS: 2,
        }  # fmt: skip
        return found | {name: _nan(n, count) for name, count in columns.items()}


def reading_key(episode: Episode) -> str:
    """What a ZS readout depends on, beside the network: the demonstrations play no part in it."""
    facts = [
        [query.content for query in episode.queries],
        episode.label_tokens,
        episode.demonstrations.bos,
        episode.protocol.readout,
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _nan(*shape: int) -> Tensor:
    return torch.full(shape, torch.nan, dtype=torch.float32)
