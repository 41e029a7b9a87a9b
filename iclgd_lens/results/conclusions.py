"""From a comparison's parts to its gate, verdicts, behaviour, differences and costs.

The rules themselves are in `gate` and `verdicts`; this module says which numbers of a comparison
they are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from iclgd_lens.controls import CONTROLS, Control
from iclgd_lens.phrases import count, number
from iclgd_lens.results.head_maps import head_map
from iclgd_lens.results.other_queries import over_queries, told_of_queries
from iclgd_lens.results.parts import Floats, Part, Parts
from iclgd_lens.scores import LABEL_SCORES, SCORES, primary_scores
from iclgd_lens.subjects import Subject, under_control
from iclgd_lens.verdicts.behaviour import Behaviour, behaves
from iclgd_lens.verdicts.evidence import ControlEvidence, Evidence
from iclgd_lens.verdicts.gate import Gate
from iclgd_lens.verdicts.statistics import holm, paired_t
from iclgd_lens.verdicts.verdict import ALPHA, MARGIN, OVERALL, Verdict, decide

OWN_BUDGET, MODEL_BUDGET = "at their own budget", "at the model's budget"


@dataclass(frozen=True, eq=False)
class Conclusions:
    """What a comparison allows to be said.

    Attributes:
        parts: The comparison's parts.
        asked: Names of the controls that were asked for.
        confidence: Coverage of intervals. The gate, verdicts and behaviour are at `ALPHA`.
        seed: Seed of the bootstrap.
    """

    parts: Parts
    asked: Sequence[str]
    confidence: float = 0.95
    seed: int = 0

    # -- the gate --------------------------------------------------------------------------------

    def gate(self) -> Gate | None:
        """Whether there is in-context learning at all; None where ICL was not measured."""
        zs, icl = self._label_scores("ZS"), self._label_scores("ICL")
        if zs is None or icl is None:
            return None
        return Gate.of(
            zs, icl, self._gold(), self._label_scores("ICL_shuffled"),
            confidence=1 - ALPHA, seed=self.seed,
        )  # fmt: skip

    def _own(self) -> list[Part]:
        """The model's own parts, one per draw and order."""
        return [part for part in self.parts.parts if part.is_models_own]

    def _by_draw(self) -> list[list[Part]]:
        """The same, one list per draw: its orders."""
        return [[part for part in self._own() if part.draw == draw] for draw in self.parts.draws]

    def _fewest(self) -> int:
        return min((len(part.gold) for part in self._own()), default=0)

    def _gold(self) -> NDArray[np.int64]:
        return np.stack([parts[0].gold[: self._fewest()] for parts in self._by_draw()])

    def _label_scores(self, label: str) -> Floats | None:
        """Label scores [draw order query label] on the model itself.

        A measure is to be averaged over orders, not the scores: several prompts' mean is an
        ensemble, which classifies better than each. NaN in draws where the label has not all;
        None if it has none at all.
        """
        found: list[Floats | None] = []
        for parts in self._by_draw():
            orders = [part.values.get(label, {}).get(LABEL_SCORES) for part in parts]
            there = [each[: self._fewest()] for each in orders if each is not None]
            whole = there and len(there) == len(orders)
            found.append(np.stack(there).astype(np.float64) if whole else None)
        known = next((each for each in found if each is not None), None)
        if known is None:
            return None
        # Where draws have different numbers of orders, each is repeated until they are as many.
        most = math.lcm(*(len(each) for each in found if each is not None))
        every = (np.full_like(known, np.nan) if each is None else each for each in found)
        return np.stack([np.tile(each, (most // len(each), 1, 1)) for each in every])

    # -- behaviour -------------------------------------------------------------------------------

    def behaviour(self) -> list[Behaviour]:
        """What each hypothesis does to the answers."""
        found = (self._behaves(label) for label in self.parts.hypotheses)
        return [each for each in found if each is not None]

    def _behaves(self, label: str) -> Behaviour | None:
        zs, icl, changed = (self._label_scores(name) for name in ("ZS", "ICL", label))
        if zs is None or icl is None or changed is None:
            return None
        return behaves(label, changed, zs, icl, self._gold(), confidence=1 - ALPHA, seed=self.seed)

    def described(self, label: str) -> list[Mapping[str, Any]]:
        """What is known of a rule in each draw: settings, budget, cost, kind."""
        found = [part.facts.get("rules", {}).get(label) for part in self._own()]
        return [each for each in found if each]

    def _kind(self, label: str) -> str:
        return str(next(iter(self.described(label)), {}).get("kind", "explanation"))

    def has_not_learned(self, label: str) -> str | None:
        """Why an update counts as having learned nothing; None where it has, or none was chosen."""
        budgets = [facts["budget"] for facts in self.described(label) if "budget" in facts]
        if not budgets:
            return None
        better = sum(bool(budget.get("improves")) for budget in budgets)
        if 2 * better > len(budgets):
            return None
        told = (
            f"{label} has not learned: on left-out demonstrations its best budget improves on the "
            f"unchanged model in {better} of {count(len(budgets), 'draw')}"
        )
        found = self._behaves(label)
        if found is None or found.classifies_better != "yes":
            return told
        auc = found.auc
        return (
            f"{told}. Yet it classifies the queries better than ZS (AUC {number(auc[label])}, ZS "
            f"{number(auc['ZS'])}): left-out demonstrations were too few to judge it"
        )

    # -- verdicts --------------------------------------------------------------------------------

    def verdicts(
        self, scores: Sequence[str] | None = None, *, gate: bool = True, **rule: Any
    ) -> list[Verdict]:
        """The verdicts of every hypothesis, on the primary scores or on those named."""
        chosen = primary_scores() if scores is None else tuple(scores)
        # Differences "as good as none" are known of cosines and shares, not of nats.
        rule.setdefault("margin", {n: MARGIN if SCORES[n].is_bounded else 0.0 for n in chosen})
        # All scores together: lines that share a control ask one question, whatever the score.
        found = decide(list(self.evidence(chosen)), gate=gate, **rule)
        alpha = rule.get("alpha", ALPHA)
        asked = [self._kind(each.hypothesis) == "explanation" for each in found]
        return told_of_queries(
            found, lambda v: over_queries(self.parts, v, 1 - alpha), alpha=alpha, asked=asked
        )

    def _asked(self, score: str) -> tuple[str, ...]:
        """Controls that every hypothesis has to beat on a score: those that can bear on it."""
        return tuple(name for name in self._rivals if self._bears(CONTROLS[name], score))

    @property
    def _rivals(self) -> list[str]:
        return [name for name in self.asked if CONTROLS[name].is_rival]

    def _bears(self, control: Control, score: str) -> bool:
        """Whether a control has anything to say on a score."""
        if SCORES[score].needs and _is_in_contrast(control):
            return False
        # Directions have no behaviour and no labels.
        return control.acts_on != "change" or score in self._scores_of(control.name)

    def evidence(self, scores: Sequence[str]) -> Iterator[Evidence]:
        """What the verdicts rest on, hypothesis by hypothesis."""
        gate, variants = self.gate(), self._by_rate()
        for label in self.parts.hypotheses:
            if label in variants and variants[label] != label:
                continue  # another rate of a hypothesis that is there itself
            for score in scores:
                rates = {
                    float(Subject.parse(other).settings["lr"]): self._evidence(other, score, gate)
                    for other, base in variants.items()
                    if base == label and other != label
                }
                yield self._evidence(label, score, gate, rates)

    def _by_rate(self) -> dict[str, str]:
        """Labels that differ from another label in their rate alone, and which that is."""
        found: dict[str, str] = {}
        for label in self.parts.hypotheses:
            subject = Subject.parse(label)
            rest = {key: value for key, value in subject.settings.items() if key != "lr"}
            base = str(Subject(subject.rule, None, rest))
            if "lr" in subject.settings and base in self.parts.hypotheses:
                found[label] = base
        return found

    def _evidence(
        self, label: str, score: str, gate: Gate | None,
        rates: Mapping[float, Evidence] | None = None,
    ) -> Evidence:  # fmt: skip
        entry = SCORES[score]
        reason = None if gate is None else gate.reason_for(labels=bool(entry.needs))
        reason = reason or self.has_not_learned(label)
        if entry.needs and "shuffled" not in self.asked and score not in self._scores_of(label):
            reason = f"{score} was not measured: it needs wrong labels (the control shuffled)"
        own = f"{score} is over queries of each subject's own, which are no comparison"
        asked, layers = self._asked(score), self.parts.common_layers
        return Evidence(
            hypothesis=label, score=score, values=self.parts.per_draw(score, label)[:, 0],
            controls=dict(self._controls(label, score)), better=entry.better,
            kind=self._kind(label), inapplicable=reason,
            incomparable=own if entry.own_queries else None,
            rate=_rate(self.described(label)), rates=rates or {}, asked=asked,
            unasked=tuple(name for name in self._rivals if name not in asked),
            left_out=tuple(layers.left_out(score, label)), unread=layers.unread(score, label),
        )  # fmt: skip

    def _controls(self, label: str, score: str) -> Iterator[tuple[str, ControlEvidence]]:
        """Each control that was asked for, as far as it bears on a score."""
        for name in self._asked(score):
            control = CONTROLS[name]
            if control.acts_on == "network":
                yield name, self._networks(label, score, name)
            else:
                yield name, self._drawn(under_control(label, name), score, label)

    def _scores_of(self, label: str) -> list[str]:
        return self.parts.scores(label) if label in self.parts.series else []

    def _drawn(self, label: str, score: str, hypothesis: str) -> ControlEvidence:
        failed = self._failed(label, score)
        if failed is not None:
            return ControlEvidence("draw", failed=failed)
        return ControlEvidence("draw", self.parts.per_draw(score, label, hypothesis))

    def _networks(self, label: str, score: str, name: str) -> ControlEvidence:
        subject = Subject.parse(label)
        same = str(subject.under(name))
        own = str(Subject(subject.rule, name, {**subject.settings, "budget": "own"}))
        failed = self._failed(same, score)
        if failed is not None:
            return ControlEvidence("network", failed=failed)
        if own not in self.parts.series and not self._chose(label, name):
            return ControlEvidence("network", self.parts.per_network(score, same, name))
        return ControlEvidence(
            "network",
            variants={
                MODEL_BUDGET: self.parts.per_network(score, same, name),
                OWN_BUDGET: self.parts.per_network(score, own, name),
            },
        )

    def _chose(self, label: str, control: str) -> bool:
        """Whether networks of a control were to have a budget of their own for a hypothesis."""
        own = (part for part in self.parts.parts if part.network == control and part.budget)
        searched = any("settings" in each.get("budget", {}) for each in self.described(label))
        return searched or any(label in part.failures for part in own)

    def _failed(self, label: str, score: str) -> str | None:
        """Why a control has no numbers at all."""
        if label not in self.parts.series:
            return "it was not measured"
        if score in self._scores_of(label):
            return None
        reasons = [p.failures[label] for p in self.parts.parts if label in p.failures]
        return reasons[0] if reasons else f"it has no {score}"

    # -- differences -----------------------------------------------------------------------------

    def differences(self, scores: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Paired differences by draw of hypotheses, and of each with its controls, as lines."""
        chosen = tuple(scores or (*primary_scores(), "SimAOU", "SimAM", "KL_ICL"))
        found: list[dict[str, Any]] = []
        for score in chosen:
            if SCORES[score].own_queries:
                continue
            having = [n for n in self.parts.hypotheses if score in self._scores_of(n)]
            found += [self._between(score, b, a) for a, b in combinations(having, 2)]
        p = holm([line["p_value"] for line in found], count_undefined=True) if found else []
        for line, value in zip(found, p, strict=True):
            line["p_corrected"] = float(value)
        # Primary scores are one family, whatever else is looked at: as in `verdicts`.
        first = self.verdicts() if set(chosen) & set(primary_scores()) else []
        others = [name for name in chosen if name not in primary_scores()]
        for verdict in [*first, *(self.verdicts(others) if others else [])]:
            if verdict.control != OVERALL and verdict.score in chosen:
                found.append(_with_control(verdict))
        return found

    def _between(self, score: str, a: str, b: str) -> dict[str, Any]:
        """A minus b, draw by draw, over the layers of both."""
        change = self.parts.per_draw(score, a, b)[:, 0] - self.parts.per_draw(score, b, a)[:, 0]
        found = paired_t(change, confidence=self.confidence)
        return {
            "score": score, "kind": "hypotheses", "a": a, "b": b,
            "difference": float(found.value), "ci_low": float(found.low),
            "ci_high": float(found.high), "p_value": float(found.p), "n": int(found.n),
            "method": "paired t over draws",
        }  # fmt: skip

    def head_map(self, score: str, label: str) -> list[dict[str, Any]]:
        """A score of each head over draws, corrected for the number of heads.

        The label contrast is held against zero, its null; other scores against the mean of the
        hypothesis's random control where that was measured, draw by draw.
        """
        control = str(Subject.parse(label).under("random"))
        measured = not SCORES[score].needs and score in self._scores_of(control)
        return head_map(self.parts, score, label, control if measured else None)

    # -- cost ------------------------------------------------------------------------------------

    def cost(self) -> list[dict[str, Any]]:
        """What building each hypothesis took, counted, mean over draws; beside LCGD's."""
        lines: list[dict[str, Any]] = []
        for label in self.parts.hypotheses:
            ledgers = [facts["cost"] for facts in self.described(label) if "cost" in facts]
            if ledgers:
                names = list(ledgers[0])
                means = {n: float(np.mean([each[n] for each in ledgers])) for n in names}
                lines.append({"hypothesis": label, "kind": self._kind(label), **means})
        unit = next((_passes(each) for each in lines if each["hypothesis"] == "lcgd"), math.nan)
        return [line | {"times_lcgd": _passes(line) / unit if unit else math.nan} for line in lines]


def _passes(line: Mapping[str, Any]) -> float:
    return float(line["block_forwards"] + line["block_backwards"])


def _is_in_contrast(control: Control) -> bool:
    """Whether the label contrast compares with it already: it has no contrast of its own."""
    return control.acts_on == "demonstrations"


def _rate(facts: Sequence[Mapping[str, Any]]) -> float | None:
    for each in facts:
        rate = each.get("delta", {}).get("lr")
        if rate is not None:
            return float(rate)
    return None


def _with_control(verdict: Verdict) -> dict[str, Any]:
    low, high = verdict.interval or (math.nan, math.nan)
    network = CONTROLS[verdict.control].acts_on == "network"
    return {
        "score": verdict.score, "kind": "network" if network else "control",
        "a": verdict.hypothesis, "b": str(Subject.parse(verdict.hypothesis).under(verdict.control)),
        "difference": (low + high) / 2, "ci_low": low, "ci_high": high, "p_value": verdict.p,
        "p_corrected": verdict.p_corrected, "method": verdict.method, "verdict": verdict.verdict,
    }  # fmt: skip
