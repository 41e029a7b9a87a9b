"""The rule's answers about a hypothesis: control by control, and to all of them together."""

from __future__ import annotations

from collections.abc import Sequence

from iclgd_lens.report.run_records import PairVerdict, RunRecords


def verdicts_by_task(
    run: RunRecords, model: str, name: str, score: str
) -> dict[str, list[PairVerdict]]:
    """The verdicts on a hypothesis, one per control, by task."""
    found: dict[str, list[PairVerdict]] = {}
    for each in run.verdicts:
        if (each.model, each.a, each.score) == (model, name, score):
            found.setdefault(each.task, []).append(each)
    return found


def overall_answer(run: RunRecords, lines: Sequence[PairVerdict]) -> str:
    """One answer to all controls: the rule's own, else yes if all say so, and no if one does."""
    first = lines[0]
    given = run.overall.get((first.model, first.task, first.a, first.score))
    verdicts = {each.verdict for each in lines}
    if given or verdicts == {"yes"}:
        return given or "yes"
    return next((each for each in ("not applicable", "no") if each in verdicts), "undecided")
