"""Published claims as files: the paper, what it claims, what would refute it, and sweeps to run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from iclgd_lens import defaults
from iclgd_lens.budget.budget import BudgetMode
from iclgd_lens.errors import PlanError
from iclgd_lens.scores import LABEL_COLLAPSE
from iclgd_lens.sweeps.factors import get_factor
from iclgd_lens.sweeps.sweep_job import SWEEP_CONTROLS, sweep
from iclgd_lens.sweeps.sweep_result import PRIMARY, SECOND, Sweep
from iclgd_lens.telling import Tell
from iclgd_lens.validation import StrictSpec
from iclgd_lens.yaml_files import read_mapping


class SweepSpec(StrictSpec):
    """One sweep of a claim.

    Attributes:
        factor: A name of `FACTORS`.
        values: Its values; None for the usual ones.
        hypotheses: Registered names.
        controls: Controls at every point.
        settings: Settings by hypothesis.
        lr: Learning rate; None chooses a budget at every point.
        scores: What is looked at.
    """

    factor: str
    values: list[Any] | None = None
    hypotheses: list[str] = Field(min_length=1)
    controls: tuple[str, ...] = SWEEP_CONTROLS
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    lr: float | None = None
    scores: tuple[str, ...] = (PRIMARY, SECOND)

    @field_validator("factor")
    @classmethod
    def _known(cls, name: str) -> str:
        return get_factor(name).name

    @property
    def own_settings(self) -> dict[str, dict[str, Any]]:
        """Settings of its hypotheses: `Claim.at` may have put others in place of the file's."""
        return {name: own for name, own in self.settings.items() if name in self.hypotheses}


class Claim(StrictSpec):
    """A claim that can be settled.

    Attributes:
        paper: Title or authors, and arXiv number.
        claim: What it says.
        refuted_by: What would refute it, said before anything is measured.
        task: The task.
        shots: Demonstrations.
        queries: Evaluation rows.
        draws: Draws of demonstrations.
        sweeps: What is measured.
    """

    paper: str
    claim: str
    refuted_by: str
    task: str = "sst2"
    shots: int = Field(default=defaults.SHOTS, ge=1)
    queries: int = Field(default=defaults.SWEEP_QUERIES, ge=2)
    draws: int = Field(default=3, ge=1)
    sweeps: list[SweepSpec] = Field(min_length=1)

    def at(
        self,
        *,
        values: Sequence[Any] | None = None,
        hypotheses: Sequence[str] | None = None,
        controls: Sequence[str] | None = None,
        **numbers: int,
    ) -> Claim:
        """The claim with other values of its factor, hypotheses, controls or numbers.

        What suits one model does not suit every other: the largest horizon is the last layer, and
        a large model takes fewer draws.

        Args:
            values: Values of the factor, in every sweep.
            hypotheses: In every sweep.
            controls: At every point of every sweep.
            numbers: shots, queries, draws.

        Raises:
            PlanError: A number is out of range. (`run` refuses what is no value of a factor.)
        """
        given: dict[str, Sequence[Any] | None] = {
            "values": values, "hypotheses": hypotheses, "controls": controls,
        }  # fmt: skip
        own = {name: list(value) for name, value in given.items() if value is not None}
        changed: dict[str, Any] = self.model_dump() | numbers
        changed["sweeps"] = [spec | own for spec in changed["sweeps"]]
        try:
            return Claim.model_validate(changed)
        except ValidationError as error:
            raise PlanError(_faults(error)) from None

    def run(
        self,
        model: Any,
        *,
        data: Any = None,
        lr: float | None = None,
        budget: BudgetMode | None = None,
        progress: Tell | None = None,
    ) -> list[Sweep]:
        """Measure the claim's sweeps on a model.

        Args:
            model: A model or its host.
            data: Where rows come from.
            lr: Learning rate in place of the file's, which suits the model it was written for.
            budget: "matched" or "published" chooses the rate in place of the file's.
            progress: Called with a short text at each stage.
        """
        own = lr is None and budget is None
        return [
            sweep(
                model, self.task, spec.factor, spec.values, hypotheses=spec.hypotheses,
                controls=spec.controls, settings=spec.own_settings, lr=spec.lr if own else lr,
                budget=budget, collapse=LABEL_COLLAPSE in spec.scores, shots=self.shots,
                queries=self.queries, draws=self.draws, data=data, progress=progress,
            )
            for spec in self.sweeps
        ]  # fmt: skip


def load_claim(path: str | Path) -> Claim:
    """Read a claim from a YAML file.

    Raises:
        PlanError: The file is missing, no YAML, or no claim; the message names every fault.
    """
    path = Path(path)
    given = read_mapping(path, PlanError, "a claim")
    try:
        return Claim.model_validate(given)
    except ValidationError as error:
        raise PlanError(f"{path}: {_faults(error)}") from None


def _faults(error: ValidationError) -> str:
    faults: list[str] = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        faults.append(f"{place or 'claim'}: {item['msg']}")
    return "; ".join(faults)
