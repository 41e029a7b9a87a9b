"""From what a command asks for to a loaded model: a slip should cost no seconds and no download.

What is named is looked up first, as far as that goes without PyTorch; then the rest of the names,
which imported files may have registered; then rows are read and drawn from; the model comes last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from iclgd_lens.telling import Tell

if TYPE_CHECKING:
    from iclgd_lens.tasks import Splits


@dataclass(frozen=True)
class Rows:
    """Rows, and what is drawn from them.

    Attributes:
        task: The task's name or file.
        data: Where rows come from; None for the model's own default.
        shots: Demonstrations.
        queries: Queries.
        draws: Draws of demonstrations.
        seed: Of the first draw.
        permutation: Order of the demonstrations.
        protocol: A preset's name.
        revision: Of the Hub's data set.
        auxiliary: Other tasks, whose demonstrations hypotheses get.
    """

    task: str
    data: str | None
    shots: int
    queries: int
    draws: int
    seed: int = 0
    permutation: int = 0
    protocol: str = "default"
    revision: str | None = None
    auxiliary: Sequence[str] = ()

    def look_up(self) -> None:
        """Raise `LensError` for the name of a task or protocol that there is not."""
        from iclgd_lens.protocol import get_protocol
        from iclgd_lens.tasks import get_task

        for task in (self.task, *self.auxiliary):
            get_task(task)
        get_protocol(self.protocol)

    def read(self, model: str) -> Splits:
        """Read the rows that a model is going to be asked, and draw from them."""
        from iclgd_lens.episode_rows import check_rows

        return check_rows(
            self.task, self.data, model=model, shots=self.shots, queries=self.queries,
            seed=self.seed, draws=self.draws, permutation=self.permutation,
            protocol=self.protocol, revision=self.revision,
        )  # fmt: skip


@dataclass(frozen=True)
class Names:
    """What is measured together, by name.

    Attributes:
        hypotheses: Registered names.
        settings: Settings by hypothesis.
        controls: Registered names.
    """

    hypotheses: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, dict[str, Any]])
    controls: Sequence[str] = ()


def check_asked(
    models: Sequence[str],
    rows: Rows,
    tell: Tell,
    *,
    names: Sequence[Names] = (),
    imports: Sequence[str] = (),
) -> list[Splits]:
    """Look up everything that is named, then read rows; no model is loaded.

    Args:
        models: Names or folders.
        rows: What they are going to be asked.
        tell: Called with a short text at each stage.
        names: What is measured.
        imports: Modules and files that register hypotheses, controls or scores.

    Returns:
        The rows for each model.

    Raises:
        LensError: Something that was asked for does not exist or does not fit.
    """
    from iclgd_lens.controls import CONTROLS

    rows.look_up()
    controls = [control for each in names for control in each.controls]
    if not imports:  # what is imported may bring controls, but PyTorch takes seconds
        CONTROLS.check(controls)
    tell("starting PyTorch and TransformerLens")
    from iclgd_lens.bench.workbench import import_modules
    from iclgd_lens.host.model_source import find_model
    from iclgd_lens.rules import resolve_rules

    import_modules(imports)
    CONTROLS.check(controls)
    for each in names:
        resolve_rules(list(each.hypotheses), each.settings)
    for model in models:
        find_model(model).check()
    tell(f"reading rows of {rows.task}")
    return [rows.read(model) for model in models]


def open_model(
    model: str,
    rows: Rows,
    tell: Tell,
    *,
    names: Sequence[Names] = (),
    imports: Sequence[str] = (),
    **loading: Any,
) -> tuple[Any, Splits]:
    """Check everything that can be checked before (see `check_asked`), then load the model.

    Args:
        model: Its name or folder.
        rows: What it is going to be asked.
        tell: Called with a short text at each stage.
        names: What is measured.
        imports: Modules and files that register hypotheses, controls or scores.
        loading: What else `load_model` takes.

    Returns:
        The model, and its rows, which need not be read anew.

    Raises:
        LensError: Something that was asked for does not exist or does not fit.
    """
    (read,) = check_asked([model], rows, tell, names=names, imports=imports)
    from iclgd_lens.host.loading import load_model

    tell(f"loading {model}")
    return load_model(model, **loading), read
