"""Tidy tables of a comparison beside its `frame()`: queries, verdicts, gate, heads, nulls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from iclgd_lens.results.conclusions import Conclusions
from iclgd_lens.results.lookup import arrays_of, scores_by_head
from iclgd_lens.results.parts import Parts
from iclgd_lens.scores import CHANGE_NORMS, FACTS, LABEL_CONTRAST, SCORES, primary_scores
from iclgd_lens.subjects import TRAINED, Subject, rivals
from iclgd_lens.verdicts.statistics import nanmean

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def tensors(parts: Parts) -> dict[str, dict[str, Tensor]]:
    """Every query's values by label and score; see `Comparison.values`."""
    import torch

    found: dict[str, dict[str, Tensor]] = {}
    for label in parts.subjects:
        series = parts.series[label]
        names = dict.fromkeys(name for _, measured in series for name in measured)
        for name in names:
            arrays = [measured[name] for _, measured in series if name in measured]
            found.setdefault(label, {})[name] = torch.from_numpy(np.concatenate(arrays))
    return found


def query_frame(parts: Parts, score: str | None, hypothesis: str | None) -> pd.DataFrame:
    """Every query's own values; see `Comparison.queries`."""
    import pandas as pd

    lines: list[pd.DataFrame] = []
    for label, series in parts.series.items():
        if hypothesis not in (None, label):
            continue
        for part, measured in series:
            names = part.queries or tuple(range(len(part.gold)))
            for name, value in measured.items():
                base, _, _ = name.partition("/")
                if base in FACTS or score not in (None, base):
                    continue
                lines.append(
                    _long(value).assign(
                        hypothesis=label, score=base, draw=part.draw, network=part.index,
                        query=np.asarray(names)[_places(value)], gold=part.gold[_places(value)],
                    )
                )  # fmt: skip
    columns = [
        "hypothesis", "score", "layer", "head", "draw", "network", "query", "gold", "value",
    ]  # fmt: skip
    if not lines:
        return pd.DataFrame(columns=columns)
    frame = pd.concat(lines, ignore_index=True)[columns]
    return frame.astype({"layer": "Int64", "head": "Int64"})


def partial_layer_frame(parts: Parts) -> pd.DataFrame:
    """What is left out of means over layers, and why; see `Comparison.partial_layers`."""
    import pandas as pd

    columns = ["hypothesis", "score", "layer", "lacking"]
    return pd.DataFrame(list(parts.common_layers.partial()), columns=columns)


def verdict_frame(conclusions: Conclusions) -> pd.DataFrame:
    """Verdicts as a table: those of `Verdict.as_dict`, the interval in two columns."""
    import pandas as pd

    columns = [
        "hypothesis", "score", "control", "verdict", "p", "ci_low", "ci_high", "why", "robust",
        "over_queries",
    ]  # fmt: skip
    lines: list[dict[str, Any]] = []
    for verdict in conclusions.verdicts():
        low, high = verdict.interval or (np.nan, np.nan)
        lines.append({**verdict.as_dict(), "ci_low": low, "ci_high": high})
    return pd.DataFrame(lines, columns=columns)


def gate_frame(conclusions: Conclusions) -> pd.DataFrame:
    """The gate as a table of one line: its answers, each measure in each setting, the sentence."""
    import pandas as pd

    gate = conclusions.gate()
    if gate is None:
        return pd.DataFrame()
    facts = gate.as_dict()
    line: dict[str, Any] = {"learns": facts["learns"], "ruled_out": gate.ruled_out}
    line |= {key: facts[key] for key in ("uses_labels", "uses_format")}
    for setting, measures in gate.settings.items():
        for name, found in measures.items():
            line[f"{name}_{setting}"] = found.value
    return pd.DataFrame([line | {"sentence": gate.sentence}])


def behaviour_frame(conclusions: Conclusions) -> pd.DataFrame:
    """What each hypothesis does to the answers, as a table."""
    import pandas as pd

    columns = ["hypothesis", "classifies_better", "comes_nearer", "kl_removed", "sentence"]
    found = [each.as_dict() for each in conclusions.behaviour()]
    return pd.DataFrame(found, columns=columns)


def difference_frame(lines: list[dict[str, Any]]) -> pd.DataFrame:
    """Lines of `Conclusions.differences` as a table."""
    import pandas as pd

    columns = [
        "score", "kind", "a", "b", "difference", "ci_low", "ci_high", "p_value", "p_corrected", "n",
        "method", "verdict",
    ]  # fmt: skip
    return pd.DataFrame(lines, columns=columns)


def _places(value: Any) -> Any:
    """The query of each line of `_long`."""
    return np.indices(value.shape).reshape(value.ndim, -1)[0]


def _long(value: Any) -> pd.DataFrame:
    """[query], [query layer] or [query layer head] as lines."""
    import pandas as pd

    grid = np.indices(value.shape).reshape(value.ndim, -1)
    missing = [None] * grid.shape[1]
    return pd.DataFrame(
        {
            "layer": grid[1] if value.ndim > 1 else missing,
            "head": grid[2] if value.ndim > 2 else missing,
            "value": value.ravel(),
        }
    )


def top_heads(
    parts: Parts, score: str, hypothesis: str, k: int, control: str | None
) -> pd.DataFrame:
    """Heads picked on one half of the queries and scored on the other; see `Comparison`."""
    import pandas as pd

    def halves(label: str) -> tuple[Any, Any]:
        arrays = [each.astype(np.float64) for each in arrays_of(parts, score, label, "head")]
        first, second = (
            nanmean(np.stack([nanmean(a[half::2], 0) for a in arrays]), 0) for half in (0, 1)
        )
        return first, second

    picked, scored = halves(hypothesis)
    rivals_here = rivals(hypothesis, parts.series)
    known = [label for label in rivals_here if score in scores_by_head(parts, label)]
    beside = control or next(iter(known), None)
    other = halves(beside)[1] if beside is not None else np.full_like(scored, np.nan)
    order = np.argsort(np.where(np.isfinite(picked), -picked, np.inf), axis=None)[:k]
    layers, heads = np.unravel_index(order, picked.shape)
    frame = pd.DataFrame(
        {
            "layer": layers, "head": heads, "selected_on": picked[layers, heads],
            "value": scored[layers, heads], "control": other[layers, heads],
            "control_label": beside,
        }
    )  # fmt: skip
    frame.attrs = {"score": score}
    return frame


def trajectory_frame(parts: Parts, scores: Sequence[str] | None) -> pd.DataFrame:
    """Scores along the training; see `Comparison.trajectory`."""
    import pandas as pd

    wanted = tuple(scores or (*primary_scores(), "SimAOU", "SimAM", "KL_removed", "AUC"))
    columns = ["hypothesis", "rule", "control", "network", "draw", "passes", "score", "value"]
    lines: list[dict[str, Any]] = []
    for part in parts.parts:
        for own, stages in part.trajectory.items():
            label = part.label(own)
            subject = Subject.parse(label)
            for passes, measured in stages.items():
                at = [(part, measured)]
                where = {
                    "hypothesis": label, "rule": subject.rule, "control": subject.control,
                    "network": part.index, "draw": part.draw, "passes": passes,
                }  # fmt: skip
                lines += [
                    where | {"score": score, "value": parts.aggregate(score, at, label)}
                    for score in wanted
                    if score in measured or SCORES[score].fact in measured
                ]
    return pd.DataFrame(lines, columns=columns)


def head_frame(conclusions: Conclusions, score: str = LABEL_CONTRAST) -> pd.DataFrame:
    """Which heads survive correction for their number, by hypothesis."""
    import pandas as pd

    columns = ["hypothesis", "score", "layer", "head", "value", "p_corrected", "shown"]
    lines: list[dict[str, Any]] = []
    parts = conclusions.parts
    for label in parts.hypotheses:
        if all(f"{score}/head" not in measured for _, measured in parts.series[label]):
            continue
        for line in conclusions.head_map(score, label):
            shown = bool(line["p_corrected"] < 0.05)
            lines.append({**line, "hypothesis": label, "score": score, "shown": shown})
    return pd.DataFrame(lines, columns=columns)


def null_frame(parts: Parts) -> pd.DataFrame:
    """What each control of each hypothesis scores, draw by draw or network by network."""
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for hypothesis in parts.hypotheses:
        for label in rivals(hypothesis, parts.series):
            for score in (*primary_scores(), "SimAOU"):
                if score not in parts.scores(label):
                    continue
                values = parts.per_unit(score, label, hypothesis)
                lines += [
                    {"hypothesis": hypothesis, "score": score, "control": label, "value": value}
                    for value in values[np.isfinite(values)].tolist()
                ]
    return pd.DataFrame(lines, columns=["hypothesis", "score", "control", "value"])


def norm_frame(parts: Parts, draw: int = 0) -> pd.DataFrame:
    """How large ICL's change is and each hypothesis's, query by query, on one draw."""
    import pandas as pd

    lines: list[dict[str, Any]] = []
    for hypothesis in parts.hypotheses:
        for part, measured in parts.series[hypothesis]:
            if CHANGE_NORMS not in measured or (part.network, part.draw) != (TRAINED, draw):
                continue
            names = part.queries or tuple(range(len(part.gold)))
            lines += [
                {"hypothesis": hypothesis, "query": query, "icl_norm": icl, "ft_norm": ft}
                for query, (icl, ft) in zip(
                    names, measured[CHANGE_NORMS].astype(np.float64).tolist(), strict=True
                )
            ]
    return pd.DataFrame(lines, columns=["hypothesis", "query", "icl_norm", "ft_norm"])
