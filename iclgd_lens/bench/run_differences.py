"""What moved between two runs: how they were made, their cells, means, answers and verdicts.

Nothing is measured or tested: two runs of one plan share rows and seeds, so what moved is not
chance, but what was changed between them: the package, a library, the model, the machine.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from iclgd_lens.bench.cell_file import PLACE
from iclgd_lens.bench.run_tables import Run, load_run
from iclgd_lens.errors import RunError, nearest
from iclgd_lens.verdicts.answer import OVERALL

if TYPE_CHECKING:
    import pandas as pd

Tolerance = float | Mapping[str, float]
ANSWERS: Mapping[str, tuple[str, ...]] = {
    "gate": ("learns", "uses_labels", "uses_format"),
    "behaviour": ("classifies_better", "comes_nearer"),
    "verdicts": ("verdict",),
}
"""The tables of answers, and the columns that hold them."""
_LINE = ("model", "task", "hypothesis", "score", "level", "layer", "head")


@dataclass(frozen=True)
class Change:
    """Something that is not the same in both runs.

    Attributes:
        what: Its name: "versions.torch", "embedded, sst2: gate, learns".
        a: In the first run; None where that has no such thing.
        b: In the second.
    """

    what: str
    a: Any
    b: Any


@dataclass(frozen=True, eq=False)
class RunDifferences:
    """What moved between two runs; true where they are not the same.

    Attributes:
        a: Where the first run lies.
        b: Where the second does.
        facts: How they were made: plan, models, rows, versions, code, machine. These alone make no
            difference of results.
        only_a: Cells with numbers in the first run alone, in words.
        only_b: Cells with numbers in the second alone.
        shared: How many have numbers in both.
        means: Every line of `Run.frame()` that both have: model, task, hypothesis, score, level,
            layer, head, a, b, difference (b minus a; NaN where one alone is defined), moved.
        answers: Answers of the gate and about behaviour, and verdicts, that are not the same; None
            where a run gives none.
    """

    a: str
    b: str
    facts: tuple[Change, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    shared: int
    means: pd.DataFrame = field(repr=False)
    answers: tuple[Change, ...]

    def __bool__(self) -> bool:
        return bool(self.only_a or self.only_b or self.answers or self.moved)

    @property
    def moved(self) -> int:
        """How many means moved by more than the tolerance, those of layers and heads included."""
        return int(self.means["moved"].sum())

    def largest(self) -> pd.DataFrame:
        """Return the line that moved most of each score, the most moved score first.

        Columns: those of `means`, and `lines` and `lines_moved` of that score. A mean that is
        undefined in one run alone moved more than any other. Of the lines that moved by more than
        the tolerance (of all, where none did), means over all layers and heads come before those
        of a layer, and these before those of a head.
        """
        import pandas as pd

        found: list[Any] = []
        for score, lines in self.means.groupby("score", sort=False):
            shown = lines[lines["moved"]] if lines["moved"].any() else lines
            part = next(
                part for level in ("all", "layer", "head")
                if len(part := shown[shown["level"] == level])
            )  # fmt: skip
            size = part["difference"].abs().where(part["a"].isna() == part["b"].isna(), math.inf)
            line = part.loc[size.fillna(0.0).idxmax()]
            counts = {"lines": len(lines), "lines_moved": int(lines["moved"].sum())}
            found.append(line.to_dict() | counts | {"score": score, "size": float(size.max())})
        frame = pd.DataFrame(found, columns=[*self.means, "lines", "lines_moved", "size"])
        frame = frame.astype({"layer": "Int64", "head": "Int64"})
        frame = frame.sort_values("size", ascending=False, kind="stable")
        return frame.drop(columns="size").reset_index(drop=True)

    @property
    def sentence(self) -> str:
        """Whether the runs are the same, in words."""
        cells = f"{self.shared} cells in both"
        alone = f"{len(self.only_a)} in the first alone, {len(self.only_b)} in the second alone"
        alone = "" if not self.only_a and not self.only_b else f", {alone}"
        counts = f"{cells}{alone}; {self.moved} of {len(self.means)} means moved"
        if not self:
            return f"The same: {counts}, no answer or verdict changed."
        changed = len(self.answers)
        said = "no answer or verdict changed" if not changed else (
            f"{changed} answer{'s' * (changed > 1)} or verdict{'s' * (changed > 1)} changed"
        )  # fmt: skip
        return f"Not the same: {counts}, {said}."

    def as_dict(self) -> dict[str, Any]:
        """Plain values; the means are those that moved."""
        moved = self.means[self.means["moved"]].drop(columns="moved")
        return {
            "same": not self, "sentence": self.sentence, "a": self.a, "b": self.b,
            "facts": [vars(each) for each in self.facts],
            "cells": {"shared": self.shared, "only_a": [*self.only_a], "only_b": [*self.only_b]},
            "answers": [vars(each) for each in self.answers],
            "means_compared": len(self.means), "means_moved": self.moved,
            "largest": self.largest().drop(columns="moved").to_dict("records"),
            "means": moved.to_dict("records"),
        }  # fmt: skip


def run_differences(
    a: Run | str | os.PathLike[str],
    b: Run | str | os.PathLike[str],
    *,
    tolerance: Tolerance = 0.0,
) -> RunDifferences:
    """Compare two runs of a plan, of which the package, the model or the machine was changed.

    Models and tasks are told apart by their labels. Where the runs have no model's label in common
    and as many models, they are taken in the plans' order.

    Args:
        a: A run, or its directory.
        b: Another.
        tolerance: How much a mean may move, either way: one number, or one for each score, by
            name (others: 0).

    Raises:
        RunError: There is no run, or a tolerance is negative or of a score that neither run has.

    Examples:
        >>> import iclgd_lens as lens
        >>> lens.run_differences("runs/nowhere", "runs/nowhere")
        Traceback (most recent call last):
        iclgd_lens.errors.RunError: runs/nowhere holds no run (no run.json)
    """
    first, second = (each if isinstance(each, Run) else load_run(each) for each in (a, b))
    names = _paired(first, second)
    means = _means(first, second, names)
    means["moved"] = _moved(means, _allowed(tolerance, [*means["score"]]))
    ours, theirs = _cells(first, {}), _cells(second, names)
    return RunDifferences(
        a=first.where, b=second.where, facts=tuple(_facts(first, second, names)),
        only_a=tuple(each for each in ours if each not in theirs),
        only_b=tuple(each for each in theirs if each not in ours),
        shared=sum(each in theirs for each in ours), means=means,
        answers=tuple(_answers(first, second, names)),
    )  # fmt: skip


def _paired(a: Run, b: Run) -> dict[str, str]:
    """What the first run calls the second's models, where no label is in both."""
    ours, theirs = ([str(m["label"]) for m in run.plan["models"]] for run in (a, b))
    if set(ours) & set(theirs) or len(ours) != len(theirs):
        return {}
    return dict(zip(theirs, ours, strict=True))


# -- how they were made ----------------------------------------------------------------------------


def _facts(a: Run, b: Run, names: Mapping[str, str]) -> Iterator[Change]:
    ours, theirs = _flat(_made(a, {})), _flat(_made(b, names))
    for what in dict.fromkeys([*ours, *theirs]):
        if ours.get(what) != theirs.get(what):
            yield Change(what, ours.get(what), theirs.get(what))


def _made(run: Run, names: Mapping[str, str]) -> dict[str, Any]:
    """What a run's numbers depend on, by name; models under the first run's labels."""
    facts = run.provenance
    plan = dict(facts["plan"])
    models = {names.get(str(m["label"]), str(m["label"])): dict(m) for m in plan.pop("models")}
    weights = {names.get(name, name): identity for name, identity in facts["models"].items()}
    rows: dict[str, list[Any]] = {}
    for cell in run.cells:
        place, setting = cell.facts["place"], cell.facts["setting"]
        at = (place["seed"], place["permutation"], setting["rows"])
        rows.setdefault(place["task"], []).append(json.dumps(at, default=str))
    return {
        "plan": plan | {"models": models},
        "weights": weights,
        "prompts": {task: each["prompt_hash"] for task, each in facts["tasks"].items()},
        "rows": {task: _digest(sorted(set(each))) for task, each in rows.items()},
        "versions": facts["versions"],
        "environment": facts["environment"],
        "budgets": _budgets(run, names),
    }


def _budgets(run: Run, names: Mapping[str, str]) -> dict[str, Any]:
    """The settings that left-out demonstrations chose, by cell."""
    found: dict[str, Any] = {}
    for cell in run.cells:
        budget = cell.facts["described"].get("budget") or {}
        if "settings" in budget or "problem" in budget:
            found[_cell(cell.facts["place"], names)] = budget.get("settings") or "none"
    return found


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of nested mappings, by their dotted names; a list is a leaf."""
    if not isinstance(value, Mapping):
        return {name: value}
    found: dict[str, Any] = {}
    for key, inner in cast("Mapping[str, Any]", value).items():
        found |= _flat(inner, f"{name}.{key}" if name else str(key))
    return found


def _digest(values: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(values).encode()).hexdigest()[:16]


# -- cells, means, answers -------------------------------------------------------------------------


def _cells(run: Run, names: Mapping[str, str]) -> dict[str, None]:
    """The cells that have numbers, in words."""
    return {
        _cell(each.facts["place"], names): None for each in run.cells if not each.facts["failure"]
    }


def _cell(place: Mapping[str, Any], names: Mapping[str, str]) -> str:
    model, task, seed, order, network, index, budget = (place[name] for name in PLACE)
    twin = "" if network == "trained" else f", {network} {index}"
    own = f" ({budget} budget)" if budget else ""
    where = f"{names.get(model, model)}, {task}, seed {seed}, order {order}{twin}"
    return f"{where}: {place['subject']}{own}"


def _renamed(frame: pd.DataFrame, names: Mapping[str, str]) -> pd.DataFrame:
    return frame.assign(model=frame["model"].replace(dict(names))) if len(frame) else frame


def _means(a: Run, b: Run, names: Mapping[str, str]) -> pd.DataFrame:
    columns = [*_LINE, "value"]
    ours, theirs = a.frame(), _renamed(b.frame(), names)
    both = (each.reindex(columns=columns).astype({"layer": object, "head": object}).fillna(
        {"layer": -1, "head": -1}) for each in (ours, theirs))  # fmt: skip
    left, right = both
    found = left.merge(right, on=[*_LINE], suffixes=("_a", "_b"))
    found = found.rename(columns={"value_a": "a", "value_b": "b"})
    for place in ("layer", "head"):
        found[place] = found[place].astype("Int64").replace(-1, None)
    return found.assign(difference=found["b"] - found["a"])


def _allowed(tolerance: Tolerance, scores: Sequence[str]) -> dict[str, float]:
    known = list(dict.fromkeys(scores))
    if isinstance(tolerance, Mapping):
        strangers = [name for name in tolerance if name not in known]
        if strangers and known:
            raise RunError(
                f"the runs have no mean of {strangers[0]!r} in common."
                + nearest(strangers[0], known)
            )
        allowed = dict.fromkeys(known, 0.0) | {k: float(v) for k, v in tolerance.items()}
    else:
        allowed = dict.fromkeys(known, float(tolerance))
    for name, value in allowed.items():
        if not value >= 0:
            raise RunError(f"the tolerance of {name} is {value}; it is 0 or more")
    return allowed


def _moved(means: pd.DataFrame, allowed: Mapping[str, float]) -> Any:
    """Which lines are further apart than allowed, or undefined in one run alone."""
    apart = means["difference"].abs() > means["score"].map(dict(allowed))
    return apart | (means["a"].isna() != means["b"].isna())


def _answers(a: Run, b: Run, names: Mapping[str, str]) -> Iterator[Change]:
    """Answers that differ; one that a run does not give is None there."""
    for table, columns in ANSWERS.items():
        ours = _said(getattr(a, table)(), columns)
        theirs = _said(_renamed(getattr(b, table)(), names), columns)
        for place in dict.fromkeys([*ours, *theirs]):
            for column in columns:
                one, other = (each.get(place, {}).get(column) for each in (ours, theirs))
                if str(one) != str(other):
                    word = "" if column == "verdict" else f", {column}"
                    yield Change(f"{', '.join(place)}: {table}{word}", one, other)


def _said(frame: pd.DataFrame, columns: Sequence[str]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Answers by where they are given."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in cast("list[dict[str, Any]]", frame.to_dict("records")):
        names = ("model", "task", "hypothesis", "score", "control")
        place = tuple(str(line[name]) for name in names if name in line)
        if place[-1] == OVERALL:
            place = (*place[:-1], "overall")
        found[place] = {name: line[name] for name in columns}
    return found
