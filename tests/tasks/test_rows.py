"""Rows from a folder, the package and the Hub, each with its errors; all offline."""

import inspect
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from iclgd_lens.errors import RowsError, TaskError
from iclgd_lens.tasks import Row, Rows, Task, get_task, hash_rows, load_rows

TOY = Task("toy", "Text: {text} Label:", ("no", "yes"), hub_id="someone/toy", hub_config="tiny")
RECORDS: list[dict[str, Any]] = [
    {"text": "good ", "label": 1, "extra": [1]},
    {"text": "bad\u2028line", "label": "no", "extra": None},
]
EXPECTED = (Row("Text: good Label:", 1, 0), Row("Text: bad\u2028line Label:", 0, 1))


def folder(root: Path, content: str | bytes, name: str = "train.jsonl") -> Path:
    (root / "toy").mkdir(exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode()
    (root / "toy" / name).write_bytes(raw)
    return root


def jsonl(*records: dict[str, Any]) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_jsonl(tmp_path: Path) -> None:
    rows = load_rows(TOY, "train", folder(tmp_path, jsonl(*RECORDS)))
    assert rows.examples == EXPECTED
    assert (rows.task, rows.split, rows.revision, len(rows)) == ("toy", "train", None, 2)
    assert rows.n_labels == 2
    assert rows.source.endswith("toy/train.jsonl")


def test_whitespace_can_be_kept(tmp_path: Path) -> None:
    rows = load_rows(TOY, "train", folder(tmp_path, jsonl(*RECORDS)), strip=False)
    assert rows.examples[0].prompt == "Text: good  Label:"


def test_blank_lines_and_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    text = "\ufeff\n" + jsonl(RECORDS[0]) + "  \n" + jsonl(RECORDS[1]) + "\n"
    assert load_rows(TOY, "train", folder(tmp_path, text)).examples == EXPECTED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (jsonl(RECORDS[0], {"label": 1}), r"train.jsonl line 2: column 'text' is missing"),
        (jsonl({"text": "a"}), r"line 1: column 'label' is missing \(columns: text\)"),
        (jsonl({"text": "a", "lable": 1}), "'label' is missing .* Did you mean 'lable'"),
        (jsonl({"text": " ", "label": 1}), "line 1: column 'text' is empty"),
        (jsonl({"text": None, "label": 1}), "line 1: column 'text' is empty"),
        ("\n\n" + jsonl({"text": "a", "label": 7}), "line 3: unknown label 7 .*0 or 'no'"),
        (jsonl({"text": "a", "label": None}), "line 1: the label is empty"),
        (jsonl({"text": "a", "label": True}), "line 1: unknown label True"),
        (jsonl(RECORDS[0], {"text": "a", "label": -1}), "line 2: label -1 marks an unlabelled"),
        ('{"text": "a", "text": "b", "label": 1}', "line 1: column 'text' occurs twice"),
        (jsonl(RECORDS[0]) + '{"text": "a", ', "line 2: not valid JSON .* at column 15"),
        ("[1, 2]", "line 1: a row is a JSON object, not list"),
        ("[" * 100_000, "line 1: (not valid JSON|JSON that cannot be read)"),
        ('{"text": "a", "label": ' + "1" * 5000 + "}", "line 1: JSON that cannot be read"),
        ("", "train.jsonl: no rows at all"),
        ("\n \n", "train.jsonl: no rows at all"),
        (b'{"text": "caf\xe9", "label": 1}', "train.jsonl: not UTF-8 text"),
        (b'{"text": "\\ud800", "label": 1}', "line 1: column 'text' holds a lone surrogate"),
    ],
)
def test_wrong_jsonl(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(RowsError, match=message) as caught:
        load_rows(TOY, "train", folder(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_places_are_named(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"'embeded' is not .* Did you mean 'embedded'"):
        load_rows(TOY, "train", "embeded")
    (tmp_path / "sst2").mkdir()
    with pytest.raises(RowsError, match=r"neither .*toy/train.jsonl nor train.parquet.*: sst2\)"):
        load_rows(TOY, "train", tmp_path)
    folder(tmp_path, jsonl(*RECORDS))
    with pytest.raises(RowsError, match=r"validation.jsonl.* holds: train.jsonl\)"):
        load_rows(TOY, "validation", tmp_path)
    folder(tmp_path, b"", "train.parquet")
    with pytest.raises(RowsError, match=r"Both .*train.jsonl and train.parquet exist"):
        load_rows(TOY, "train", tmp_path)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    root = folder(tmp_path, jsonl(*RECORDS))
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RowsError, match=r"train.jsonl: cannot be read \(Permission denied\)"):
        load_rows(TOY, "train", root)


def test_wrong_arguments(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"Unknown split 'valid' .*Did you mean 'validation'"):
        # Unwrapped: the types that the suite checks would refuse it first.
        inspect.unwrap(load_rows)(TOY, "valid", tmp_path)
    with pytest.raises(RowsError, match="only the Hub's rows have revisions"):
        load_rows(TOY, "train", tmp_path, "main")
    with pytest.raises(TaskError, match="Unknown task"):
        load_rows("toyy", "train", tmp_path)


def parquet(root: Path, names: list[str], columns: list[list[Any]]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    writer = pytest.importorskip("pyarrow.parquet")
    (root / "toy").mkdir(exist_ok=True)
    table = arrow.Table.from_arrays([arrow.array(column) for column in columns], names=names)
    writer.write_table(table, root / "toy" / "train.parquet")
    return root


def test_parquet(tmp_path: Path) -> None:
    texts = [record["text"] for record in RECORDS]
    root = parquet(tmp_path, ["label", "more", "text"], [[1, 0], [None, 1.5], texts])
    rows = load_rows(TOY, "train", root)
    assert rows.examples == EXPECTED
    assert rows.source.endswith("toy/train.parquet")
    words = parquet(tmp_path, ["label", "text"], [["yes", "no"], texts])
    assert load_rows(TOY, "train", words).examples == EXPECTED


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (["text", "text", "label"], [["a"], ["b"], [1]], "column 'text' occurs twice"),
        (["txt", "label"], [["a"], [1]], "column 'text' is missing .* Did you mean 'txt'"),
        (["text", "y"], [["a"], [1]], r"column 'label' is missing \(columns: text, y\)"),
        (["text", "label"], [["a", ""], [1, 0]], "train.parquet row 1: column 'text' is empty"),
        (["text", "label"], [["a", None], [1, 0]], r"row 1: column 'text' is empty \(null\)"),
        (["text", "label"], [["a", "b"], [1.0, 0.0]], r"row 0: unknown label 1.0 \(float\)"),
        (["text", "label"], [["a", "b"], [True, False]], r"row 0: unknown label True \(bool\)"),
        (["text", "label"], [[], []], "train.parquet: no rows at all"),
    ],
)
def test_wrong_parquet(
    tmp_path: Path, names: list[str], columns: list[list[Any]], message: str
) -> None:
    with pytest.raises(RowsError, match=message):
        load_rows(TOY, "train", parquet(tmp_path, names, columns))


@pytest.mark.parametrize("content", [b"", b"not parquet", b"PAR1" + b"x" * 20 + b"PAR1"])
def test_broken_parquet(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    root = folder(tmp_path, content, "train.parquet")
    with pytest.raises(RowsError, match=r"train.parquet: not a readable parquet file"):
        load_rows(TOY, "train", root)


def test_truncated_parquet(tmp_path: Path) -> None:
    root = parquet(tmp_path, ["text", "label"], [["a"] * 50, [1] * 50])
    path = root / "toy" / "train.parquet"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RowsError, match="not a readable parquet file"):
        load_rows(TOY, "train", root)


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    root = folder(tmp_path, b"", "train.parquet")
    with pytest.raises(RowsError, match="needs pyarrow"):
        load_rows(TOY, "train", root)


def fake_embedded(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def embedded_rows(task: str, split: str) -> list[dict[str, str | int]]:
        assert (task, split) == ("toy", "train")
        if isinstance(answer, Exception):
            raise answer
        return answer

    module = ModuleType("iclgd_lens.embedded")
    module.embedded_rows = embedded_rows  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "iclgd_lens.embedded", module)


def test_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_embedded(monkeypatch, RECORDS)
    rows = load_rows(TOY, "train", "embedded")
    assert rows.examples == EXPECTED
    assert (rows.source, rows.revision) == ("embedded", None)


@pytest.mark.parametrize("answer", [[], KeyError("toy"), TaskError("no rows of toy")])
def test_no_embedded_rows(monkeypatch: pytest.MonkeyPatch, answer: object) -> None:
    fake_embedded(monkeypatch, answer)
    with pytest.raises(RowsError, match="'toy' has no embedded train rows"):
        load_rows(TOY, "train", "embedded")


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeDataset:
    """What the code uses of a `datasets.Dataset`."""

    def __init__(self, records: list[dict[str, Any]], commit: str = "0.0.0") -> None:
        self.records = records
        self.column_names = list(records[0])
        self.cache_files = [{"filename": f"/cache/{commit}/{i}.arrow"} for i in range(2)]

    def select_columns(self, columns: list[str]) -> dict[str, list[Any]] | Any:
        return _Sliced({c: [record[c] for record in self.records] for c in columns})


class _Sliced(dict[str, list[Any]]):
    def __getitem__(self, key: Any) -> Any:
        return dict(self) if isinstance(key, slice) else super().__getitem__(key)


def fake_hub(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[Any]:
    calls: list[Any] = []

    def load_dataset(*args: object, **kwargs: object) -> Any:
        calls.append((args, kwargs))
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


@pytest.mark.parametrize("data", ["hub", None])
def test_hub(monkeypatch: pytest.MonkeyPatch, data: str | None) -> None:
    calls = fake_hub(monkeypatch, FakeDataset(RECORDS))
    rows = load_rows(TOY, "train", data, "v1")
    assert rows.examples == EXPECTED
    assert rows.revision == "v1"
    assert rows.source == "hub: someone/toy (tiny), split train"
    # Exactly these arguments: in particular trust_remote_code is never passed.
    assert calls == [(("someone/toy", "tiny"), {"split": "train", "revision": "v1"})]


def test_hub_commit_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, FakeDataset(RECORDS, COMMIT))
    assert load_rows(TOY, "train").revision == COMMIT


def test_evaluation_split_may_be_called_test(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_hub(monkeypatch, FakeDataset(RECORDS[:1]))
    load_rows(get_task("agnews"), "validation")
    assert calls == [(("fancyzhx/ag_news", None), {"split": "test", "revision": None})]


def test_unlabelled_hub_split(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, FakeDataset([*RECORDS, {"text": "a", "label": -1}]))
    with pytest.raises(RowsError, match="split train row 2: label -1 marks an unlabelled row"):
        load_rows(TOY, "train")


def test_hub_errors_name_the_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, ConnectionError("no\nroute " + "x" * 900))
    both = r"\(--data DIR\) or be embedded \(--data embedded\)"
    with pytest.raises(RowsError, match=r"ConnectionError: no route .*" + both) as caught:
        load_rows(TOY, "train")
    assert len(str(caught.value)) < 500
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RowsError, match=r"pip install datasets.*" + both):
        load_rows(TOY, "train")
    with pytest.raises(RowsError, match=r"names no Hub dataset.*" + both):
        load_rows(Task("toy", "{text}:", ("no", "yes")), "train")


def test_hub_missing_column(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_hub(monkeypatch, FakeDataset([{"txt": "a", "label": 1}]))
    with pytest.raises(RowsError, match=r"hub: .* column 'text' is missing .* Did you mean 'txt'"):
        load_rows(TOY, "train")


def test_hub_with_the_real_library(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list([{"text": "good ", "label": 1}, {"text": "b", "label": 0}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: table)
    rows = load_rows(TOY, "train")
    assert [(row.prompt, row.label) for row in rows.examples] == [
        ("Text: good Label:", 1),
        ("Text: b Label:", 0),
    ]
    assert rows.revision is None


def test_hashes() -> None:
    def make(*examples: Row) -> Rows:
        return Rows("toy", "train", "here", None, examples)

    rows = make(*EXPECTED)
    assert len(rows.hash) == 64
    assert rows.hash == hash_rows(rows.examples)
    assert rows.hash == make(*(Row(r.prompt, r.label, r.index + 9) for r in EXPECTED)).hash
    assert rows.hash != make(*reversed(EXPECTED)).hash
    assert rows.hash != make(EXPECTED[0]).hash
    assert rows.hash != make(EXPECTED[0], Row(EXPECTED[1].prompt, 1, 1)).hash
    assert [len(h) for h in rows.hashes] == [16, 16]
    assert rows.hashes == (EXPECTED[0].hash, EXPECTED[1].hash)
    assert len(set(rows.hashes)) == 2
