"""The page's figures: for each, what can be chosen, and the drawing of every choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from iclgd_lens import figures
from iclgd_lens.display_names import label, rank, score_meaning
from iclgd_lens.phrases import listed
from iclgd_lens.report.causal_figures import FACTOR_FIGURE, HEAD_FIGURES
from iclgd_lens.report.figure_choices import Choice, Maker, Picture, groups
from iclgd_lens.report.run_frames import lines_where
from iclgd_lens.report.run_records import RunRecords
from iclgd_lens.results.display import aggregates
from iclgd_lens.scores import SCORES
from iclgd_lens.subjects import SETTINGS

HEAD_INTERVAL_LIMIT = 300_000
"""Heads above which the page goes without their intervals, which stay in figures.csv."""


def pictures(run: RunRecords) -> list[Picture]:
    """Every figure that the run has something for, in the page's order."""
    makers: tuple[Maker, ...] = (
        ("trajectory", "Trajectory: does attention follow behaviour?", _MTS, _trajectories),
        ("behaviour", "What the model answers", _MT, _behaviour),
        ("means", "Scores by task", ("Model", "Score"), _means),
        ("layers", "By layer", _MTS, _layers),
        ("heads", "By layer and head", (*_MTS, "Hypothesis"), _heads),
        ("training", "Trained beside untrained", ("Model", "Score"), _training),
        ("nulls", "Controls' draws and the observed value", _MTS, _nulls),
        ("differences", "Paired differences", ("Model", "Score"), _forests),
        ("rates", "Learning rates", _MT, _rates),
        ("norms", "Sizes of the changes", _MT, _norms),
        ("attention", "Attention of the readout token", _MT, _attention),
        FACTOR_FIGURE,
        *HEAD_FIGURES,
    )
    made = (
        Picture(name, title, selects, tuple(make(run))) for name, title, selects, make in makers
    )
    return [each for each in made if each.choices]


_MT, _MTS = ("Model", "Task"), ("Model", "Task", "Score")


def _trajectories(run: RunRecords) -> Iterator[Choice]:
    if "trajectory" in run.optional:
        path = figures.against_behaviour(run.optional["trajectory"])
        parts = _indices(path, ("model", "task", "score"))
        for key in _in_order(run, parts):
            model, task, score = key
            caption = (
                f"{score} as training goes on, {task}, {model}: each point is a number of passes."
            )
            yield Choice(key, caption, figures.trajectory.spec(path.take(parts[key]), score=score))


def _behaviour(run: RunRecords) -> Iterator[Choice]:
    import pandas as pd

    shares = [s for s in run.scores if s in SCORES and SCORES[s].span.startswith("0 to 1")]
    shown = [s for s in shares if any(k[3] == s and k[2] in SETTINGS for k in run.readings)]
    names = sorted((n for n in run.hypotheses if rank(n) in (0, 2)), key=lambda n: -rank(n))
    for model in run.models:
        for task in run.tasks_of(model):
            rows = [
                {"hypothesis": name, "score": score, "value": r.value, "ci_low": r.low,
                 "ci_high": r.high}
                for name in names for score in shown
                if (r := run.reading(model, task, name, score)) is not None
            ]  # fmt: skip
            if rows:
                scores = list(dict.fromkeys(str(row["score"]) for row in rows))
                caption = f"{listed(scores)} on {task}, {model}."
                spec = figures.behaviour_bars.spec(pd.DataFrame(rows))
                yield Choice((model, task), caption, spec)


def _means(run: RunRecords) -> Iterator[Choice]:
    whole = aggregates(run.lines)
    parts = {key: part for key, part in whole.groupby(["model", "score"], observed=True)}
    for model in run.models:
        for score in run.scores:
            if (model, score) in parts:
                caption = f"{score} by task, {model}, with intervals: {score_meaning(score)}."
                yield Choice((model, score), caption, figures.means.spec(parts[model, score]))


def _layers(run: RunRecords) -> Iterator[Choice]:
    layered = lines_where(run.lines, run.lines["layer"].notna() & run.lines["head"].isna())
    parts = _indices(layered, _HEAD_KEYS[:2] + _HEAD_KEYS[3:])
    for key in _in_order(run, parts):
        model, task, score = key
        caption = f"{score} by layer on {task}, {model}; bands are intervals."
        yield Choice(key, caption, figures.layer_profiles.spec(layered.take(parts[key])))


def _in_order(run: RunRecords, keys: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Keys that begin with a model and a task and end with a score, in the run's order."""

    def place(key: tuple[str, ...]) -> tuple[int, ...]:
        names = (run.models, run.tasks, run.scores)
        found = (order.index(each) for order, each in zip(names, (*key[:2], key[-1]), strict=True))
        return tuple(found)

    return sorted(keys, key=place)


def _heads(run: RunRecords) -> Iterator[Choice]:
    maps = _maps(run)
    own = [key for key in _in_order(run, maps) if rank(key[2]) == 0]
    whole = sum(maps[key][0].size for key in own) <= HEAD_INTERVAL_LIMIT
    marks = {key: part for key, part in groups(run, "heads", _HEAD_KEYS)}
    for key in own:
        model, task, name, score = key
        panels = {label(name): maps[key]}
        for other_model, other in run.twins(model, name)[:1]:
            title = label(other) if other_model == model else other_model
            if (other_model, task, other, score) in maps:
                panels[title] = maps[other_model, task, other, score]
        values: dict[str, Any] = {title: each[0] for title, each in panels.items()}
        if len(values) == 2 and len({each.shape for each in values.values()}) == 1:
            first, second = values.values()
            values["difference"] = first - second
        spec = figures.head_maps.spec(
            values, score=score, shown=_marked(marks.get(key), maps[key][0].shape),
            intervals={title: each[1:] for title, each in panels.items()} if whole else None,
        )  # fmt: skip
        caption = f"{score} of {label(name)} by layer and head on {task}, {model}"
        caption += "; one colour scale."
        if key in marks:
            caption += " A diamond: shown after correction for all heads."
        if not whole:
            caption += " Intervals would make this page too large; they are in figures.csv."
        yield Choice((model, task, score, label(name)), caption, spec)


def _maps(run: RunRecords) -> dict[tuple[str, ...], tuple[Any, Any, Any]]:
    """Value, low and high [layer head], by (model, task, hypothesis, score)."""
    frame = lines_where(run.lines, run.lines["head"].notna())
    layer, head = (frame[name].to_numpy(dtype=int) for name in ("layer", "head"))
    columns = [
        frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        for name in ("value", "ci_low", "ci_high")
    ]
    found: dict[tuple[str, ...], tuple[Any, Any, Any]] = {}
    for key, rows in _indices(frame, _HEAD_KEYS).items():
        value, low, high = (
            np.full((layer[rows].max() + 1, head[rows].max() + 1), np.nan) for _ in columns
        )
        for each, column in zip((value, low, high), columns, strict=True):
            each[layer[rows], head[rows]] = column[rows]
        found[tuple(str(each) for each in key)] = (value, low, high)
    return found


def _indices(frame: Any, keys: Sequence[str]) -> dict[Any, Any]:
    """Rows of a frame by the values of some columns."""
    return frame.groupby(list(keys), sort=False, observed=True).indices


_HEAD_KEYS = ("model", "task", "hypothesis", "score")


def _marked(part: Any, shape: tuple[int, ...]) -> Any:
    if part is None:
        return None
    marks = np.zeros(shape, np.bool_)
    marks[part["layer"].to_numpy(dtype=int), part["head"].to_numpy(dtype=int)] = part["shown"]
    return marks


def _training(run: RunRecords) -> Iterator[Choice]:
    import pandas as pd

    rows: dict[tuple[str, str], dict[Any, dict[str, Any]]] = {}
    for model, score, name, task, other_model, other in run.twin_places():
        for at, who in ((model, name), (other_model, other)):
            reading = run.reading(at, task, who, score)
            shown = who if at == model else f"{who}@untrained"
            if reading is not None:
                rows.setdefault((model, score), {})[task, shown] = {
                    "task": task, "hypothesis": shown, "of": name, "value": reading.value,
                    "ci_low": reading.low, "ci_high": reading.high,
                }  # fmt: skip
    for (model, score), lines in rows.items():
        marked = "filled marks are the trained model, open marks untrained twins"
        caption = f"{score}, {model}: {marked}."
        spec = figures.trained_untrained.spec(pd.DataFrame(list(lines.values())), score=score)
        yield Choice((model, score), caption, spec)


def _nulls(run: RunRecords) -> Iterator[Choice]:
    for key, part in groups(run, "nulls", ("model", "task", "score")):
        model, task, score = key
        names = dict.fromkeys(str(each) for each in part["hypothesis"])
        observed = {n: r.value for n in names if (r := run.reading(model, task, n, score))}
        shown = "every draw of each control beside the observed value"
        caption = f"{score} on {task}, {model}: {shown}."
        yield Choice(key, caption, figures.nulls.spec(part, observed, score=score))


def _forests(run: RunRecords) -> Iterator[Choice]:
    import pandas as pd

    for model in run.models:
        for score in run.scores:
            own = [d for d in run.differences if (d.model, d.score) == (model, score)]
            own = sorted(own, key=lambda d: [d.a, d.b])
            known = [vars(d) for d in own if not math.isnan(d.difference)]
            if known:
                frame = pd.DataFrame(known).rename(columns={"p": "p_corrected"})
                caption = f"Differences in {score}, {model}, marked by whether a is better than b."
                yield Choice((model, score), caption, figures.forest.spec(frame, score=score))


def _rates(run: RunRecords) -> Iterator[Choice]:
    import pandas as pd

    losses: dict[tuple[str, str], dict[tuple[str, float], list[float]]] = {}
    chosen: dict[tuple[str, str], dict[str, list[float]]] = {}
    for each in run.provenance.get("chosen_rates") or ():
        place = (str(each["model"]), str(each["task"]))
        for name, facts in each["rates"].items():
            chosen.setdefault(place, {}).setdefault(name, []).append(float(facts["lr"]))
            for rate, loss in (facts.get("held_out_loss") or {}).items():
                losses.setdefault(place, {}).setdefault((name, float(rate)), []).append(loss)
    for place, points in losses.items():
        rows = [
            {"hypothesis": name, "lr": rate, "measure": "held-out loss, nats",
             "value": float(np.mean(values))}
            for (name, rate), values in points.items()
        ]  # fmt: skip
        model, task = place
        caption = f"Loss of left-out demonstrations, {task}, {model}; rings are chosen rates."
        spec = figures.rate_curve.spec(pd.DataFrame(rows), chosen=chosen[place])
        yield Choice(place, caption, spec)


def _norms(run: RunRecords) -> Iterator[Choice]:
    for key, part in groups(run, "norms", ("model", "task")):
        caption = f"Norms of the changes on {key[1]}, {key[0]}, query by query."
        yield Choice(key, caption, figures.norms.spec(part))


def _attention(run: RunRecords) -> Iterator[Choice]:
    for key, part in groups(run, "attention", ("model", "task")):
        caption = f"Attention of the readout token on {key[1]}, {key[0]}."
        yield Choice(key, caption, figures.attention.spec(part))
