"""What a task asks is shown beside it by no other task, whatever the template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import iclgd_lens as lens
from iclgd_lens.bench.drawn_rows import Draws
from iclgd_lens.bench.plan import parse_plan
from iclgd_lens.errors import RowsError
from iclgd_lens.nulls import other_task
from iclgd_lens.tasks import (
    Task,
    asked_elsewhere,
    draw_demonstrations,
    get_task,
    hash_rows,
    list_tasks,
    load_rows,
)

SHORT = Task("short", "Review: {text} Sentiment:", ["no", "yes"])
PAIR = Task("pair", "{premise} (so?) {hypothesis} Answer:", ["false", "true"])


def rows(task: Task, texts: list[Any]) -> Any:
    columns = [dict(zip(task.columns, each, strict=True)) | {"label": 0} for each in texts]
    return load_rows(task, "train", columns)


def test_texts_are_compared_without_templates_case_spaces_and_punctuation() -> None:
    asked = rows(SHORT, [("A fine film .",), ("It's (so?) short",), ("another",)])
    other = Task("other", "Sentence: {text} Label:", ["no", "yes"])
    shown = rows(other, [("a fine film!",), ("Its so short",), ("a fine",), ("Another one",)])
    assert asked_elsewhere(shown, other, asked, SHORT) == {0, 1}
    pairs = rows(PAIR, [("A fine", "film."), ("a", "b"), ("an", "other")])
    assert asked_elsewhere(pairs, PAIR, asked, SHORT) == {0, 2}
    assert asked_elsewhere(asked, SHORT, pairs, PAIR) == {0, 2}


@pytest.mark.parametrize("balanced", [False, True])
def test_rows_that_are_passed_over_leave_the_others_in_their_order(balanced: bool) -> None:
    table = load_rows(SHORT, "train", [{"text": f"t{i}", "label": i % 2} for i in range(40)])
    whole = draw_demonstrations(table, 8, seed=3, balanced=balanced)
    assert draw_demonstrations(table, 8, seed=3, balanced=balanced, exclude={99}) == whole
    out = {whole[0].index, whole[5].index}
    fewer = draw_demonstrations(table, 8, seed=3, balanced=balanced, exclude=out)
    assert not out & {row.index for row in fewer}
    assert [row for row in fewer if row in whole] == [row for row in whole if row.index not in out]
    with pytest.raises(RowsError, match="has 38 rows"):
        draw_demonstrations(table, 40, seed=3, exclude=out)


# -- shipped tasks ---------------------------------------------------------------------------------


def test_another_task_is_one_of_another_concept() -> None:
    sentiment = {"mr", "sst2", "sst5"}
    for name in list_tasks():
        task = get_task(name)
        assert task.other_task is not None
        other = get_task(task.other_task)
        assert not set(task.labels) & set(other.labels)
        assert not {name, other.name} <= sentiment
    assert get_task("mr").other_task == "subj"


# -- episodes and plans --------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Every row that Subj's train split has is a query of MR but for the last twelve."""
    before, _, after = get_task("subj").prompt.partition("{text}")
    known = load_rows("subj", "train", "embedded").examples  # in words that the model reads
    subjective = [row.prompt.removeprefix(before).removesuffix(after) for row in known[:40]]
    assert len(set(subjective)) == 40
    write(tmp_path / "subj/train.jsonl", subjective)
    write(tmp_path / "mr/train.jsonl", [f"training row {i}" for i in range(40)])
    write(tmp_path / "mr/validation.jsonl", [each.upper() + " !" for each in subjective[:28]])
    write(tmp_path / "subj/validation.jsonl", [f"query {i}" for i in range(40)])
    return tmp_path


def write(path: Path, texts: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    lines = [json.dumps({"text": text, "label": place % 2}) for place, text in enumerate(texts)]
    path.write_text("\n".join(lines), encoding="utf-8")


def test_no_auxiliary_demonstration_is_a_query(folder: Path) -> None:
    model = lens.load_model("embedded")
    data = str(folder)
    draws = lens.load_episodes(
        "mr", model, draws=3, shots=4, queries=8, data=data, auxiliary=["subj"]
    )
    every = lens.load_demonstrations("subj", model, shots=40, data=data)
    written = [every.examples[place].content for place in every.drawn]
    rows = draw_demonstrations(load_rows("subj", "train", data), 40, seed=0, balanced=True)
    asked = {content for content, row in zip(written, rows, strict=True) if row.index < 28}
    assert len(asked) == 28
    assert len(set(written)) == 40
    for draw in draws:
        for shown in (draw.auxiliary[0], other_task(model, draw).demonstrations):
            contents = {example.content for example in shown.examples}
            assert len(contents) == 4
            assert contents <= set(written) - asked
    alone = lens.load_demonstrations("subj", model, shots=4, seed=0, data=data)
    own = lens.load_episodes("subj", model, shots=4, queries=8, data=data)[0].demonstrations
    assert alone.examples == own.examples, "what nobody asks beside it is drawn as ever"
    assert alone.examples != draws[0].auxiliary[0].examples


def test_plans_know_the_same_rows(folder: Path) -> None:
    data = str(folder)
    plan = parse_plan(
        {"name": "t", "models": ["embedded"], "tasks": ["mr", "subj"], "shots": 4, "queries": 8,
         "seeds": [0], "hypotheses": ["lcgd_initial"], "controls": ["other_task"],
         "protocol": {"balanced": False}}
    )  # fmt: skip
    draws = Draws(plan)
    train = load_rows("subj", "train", data)
    expected = draw_demonstrations(train, 4, seed=0, exclude=range(28))
    assert {row.index for row in expected} <= set(range(28, 40))
    assert draws.auxiliary("mr", data, 0, 4)[0][2] == hash_rows(expected)
    assert draws.other(get_task("mr"), data, 0, 4)[1] == hash_rows(expected)
    # The other way round nothing is asked elsewhere.
    plain = hash_rows(draw_demonstrations(load_rows("mr", "train", data), 4, seed=0))
    assert draws.auxiliary("subj", data, 0, 4)[0][2] == plain
