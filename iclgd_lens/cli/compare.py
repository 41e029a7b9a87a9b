"""`iclgd compare`: from options to a comparison, and from a comparison to what is printed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclgd_lens import yaml_files
from iclgd_lens.cli.given import check_output, names
from iclgd_lens.cli.opening import Names, Rows, open_model
from iclgd_lens.cli.printed_comparison import as_json as as_json
from iclgd_lens.cli.printed_comparison import show as show
from iclgd_lens.controls import DEFAULT_CONTROLS
from iclgd_lens.errors import ComparisonError, LensError

if TYPE_CHECKING:
    from iclgd_lens.results.comparison import Comparison

KINDS = {".parquet": "the tidy table", ".safetensors": "every query's scores"}
"""What is written, by the suffix of the file."""
_BUDGETS = {"matched": "matched", "published": "published", "demonstrations": "matched"}


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    model: str
    task: str
    data: str | None
    shots: int
    queries: int
    draws: int
    twins: int
    lr: str | None
    settings: Sequence[str]
    seed: int
    permutation: int
    protocol: str
    hypotheses: Sequence[str]
    controls: Sequence[str]
    host: str
    dtype: str
    device: str | None
    revision: str | None
    data_revision: str | None
    batch_size: int | None
    pad_queries: bool
    imports: Sequence[str]
    out: Path | None
    auxiliary: Sequence[str] = ()
    workers: int | None = None


def run_request(request: Request, tell: Callable[[str], None]) -> Comparison:
    """Check, load, draw, compare, and write the file that was asked for.

    Raises:
        LensError: Something that was asked for does not exist or does not fit.
    """
    check_output(request.out, KINDS)
    _check_numbers(request)
    lr, budget = parse_rate(request.lr)
    settings = parse_settings(request.settings)
    controls = names("--control", request.controls)
    controls = DEFAULT_CONTROLS if controls is None else controls
    model, rows = open_model(
        request.model,
        Rows(
            request.task, request.data, request.shots, request.queries, request.draws,
            request.seed, request.permutation, request.protocol, request.data_revision,
            request.auxiliary,
        ),
        tell, names=[Names(request.hypotheses, settings, controls)], imports=request.imports,
        dtype=request.dtype, device=request.device, host=request.host, revision=request.revision,
    )  # fmt: skip
    from iclgd_lens.comparing import compare
    from iclgd_lens.episode_loading import load_episodes

    tell(f"drawing {request.draws} times {request.shots} demonstrations of {request.task}")
    episodes = load_episodes(
        request.task, model, draws=request.draws, shots=request.shots, queries=request.queries,
        seed=request.seed, permutation=request.permutation, data=rows, protocol=request.protocol,
        auxiliary=request.auxiliary,
    )  # fmt: skip
    comparison = compare(
        model, episodes, list(request.hypotheses), controls=controls, lr=lr, settings=settings,
        budget=budget, twins=request.twins, seed=request.seed, batch_size=request.batch_size,
        pad_queries=request.pad_queries, workers=request.workers, progress=tell,
    )  # fmt: skip
    if request.out is not None:
        tell(f"writing {request.out}")
        write(comparison, request.out)
        tell(f"written: {request.out}")
    return comparison


def parse_settings(given: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Read "NAME.KEY=VALUE" texts; a value is a number, true, false, null, a list or a word.

    Raises:
        LensError: A text has another form.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in given:
        place, equals, value = text.partition("=")
        name, dot, key = place.partition(".")
        if not (equals and dot and name and key):
            raise LensError(f"--set {text!r} is not NAME.KEY=VALUE, such as lcgd.epochs=4.")
        found.setdefault(name, {})[key] = yaml_files.value(value, LensError, f"--set {text!r}")
    return found


def write(comparison: Comparison, out: Path) -> None:
    """Write the tidy table (.parquet) or everything (.safetensors)."""
    if out.suffix == ".parquet":
        comparison.to_parquet(out)
    else:
        comparison.save(out)


def _check_numbers(request: Request) -> None:
    for name, value, least in (("draws", request.draws, 1), ("twins", request.twins, 0)):
        if value < least:
            raise ComparisonError(f"--{name} is {value}; it must be {least} or more.")


def parse_rate(given: str | None) -> tuple[float | None, Any]:
    """A rate, or how it is found.

    Raises:
        LensError: It is neither.
    """
    if given is None or given in _BUDGETS:
        return None, None if given is None else _BUDGETS[given]
    try:
        rate = float(given)
    except ValueError:
        raise LensError(
            f"--lr {given!r} is neither a number nor 'matched' (chosen on left-out demonstrations) "
            "nor 'published' (the task's)."
        ) from None
    if not 0 < rate < math.inf:
        raise LensError(f"--lr is {given}; it must be a positive number.")
    return rate, None
