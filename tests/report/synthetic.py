"""Runs without a model: frames of the shape that `load_run` gives, with numbers of one's choice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

SUMMARY = (
    "model", "task", "hypothesis", "score", "layer", "head", "value", "ci_low", "ci_high", "n",
    "undefined",
)  # fmt: skip
DIFFERENCES = (
    "model", "task", "score", "kind", "a", "b", "difference", "ci_low", "ci_high", "p_value",
    "p_corrected", "n", "seeds", "verdict",
)  # fmt: skip
ORDER = (
    "model", "task", "hypothesis", "flip_rate", "ci_low", "ci_high", "accuracy_range",
    "permutations", "seeds", "n",
)  # fmt: skip
FAILURES = (
    "model", "task", "seed", "permutation", "network", "index", "budget", "subject", "reason",
)  # fmt: skip
EVIL = '<script>alert("x")</script>'
TASKS = ("sst2", "sst5", "mr", "subj", "agnews", "cb")
CONTROLS = ("random[{}]", "{}@untrained")


@dataclass(frozen=True)
class RunData:
    """A run as nothing but its frames."""

    summary_frame: pd.DataFrame
    differences_frame: pd.DataFrame
    order_frame: pd.DataFrame
    failures_frame: pd.DataFrame
    provenance: dict[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        return self.summary_frame.copy()

    def differences(self) -> pd.DataFrame:
        return self.differences_frame.copy()

    def order_sensitivity(self) -> pd.DataFrame:
        return self.order_frame.copy()

    @property
    def failures(self) -> pd.DataFrame:
        return self.failures_frame.copy()


def places(layers: int, heads: int) -> list[tuple[int | None, int | None]]:
    whole: list[tuple[int | None, int | None]] = [(None, None)]
    whole += [(layer, None) for layer in range(layers)]
    return whole + [(layer, head) for layer in range(layers) for head in range(heads)]


def summary_lines(
    where: dict[str, Any], mean: float, spread: float, layers: int, heads: int, seed: int
) -> pd.DataFrame:
    """A score everywhere: about `mean` over layers, more of it in the middle and in few heads."""
    generator = np.random.default_rng(seed)
    at = places(layers, heads)
    shape = np.sin(np.linspace(0.4, 2.6, layers)) if layers > 1 else np.ones(1)
    profile = mean * shape / shape.mean() + spread * generator.normal(size=layers)
    head = profile[:, None] * 0.8 + 1.1 * spread * generator.standard_t(4, size=(layers, heads))
    value = np.clip(np.concatenate([[mean], profile, head.ravel()]), -1, 1)
    half = np.concatenate([[0.012], np.full(layers, 0.02), np.full(layers * heads, 0.03)])
    half = half * generator.uniform(0.7, 1.5, len(at))
    return pd.DataFrame(
        {
            **where,
            "layer": [layer for layer, _ in at],
            "head": [head_ for _, head_ in at],
            "value": value,
            "ci_low": value - half,
            "ci_high": value + half,
            "n": 6000,
            "undefined": 0,
        }
    )


def scalar_line(where: dict[str, Any], value: float, half: float = 0.02) -> dict[str, Any]:
    line = {"layer": None, "head": None, "value": value, "n": 6000, "undefined": 0}
    return where | line | {"ci_low": value - half, "ci_high": value + half}


def difference_line(
    model: str, task: str, score: str, kind: str, a: str, b: str, value: float, *,
    half: float = 0.02, p: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    shown = abs(value) > half and p is None
    p_corrected = p if p is not None else (0.004 if shown else 0.4)
    return {
        "model": model, "task": task, "score": score, "kind": kind, "a": a, "b": b,
        "difference": value, "ci_low": value - half, "ci_high": value + half,
        "p_value": p_corrected / 10, "p_corrected": p_corrected, "n": 6000, "seeds": 3,
        "verdict": ("yes" if value > 0 else "no") if shown else "undecided",
    }  # fmt: skip


def frame(lines: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(list(lines), columns=list(columns))


def typed(summary: pd.DataFrame) -> pd.DataFrame:
    return summary.astype(dict.fromkeys(("layer", "head", "n", "undefined"), "Int64"))


def small(
    gap: float = 0.2, *, tasks: Sequence[str] = ("sst2", "subj"), name: str = "gd",
    model: str = "tiny", layers: int = 2, heads: int = 3, controls: bool = True,
) -> RunData:  # fmt: skip
    """One hypothesis that is ahead of its controls by `gap` on SimAOU and SimAM, on every task."""
    parts: list[pd.DataFrame] = []
    scalars: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    others = [each.format(name) for each in CONTROLS] if controls else []
    for t, task in enumerate(tasks):
        for s, score in enumerate(("SimAOU", "SimAM")):
            for i, each in enumerate((name, *others)):
                where = {"model": model, "task": task, "hypothesis": each, "score": score}
                mean = 0.3 + 0.05 * t - (gap if i else 0.0)
                parts.append(summary_lines(where, mean, 0.03, layers, heads, 100 * t + 10 * s + i))
            for other, kind in zip(others, ("control", "untrained"), strict=False):
                differences.append(difference_line(model, task, score, kind, name, other, gap))
        for each, value in (("ZS", 0.5), ("ICL", 0.7), (name, 0.6)):
            where = {"model": model, "task": task, "hypothesis": each, "score": "accuracy"}
            scalars.append(scalar_line(where, value))
    summary = pd.concat([*parts, pd.DataFrame(scalars)], ignore_index=True)[list(SUMMARY)]
    return RunData(
        typed(summary), frame(differences, DIFFERENCES), frame([], ORDER), frame([], FAILURES),
        {"name": "small", "cells": {"planned": 2, "finished": 2, "failed": 0, "missing": 0}},
    )  # fmt: skip


PUBLISHED_LIKE = {  # about the size of published scores, so that figures look like real ones
    "SimAOU": {
        "gd": (0.11, 0.09, 0.22, 0.18, 0.31, 0.21),
        "lcgd": (0.22, 0.11, 0.33, 0.35, 0.33, 0.34),
    },
    "SimAM": {
        "gd": (0.15, 0.31, 0.14, 0.25, 0.51, 0.25),
        "lcgd": (0.3, 0.33, 0.26, 0.32, 0.43, 0.38),
    },
    "Tok2Attn": {
        "gd": (0.12, 0.1, 0.15, 0.2, 0.18, 0.14),
        "lcgd": (0.14, 0.12, 0.2, 0.22, 0.19, 0.2),
    },
}
UNTRAINED_SHARE = (1.03, 0.7, 1.12, 1.1, 0.5, 0.15)


def paper(layers: int = 24, heads: int = 32, controls: Sequence[str] = ()) -> RunData:
    """Six tasks, `layers` x `heads`, two hypotheses and their controls, made-up numbers."""
    model = "synthetic-1.3b"
    parts: list[pd.DataFrame] = []
    scalars: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    order: list[dict[str, Any]] = []
    own = [*CONTROLS, *controls]
    for t, task in enumerate(TASKS):
        for score, known in PUBLISHED_LIKE.items():
            means = {name: known[name][t] for name in ("gd", "lcgd")}
            for name in ("gd", "lcgd"):
                for i, form in enumerate(own):
                    share = UNTRAINED_SHARE[t] if "untrained" in form else 0.12 + 0.05 * i
                    means[form.format(name)] = known[name][t] * share
            means |= {"uniform": 0.04, "oracle": 1.0}
            for i, (each, mean) in enumerate(means.items()):
                where = {"model": model, "task": task, "hypothesis": each, "score": score}
                spread = 0.0 if each == "oracle" else 0.05
                parts.append(summary_lines(where, mean, spread, layers, heads, 1000 * t + 50 * i))
            pairs = [("hypotheses", "lcgd", "gd")]
            for name in ("gd", "lcgd"):
                pairs += [
                    ("untrained" if "untrained" in form else "control", name, form.format(name))
                    for form in own
                ]
                pairs.append(("control", name, "uniform"))
            for kind, a, b in pairs:
                value = means[a] - means[b]
                differences.append(difference_line(model, task, score, kind, a, b, value))
        for each in ("ZS", "ICL", *(n for n in means if n not in ("oracle",)), "ZS@untrained"):
            base = {"ZS": 0.52, "ICL": 0.74, "ZS@untrained": 0.5}.get(each, 0.58)
            where = {"model": model, "task": task, "hypothesis": each}
            scalars.append(scalar_line(where | {"score": "accuracy"}, base + 0.02 * (t % 3)))
            if each != "ICL":
                scalars.append(scalar_line(where | {"score": "KL_ICL"}, 0.21 - 0.01 * t, 0.01))
        for each in ("gd", "lcgd"):
            where = {"model": model, "task": task, "hypothesis": each, "score": "Rec2FTP"}
            undefined = scalar_line(where, float("nan")) | {"n": 0}
            scalars.append(undefined if task == "cb" else scalar_line(where, 0.6, 0.1))
        for i, each in enumerate(("ICL", "gd", "lcgd")):
            flips = {
                "flip_rate": 0.1 + 0.03 * i,
                "ci_low": 0.07 + 0.03 * i,
                "ci_high": 0.14 + 0.03 * i,
            }
            more = {"accuracy_range": 0.05, "permutations": 3, "seeds": 3, "n": 6000}
            order.append({"model": model, "task": task, "hypothesis": each} | flips | more)
    failures = [
        {"model": model, "task": "agnews", "seed": 4, "permutation": 1, "network": "untrained",
         "index": 2, "budget": "own", "subject": "gd",
         "reason": "diverged: the loss of demonstration 17 is not finite (lr 0.2)"},
        {"model": model, "task": "cb", "seed": 5, "permutation": 2, "network": "trained",
         "index": 0, "budget": "own", "subject": "lcgd",
         "reason": "out of memory: 24.1 GB asked for, 23.7 GB there"},
    ]  # fmt: skip
    summary = pd.concat([*parts, pd.DataFrame(scalars)], ignore_index=True)[list(SUMMARY)]
    return RunData(
        typed(summary), frame(differences, DIFFERENCES), frame(order, ORDER),
        frame(failures, FAILURES), provenance(model),
    )  # fmt: skip


def provenance(model: str) -> dict[str, Any]:
    text = """{
      "name": "synthetic paper grid",
      "cells": {"planned": 18, "finished": 17, "failed": 1, "missing": 0},
      "plan": {"name": "paper", "shots": 32, "queries": null, "seeds": [0, 1, 2],
               "permutations": "published", "resamples": 1000, "lr": "published",
               "tasks": ["sst2", "sst5", "mr", "subj", "agnews", "cb"],
               "hypotheses": {"gd": {}, "lcgd": {}}},
      "protocol": {"name": "reference", "readout": "first_label", "separator": "eos"},
      "versions": {"iclgd-lens": "0.1.0", "python": "3.11.7", "torch": "2.13.0"},
      "environment": {"git_commit": "0123456789abcdef", "system": "Linux",
                      "hardware": {"processor": "a processor", "cores": 8, "memory_gb": 64.0},
                      "versions": {"iclgd-lens": "0.1.0"}},
      "timings": {"cell_seconds": 5417.2, "commands": 2}
    }"""
    facts = {"revision": "sha256:0123", "n_layers": 24, "n_heads": 32, "dtype": "float32"}
    return json.loads(text) | {"models": {model: facts}}


def evil() -> RunData:
    """A run whose every name is an attempt at markup."""
    run = small(tasks=(EVIL, "b\"'&</td>"), name=EVIL, model="m${title}</title><b>")
    reason = {"model": EVIL, "task": EVIL, "seed": 1, "permutation": 0, "subject": EVIL}
    failures = pd.DataFrame([reason | {"reason": f"{EVIL} --> <!-- ]]>"}])
    facts = {"name": EVIL, EVIL: {EVIL: [EVIL]}, "models": {EVIL: {"revision": EVIL}}}
    return replace(run, failures_frame=failures, provenance=facts)


# -- a run that offers everything ------------------------------------------------------------------

OFFERED = (
    "gate", "verdicts", "cost", "trajectory", "nulls", "norms", "attention", "heads", "behaviour",
    "factors", "mediation", "agreement", "head_sets",
)  # fmt: skip


@dataclass(frozen=True)
class FullRun(RunData):
    """A run with every optional frame; one that is None is as good as absent."""

    more: dict[str, pd.DataFrame] = field(default_factory=dict)

    def gate(self) -> pd.DataFrame | None:
        return self.more.get("gate")

    def verdicts(self) -> pd.DataFrame | None:
        return self.more.get("verdicts")

    def cost(self) -> pd.DataFrame | None:
        return self.more.get("cost")

    def trajectory(self) -> pd.DataFrame | None:
        return self.more.get("trajectory")

    def nulls(self) -> pd.DataFrame | None:
        return self.more.get("nulls")

    def partial_layers(self) -> pd.DataFrame | None:
        return self.more.get("partial_layers")

    def norms(self) -> pd.DataFrame | None:
        return self.more.get("norms")

    def attention(self) -> pd.DataFrame | None:
        return self.more.get("attention")

    def heads(self) -> pd.DataFrame | None:
        return self.more.get("heads")

    def behaviour(self) -> pd.DataFrame | None:
        return self.more.get("behaviour")

    def factors(self) -> pd.DataFrame | None:
        return self.more.get("factors")

    def mediation(self) -> pd.DataFrame | None:
        return self.more.get("mediation")

    def agreement(self) -> pd.DataFrame | None:
        return self.more.get("agreement")

    def head_sets(self) -> pd.DataFrame | None:
        return self.more.get("head_sets")


ANSWERS = ("yes", "no", "undecided", "not applicable")


def full(layers: int = 4, heads: int = 4) -> FullRun:
    """Two hypotheses on four tasks; the first task is answered yes, the next no, and so on."""
    run, model, names = paper(layers, heads), "synthetic-1.3b", ("gd", "lcgd")
    tasks = TASKS[:4]
    frames = [each[each["task"].isin(tasks)].reset_index(drop=True) for each in (
        run.summary_frame, run.differences_frame, run.order_frame, run.failures_frame)]  # fmt: skip
    verdicts = [
        {"model": model, "task": task, "hypothesis": name, "score": score,
         "control": form.format(name), "verdict": answer, "p": 0.01 if answer == "yes" else 0.5,
         "ci_low": 0.01, "ci_high": 0.2, "robust": (0.01, 0.3) if answer == "yes" else None,
         "why": f"reason {answer}: five more draws would tell"}
        for task, answer in zip(tasks, ANSWERS, strict=True) for name in names
        for score in ("SimAOU", "SimAM") for form in CONTROLS
    ]  # fmt: skip
    gate = [
        {"model": model, "task": task, "learns": answer != "not applicable", "uses_labels": True,
         "auc_zs": 0.5 + 0.01 * i, "auc_icl": 0.8, "auc_shuffled": 0.6,
         "sentence": f"sentence of the gate on {task}"}
        for i, (task, answer) in enumerate(zip(tasks, ANSWERS, strict=True))
    ]  # fmt: skip
    cost = [{"model": model, "task": t, "hypothesis": n, "seconds": 1.5, "passes": 16}
            for t in tasks for n in names]  # fmt: skip
    path = [
        {"model": model, "task": task, "hypothesis": name, "network": 0, "draw": draw,
         "passes": passes, "score": score, "value": value + 0.02 * draw}
        for task in tasks for name in (*names, "gd@untrained", "gd@shuffled")
        for passes in (1, 2, 4, 8, 16) for draw in (0, 1)
        for score, value in (
            ("SimAOU", (0.1 if "@" in name else 0.3) + 0.02 * passes),
            ("KL_removed", 1 - 0.8**passes if "@" not in name else 0.05 * passes),
        )
    ]  # fmt: skip
    nulls = [
        {"model": model, "task": task, "hypothesis": name, "score": "SimAOU",
         "control": form.format(name), "value": 0.02 * j - 0.05}
        for task in tasks for name in names for form in CONTROLS for j in range(8)
    ]  # fmt: skip
    norms = [
        {"model": model, "task": task, "hypothesis": name, "query": q, "icl_norm": 1 + 0.1 * q,
         "ft_norm": 0.5 + 0.07 * q * (1 + i)}
        for task in tasks for i, name in enumerate(names) for q in range(12)
    ]  # fmt: skip
    words = ["great", " film", "\n", "Label", ":", " <good>", " dull", " plot"]
    attention = [
        {"model": model, "task": tasks[0], "setting": setting, "position": place, "token": word,
         "weight": 1 / (1 + place + i)}
        for i, setting in enumerate(("ZS", "ICL", "gd")) for place, word in enumerate(words)
        if i or place > 4
    ]  # fmt: skip
    marked = [
        {"model": model, "task": tasks[0], "hypothesis": "gd", "score": "SimAOU", "layer": layer,
         "head": head, "shown": (layer + head) % 3 == 0}
        for layer in range(layers) for head in range(heads)
    ]  # fmt: skip
    behaves = [{"model": model, "task": task, "hypothesis": name, "nearer": True, "by": 0.31}
               for task in tasks for name in names]  # fmt: skip
    scalars = [
        scalar_line({"model": model, "task": task, "hypothesis": name, "score": "AUC"}, value)
        for task in tasks for name, value in (("ZS", 0.6), ("ICL", 0.9), ("gd", 0.8), ("lcgd", 0.7))
    ]  # fmt: skip
    summary = typed(pd.concat([frames[0], pd.DataFrame(scalars)], ignore_index=True))
    facts = {"gd": {"kind": "explanation", "description": "gradient descent, in a sentence"},
             "lcgd": {"kind": "explanation"}}  # fmt: skip
    rates = [
        {"model": model, "task": task, "seed": seed, "permutation": 0,
         "rates": {name: {"lr": (0.1, 0.3)[seed], "held_out_loss": {"0.01": 1.2, "0.1": 1.0 + seed,
                                                                    "0.3": 1.1}} for name in names}}
        for task in tasks for seed in (0, 1)
    ]  # fmt: skip
    where = {"model": model, "task": tasks[0]}
    along = [
        {**where, "factor": "shots", "value_of_factor": shots, "hypothesis": name, "score": score,
         "value": 0.1 * place + 0.01 * shots, "ci_low": 0.0, "ci_high": 1.0}
        for score in ("AUC", "SimAOU") for place, name in enumerate(("ICL", *names))
        for shots in (4, 8)
    ]  # fmt: skip
    effects = [("ICL", "necessity", 1.0), ("ICL", "necessity_attribution", 0.9),
               ("gd", "kept", 0.5), ("gd", "substitution", 0.5)]  # fmt: skip
    causal = [
        {**where, "hypothesis": name, "score": effect, "layer": layer, "head": head,
         "value": size * (layer + 0.1 * head), "ci_low": -1.0, "ci_high": 5.0,
         "p_corrected": 0.01 if layer else 0.5}
        for name, effect, size in effects for layer in range(layers) for head in range(heads)
    ]  # fmt: skip
    told = "Head 3.3 does the work."
    same = [{**where, "hypothesis": name, "margin_gain": gain, "spearman": 0.25, "sentence": said}
            for name, gain, said in (("ICL", 1.0, told), ("gd", 0.4, ""))]  # fmt: skip
    sets = [{**where, "hypothesis": name, "heads": count, "value": share * count / 16}
            for name, share in (("ICL", 1.0), ("gd", 0.4)) for count in (0, 4, 16)]  # fmt: skip
    lists = dict(
        zip(
            OFFERED,
            (
                gate,
                verdicts,
                cost,
                path,
                nulls,
                norms,
                attention,
                marked,
                behaves,
                along,
                causal,
                same,
                sets,
            ),
            strict=True,
        )
    )
    return FullRun(
        summary, *frames[1:], provenance(model) | {"hypotheses": facts, "chosen_rates": rates},
        more={name: pd.DataFrame(lines) for name, lines in lists.items()},
    )  # fmt: skip
