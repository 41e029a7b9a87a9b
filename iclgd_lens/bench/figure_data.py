"""The part of a run that its figures are drawn from. Needs no torch.

Controls draw by draw, sizes of changes, rates that were tried and chosen, factors, and the run's
studies (see `iclgd_lens.bench.studies`): training, attention of one query, and what heads do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from iclgd_lens.errors import RunError
from iclgd_lens.mediation import storage
from iclgd_lens.mediation.mediation_result import Mediation
from iclgd_lens.results.archive import restored
from iclgd_lens.results.comparison import Comparison
from iclgd_lens.results.frames import norm_frame, null_frame
from iclgd_lens.results.lookup import scores_by_head
from iclgd_lens.results.parts import Part
from iclgd_lens.scores import leading_score
from iclgd_lens.sealed_files import opened
from iclgd_lens.subjects import TRAINED, Subject

if TYPE_CHECKING:
    import pandas as pd

    from iclgd_lens.bench.run_tables import Run

ModelAndTask = tuple[str, str]
"""Model and task."""
FORMS: Mapping[str, str] = {
    "trajectory": "iclgd_lens.trajectory/1",
    "attention": "iclgd_lens.attention/1",
    "mediation": storage.FORMAT,
}
"""What the files of each kind of study are."""
ZS, ICL = "ZS", "ICL"
FACTOR_SCORES = ("AUC", "SimAOU_label", "logit_recovery")
"""What is drawn along a factor: what the model answers above, then scores."""


class Drawn:
    """The part of `Run` that figures are drawn from."""

    @property
    def _own(self) -> Run:
        """The run itself, which this is a part of."""
        raise NotImplementedError

    def _together(self, make: Callable[[Comparison], pd.DataFrame]) -> pd.DataFrame:
        """A table of each comparison, one under the other, with model and task in front."""
        return _stacked((where, make(each)) for where, each in self._own.comparisons.items())

    def nulls(self) -> pd.DataFrame:
        """Return what each control of each hypothesis scores, draw by draw, network by network.

        Columns: model, task, hypothesis, score (primary ones and SimAOU), control (its label),
        value.
        """
        return self._together(lambda comparison: null_frame(comparison.data))

    def head_map(self, score: str | None = None, hypothesis: str = "lcgd") -> pd.DataFrame:
        """Return a score of each head over draws, by model and task; see `Comparison.head_map`.

        `score` None is the label contrast (SimAOU_label) where any model and task has it by head,
        else SimAOU; `attrs["score"]` says which. Models and tasks on which it was not measured are
        left out.

        Raises:
            ComparisonError: It was measured on none.
        """
        return self._with_heads(
            score, hypothesis, lambda each, name: each.head_map(name, hypothesis)
        )

    def top_heads(
        self, score: str | None = None, hypothesis: str = "lcgd", k: int = 5, *,
        control: str | None = None,
    ) -> pd.DataFrame:  # fmt: skip
        """Return the k highest heads of every model and task; see `Comparison.top_heads`.

        `score` None is what it is in `head_map`. Models and tasks on which the score was not
        measured are left out.

        Raises:
            ComparisonError: It was measured on none.
        """
        return self._with_heads(
            score, hypothesis, lambda each, name: each.top_heads(name, hypothesis, k,
                                                                 control=control)
        )  # fmt: skip

    def _with_heads(
        self, score: str | None, hypothesis: str, make: Callable[[Comparison, str], pd.DataFrame]
    ) -> pd.DataFrame:
        """Tables of heads, of those comparisons that have the score for heads."""
        known = {
            where: scores_by_head(each.data, hypothesis)
            for where, each in self._own.comparisons.items()
        }
        name = score or leading_score(set().union(*known.values()))
        found = [
            (where, make(each, name))
            for where, each in self._own.comparisons.items() if name in known[where]
        ]  # fmt: skip
        if not found:
            for each in self._own.comparisons.values():
                each.head_map(name, hypothesis)  # says what there is instead
        frame = _stacked(found)
        frame.attrs = {"score": name}
        return frame

    def norms(self) -> pd.DataFrame:
        """Return how large ICL's change and each hypothesis's are, query by query, on one draw.

        Columns: model, task, hypothesis, query, icl_norm, ft_norm (of the attention output, root
        mean square over layers).
        """
        return self._together(lambda comparison: norm_frame(comparison.data))

    def rates(self) -> pd.DataFrame:
        """Return the rates that were tried on left-out demonstrations, one line a draw and rate.

        Columns: model, task, seed, permutation, hypothesis, lr, held_out_loss (at the rate's best
        number of passes and the chosen loss tokens), chosen (whether the draw's update has it).
        """
        import pandas as pd

        columns = [
            "model", "task", "seed", "permutation", "hypothesis", "lr", "held_out_loss", "chosen",
        ]  # fmt: skip
        lines = [
            [*(draw[name] for name in columns[:4]), hypothesis, float(rate), loss,
             float(rate) == facts["lr"]]
            for draw in self._chosen_rates()
            for hypothesis, facts in draw["rates"].items()
            for rate, loss in facts["held_out_loss"].items()
        ]  # fmt: skip
        return pd.DataFrame(lines, columns=columns)

    def _chosen_rates(self) -> list[dict[str, Any]]:
        """The same as the provenance has it: each draw's chosen rates, and every rate's loss."""
        found: dict[tuple[Any, ...], dict[str, Any]] = {}
        for cell in self._own.cells:
            place, budget = cell.facts["place"], cell.facts["described"].get("budget")
            if not budget or place["network"] != TRAINED or "settings" not in budget:
                continue
            settings = budget["settings"]
            losses: dict[str, float] = {}
            for tried in budget["tried"]:
                same = tried.get("loss_on") == settings.get("loss_on")
                if same and tried["loss"] is not None and "lr" in tried:
                    rate = repr(float(tried["lr"]))
                    losses[rate] = min(losses.get(rate, tried["loss"]), tried["loss"])
            at = (place["model"], place["task"], place["seed"], place["permutation"])
            where = dict(zip(("model", "task", "seed", "permutation"), at, strict=True))
            own = found.setdefault(at, {**where, "rates": {}})
            if "lr" in settings:
                own["rates"][place["subject"]] = {"lr": settings["lr"], "held_out_loss": losses}
        return list(found.values())

    # -- factors -----------------------------------------------------------------------------------

    def factors(self) -> pd.DataFrame:
        """Return scores along every factor of the plan's `vary:` and of its hypotheses'.

        Columns: model, task, factor, value_of_factor, hypothesis, score, value, ci_low, ci_high.
        """
        import pandas as pd

        lines = [*self._along_demonstrations(), *self._along_settings()]
        columns = (
            "model", "task", "factor", "value_of_factor", "hypothesis", "score", "value", "ci_low",
            "ci_high",
        )  # fmt: skip
        return pd.DataFrame(lines, columns=list(columns))

    @cached_property
    def _varied(self) -> dict[ModelAndTask, tuple[str, str, Any]]:
        """The task's own name, the factor and its value, of each comparison along `vary:`.

        Cell files hold them as fields of their own; the task's name there, "sst2 (shots 4)", shows
        them and is never read back.
        """
        written = {
            (factor, repr(value)): value
            for factor, values in self._own.plan.get("vary", {}).items()
            for value in values
        }
        found: dict[ModelAndTask, tuple[str, str, Any]] = {}
        for cell in self._own.cells:
            place, setting = cell.facts["place"], cell.facts["setting"]
            if "varied" in setting:
                factor, value, _ = setting["varied"]
                where = place["model"], place["task"]
                found[where] = setting["task"], factor, written[factor, value]
        return found

    def _along_demonstrations(self) -> Iterator[dict[str, Any]]:
        for (model, label), (task, factor, value) in self._varied.items():
            where = {"model": model, "task": task, "factor": factor, "value_of_factor": value}
            for row in _overall(self._own.comparisons[model, label]):
                yield where | row

    def _along_settings(self) -> Iterator[dict[str, Any]]:
        """Each varied setting of a hypothesis, beside ZS and ICL; other settings stay in names."""
        varied: dict[str, Mapping[str, list[Any]]] = {
            name: spec.get("vary", {}) for name, spec in self._own.plan["hypotheses"].items()
        }
        for (model, task), comparison in self._own.comparisons.items():
            rows = [(Subject.parse(row["hypothesis"]), row) for row in _overall(comparison)]
            for rule, factors in varied.items():
                for factor, values in factors.items():
                    where = {"model": model, "task": task, "factor": f"{factor} of {rule}"}
                    # A label rounds a number; the plan has it whole.
                    whole = {str(Subject(rule, None, {factor: value})): value for value in values}
                    for subject, row in rows:
                        if subject.rule in (ZS, ICL):
                            yield from (where | {"value_of_factor": v} | row for v in values)
                        elif subject.rule == rule and factor in subject.settings:
                            others = {k: v for k, v in subject.settings.items() if k != factor}
                            if "budget" in others:
                                continue
                            named = str(Subject(rule, subject.control, others))
                            shown = str(Subject(rule, None, {factor: subject.settings[factor]}))
                            value = {"value_of_factor": whole[shown]}
                            yield where | value | row | {"hypothesis": named}

    # -- studies -----------------------------------------------------------------------------------

    def _studies(self, kind: str) -> Iterator[tuple[ModelAndTask, bytes, str]]:
        """Model and task, bytes and name of each study of a kind."""
        for study in self._own.facts.get("studies", ()):
            data = self._own.study_bytes.get(study["key"])
            if study["kind"] == kind and data is not None:
                yield (study["model"], study["task"]), data, study["key"]

    @cached_property
    def _trainings(self) -> dict[ModelAndTask, tuple[Part, ...]]:
        found: dict[ModelAndTask, tuple[Part, ...]] = {}
        for where, data, name in self._studies("trajectory"):
            parts, _, _ = restored(*opened(data, name, FORMS["trajectory"], RunError), name)
            found[where] = parts
        return found

    @cached_property
    def mediations(self) -> dict[ModelAndTask, Mediation]:
        """What heads do, by model and task, where the plan's `studies:` asks for it."""
        return {
            where: Mediation(**storage.decode(data, name))
            for where, data, name in self._studies("mediation")
        }

    def attention(self) -> pd.DataFrame:
        """Return the attention of one query's readout token; empty where it was not asked for.

        Columns: model, task, setting (ZS, ICL or a hypothesis), position, token, weight.
        """
        import pandas as pd

        def read(data: bytes, name: str) -> pd.DataFrame:
            arrays, facts = opened(data, name, FORMS["attention"], RunError)
            return pd.DataFrame(facts["lines"]).assign(weight=arrays["weight"])

        return _stacked(
            (where, read(data, name)) for where, data, name in self._studies("attention")
        )

    def mediation(self) -> pd.DataFrame:
        """Return what every head does: model and task, then the columns of `Mediation.frame()`."""
        return self._of_heads(lambda found: found.frame())

    def agreement(self) -> pd.DataFrame:
        """Return whether updates work through ICL's heads; see `Mediation.agreement`.

        Columns: model, task, those of `Mediation.agreement()`, and sentence (with ICL's line).
        """
        return self._of_heads(_agreement)

    def head_sets(self) -> pd.DataFrame:
        """Return the share of ICL's gain that sets of heads carry.

        Columns: model, task, hypothesis, heads (how many), value.
        """
        return self._of_heads(_sets)

    def _of_heads(self, make: Callable[[Mediation], pd.DataFrame]) -> pd.DataFrame:
        return _stacked((where, make(found)) for where, found in self.mediations.items())


def _stacked(tables: Iterable[tuple[ModelAndTask, pd.DataFrame]]) -> pd.DataFrame:
    """Tables one under the other, with model and task in front; empty where there is none."""
    import pandas as pd

    parts: list[pd.DataFrame] = []
    for (model, task), table in tables:
        table.attrs = {}
        table.insert(0, "task", task)
        table.insert(0, "model", model)
        parts.append(table)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _overall(comparison: Comparison) -> list[dict[str, Any]]:
    """The scores that are drawn along a factor, over all layers: behaviour first."""
    found = [
        {
            "hypothesis": row.hypothesis, "score": row.score, "value": row.value,
            "ci_low": row.ci_low, "ci_high": row.ci_high,
        }
        for row in comparison.rows()
        if row.layer is None and row.head is None and row.score in FACTOR_SCORES
    ]  # fmt: skip
    return sorted(found, key=lambda line: FACTOR_SCORES.index(line["score"]))


def _agreement(found: Mediation) -> pd.DataFrame:
    frame = found.agreement()
    frame["sentence"] = [found.sentence() if i == 0 else "" for i in range(len(frame))]
    return frame


def _sets(found: Mediation) -> pd.DataFrame:
    import pandas as pd

    lines = [
        {"hypothesis": label, "heads": heads, "value": float(value)}
        for label in found.labels if found.draws[0].curves
        for heads, value in zip(found.curve(label).heads, found.curve(label).value, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=["hypothesis", "heads", "value"])
