"""Rows that the caller holds: the same rows and the same errors as from files."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from iclgd_lens.errors import RowsError
from iclgd_lens.tasks import Row, Task, load_rows, load_splits

TOY = Task("toy", "Text: {text} Label:", ["no", "yes"])
RECORDS: list[dict[str, Any]] = [
    {"text": "good ", "label": 1, "extra": "x"},
    {"text": "bad", "label": 0, "extra": None},
]
EXPECTED = (Row("Text: good Label:", 1, 0), Row("Text: bad Label:", 0, 1))
KINDS = ("list", "frame", "dataset")


def table(kind: str, records: list[dict[str, Any]]) -> Any:
    if kind == "list":
        return records
    if kind == "frame":
        return pytest.importorskip("pandas").DataFrame(records)
    return pytest.importorskip("datasets").Dataset.from_list(records)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_serves_for_both_splits(kind: str) -> None:
    data = table(kind, RECORDS)
    for split in ("train", "validation"):
        rows = load_rows(TOY, split, data)  # type: ignore[arg-type]
        assert rows.examples == EXPECTED
        assert rows.source.startswith("data, a ")
        assert rows.source.endswith(" of 2 rows in memory")
        assert rows.revision is None
    splits = load_splits(TOY, data)
    assert (splits.same, splits.data) == (True, None)
    assert splits.validation.split == "validation"


@pytest.mark.parametrize("kind", KINDS)
def test_a_mapping_of_splits(kind: str) -> None:
    data = {"train": table(kind, RECORDS), "validation": table(kind, RECORDS[:1])}
    splits = load_splits(TOY, data)
    assert (len(splits.train), len(splits.validation), splits.same) == (2, 1, False)
    assert splits.validation.source.startswith("data['validation'], a ")


def test_splits_may_be_called_as_on_the_hub() -> None:
    task = Task("toy", TOY.prompt, TOY.labels, train_split="all", evaluation_split="test")
    splits = load_splits(task, {"all": RECORDS, "test": RECORDS[:1]})
    assert (len(splits.train), len(splits.validation)) == (2, 1)


def test_a_dataset_dict_and_a_format_of_tensors() -> None:
    datasets = pytest.importorskip("datasets")
    dataset = datasets.Dataset.from_list(RECORDS)
    both = datasets.DatasetDict({"train": dataset, "validation": dataset.with_format("numpy")})
    splits = load_splits(TOY, both)
    assert splits.train.examples == splits.validation.examples == EXPECTED


def test_labels_may_be_scalars_of_numpy_and_torch() -> None:
    import torch

    records = [
        {"text": "good", "label": np.int64(1)},
        {"text": np.str_("bad"), "label": torch.tensor(0)},
    ]
    assert load_rows(TOY, "train", records).examples == EXPECTED


WRONG: list[tuple[list[dict[str, Any]], str]] = [
    ([{"txt": "a", "label": 1}], r"column 'text' is missing \(columns: .*txt.*Did you mean 'txt'"),
    ([{"text": "a", "lable": 1}], "'label' is missing .* Did you mean 'lable'"),
    ([{"text": "a", "label": 1}, {"text": " ", "label": 1}], "data row 1: column 'text' is empty"),
    (
        [{"text": "a", "label": 1}, {"text": None, "label": 1}],
        r"column 'text' is empty \(null",
    ),
    ([{"text": "a", "label": 7}], "data row 0: unknown label 7 .*0 or 'no'"),
    ([{"text": "a", "label": True}], "data row 0: unknown label True"),
    ([{"text": "a", "label": 0.5}], r"data row 0: unknown label 0\.5"),
    ([{"text": "a", "label": "yess"}], "unknown label 'yess' .* Did you mean 'yes'"),
    ([{"text": 3, "label": 1}], "column 'text' is not text but 3"),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("records", "message"), WRONG)
def test_wrong_rows_are_named(kind: str, records: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RowsError, match=message) as caught:
        load_rows(TOY, "train", table(kind, records))
    assert "\n" not in str(caught.value)


def test_a_column_twice_in_a_frame() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([["a", "b", 1]], columns=["text", "text", "label"])
    with pytest.raises(RowsError, match="data: column 'text' occurs twice"):
        load_rows(TOY, "train", frame)


def test_missing_labels_and_nullable_types_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["good", "bad"], "label": pandas.array([1, 0], "Int64")})
    assert load_rows(TOY, "train", frame).examples == EXPECTED
    frame["label"] = pandas.array([1, None], "Int64")
    with pytest.raises(RowsError, match=r"row 1: the label is empty \(null\)"):
        load_rows(TOY, "train", frame)
    words = pandas.DataFrame({"text": ["good", "bad"], "label": ["yes", "no"]}, index=[7, 7])
    words["label"] = words["label"].astype("category")
    assert load_rows(TOY, "train", words).examples == EXPECTED


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data, a list of 0 rows in memory: no rows at all"),
        ([1], "data row 0: a row maps columns to values, not a int"),
        ({"train": RECORDS}, r"data has no split 'validation' \(its keys: train\)"),
        ({"train": RECORDS, "validaton": []}, "no split .* Did you mean 'validaton'"),
        ({"text": ["a"], "label": [1]}, "A mapping holds splits; give columns as a DataFrame"),
        (
            {"train": RECORDS, "validation": "here"},
            r"data\['validation'\] is a str; rows",
        ),
        ((row for row in RECORDS), "data is a generator; rows come from 'hub'"),
        (3, "data is a int; rows come from 'hub', 'embedded', a folder, a list of mappings"),
        ({}, r"data has no split 'validation' \(its keys: none\)"),
    ],
)
def test_what_holds_no_rows_is_refused(data: Any, message: str) -> None:
    with pytest.raises(RowsError, match=message):
        load_rows(TOY, "validation", data)


def test_rows_in_memory_have_no_revision() -> None:
    with pytest.raises(RowsError, match="only the Hub's rows have revisions"):
        load_rows(TOY, "train", RECORDS, "main")
