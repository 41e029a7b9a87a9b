"""The main job: in-context learning against hypotheses and controls, on one model and episode."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from iclgd_lens import scores
from iclgd_lens.comparison import LABEL_SCORES, LAYER_SCORES, MOMENTS, Comparison
from iclgd_lens.controls import random_directions, shuffled_labels, untrained
from iclgd_lens.episode import FOREIGN, Demonstrations, Episode, load_demonstrations
from iclgd_lens.errors import ComparisonError, DivergedError, HypothesisError, nearest
from iclgd_lens.host import Host, as_host
from iclgd_lens.host.provenance import model_provenance
from iclgd_lens.hypotheses.random import matched_random
from iclgd_lens.hypotheses.registry import Hypothesis, get_hypothesis
from iclgd_lens.intervention import Injection, Intervention, ParameterDelta
from iclgd_lens.readout import Reader, Readout
from iclgd_lens.tasks import list_tasks

CONTROLS = {
    "random": "each head's update replaced by a random direction of the same norm",
    "oracle": "the demonstrations' keys and values injected: the instrument must read 1",
    "zero": "no update at all: every score must be undefined",
    "untrained": "the whole comparison on a copy with untrained blocks (embeddings kept)",
    "untrained_norms": "the same, with only the norms kept",
    "shuffled": "updates from the same demonstrations with wrong labels",
    "other_task": "updates from demonstrations of another task",
    "gaussian": "isotropic random directions in place of the intervention's change",
    "uniform": "random directions with entries in [0, 1), as the reference's baseline",
}
"""Controls by name, and what each does."""

DEFAULT_CONTROLS = ("random", "untrained", "oracle")

HypothesisLike = str | Intervention | Callable[..., Intervention]
Progress = Callable[[str], None]


def compare(
    model: Any,
    episode: Episode,
    hypotheses: Sequence[str] | Mapping[str, HypothesisLike] = ("gd", "lcgd"),
    *,
    controls: Iterable[str] = DEFAULT_CONTROLS,
    lr: float | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    other: Episode | Demonstrations | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    tok2attn_queries: int = 32,
    resamples: int = 1000,
    confidence: float = 0.95,
    zs: Readout | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare what hypotheses do to attention with what in-context learning does.

    ZS and ICL run once; each hypothesis is built from the demonstrations and run on the queries
    alone (FTZS). The model is never changed.

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        episode: Demonstrations and queries.
        hypotheses: Registered names, or a mapping from a name of your choice to a registered name,
            a function `(host, episode, **settings) -> Intervention`, or an intervention.
        controls: Names from `CONTROLS`; `()` for none. "untrained" copies the model.
        lr: Learning rate of every hypothesis that takes one; None for the task's published one.
        settings: Settings by hypothesis name, over `lr`.
        other: Demonstrations for the control "other_task"; None draws those of the next task from
            the same source.
        seed: Seed of random controls and of the bootstrap.
        batch_size: Queries run together at most; None fits it to the prompt.
        tok2attn_queries: Tok2Attn is measured on the first so many queries (it is the one score
            whose cost grows with queries times demonstrations); its `n` says so.
        resamples: Bootstrap resamples.
        confidence: Coverage of the intervals.
        zs: The ZS readout of these queries on this model, where it was read before (by
            `Reader.zs` with `first=tok2attn_queries`); it is not read again.
        progress: Called with a short text at each stage.

    Raises:
        ComparisonError: A control is unknown or cannot be built.
        HypothesisError: A hypothesis or setting is unknown.
        EpisodeError: The model cannot read the episode whole.
    """
    host, tell = as_host(model), progress or (lambda _: None)
    asked = tuple(dict.fromkeys(controls))
    for control in asked:
        if control not in CONTROLS:
            raise ComparisonError(
                f"No control is called {control!r}; controls: {', '.join(CONTROLS)}."
                + nearest(control, CONTROLS)
            )
    named = resolve(hypotheses)
    job = _Job(host, episode, named, _settings(named, lr, settings), tok2attn_queries, tell)
    reader = Reader(host, episode, batch_size=batch_size, first=tok2attn_queries)
    job.read_settings(reader, zs)
    for name in named:
        job.run_hypothesis(reader, name, name, episode)
    _run_controls(job, reader, asked, other, seed)
    values, failures = job.values, job.failures
    for control in asked:
        if control.startswith("untrained"):
            tell(f"control {control}: the whole comparison on an untrained copy")
            keep = "norms" if control == "untrained_norms" else "embeddings"
            twin = compare(
                untrained(host, keep, seed),
                episode,
                hypotheses,
                controls=(),
                lr=lr,
                settings=settings,
                batch_size=batch_size,
                tok2attn_queries=tok2attn_queries,
                progress=progress,
            )
            values |= {f"{name}@{control}": found for name, found in twin.values.items()}
            failures |= {f"{name}@{control}": why for name, why in twin.failures.items()}
    return Comparison(
        values,
        torch.tensor(episode.gold),
        failures,
        provenance(host, episode)
        | {
            "hypotheses": job.described,
            "controls": list(asked),
            "seed": seed,
            "tok2attn_queries": tok2attn_queries,
        },
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def resolve(
    hypotheses: Sequence[str] | Mapping[str, HypothesisLike],
) -> dict[str, Hypothesis | Intervention]:
    """Hypotheses by the name that results will use.

    Raises:
        HypothesisError: A name is unknown or unusable, or a value is no hypothesis.
    """
    if isinstance(hypotheses, str):
        hypotheses = [hypotheses]
    pairs = hypotheses if isinstance(hypotheses, Mapping) else {name: name for name in hypotheses}
    found: dict[str, Hypothesis | Intervention] = {}
    for name, value in pairs.items():
        if name in ("ZS", "ICL") or any(character in name for character in "@|[]"):
            raise HypothesisError(f"A hypothesis cannot be called {name!r} in results.")
        if isinstance(value, str):
            found[name] = get_hypothesis(value)
        elif isinstance(value, Intervention):
            found[name] = value
        elif callable(value):
            found[name] = Hypothesis(name, value)
        else:
            raise HypothesisError(
                f"{name!r} is a {type(value).__name__}; expected a registered name, a function or "
                "an Intervention."
            )
    return found


def _settings(
    named: Mapping[str, Hypothesis | Intervention],
    lr: float | None,
    settings: Mapping[str, Mapping[str, Any]] | None,
) -> dict[str, dict[str, Any]]:
    for name in settings or {}:
        if name not in named:
            raise HypothesisError(
                f"Settings are given for {name!r}, which is not compared." + nearest(name, named)
            )
    found: dict[str, dict[str, Any]] = {}
    for name, value in named.items():
        own = dict((settings or {}).get(name, {}))
        if isinstance(value, Hypothesis):
            if lr is not None and "lr" in value.settings():
                own.setdefault("lr", lr)
            value.check_settings(own)
        found[name] = own
    return found


def _run_controls(
    job: _Job,
    reader: Reader,
    asked: Sequence[str],
    other: Episode | Demonstrations | None,
    seed: int,
) -> None:
    for control in asked:
        if control in ("oracle", "zero") and control not in job.named:
            job.measure(reader, control, get_hypothesis(control).build(job.host, job.episode))
        elif control == "random":
            for name, delta in list(job.deltas.items()):
                job.measure(reader, f"random[{name}]", matched_random(delta, seed))
        elif control == "shuffled":
            wrong = shuffled_labels(job.episode, seed)
            for name, value in job.named.items():
                if isinstance(value, Hypothesis):
                    job.run_hypothesis(reader, name, f"{name}@shuffled", wrong)
        elif control == "other_task":
            foreign = _other_demonstrations(job, other)
            for name, value in job.named.items():
                if isinstance(value, Hypothesis):
                    job.run_hypothesis(reader, name, f"{name}@other_task", foreign)
        elif control in ("gaussian", "uniform"):
            job.add_directions(control, seed)


def _other_demonstrations(job: _Job, other: Episode | Demonstrations | None) -> Episode:
    episode = job.episode
    if other is None:
        facts, known = episode.provenance, list_tasks()
        if "data" not in facts or facts["task"] not in known:
            raise ComparisonError(
                "The control 'other_task' needs other=, an episode of another task: this episode "
                "was not drawn from a named task."
            )
        other = load_demonstrations(
            known[(known.index(facts["task"]) + 1) % len(known)],
            job.host,
            shots=len(episode.demonstrations),
            seed=facts["seed"],
            data=facts["data"],
            protocol=episode.protocol,
        )
    shown = other.demonstrations if isinstance(other, Episode) else other
    # The learning rate stays this task's: only the demonstrations are foreign.
    return episode.with_demonstrations(
        [replace(example, gold=FOREIGN) for example in shown.examples], shown.drawn
    )


@dataclass
class _Job:
    """One comparison under way: readouts of ZS and ICL, and scores as they are measured."""

    host: Host
    episode: Episode
    named: Mapping[str, Hypothesis | Intervention]
    settings: Mapping[str, Mapping[str, Any]]
    first: int
    tell: Progress
    values: dict[str, dict[str, Tensor]] = field(default_factory=dict[str, dict[str, Tensor]])
    failures: dict[str, str] = field(default_factory=dict[str, str])
    deltas: dict[str, ParameterDelta] = field(default_factory=dict[str, ParameterDelta])
    described: dict[str, Any] = field(default_factory=dict[str, Any])

    def read_settings(self, reader: Reader, zs: Readout | None = None) -> None:
        if zs is None:
            self.tell("ZS: each query alone")
            zs = reader.zs()
        elif len(zs.label_scores) != len(self.episode.queries):
            raise ComparisonError(
                f"zs= holds {len(zs.label_scores)} queries; the episode has "
                f"{len(self.episode.queries)}."
            )
        self.zs = zs
        self.tell("ICL: demonstrations once, then each query")
        self.icl = reader.icl()
        # What demonstrations leave unchanged, up to rounding, has no direction to compare with.
        dtype, zs, icl = self.host.dtype, self.zs, self.icl
        self.same_scores = scores.unchanged(zs.scores, icl.scores, dtype)
        self.same_outputs = scores.unchanged(zs.attention_output, icl.attention_output, dtype)
        self.same_z = scores.unchanged(zs.z, icl.z, dtype)
        sites = [self.host.parameter(f"blocks.{i}.attn.W_O") for i in range(self.host.n_layers)]
        weights = torch.stack([site.float() for site in sites if site is not None])
        self.head_factor = scores.head_factor(weights)
        gold = torch.tensor(self.episode.gold, device=self.host.device)
        for name, readout in (("ZS", self.zs), ("ICL", self.icl)):
            prediction = scores.label_prediction(readout.label_scores)
            self.values[name] = {
                "accuracy": scores.accuracy(prediction, gold).cpu(),
                LABEL_SCORES: readout.label_scores.float().cpu(),
            }
            if not readout.is_finite:
                self.failures[name] = "Some of the model's activations are not finite."
        self.values["ZS"]["KL_ICL"] = scores.label_kl(
            self.icl.label_scores, self.zs.label_scores
        ).cpu()

    def run_hypothesis(self, reader: Reader, name: str, shown_as: str, episode: Episode) -> None:
        """Build hypothesis `name` from `episode`'s demonstrations and measure it on the queries."""
        self.tell(f"{shown_as}: building the update, then each query alone")
        value, own = self.named[name], self.settings[name]
        facts: dict[str, Any] = {"settings": {key: repr(item) for key, item in own.items()}}
        if shown_as == name:  # controls run the same rule on other demonstrations
            self.described[name] = facts
        if isinstance(value, Intervention):
            self.measure(reader, shown_as, value)
            return
        facts |= {"version": value.version, "rule": value.name}
        try:
            intervention = value.build(self.host, episode, **own)
        except DivergedError as error:
            self.failures[shown_as] = str(error)
            self.values[shown_as] = self._undefined()
            return
        if not isinstance(intervention, Intervention):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise HypothesisError(
                f"{name} returned a {type(intervention).__name__}, not an Intervention."
            )
        if isinstance(intervention, ParameterDelta):
            facts["delta"] = {
                key: item for key, item in intervention.metadata.items() if key != "loss_sum"
            }
            if shown_as == name:
                self.deltas[name] = intervention
        self.measure(reader, shown_as, intervention)

    def measure(self, reader: Reader, shown_as: str, intervention: Intervention) -> None:
        """Run the intervened model on the queries and score it against ICL."""
        ft = reader.ftzs(intervention)
        if not ft.is_finite:
            self.failures[shown_as] = "Some activations of the intervened model are not finite."
        zs, icl = self.zs, self.icl
        protocol = self.episode.protocol
        by_head = scores.sim_am(zs.scores, icl.scores, ft.scores, raw=protocol.sim_am == "raw")
        if protocol.sim_am == "difference":
            by_head = by_head.masked_fill(self.same_scores, torch.nan)
        gold = torch.tensor(self.episode.gold, device=ft.z.device)
        right = [scores.label_prediction(readout.label_scores) == gold for readout in (zs, icl, ft)]
        found = {
            "SimAOU": scores.sim_aou(
                zs.attention_output,
                icl.attention_output,
                ft.attention_output,
                normalize=protocol.normalize_attention_output,
            ).masked_fill(self.same_outputs, torch.nan),
            "SimAOU/head": scores.sim_aou_heads(zs.z, icl.z, ft.z, self.head_factor).masked_fill(
                self.same_z, torch.nan
            ),
            "SimAM": by_head.nanmean(-1),
            "SimAM/head": by_head,
            "accuracy": scores.accuracy(scores.label_prediction(ft.label_scores), gold),
            "KL_ICL": scores.label_kl(icl.label_scores, ft.label_scores),
            "Rec2FTP": scores.rec2ftp(*right),
            MOMENTS: scores.recovery_moments(zs.label_scores, icl.label_scores, ft.label_scores),
            LABEL_SCORES: ft.label_scores,
        }
        tau = self._tok2attn(reader, intervention, ft)
        if tau is not None:
            found |= {"Tok2Attn": tau.nanmean(-1), "Tok2Attn/head": tau}
        self.values[shown_as] = {name: value.float().cpu() for name, value in found.items()}

    def _tok2attn(self, reader: Reader, intervention: Intervention, ft: Readout) -> Tensor | None:
        icl = self.icl.demonstration_scores
        if icl is None:
            return None
        if isinstance(intervention, Injection):
            return (
                None
                if ft.demonstration_scores is None
                else scores.tok2attn(icl, ft.demonstration_scores)
            )
        keys = None if ft.queries is None else reader.training_keys(intervention)
        if keys is None or ft.queries is None:
            return None
        group = self.host.n_heads // self.host.n_key_value_heads
        trained = torch.stack(
            [
                torch.einsum("qhd,thd->qht", ft.queries[:, layer], k.repeat_interleave(group, 1))
                for layer, k in enumerate(keys)
            ],
            dim=1,
        )
        return scores.tok2attn(icl, trained)

    def add_directions(self, kind: str, seed: int) -> None:
        found = random_directions(
            "gaussian" if kind == "gaussian" else "uniform",
            self.zs,
            self.icl,
            seed,
            normalize=self.episode.protocol.normalize_attention_output,
        )
        by_head = found["SimAM"].masked_fill(self.same_scores, torch.nan)
        outputs = found["SimAOU"].masked_fill(self.same_outputs, torch.nan)
        self.values[kind] = {
            "SimAOU": outputs.float().cpu(),
            "SimAM": by_head.nanmean(-1).float().cpu(),
            "SimAM/head": by_head.float().cpu(),
        }

    def _undefined(self) -> dict[str, Tensor]:
        n, layers, heads = len(self.episode.queries), self.host.n_layers, self.host.n_heads
        found: dict[str, Tensor] = {}
        for score in LAYER_SCORES[:2]:
            found[score] = torch.full((n, layers), torch.nan)
            found[f"{score}/head"] = torch.full((n, layers, heads), torch.nan)
        for score in ("accuracy", "KL_ICL", "Rec2FTP"):
            found[score] = torch.full((n,), torch.nan)
        return found | {
            MOMENTS: torch.full((n, 3), torch.nan),
            LABEL_SCORES: torch.full((n, self.episode.n_labels), torch.nan),
        }


def provenance(host: Host, episode: Episode) -> dict[str, Any]:
    """Everything about model, episode and libraries that the numbers depend on."""
    return {
        "model": model_provenance(host.model)
        | {
            "device": host.device.type,
            "n_layers": host.n_layers,
            "n_heads": host.n_heads,
            "n_key_value_heads": host.n_key_value_heads,
            "d_model": host.d_model,
        },
        "precision": f"activations {str(host.dtype).removeprefix('torch.')}, deltas and scores fp32",
        "protocol": episode.protocol.as_dict() | {"hash": episode.protocol.hash},
        "episode": dict(episode.provenance)
        | {"hash": episode.hash, "queries": len(episode.queries)},
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("iclgd-lens", "torch", "transformer-lens", "transformers", "tokenizers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
