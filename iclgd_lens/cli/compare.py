"""`iclgd compare`: from options to a comparison, and from a comparison to what is printed."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclgd_lens.errors import ComparisonError, LensError, nearest

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from iclgd_lens.comparison import Comparison
    from iclgd_lens.episode import Episode

NO_CONTROLS = "none"
FROM_DEMONSTRATIONS = "demonstrations"
_SUFFIXES = (".parquet", ".safetensors")
_HALVES = (("SimAOU", "SimAM", "Tok2Attn", "Rec2FTP"), ("accuracy", "logit_recovery", "KL_ICL"))
"""The summary in two tables, for terminals too narrow for one."""


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    model: str
    task: str
    data: str | None
    shots: int
    queries: int
    lr: str | None
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


def run_request(request: Request, tell: Callable[[str], None]) -> Comparison:
    """Load, draw, compare, and write the file that was asked for.

    Raises:
        LensError: Something that was asked for does not exist or does not fit.
    """
    check_output(request.out)
    controls = _controls(request.controls)
    lr = _rate(request.lr)
    # Names are looked up before the model is loaded: a slip should not cost a download.
    from iclgd_lens.protocol import get_protocol
    from iclgd_lens.tasks import get_task

    task, protocol = get_task(request.task), get_protocol(request.protocol)
    tell("starting PyTorch and TransformerLens")
    from iclgd_lens.bench.work import import_modules
    from iclgd_lens.comparing import CONTROLS, DEFAULT_CONTROLS, compare, resolve
    from iclgd_lens.host.loading import load_model
    from iclgd_lens.writing import load_episode

    import_modules(request.imports)
    resolve(request.hypotheses)
    controls = DEFAULT_CONTROLS if controls is None else controls
    _check_controls(controls, CONTROLS)
    tell(f"loading {request.model}")
    model = load_model(
        request.model, dtype=request.dtype, device=request.device,
        host=request.host, revision=request.revision,  # type: ignore[arg-type]
    )  # fmt: skip
    tell(f"drawing {request.shots} demonstrations and {request.queries} queries of {task.name}")
    episode = load_episode(
        task, model, shots=request.shots, queries=request.queries, seed=request.seed,
        permutation=request.permutation, data=request.data, protocol=protocol,
        revision=request.data_revision,
    )  # fmt: skip
    settings = None
    if lr == FROM_DEMONSTRATIONS:
        settings = chosen_rates(model, episode, request.hypotheses, tell)
    comparison = compare(
        model, episode, list(request.hypotheses), controls=controls,
        lr=lr if isinstance(lr, float) else None, settings=settings, seed=request.seed,
        batch_size=request.batch_size, pad_queries=request.pad_queries, progress=tell,
    )  # fmt: skip
    if request.out is not None:
        tell(f"writing {request.out}")
        write(comparison, request.out)
    return comparison


def chosen_rates(
    model: Any, episode: Episode, hypotheses: Sequence[str], tell: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """A learning rate for each hypothesis that takes one, chosen on demonstrations alone."""
    from iclgd_lens.bench.learning_rate import choose_rate
    from iclgd_lens.bench.plan import RateChoice
    from iclgd_lens.hypotheses.registry import get_hypothesis

    found: dict[str, dict[str, float]] = {}
    for name in hypotheses:
        hypothesis = get_hypothesis(name)
        if "lr" in hypothesis.settings():
            tell(f"{name}: choosing a learning rate on held-out demonstrations")
            found[name] = {"lr": choose_rate(model, episode, hypothesis, RateChoice()).lr}
    return found


def check_output(out: Path | None) -> None:
    """Refuse a file that could not be written, before anything is computed.

    Raises:
        ComparisonError: Its kind is unknown, or its place is not one for a file.
    """
    if out is None:
        return
    if out.suffix not in _SUFFIXES:
        raise ComparisonError(
            f"--out {out} ends in {out.suffix or 'no suffix'!r}; give a .parquet file (the tidy "
            "table) or a .safetensors file (every query's scores)."
        )
    if out.is_dir():
        raise ComparisonError(f"--out {out} is a folder; give a file.")
    place = next(parent for parent in out.absolute().parents if parent.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ComparisonError(f"--out {out} cannot be written: {place} takes no files.")


def write(comparison: Comparison, out: Path) -> None:
    """Write the tidy table (.parquet) or everything (.safetensors)."""
    if out.suffix == ".parquet":
        comparison.to_parquet(out)
    else:
        comparison.save(out)


def _controls(given: Sequence[str]) -> tuple[str, ...] | None:
    """The controls asked for; None where nothing was asked."""
    if NO_CONTROLS in given:
        if len(given) > 1:
            raise ComparisonError("--control none stands alone: it cannot be combined.")
        return ()
    return tuple(given) or None


def _check_controls(given: Sequence[str], known: Collection[str]) -> None:
    for control in given:
        if control not in known:
            raise ComparisonError(
                f"no control is called {control!r}; controls: {NO_CONTROLS}, {', '.join(known)}."
                + nearest(control, [NO_CONTROLS, *known])
            )


def _rate(given: str | None) -> float | str | None:
    if given is None or given == FROM_DEMONSTRATIONS:
        return given
    try:
        rate = float(given)
    except ValueError:
        raise LensError(
            f"--lr {given!r} is neither a number nor {FROM_DEMONSTRATIONS!r} (chosen on held-out "
            "demonstrations)."
        ) from None
    if not 0 < rate < math.inf:
        raise LensError(f"--lr is {given}; it must be a positive number.")
    return rate


# -- what is printed -------------------------------------------------------------------------------


def as_json(comparison: Comparison) -> str:
    """One JSON document: provenance, failures, verdicts and every line of the tidy table."""
    from iclgd_lens.tables import verdicts

    frame = comparison.frame()
    document = {
        "provenance": dict(comparison.provenance),
        "failures": dict(comparison.failures),
        "confidence": comparison.confidence,
        "resamples": comparison.resamples,
        "verdicts": [verdict.as_dict() for verdict in verdicts(frame)],
        "rows": [
            {key: _plain(value) for key, value in vars(row).items()} for row in comparison.rows()
        ],
    }
    return json.dumps(document, allow_nan=False, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(comparison: Comparison, console: Console) -> None:
    """Print what was compared, the layers, the summary and the verdict."""
    from iclgd_lens.tables import comparison_table, hypothesis_names, layer_table

    frame = comparison.frame()
    for line in headline(comparison):
        console.print(line, markup=False)
    names = hypothesis_names(comparison.hypotheses)
    by_layer = "By layer"
    layers = layer_table(comparison, frame=frame, title=by_layer)
    if _fits(console, layers) or len(names) < 2:
        console.print(layers)
    else:
        for name in names:
            title = f"{by_layer}: {name}"
            console.print(layer_table(comparison, frame=frame, hypothesis=name, title=title))
    summary = comparison_table(comparison, frame=frame, title="Overall")
    if _fits(console, summary):
        console.print(summary)
    else:
        for scores in _HALVES:
            console.print(comparison_table(comparison, scores, frame=frame, title="Overall"))
    console.print("Does a hypothesis beat its controls?", style="bold")
    for line in conclusions(comparison, frame):
        console.print(f"  {line}", markup=False)


def headline(comparison: Comparison) -> list[str]:
    """What was compared, in a few lines."""
    facts, episode = comparison.provenance["model"], comparison.provenance["episode"]
    rates = {
        name: described["delta"]["lr"]
        for name, described in comparison.provenance["hypotheses"].items()
        if "lr" in described.get("delta", {})
    }
    lines = [
        f"{facts['name']} ({facts['host']}, {facts['n_layers']} layers, {facts['n_heads']} heads, "
        f"{facts['dtype']}, {facts['device']})",
        f"{episode['task']}: {episode.get('shots', '?')} demonstrations (seed "
        f"{episode.get('seed', '?')}), {episode['queries']} queries from "
        f"{_source(episode)}; protocol {comparison.provenance['protocol']['name']}",
    ]
    if rates:
        each = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
        lines.append(f"learning rate: {each}")
    return lines


def _source(episode: dict[str, Any]) -> str:
    data = str(episode.get("data", "tokens"))
    return {"embedded": "the embedded rows", "hub": "the Hub"}.get(data, data)


def conclusions(comparison: Comparison, frame: pd.DataFrame) -> list[str]:
    """The verdicts, after what has to be known to read them."""
    from iclgd_lens.tables import aggregate_cells, verdicts

    lines = [verdict.text for verdict in verdicts(frame)]
    cells = aggregate_cells(frame)
    zs, icl = cells.get(("ZS", "accuracy")), cells.get(("ICL", "accuracy"))
    if zs is not None and icl is not None and not icl.ci_low > zs.ci_high:
        lines.append(
            f"Demonstrations did not clearly help this model (accuracy {zs.value:.2f} without, "
            f"{icl.value:.2f} with): whatever the scores say, they explain no in-context learning."
        )
    for score in ("SimAOU", "SimAM"):
        oracle = cells.get(("oracle", score))
        if oracle is not None and not oracle.value > 0.999:
            lines.append(
                f"The oracle's {score} is {oracle.value:.4f} instead of 1: do not trust this run."
            )
    return lines


def _fits(console: Console, table: Table) -> bool:
    from rich.measure import Measurement

    wide = console.options.update(width=10_000)
    return Measurement.get(console, wide, table).maximum <= console.width
