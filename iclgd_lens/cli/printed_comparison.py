"""What is printed of a comparison: the gate first, then behaviour, verdicts, and the numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iclgd_lens.cli.console import say
from iclgd_lens.phrases import count, partial_layer_sentences
from iclgd_lens.verdicts.verdict import OVERALL, Verdict

if TYPE_CHECKING:
    from rich.console import Console

    from iclgd_lens.results.comparison import Comparison


def as_json(comparison: Comparison) -> str:
    """One JSON document: the gate, verdicts, behaviour, budgets, provenance, every line."""
    gate = comparison.gate()
    document = {
        "in_context_learning": None if gate is None else gate.as_dict(),
        "verdicts": [verdict.as_dict() for verdict in comparison.verdicts()],
        "behaviour": [each.as_dict() for each in comparison.behaviour()],
        "warnings": warnings_of(comparison),
        "failures": dict(comparison.failures),
        "provenance": dict(comparison.provenance),
        "confidence": comparison.confidence,
        "resamples": comparison.resamples,
        "rows": [
            {key: _plain(value) for key, value in row.as_dict().items()}
            for row in comparison.rows()
        ],
    }
    return json.dumps(document, allow_nan=False, ensure_ascii=False, default=str)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def show(comparison: Comparison, console: Console, written: Path | None = None) -> None:
    """Print what was compared, and what may be said of it, before the numbers.

    Args:
        comparison: The comparison.
        console: Where to.
        written: The file that holds it, if there is one.
    """
    from iclgd_lens.results.display import comparison_table, layer_table

    for line in headline(comparison):
        say(console, line)
    for title, lines in paragraphs(comparison):
        say(console, "")
        say(console, title, style="bold")
        for line in lines:
            say(console, f"  {line}")
    frame = comparison.frame()
    console.print(comparison_table(comparison, frame=frame, title="Overall"))
    for name in comparison.data.hypotheses:
        title = f"By layer: {name}"
        console.print(layer_table(comparison, frame=frame, hypothesis=name, title=title))
    if written is not None:
        say(console, f"Written: {written}")


CARE = "Read with care"


def headline(comparison: Comparison) -> list[str]:
    """What was compared, in two lines."""
    facts, episode = comparison.provenance["model"], comparison.provenance["episode"]
    draws = len(comparison.data.draws)
    own = [part for part in comparison.parts if part.is_models_own]
    queries = len(own[0].gold) if own else 0
    return [
        f"{facts['name']} ({facts['host']}, {facts['n_layers']} layers, {facts['n_heads']} heads, "
        f"{facts['dtype']}, {facts['device']})",
        f"{episode['task']}: {count(draws, 'draw')} of {episode.get('shots', '?')} demonstrations, "
        f"{count(queries, 'query')} from {_source(episode)}; protocol "
        f"{comparison.provenance['protocol']['name']}",
    ]


def _source(episode: dict[str, Any]) -> str:
    data = str(episode.get("data", "tokens"))
    return {"embedded": "the embedded rows", "hub": "the Hub"}.get(data, data)


def paragraphs(comparison: Comparison) -> list[tuple[str, list[str]]]:
    """What may be said, in order: titles and lines."""
    gate = comparison.gate()
    found: list[tuple[str, list[str]]] = []
    if gate is not None:
        found.append(("Is there in-context learning?", list(gate.sentences)))
    found.append(("What does each update do to the answers?", behaviour_lines(comparison)))
    found.append(("Is it like in-context learning?", verdict_lines(comparison.verdicts())))
    alarms = warnings_of(comparison)
    if alarms:
        found.append((CARE, alarms))
    return [(title, lines) for title, lines in found if lines]


def behaviour_lines(comparison: Comparison) -> list[str]:
    """One line per hypothesis, its budget with it."""
    lines: list[str] = []
    for each in comparison.behaviour():
        budget = budget_of(comparison, each.hypothesis)
        lines.append(each.sentence + (f" Budget: {budget}" if budget else ""))
    return lines


def budget_of(comparison: Comparison, hypothesis: str) -> str:
    """How rate, epochs and loss were chosen, in the first draw."""
    facts = comparison.conclusions.described(hypothesis)
    if not facts:
        return ""
    budget = facts[0].get("budget")
    if budget:
        several = " (first draw)" if len(facts) > 1 else ""
        return str(budget.get("sentence") or budget.get("problem")).rstrip(".") + several + "."
    delta = facts[0].get("delta", {})
    return f"lr {delta['lr']:g}, epochs {delta.get('epochs', 1)}." if "lr" in delta else ""


def verdict_lines(verdicts: Sequence[Verdict]) -> list[str]:
    """The overall verdicts in words, each with its reason."""
    return [
        f"{each.hypothesis}, {each.score}: {each.verdict}. {each.why}"
        for each in verdicts
        if each.control == OVERALL
    ]


def warnings_of(comparison: Comparison) -> list[str]:
    """What would mislead a reader who does not know it."""
    found: list[str] = []
    if len(comparison.data.draws) == 1:
        found.append("One draw of demonstrations: nothing is known of other draws.")
    for facts in comparison.provenance.get("draws", []):
        found += [str(each) for each in facts.get("warnings", [])]
    for behaviour in comparison.behaviour():
        if behaviour.unchanged:
            found.append(
                f"{behaviour.hypothesis}: the update does nothing; scores of its change are noise."
            )
    found += partial_layer_sentences(comparison.partial_layers())
    found += _oracle_alarms(comparison)
    found += [f"{name}: {why}" for name, why in comparison.failures.items()]
    return list(dict.fromkeys(found))


def _oracle_alarms(comparison: Comparison) -> list[str]:
    if "oracle" not in comparison.data.subjects:
        return []
    found: list[str] = []
    for score in ("SimAOU", "SimAM"):
        values = comparison.data.per_unit(score, "oracle")
        low = min((float(value) for value in values if math.isfinite(value)), default=1.0)
        if low < 0.999:
            found.append(
                f"The oracle's {score} is {low:.4f} instead of 1: do not trust this result."
            )
    return found
