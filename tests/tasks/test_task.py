"""Task definitions: the six shipped ones, a user's own, and every way to get one wrong."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from iclgd_lens.errors import LensError, RowsError, TaskError
from iclgd_lens.tasks import Task, get_task, list_tasks
from tests import checks

SIX = ("agnews", "cb", "mr", "sst2", "sst5", "subj")
GOOD: dict[str, Any] = {"name": "toy", "prompt": "Text: {text} Label:", "labels": ("no", "yes")}


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_six_tasks_are_shipped() -> None:
    assert list_tasks() == SIX


# The published settings, restated from the paper: learning rate, seeds, GD and LCGD
# (SimAOU, SimAM), then untrained GD.
PUBLISHED = {
    "sst2": (5e-4, (2, 3, 4), (0.111, 0.150), (0.223, 0.299), (0.114, 0.085)),
    "sst5": (1.6e-4, (5, 6, 7), (0.092, 0.308), (0.107, 0.326), (0.062, 0.034)),
    "mr": (3e-3, (5, 6, 7), (0.216, 0.139), (0.328, 0.263), (0.246, 0.177)),
    "subj": (3e-3, (4, 5, 6), (0.177, 0.254), (0.345, 0.322), (0.202, 0.160)),
    "agnews": (0.2, (3, 4, 5), (0.308, 0.505), (0.327, 0.432), None),
    "cb": (0.08, (3, 4, 5), (0.205, 0.246), (0.344, 0.382), (0.012, 0.054)),
}


@pytest.mark.parametrize("name", SIX)
def test_published_settings(name: str) -> None:
    task = get_task(name)
    rate, seeds, gd, lcgd, untrained = PUBLISHED[name]
    assert task.name == name
    assert (task.learning_rate, task.seeds) == (rate, seeds)
    pairs = {k: (v["SimAOU"], v["SimAM"]) for k, v in task.published.items()}
    expected = {"gd": gd, "lcgd": lcgd, "gd_untrained": untrained}
    assert pairs == {k: v for k, v in expected.items() if v}
    assert task.hub_id
    assert task.citation
    assert task.evaluation_split == ("test" if name in ("agnews", "subj") else "validation")


def test_prompts_and_words() -> None:
    assert get_task("sst2").prompt_for({"sentence": "fine "}) == "Sentence: fine Label:"
    assert get_task("mr").prompt_for({"text": "fine"}) == "Review: fine Sentiment:"
    assert get_task("subj").prompt_for({"text": "it"}) == "Input: it Type:"
    cb = get_task("cb")
    assert cb.columns == ("premise", "hypothesis")
    assert (
        cb.prompt_for({"premise": "A.", "hypothesis": "B", "idx": 3})
        == "A. Question: B. True, False, or Neither? Answer:"
    )
    assert [cb.label_word(i) for i in range(3)] == ["True", "False", "Neither"]
    assert get_task("sst5").labels == ("terrible", "bad", "neutral", "good", "great")
    assert get_task("agnews").label_word(3) == "Technology"


def test_whitespace_is_stripped_at_the_ends_alone_and_can_be_kept() -> None:
    sst2 = get_task("sst2")
    assert sst2.prompt_for({"sentence": " a  b\tc \n"}) == "Sentence: a  b\tc Label:"
    assert sst2.prompt_for({"sentence": "high "}, strip=False) == "Sentence: high  Label:"


def test_braces_in_a_value_are_not_fields() -> None:
    assert Task(**GOOD).prompt_for({"text": "{label} {0.__class__}"}) == (
        "Text: {label} {0.__class__} Label:"
    )


def test_repeated_field_and_literal_braces() -> None:
    task = Task("toy", "{{x}} {a} {b} {a}:", ("no", "yes"))
    assert task.columns == ("a", "b")
    assert task.prompt_for({"a": "1", "b": "2"}) == "{x} 1 2 1:"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"txt": "a"}, r"column 'text' is missing \(columns: txt\). Did you mean 'txt'\?$"),
        ({}, r"column 'text' is missing \(columns: none\)"),
        ({"text": ""}, "column 'text' is empty"),
        ({"text": " \n\t"}, "column 'text' is empty"),
        ({"text": None}, r"column 'text' is empty \(null\)"),
        ({"text": 3}, "column 'text' is not text but 3"),
        ({"text": "a\ud800"}, "lone surrogate"),
    ],
)
def test_wrong_text(row: dict[str, object], message: str) -> None:
    with pytest.raises(RowsError, match=message):
        Task(**GOOD).prompt_for(row)


def test_label_id() -> None:
    task = Task(**GOOD)
    assert [task.label_id(v) for v in (0, 1, "no", "yes")] == [0, 1, 0, 1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, r"unknown label True \(bool\) \(allowed: 0 or 'no', 1 or 'yes'\).$"),
        (1.0, r"unknown label 1.0 \(float\)"),
        (-1.0, r"unknown label -1.0 \(float\)"),
        (None, r"label is empty \(null\)"),
        (2, r"unknown label 2 \(int\)"),
        (-1, "-1 marks an unlabelled row"),
        ("Yes", "Did you mean 'yes'"),
        ("1", r"unknown label '1' \(str\)"),
        ([1], r"unknown label \[1\] \(list\)"),
    ],
)
def test_unknown_label(value: object, message: str) -> None:
    with pytest.raises(RowsError, match=message):
        Task(**GOOD).label_id(value)


@pytest.mark.parametrize("label", [-1, 2, True])
def test_no_such_label_word(label: int) -> None:
    with pytest.raises(TaskError, match="labels are 0 to 1"):
        Task(**GOOD).label_word(label)


def test_prompt_hash_follows_prompt_and_words_alone() -> None:
    task = Task(**GOOD)
    assert re.fullmatch("[0-9a-f]{16}", task.prompt_hash)
    assert task.prompt_hash == Task(**GOOD | {"name": "other", "seeds": (1,)}).prompt_hash
    assert task.prompt_hash != Task(**GOOD | {"prompt": "Text: {text} Type:"}).prompt_hash
    assert task.prompt_hash != Task(**GOOD | {"labels": ("yes", "no")}).prompt_hash
    assert len({get_task(name).prompt_hash for name in SIX}) == 6


def test_a_task_is_hashable_and_survives_pickling() -> None:
    task = get_task("cb")
    assert hash(task) == hash(get_task("cb"))
    assert pickle.loads(pickle.dumps(task)) == task


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "my-task"}, "task name 'my-task' is not an identifier"),
        ({"name": "../x"}, "not an identifier"),
        ({"name": 3}, "task name 3 is not an identifier"),
        ({"prompt": "no field"}, "has no {column} field"),
        ({"prompt": ""}, "prompt must be a non-empty text"),
        ({"prompt": None}, "prompt must be a non-empty text, not None"),
        ({"prompt": "{text"}, "malformed"),
        ({"prompt": "{text} }"}, "malformed"),
        ({"prompt": "{}:"}, "must name a column"),
        ({"prompt": "{0}:"}, "must name a column"),
        ({"prompt": "{text.__class__}:"}, "without attribute, index"),
        ({"prompt": "{text[0]}:"}, "without attribute, index"),
        ({"prompt": "{text!r}:"}, "conversion or format"),
        ({"prompt": "{text:>{width}}:"}, "conversion or format"),
        ({"prompt": "{text} Label: "}, "ends in whitespace"),
        ({"prompt": "{text} {label}:"}, "give the answer away"),
        ({"labels": ("yes",)}, "at least 2 labels are needed, got 1"),
        ({"labels": ()}, "got 0"),
        ({"labels": "yes"}, "labels must be a list"),
        ({"labels": ("yes", "yes")}, "label 'yes' occurs twice"),
        ({"labels": ("yes", "")}, "label 1 .* non-empty word"),
        ({"labels": ("yes", " no")}, "without spaces at its ends"),
        ({"labels": (True, False)}, "label 0 is not text but True; in YAML, quote it"),
        ({"label_column": ""}, "label_column must be"),
        ({"hub_id": ""}, "hub_id must be"),
        ({"hub_config": 3}, "hub_config must be"),
        ({"description": None}, "description must be text"),
        ({"learning_rate": 0}, "learning_rate must be a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"learning_rate": True}, "learning_rate must be a positive number"),
        ({"seeds": (1, -1)}, "seeds must be a list of integers >= 0"),
        ({"seeds": (1.5,)}, "seeds must be a list of integers >= 0"),
        ({"seeds": 3}, "seeds must be a list of integers >= 0"),
        ({"published": [1]}, "published must map rules"),
        ({"published": {"gd": 0.1}}, r"published\['gd'\] must map scores"),
        ({"published": {"gd": {"SimAM": "high"}}}, r"published\['gd'\] must map scores"),
    ],
)
def test_wrong_definition(change: dict[str, Any], message: str) -> None:
    # From YAML: any type may come from there.
    text = yaml.safe_dump(GOOD | change)
    with pytest.raises(TaskError, match=f"^mine: .*{message}"):
        Task.from_yaml_text(text, source="mine", name="toy")


def test_the_constructor_checks_too() -> None:
    with pytest.raises(TaskError, match="task 'toy': label 'yes' occurs twice"):
        Task(**GOOD | {"labels": ("yes", "yes")})
    with pytest.raises(TaskError, match="not an identifier"):
        Task(**GOOD | {"name": "a b"})


def test_labels_and_seeds_may_be_lists() -> None:
    task = Task("toy", GOOD["prompt"], labels=["no", "yes"], seeds=[1, 2])  # type: ignore[arg-type]
    assert task == Task(**GOOD, seeds=(1, 2))
    assert (task.labels, task.seeds) == (("no", "yes"), (1, 2))
    assert hash(task) == hash(Task(**GOOD, seeds=(1, 2)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": ["no", "yes"]}, r"unknown key 'label' .*Did you mean 'labels'\?"),
        ({"learning_rate": "fast"}, "learning_rate must be a positive number or null, not 'fast'"),
        ({"seeds": (2**63,)}, r"a seed must be at most 2\*\*63 - 1, not a number of 64 bits"),
    ],
)
def test_the_constructor_names_what_was_given(change: dict[str, Any], message: str) -> None:
    with checks.untyped(), pytest.raises(TaskError, match=f"task 'toy': {message}") as caught:
        Task(**GOOD | change)
    assert "\n" not in str(caught.value)


def test_a_task_without_labels_is_refused() -> None:
    with pytest.raises(TaskError, match="task 'toy': the key 'labels' is missing"):
        Task("toy", GOOD["prompt"])  # type: ignore[call-arg]


def test_defaults_are_the_same_from_yaml() -> None:
    assert Task.from_yaml_text(yaml.safe_dump(GOOD), source="mine", name="other") == Task(**GOOD)


def test_own_yaml(tmp_path: Path) -> None:
    text = 'prompt: "Text: {text} Label:"\nlabels: ["no", "yes"]\nlearning_rate: 5e-4\nseeds: [1]\n'
    path = write(tmp_path / "toy.yaml", text)
    task = get_task(path)
    assert task == get_task(str(path)) == Task.from_yaml(path)
    assert task == Task(**GOOD, learning_rate=5e-4, seeds=(1,))
    assert get_task(task) is task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("promt: x", r"toy.yaml: unknown key 'promt' .allowed: name, .* Did you mean 'prompt'"),
        ("3: x", "unknown key '3'"),
        ("labels: [a, b]", "the key 'prompt' is missing"),
        ("prompt: '{x}:'", "the key 'labels' is missing"),
        ("prompt: '{x}:'\nlabels: [a, b]\nlabels: [c, d]", "the key 'labels' occurs twice"),
        ("prompt: '{x}:'\nlabels: [yes, no]", "label 0 is not text but True; in YAML, quote it"),
        (
            "prompt: '{x}:'\nlabels: [a, b]\nlearning_rate: fast",
            "positive number or null, .*'fast'",
        ),
        ("prompt: '{x}:'\nlabels: [a, b]\nname: 1x", "task name '1x' is not an identifier"),
        ("- a\n- b", "a task is a mapping"),
        ("", "a task is a mapping"),
        ("a: [", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_wrong_yaml(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TaskError, match=message) as caught:
        get_task(write(tmp_path / "toy.yaml", text))
    assert "\n" not in str(caught.value)


def test_unreadable_yaml(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"Cannot read the task file .*missing.yaml"):
        get_task(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(TaskError, match="Cannot read the task file"):
        get_task(tmp_path / "latin.yaml")


def test_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(TaskError, match=r"Unknown task 'SST-2' .* Did you mean 'sst2'\?"):
        get_task("SST-2")
    with pytest.raises(LensError, match=r"Unknown task 'zzzzzz' \(shipped: agnews, cb"):
        get_task("zzzzzz")
