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
from iclgd_lens.report.view import View, where
from iclgd_lens.scores import SCORES
from iclgd_lens.subjects import SETTINGS

HEAD_INTERVAL_LIMIT = 300_000
"""Heads above which the page goes without their intervals, which stay in figures.csv."""


def pictures(view: View) -> list[Picture]:
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
        Picture(name, title, selects, tuple(make(view))) for name, title, selects, make in makers
    )
    return [each for each in made if each.choices]


_MT, _MTS = ("Model", "Task"), ("Model", "Task", "Score")


def _trajectories(view: View) -> Iterator[Choice]:
    if "trajectory" in view.more:
        path = figures.against_behaviour(view.more["trajectory"])
        parts = _indices(path, ("model", "task", "score"))
        for key in _in_order(view, parts):
            model, task, score = key
            said = (
                f"{score} as training goes on, {task}, {model}: each point is a number of passes."
            )
            yield Choice(key, said, figures.trajectory.spec(path.take(parts[key]), score=score))


def _behaviour(view: View) -> Iterator[Choice]:
    import pandas as pd

    shares = [s for s in view.scores if s in SCORES and SCORES[s].span.startswith("0 to 1")]
    shown = [s for s in shares if any(k[3] == s and k[2] in SETTINGS for k in view.readings)]
    names = sorted((n for n in view.hypotheses if rank(n) in (0, 2)), key=lambda n: -rank(n))
    for model in view.models:
        for task in view.tasks_of(model):
            rows = [
                {"hypothesis": name, "score": score, "value": r.value, "ci_low": r.low,
                 "ci_high": r.high}
                for name in names for score in shown
                if (r := view.reading(model, task, name, score)) is not None
            ]  # fmt: skip
            if rows:
                scores = list(dict.fromkeys(str(row["score"]) for row in rows))
                said = f"{listed(scores)} on {task}, {model}."
                spec = figures.behaviour_bars.spec(pd.DataFrame(rows))
                yield Choice((model, task), said, spec)


def _means(view: View) -> Iterator[Choice]:
    whole = where(view.lines, view.lines["layer"].isna() & view.lines["head"].isna())
    parts = {key: part for key, part in whole.groupby(["model", "score"], observed=True)}
    for model in view.models:
        for score in view.scores:
            if (model, score) in parts:
                said = f"{score} by task, {model}, with intervals: {score_meaning(score)}."
                yield Choice((model, score), said, figures.means.spec(parts[model, score]))


def _layers(view: View) -> Iterator[Choice]:
    layered = where(view.lines, view.lines["layer"].notna() & view.lines["head"].isna())
    parts = _indices(layered, _HEAD_KEYS[:2] + _HEAD_KEYS[3:])
    for key in _in_order(view, parts):
        model, task, score = key
        said = f"{score} by layer on {task}, {model}; bands are intervals."
        yield Choice(key, said, figures.layer_profiles.spec(layered.take(parts[key])))


def _in_order(view: View, keys: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Keys that begin with a model and a task and end with a score, in the view's order."""

    def place(key: tuple[str, ...]) -> tuple[int, ...]:
        names = (view.models, view.tasks, view.scores)
        found = (order.index(each) for order, each in zip(names, (*key[:2], key[-1]), strict=True))
        return tuple(found)

    return sorted(keys, key=place)


def _heads(view: View) -> Iterator[Choice]:
    maps = _maps(view)
    own = [key for key in _in_order(view, maps) if rank(key[2]) == 0]
    whole = sum(maps[key][0].size for key in own) <= HEAD_INTERVAL_LIMIT
    marks = {key: part for key, part in groups(view, "heads", _HEAD_KEYS)}
    for key in own:
        model, task, name, score = key
        panels = {label(name): maps[key]}
        for other_model, other in view.twins(model, name)[:1]:
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
        said = f"{score} of {label(name)} by layer and head on {task}, {model}; one colour scale."
        if key in marks:
            said += " A diamond: shown after correction for all heads."
        if not whole:
            said += " Intervals would make this page too large; they are in figures.csv."
        yield Choice((model, task, score, label(name)), said, spec)


def _maps(view: View) -> dict[tuple[str, ...], tuple[Any, Any, Any]]:
    """Value, low and high [layer head], by (model, task, hypothesis, score)."""
    frame = where(view.lines, view.lines["head"].notna())
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


def _training(view: View) -> Iterator[Choice]:
    import pandas as pd

    rows: dict[tuple[str, str], dict[Any, dict[str, Any]]] = {}
    for model, score, name, task, other_model, other in view.twin_places():
        for at, who in ((model, name), (other_model, other)):
            reading = view.reading(at, task, who, score)
            shown = who if at == model else f"{who}@untrained"
            if reading is not None:
                rows.setdefault((model, score), {})[task, shown] = {
                    "task": task, "hypothesis": shown, "of": name, "value": reading.value,
                    "ci_low": reading.low, "ci_high": reading.high,
                }  # fmt: skip
    for (model, score), lines in rows.items():
        said = f"{score}, {model}: filled marks are the trained model, open marks untrained twins."
        spec = figures.trained_untrained.spec(pd.DataFrame(list(lines.values())), score=score)
        yield Choice((model, score), said, spec)


def _nulls(view: View) -> Iterator[Choice]:
    for key, part in groups(view, "nulls", ("model", "task", "score")):
        model, task, score = key
        names = dict.fromkeys(str(each) for each in part["hypothesis"])
        observed = {n: r.value for n in names if (r := view.reading(model, task, n, score))}
        said = f"{score} on {task}, {model}: every draw of each control beside the observed value."
        yield Choice(key, said, figures.nulls.spec(part, observed, score=score))


def _forests(view: View) -> Iterator[Choice]:
    import pandas as pd

    for model in view.models:
        for score in view.scores:
            own = [d for d in view.differences if (d.model, d.score) == (model, score)]
            own = sorted(own, key=lambda d: [d.a, d.b])
            known = [vars(d) for d in own if not math.isnan(d.difference)]
            if known:
                frame = pd.DataFrame(known).rename(columns={"p": "p_corrected"})
                said = f"Differences in {score}, {model}, marked by whether a is better than b."
                yield Choice((model, score), said, figures.forest.spec(frame, score=score))


def _rates(view: View) -> Iterator[Choice]:
    import pandas as pd

    losses: dict[tuple[str, str], dict[tuple[str, float], list[float]]] = {}
    chosen: dict[tuple[str, str], dict[str, list[float]]] = {}
    for each in view.provenance.get("chosen_rates") or ():
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
        said = f"Loss of left-out demonstrations, {place[1]}, {place[0]}; rings are chosen rates."
        yield Choice(place, said, figures.rate_curve.spec(pd.DataFrame(rows), chosen=chosen[place]))


def _norms(view: View) -> Iterator[Choice]:
    for key, part in groups(view, "norms", ("model", "task")):
        said = f"Norms of the changes on {key[1]}, {key[0]}, query by query."
        yield Choice(key, said, figures.norms.spec(part))


def _attention(view: View) -> Iterator[Choice]:
    for key, part in groups(view, "attention", ("model", "task")):
        said = f"Attention of the readout token on {key[1]}, {key[0]}."
        yield Choice(key, said, figures.attention.spec(part))
