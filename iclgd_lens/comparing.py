"""The main job: in-context learning against hypotheses and controls, on one model and episode."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from iclgd_lens.comparison import Comparison
from iclgd_lens.episode import FOREIGN, Demonstrations, Episode
from iclgd_lens.errors import ComparisonError, HypothesisError, nearest
from iclgd_lens.host import Host, as_host
from iclgd_lens.host.provenance import model_provenance
from iclgd_lens.hypotheses.random import matched_random
from iclgd_lens.hypotheses.registry import Hypothesis, get_hypothesis
from iclgd_lens.intervention import Intervention
from iclgd_lens.job import Job, Progress
from iclgd_lens.nulls import shuffled_labels, untrained
from iclgd_lens.readout import Reader, Readout
from iclgd_lens.tasks import list_tasks
from iclgd_lens.writing import load_demonstrations

CONTROLS = {
    "random": "each head's update replaced by a random direction of the same norm",
    "oracle": "the demonstrations' keys and values injected: the instrument must read 1",
    "zero": "no update at all: SimAOU and SimAM must be undefined",
    "untrained": "the whole comparison on a copy with untrained blocks (embeddings kept)",
    "untrained_norms": "the same, with only the norms kept",
    "shuffled": "updates from the same demonstrations with wrong labels",
    "other_task": "updates from demonstrations of another task",
    "gaussian": "isotropic random directions in place of the intervention's change",
    "uniform": "random directions with entries in [0, 1), as the reference's baseline",
}
"""Controls by name, and what each does."""

DEFAULT_CONTROLS = ("random", "untrained", "oracle")

HypothesisLike = str | Hypothesis | Intervention | Callable[..., Intervention]


def compare(
    model: Any,
    episode: Episode,
    hypotheses: Sequence[str] | Mapping[str, HypothesisLike] = ("gd", "lcgd"),
    *,
    controls: str | Iterable[str] = DEFAULT_CONTROLS,
    lr: float | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    other: Episode | Demonstrations | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    pad_queries: bool = False,
    tok2attn_queries: int = 32,
    resamples: int = 1000,
    confidence: float = 0.95,
    zs: Readout | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compare what hypotheses do to attention with what in-context learning does.

    ZS and ICL run once; each hypothesis is built from the demonstrations and run on the queries
    alone (FTZS). The model is never changed. On a CPU a HookedTransformer's attention weights take
    twice their memory meanwhile (`Host.laid_out`).

    Args:
        model: A HookedTransformer, TransformerBridge or host.
        episode: Demonstrations and queries.
        hypotheses: Registered names, or a mapping from a name of your choice to a registered name,
            a hypothesis, a function `(host, episode, **settings) -> Intervention`, or an
            intervention.
        controls: Names from `CONTROLS`; `()` for none. "untrained" copies the model. Controls that
            build an update anew (untrained, shuffled, other_task) leave out what is given as an
            `Intervention`: it was built already, from this model and these demonstrations.
        lr: Learning rate of every hypothesis that takes one; None for the task's published one.
        settings: Settings by hypothesis name, over `lr`.
        other: Demonstrations for the control "other_task"; None draws those of the next task from
            the same source.
        seed: Seed of random controls and of the bootstrap.
        batch_size: Queries run together at most; None fits it to the prompt.
        pad_queries: Run queries of unequal length together too: faster, equal but for rounding.
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
    host, tell = as_host(model), progress or _silent
    asked = tuple(dict.fromkeys([controls] if isinstance(controls, str) else controls))
    for control in asked:
        if control not in CONTROLS:
            raise ComparisonError(
                f"No control is called {control!r}; controls: {', '.join(CONTROLS)}."
                + nearest(control, CONTROLS)
            )
    named = resolve(hypotheses)
    job = Job(host, episode, named, _settings(named, lr, settings), tok2attn_queries, tell)
    reader = Reader(
        host, episode, batch_size=batch_size, pad_queries=pad_queries, first=tok2attn_queries
    )
    with host.laid_out():
        job.read_settings(reader, zs)
        for name in named:
            job.run_hypothesis(reader, name, name, episode)
        _run_controls(job, reader, asked, other, seed)
    values, failures = job.values, job.failures
    for control in asked:
        if control.startswith("untrained"):
            tell(f"control {control}: the whole comparison on an untrained copy")
            keep = "norms" if control == "untrained_norms" else "embeddings"
            rules = {name: each for name, each in named.items() if isinstance(each, Hypothesis)}
            twin = compare(
                untrained(host, keep, seed),
                episode,
                rules,
                controls=(),
                settings={name: job.settings[name] for name in rules},
                batch_size=batch_size,
                pad_queries=pad_queries,
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


def _silent(stage: str) -> None:
    """Tell nobody."""


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
        elif isinstance(value, (Hypothesis, Intervention)):
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
    job: Job,
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


def _other_demonstrations(job: Job, other: Episode | Demonstrations | None) -> Episode:
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


def provenance(host: Host, episode: Episode) -> dict[str, Any]:
    """Everything about model, episode and libraries that the numbers depend on."""
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
