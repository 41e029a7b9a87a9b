"""One comparison under way: what ZS and ICL left, and scores as they are measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import einsum, repeat
from torch import Tensor

from iclgd_lens import measures
from iclgd_lens.comparison import LABEL_SCORES, LAYER_SCORES, MOMENTS
from iclgd_lens.delta import ParameterDelta
from iclgd_lens.episode import Episode
from iclgd_lens.errors import ComparisonError, DivergedError, HypothesisError
from iclgd_lens.host import Host
from iclgd_lens.hypotheses.registry import Hypothesis
from iclgd_lens.intervention import Injection, Intervention
from iclgd_lens.nulls import random_directions
from iclgd_lens.readout import Reader, Readout

Progress = Callable[[str], None]


@dataclass
class Job:
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
        """Read ZS (unless it is given) and ICL, and what each leaves unchanged."""
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
        reader.release()
        # What demonstrations leave unchanged, up to rounding, has no direction to compare with.
        dtype, zs, icl = self.host.dtype, self.zs, self.icl
        self.same_scores = measures.unchanged(zs.scores, icl.scores, dtype)
        self.same_outputs = measures.unchanged(zs.attention_output, icl.attention_output, dtype)
        self.same_z = measures.unchanged(zs.z, icl.z, dtype)
        sites = [self.host.parameter(f"blocks.{i}.attn.W_O") for i in range(self.host.n_layers)]
        weights = torch.stack([site.float() for site in sites if site is not None])
        self.head_factor = measures.head_factor(weights)
        gold = torch.tensor(self.episode.gold, device=self.host.device)
        for name, readout in (("ZS", self.zs), ("ICL", self.icl)):
            prediction = measures.label_prediction(readout.label_scores)
            self.values[name] = {
                "accuracy": measures.accuracy(prediction, gold).cpu(),
                LABEL_SCORES: readout.label_scores.float().cpu(),
            }
            if not readout.is_finite:
                self.failures[name] = "Some of the model's activations are not finite."
        self.values["ZS"]["KL_ICL"] = measures.label_kl(
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
        by_head = measures.sim_am(zs.scores, icl.scores, ft.scores, raw=protocol.sim_am == "raw")
        if protocol.sim_am == "difference":
            by_head = by_head.masked_fill(self.same_scores, torch.nan)
        gold = torch.tensor(self.episode.gold, device=ft.z.device)
        right = [
            measures.label_prediction(readout.label_scores) == gold for readout in (zs, icl, ft)
        ]
        found = {
            "SimAOU": measures.sim_aou(
                zs.attention_output,
                icl.attention_output,
                ft.attention_output,
                normalize=protocol.normalize_attention_output,
            ).masked_fill(self.same_outputs, torch.nan),
            "SimAOU/head": measures.sim_aou_heads(zs.z, icl.z, ft.z, self.head_factor).masked_fill(
                self.same_z, torch.nan
            ),
            "SimAM": by_head.nanmean(-1),
            "SimAM/head": by_head,
            "accuracy": measures.accuracy(measures.label_prediction(ft.label_scores), gold),
            "KL_ICL": measures.label_kl(icl.label_scores, ft.label_scores),
            "Rec2FTP": measures.rec2ftp(*right),
            MOMENTS: measures.recovery_moments(zs.label_scores, icl.label_scores, ft.label_scores),
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
                else measures.tok2attn(icl, ft.demonstration_scores)
            )
        keys = None if ft.queries is None else reader.training_keys(intervention)
        if keys is None or ft.queries is None:
            return None
        group = self.host.n_heads // self.host.n_key_value_heads
        trained = torch.stack(
            [
                einsum(
                    ft.queries[:, layer],
                    repeat(k, "token kv_head d_head -> token (kv_head group) d_head", group=group),
                    "query head d_head, token head d_head -> query head token",
                )
                for layer, k in enumerate(keys)
            ],
            dim=1,
        )
        return measures.tok2attn(icl, trained)

    def add_directions(self, kind: str, seed: int) -> None:
        """Score random directions in place of an intervention's change."""
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
        fp32: Any = {"dtype": torch.float32}
        found: dict[str, Tensor] = {}
        for score in LAYER_SCORES[:2]:
            found[score] = torch.full((n, layers), torch.nan, **fp32)
            found[f"{score}/head"] = torch.full((n, layers, heads), torch.nan, **fp32)
        for score in ("accuracy", "KL_ICL", "Rec2FTP"):
            found[score] = torch.full((n,), torch.nan, **fp32)
        return found | {
            MOMENTS: torch.full((n, 3), torch.nan, **fp32),
            LABEL_SCORES: torch.full((n, self.episode.n_labels), torch.nan, **fp32),
        }
