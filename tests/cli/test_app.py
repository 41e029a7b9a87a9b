"""The command line, as a user meets it: output, files, exit codes, one line for an error."""

from __future__ import annotations

import ast
import errno
import inspect
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import iclgd_lens as lens
from iclgd_lens import defaults
from iclgd_lens.bench.plan import Plan, parse_plan
from iclgd_lens.bench.progress import Lines
from iclgd_lens.bench.run import run_plan
from iclgd_lens.cli import app as cli_app
from iclgd_lens.cli import compare as cli_compare
from iclgd_lens.cli import console as cli_console
from iclgd_lens.cli.app import app, run
from iclgd_lens.cli.given import check_output
from iclgd_lens.controls import CONTROLS, DEFAULT_CONTROLS
from iclgd_lens.readout.reader import Reader
from iclgd_lens.scores import SCORES
from tests.smallmodel import save_small_model

QUICK = ("--data", "embedded", "--shots", "4", "--queries", "6", "--lr", "0.05", "--quick")
SMALL = (*QUICK[:-1], "--draws", "2", "--twins", "3")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_small_model(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "250")


def words(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    shown = capsys.readouterr()
    return shown.out, shown.err


# -- listings --------------------------------------------------------------------------------------


def test_help_names_every_command() -> None:
    shown = CliRunner().invoke(app, ["--help"])
    assert shown.exit_code == 0
    for command in (
        "compare", "demo", "bench", "report", "tasks", "hypotheses", "controls", "scores", "models",
        "worlds",
    ):  # fmt: skip
        assert f" {command} " in shown.stdout


def test_help_and_tasks_load_no_heavy_library(root: Path) -> None:
    code = (
        "import sys; from iclgd_lens.cli.app import run; run(['--help']);"
        "run(['compare', '--help']);"
        "run(['tasks']); heavy = {'torch', 'transformers', 'transformer_lens', 'pandas', 'plotly'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"


def test_a_slip_is_told_before_pytorch_starts(root: Path) -> None:
    slips = [
        ["compare", "-C", "rndom"], ["compare", "--task", "sst3"], ["compare", "--out", "x.csv"],
        ["compare", "--set", "gd=1"], ["mediate", "-C", "rndom"], ["mediate", "--task", "sst3"],
        ["mediate", "--protocol", "own"], ["mediate", "-C", "none", "-C", "zero"],
        ["sweep", "label_nois"], ["sweep", "lr", "-v", "fast"], ["sweep", "lr", "-C", "rndom"],
        ["sweep", "lr", "--auxiliary", "sst3"], ["calibrate", "--out", "x.csv"],
        ["calibrate", "-m", "embedded", "--task", "sst3"],
    ]  # fmt: skip
    code = (
        "import sys; from iclgd_lens.cli.app import run\n"
        f"print([run(slip) for slip in {slips}], 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[-2] == f"{[2] * len(slips)} False", done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert lens.__version__ in words(capsys)[0]


def test_tasks_are_listed_with_their_label_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tasks"]) == 0
    out, err = words(capsys)
    for name in lens.list_tasks():
        assert name in out
        assert all(label in out for label in lens.get_task(name).labels)
    assert err == ""


@pytest.mark.parametrize(
    ("command", "names"),
    [("hypotheses", lens.list_hypotheses()), ("controls", CONTROLS), ("scores", SCORES)],
    ids=["hypotheses", "controls", "scores"],
)
def test_what_can_be_named_is_listed_once(
    command: str, names: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([command]) == 0
    first = [line.split()[0] for line in words(capsys)[0].splitlines() if line.strip()]
    assert all(first.count(name) == 1 for name in names)


def test_a_hypothesis_is_shown_with_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["hypotheses", "lcgd"]) == 0
    out = words(capsys)[0]
    for setting in lens.get_hypothesis("lcgd").settings():
        assert re.search(rf"^ *{setting}\b", out, flags=re.MULTILINE)


def test_models_are_listed_and_searched(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    assert "embedded" in words(capsys)[0]
    assert run(["models", "PYTHIA-70m"]) == 0
    assert "EleutherAI/pythia-70m" in words(capsys)[0].splitlines()
    assert run(["models", "no such model"]) == 2


@pytest.mark.parametrize("command", ["tasks", "hypotheses", "controls", "scores", "models"])
def test_listings_are_json_where_asked(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([command, "--json"]) == 0
    assert isinstance(json.loads(words(capsys)[0]), dict)


# -- compare ---------------------------------------------------------------------------------------


def test_compare_says_the_gate_then_behaviour_then_verdicts_then_numbers(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "--model", model, *SMALL]) == 0
    out, _ = words(capsys)
    places = [
        out.index(text)
        for text in ("Is there in-context learning?", "What does each update do to the answers?",
                     "Is it like in-context learning?", "Overall", "By layer: gd")
    ]  # fmt: skip
    assert places == sorted(places)
    for text in ("SimAOU", "SimAM", "mean", "[lcgd]", "oracle", "@untrained", "lr 0.05"):
        assert text in out
    for name in ("gd", "lcgd"):
        for score in ("SimAOU_label", "SimAOU_label_centred"):
            assert f"{name}, {score}: " in out
    assert "nan" not in out.lower()


def test_compare_prints_what_python_gives(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--model", model, *SMALL, "--seed", "3", "--json"]) == 0
    document = json.loads(words(capsys)[0])
    loaded = lens.load_model(model)
    episodes = lens.load_episodes(
        "sst2", loaded, draws=2, shots=4, queries=6, seed=3, data="embedded"
    )
    expected = lens.compare(loaded, episodes, lr=0.05, seed=3, twins=3)
    rows = list(expected.rows())
    assert len(document["rows"]) == len(rows)
    for shown, row in zip(document["rows"], rows, strict=True):
        assert (shown["hypothesis"], shown["score"]) == (row.hypothesis, row.score)
        assert (shown["layer"], shown["head"], shown["n"]) == (row.layer, row.head, row.n)
        assert shown["value"] == (row.value if row.value == row.value else None)
    assert document["provenance"]["episode"]["hash"] == episodes[0].hash
    assert document["verdicts"] == [each.as_dict() for each in expected.verdicts()]
    gate = expected.gate()
    assert gate is not None
    assert document["in_context_learning"] == gate.as_dict()


def test_few_simulations_are_said_to_tell_little(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["calibrate", "--trials", "20", "--no-worlds"]) == 0
    out, _ = words(capsys)
    (line,) = [each for each in out.splitlines() if "shuffled labels" in each and "10 d" in each]
    assert "20 trials cannot tell" in line
    assert "holds" not in line.split("allowed")[-1]


LITTLE = {
    "demo": ("--shots", "4", "--queries", "4", "--draws", "1", "--twins", "0"),
    "mediate": ("--shots", "4", "--queries", "4", "-H", "none"),
    "sweep": ("lr", "-v", "0.1", "--shots", "2", "--queries", "4", "--draws", "1", "-H", "lcgd"),
    "worlds": ("--theta", "0"),
    "calibrate": ("--trials", "20", "--no-worlds"),
    "diff": ("run", "run"),
}
"""What makes a command short, in a folder where `run` is a benchmark's."""
_OTHERS = (Path(__file__).parents[2] / "docs/json.md").read_text("utf-8").split("## Other")[1]
DOCUMENTED = re.findall(r"^\| `iclgd (\w+)` \| (list|object by name|object)\b.*\| (.+?) \|$",
                        _OTHERS, re.MULTILINE)  # fmt: skip


@pytest.mark.parametrize(("command", "shape", "keys"), DOCUMENTED, ids=[d[0] for d in DOCUMENTED])
def test_other_documents_have_the_documented_keys(
    command: str, shape: str, keys: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if command == "diff":
        tiny = {"name": "tiny", "models": ["embedded"], "tasks": ["sst2"], "shots": 2, "queries": 2}
        run_plan(parse_plan(tiny | {"hypotheses": ["gd"], "lr": 0.1}), tmp_path / "run")
    assert run([command, *LITTLE.get(command, ()), "--json"]) == 0
    out, _ = words(capsys)
    assert len(out.splitlines()) == 1
    document: Any = json.loads(out)
    one = document[0] if shape == "list" else document
    one = next(iter(document.values())) if shape == "object by name" else one
    assert set(one) == set(re.findall(r"`(\w+)`", keys))


def test_every_command_with_json_has_its_documents_described(
    capsys: pytest.CaptureFixture[str],
) -> None:
    names: list[str] = []
    for each in app.registered_commands:
        assert each.callback is not None
        if "as_json" in inspect.signature(each.callback).parameters:
            names.append(each.name or each.callback.__name__)
    assert {"compare", *(name for name, _, _ in DOCUMENTED)} == set(names)


@pytest.mark.parametrize("size", [SMALL, QUICK], ids=["draws", "quick"])
def test_json_is_one_document_of_the_documented_schema(
    size: tuple[str, ...], model: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import jsonschema

    page = (root / "docs/json.md").read_text(encoding="utf-8")
    (schema,) = re.findall(r"^```json\n(.+?)^```$", page, flags=re.MULTILINE | re.DOTALL)
    assert run(["compare", "-m", model, *size, "--json"]) == 0
    out, _ = words(capsys)
    assert len(out.splitlines()) == 1
    document = json.loads(out)
    jsonschema.validate(document, json.loads(schema))
    assert set(document) == set(json.loads(schema)["required"])
    table = page.split("| key |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| `.*?\|", table, re.M)))) == set(
        document
    )
    broken = document | {"verdicts": [{**document["verdicts"][0], "verdict": "maybe"}]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, json.loads(schema))


def test_quick_is_one_draw_without_other_networks_and_no_verdict(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["compare", "-m", model, *QUICK, "-H", "gd", "--json"]) == 0
    document = json.loads(words(capsys)[0])
    assert document["in_context_learning"]["draws"] == 1
    assert not any("@untrained" in row["hypothesis"] for row in document["rows"])
    assert not {verdict["verdict"] for verdict in document["verdicts"]} & {"yes"}
    assert any("One draw" in text for text in document["warnings"])


def test_without_controls_nothing_is_shown(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "-m", model, *QUICK, "-H", "gd", "-C", "none", "--json"]) == 0
    document = json.loads(words(capsys)[0])
    assert {row["hypothesis"] for row in document["rows"]} == {"ZS", "ICL", "gd"}
    assert not {verdict["verdict"] for verdict in document["verdicts"]} & {"yes", "no"}


def test_settings_reach_their_hypothesis(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--set", "lcgd.epochs=2", "--set", "gd.lr=5e-4", "--set", "gd.weights=[W_V]"]
    assert run(["compare", "-m", model, *QUICK, *given, "-C", "none", "--json"]) == 0
    described = json.loads(words(capsys)[0])["provenance"]["hypotheses"]
    assert described["lcgd"]["delta"]["epochs"] == 2
    assert described["lcgd"]["delta"]["lr"] == 0.05
    assert described["gd"]["delta"]["lr"] == 5e-4


@pytest.mark.parametrize(
    ("text", "value"),
    [("a.b=1", 1), ("a.b=1e-3", 1e-3), ("a.b=true", True), ("a.b=[1, 2]", [1, 2]),
     ("a.b='1e-3'", "1e-3"), ("a.b=[1e-3, 2]", [1e-3, 2]), ("a.b=inf", "inf"),
     ("a.b=word", "word"), ("a.b=null", None), ("a.b=x=y", "x=y")],
)  # fmt: skip
def test_a_settings_text_is_read(text: str, value: Any) -> None:
    assert cli_compare.parse_settings([text]) == {"a": {"b": value}}


def test_a_file_that_registers_is_imported(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "json.py"  # called like a module of Python's
    file.write_text(
        "import iclgd_lens as lens\n\n\n@lens.hypothesis('halved_in_a_file')\n"
        "def halved(host, episode, *, lr=None):\n    return lens.gd(host, episode, lr=lr) * 0.5\n"
    )
    asked = ["compare", "-m", model, *QUICK, "-C", "none", "--json", "-H", "halved_in_a_file"]
    for _ in range(2):  # run once, however often it is asked for
        assert run([*asked, "--import", str(file)]) == 0
        names = {row["hypothesis"] for row in json.loads(words(capsys)[0])["rows"]}
        assert "halved_in_a_file" in names
    file.with_name("broken.py").write_text("1 / 0\n")
    for name, told in (("broken.py", "ZeroDivisionError"), ("lost.py", "no file")):
        assert run([*asked, "--import", str(tmp_path / name)]) == 2
        assert told in words(capsys)[1]
    lens.HYPOTHESES._entries.pop("halved_in_a_file")


def test_a_control_of_a_file_is_measured(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "import iclgd_lens as lens\n\n\n@lens.control('reversed', acts_on='demonstrations')\n"
        "def reversed_order(host, episode, seed):\n"
        "    return episode.with_demonstrations(episode.demonstrations.examples[::-1])\n"
    )
    asked = ["compare", "-m", model, *QUICK, "-H", "gd", "--json", "--import", str(file)]
    try:
        assert run([*asked, "-C", "reversed"]) == 0
        names = {row["hypothesis"] for row in json.loads(words(capsys)[0])["rows"]}
        assert "gd@reversed" in names
        assert run([*asked, "-C", "reverse"]) == 2
        assert "Did you mean 'reversed'?" in words(capsys)[1]
    finally:
        CONTROLS._entries.pop("reversed")


@pytest.mark.parametrize("command", [["compare"], ["mediate"], ["sweep", "lr"], ["calibrate"]])
def test_a_model_that_nobody_knows_costs_no_rows(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def read(*_: Any, **__: Any) -> None:
        raise AssertionError("rows were read")

    monkeypatch.setattr("iclgd_lens.episode_rows.check_rows", read)
    monkeypatch.setattr("iclgd_lens.calibration.calibrate", read)
    for name, told in (("embeded", "Did you mean 'embedded'?"), ("./nowhere", "No model folder")):
        assert run([*command, "-m", name]) == 2
        assert told in words(capsys)[1]
    with pytest.raises(AssertionError, match="rows were read"):  # only the Hub knows
        run([*command, "-m", "somebody/model"])


def load_with(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put something in the place of `load_model`, last where other modules take it from."""
    for place in ("bench.session", "cli.demo", "host.loading"):
        monkeypatch.setattr(f"iclgd_lens.{place}.load_model", load)


ROWS_THAT_LACK = {
    "no folder": (["--data", "./nowhere"], "nowhere"),
    "no task": (["--task", "sst3"], "Did you mean"),
    "too few rows": (["--shots", "400", "--data", "embedded"], "400 demonstrations"),
}


@pytest.mark.parametrize("command", [["compare"], ["mediate"], ["sweep", "lr"]])
@pytest.mark.parametrize("lack", ROWS_THAT_LACK)
def test_rows_that_lack_cost_no_model(
    lack: str, command: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    load_with(load, monkeypatch)
    options, told = ROWS_THAT_LACK[lack]
    assert run([*command, *options]) == 2
    assert told in words(capsys)[1]
    with pytest.raises(AssertionError, match="a model was loaded"):
        run(command)


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        (["shots", "-v", "2", "-v", "5"], [("embedded", 5)]),
        (["order"], [("embedded", defaults.SHOTS)]),
        (["model", "-v", "embedded", "-v", "gpt2"], [("embedded", 16), ("gpt2", 16)]),
        (["claim.yaml"], [("embedded", 7)]),
    ],
    ids=["shots", "order", "model", "claim"],
)
def test_a_sweep_looks_at_the_rows_of_its_largest_draw_and_of_every_model(
    asked: list[str], read: list[tuple[str, int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "claim.yaml").write_text(
        CLAIM.replace("sweeps: [", "sweeps: [{factor: shots, values: [7, 2], hypotheses: [gd]}, ")
    )
    monkeypatch.chdir(tmp_path)
    found: list[tuple[str, int]] = []

    def looked(*_: Any, model: str, shots: int, **__: Any) -> str:
        found.append((model, shots))
        return "the rows"

    def swept(model: Any, *_: Any, data: Any, **__: Any) -> None:
        raise AssertionError(f"swept with {data}, {model}")

    monkeypatch.setattr("iclgd_lens.episode_rows.check_rows", looked)
    load_with(lambda *_, **__: "a model", monkeypatch)
    monkeypatch.setattr("iclgd_lens.sweeps.claims.sweep", swept)
    monkeypatch.setattr("iclgd_lens.sweeps.sweep_job.sweep", swept)
    by_name = asked[0] == "model"
    told = r"swept with None, \(\)" if by_name else "swept with the rows, a model"
    with pytest.raises(AssertionError, match=told):
        run(["sweep", *asked])
    assert found == read


@pytest.mark.parametrize(
    "command",
    [
        ["mediate", "--data", "embedded"],
        ["sweep", "shots", "--data", "embedded"],
        ["calibrate", "--task", "sst2"],
        ["demo"],
    ],
)
def test_no_command_asks_the_hub_for_a_name_that_nobody_knows(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the Hub was asked")

    load_with(load, monkeypatch)
    if command[0] == "calibrate":  # whose rows are the model's own default
        monkeypatch.setattr("iclgd_lens.episode_rows.check_rows", lambda *_, **__: None)
    assert run([*command, "-m", "embeded"]) == 2
    assert "Did you mean 'embedded'?" in words(capsys)[1]
    with pytest.raises(AssertionError, match="the Hub was asked"):
        run([*command, "-m", "somebody/model"])


def test_other_tasks_demonstrations_are_given_by_name(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["compare", "-m", model, *QUICK, "-C", "none", "--json", "-H", "lcgd_initial"]
    assert run(asked) == 2
    assert "--auxiliary TASK" in words(capsys)[1]
    assert run([*asked, "--auxiliary", "sub"]) == 2
    assert "Did you mean 'subj'?" in words(capsys)[1]
    assert run([*asked, "--auxiliary", "subj"]) == 0
    names = {row["hypothesis"] for row in json.loads(words(capsys)[0])["rows"]}
    assert "lcgd_initial" in names
    assert run(["hypotheses", "lcgd_initial"]) == 0
    assert "reads demonstrations, auxiliary" in words(capsys)[0]


def test_options_reach_the_comparison(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    start = Reader.__init__

    def watched(reader: Reader, *args: Any, **kwargs: Any) -> None:
        asked.append(kwargs)
        start(reader, *args, **kwargs)

    monkeypatch.setattr(Reader, "__init__", watched)
    options = ["--task", "subj", "--protocol", "reference", "--permutation", "2", "--host",
               "bridge", "--dtype", "bfloat16", "--batch-size", "2", "--no-pad-queries",
               "--device", "cpu"]  # fmt: skip
    controls = ["-C", "zero", "-C", "gaussian"]
    assert run(["compare", "-m", model, *QUICK, *options, *controls, "--json"]) == 0
    assert asked[0] == {"batch_size": 2, "pad_queries": False, "first": 32}
    facts = json.loads(words(capsys)[0])["provenance"]
    assert facts["episode"]["task"] == "subj"
    assert facts["episode"]["permutation"] == 2
    assert facts["protocol"]["name"] == "reference"
    assert facts["model"]["host"] == "TransformerBridge"
    assert facts["model"]["dtype"] == "bfloat16"
    assert facts["controls"] == ["zero", "gaussian"]


def test_the_tidy_table_is_written(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "scores.parquet"
    assert run(["compare", "-m", model, *QUICK, "-C", "oracle", "--out", str(out)]) == 0
    assert str(out) in words(capsys)[0]
    frame = pd.read_parquet(out)
    oracle = frame[(frame["hypothesis"] == "oracle") & (frame["score"] == "SimAOU")]
    assert oracle["value"].to_numpy() == pytest.approx(1, abs=1e-4)
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_every_querys_scores_are_written(model: str, tmp_path: Path) -> None:
    out = tmp_path / "all.safetensors"
    assert run(["compare", "-m", model, *QUICK, "-C", "none", "-o", str(out), "--json"]) == 0
    assert lens.Comparison.load(out).tensor("SimAOU", "lcgd").shape == (6, 2)


def test_rates_are_matched_by_default_and_published_where_asked(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = ("--data", "embedded", "--shots", "4", "--queries", "4", "--quick", "-H", "gd")
    asked = ["compare", "-m", model, *size, "-C", "none", "--json"]
    assert run(asked) == 0
    facts = json.loads(words(capsys)[0])["provenance"]
    assert facts["budget"] == {"mode": "matched"}
    chosen = facts["hypotheses"]["gd"]["budget"]
    assert {"sentence", "improves", "tried"} <= set(chosen)
    assert facts["hypotheses"]["gd"]["delta"]["lr"] == chosen["settings"]["lr"]
    assert run([*asked, "--lr", "published"]) == 0
    facts = json.loads(words(capsys)[0])["provenance"]
    assert facts["hypotheses"]["gd"]["delta"]["lr"] == lens.get_task("sst2").learning_rate


# -- narrow terminals ------------------------------------------------------------------------------


def test_narrow_terminals_get_a_table_a_hypothesis_with_whole_names(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["compare", "-m", model, *SMALL, "-C", "random", "-C", "untrained"]) == 0
    out, _ = words(capsys)
    assert "By layer: gd" in out
    assert "By layer: lcgd" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "lcgd@untrained" in out


def test_prose_in_a_pipe_is_not_wrapped(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS")
    assert run(["compare", "-m", model, *QUICK, "-H", "gd", "-C", "random"]) == 0
    out, _ = words(capsys)
    loaded = lens.load_model(model)
    episode = lens.load_episode("sst2", loaded, shots=4, queries=6, data="embedded")
    expected = lens.compare(loaded, episode, ["gd"], controls=["random"], lr=0.05)
    gate, (behaviour,) = expected.gate(), expected.behaviour()
    assert gate is not None
    lines = [line.strip() for line in out.splitlines()]
    assert all(sentence in lines for sentence in gate.sentences)
    assert any(line.startswith(behaviour.sentence) for line in lines)


@pytest.mark.parametrize("width", ["0", "-5", "abc", "", "²", "9" * 30])
def test_a_width_that_is_none_is_passed_by(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert run(["tasks"]) == 0
    expected = capsys.readouterr().out
    assert "sst2" in expected
    monkeypatch.setenv("COLUMNS", width)
    assert run(["tasks"]) == 0
    assert capsys.readouterr().out == expected
    assert os.environ["COLUMNS"] == width, "the caller's environment is as it was"


@pytest.mark.parametrize("width", ["1", "7", "99999999"])
def test_odd_widths_still_show_every_name(
    width: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert run(["tasks"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("agnews", "cb", "mr", "sst2", "sst5", "subj"))


# -- standard output that takes less ---------------------------------------------------------------


def in_a_process(root: Path, where: Path, *arguments: str, shell: str = "", **environment: str):
    command = f"{sys.executable} -m iclgd_lens {' '.join(arguments)} {shell}"
    return subprocess.run(
        ["bash", "-c", command], cwd=where, capture_output=True, check=False,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
    )  # fmt: skip


def test_an_encoding_that_holds_less_loses_no_finished_work(root: Path, tmp_path: Path) -> None:
    done = in_a_process(root, tmp_path, "scores", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    done.stdout.decode("ascii")
    assert b"SimAOU_label" in done.stdout


def test_json_in_ascii_is_the_same_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    document = {"café": "â — 中"}
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    cli_console.print_json(document)
    stream.flush()
    assert json.loads(stream.buffer.getvalue().decode("ascii")) == document


class Full(io.TextIOWrapper):
    """A standard output whose disk is full: every flush that has something to write fails."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("form", ["txt", "json"])
def test_a_result_that_finds_a_full_disk_is_kept(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdout", Full(io.BytesIO(), encoding="ascii"))
    document = '{"a": "—"}' if form == "json" else None
    with pytest.raises(typer.Exit) as left:
        cli_console.hand_over(document, lambda console: console.print("a — b"), "result")
    monkeypatch.undo()
    assert left.value.exit_code == cli_console.NOT_PRINTED
    kept = tmp_path / f"result.{form}"
    assert kept.read_text() == ('{"a": "\\u2014"}\n' if form == "json" else "a — b\n")
    assert str(kept) in capsys.readouterr().err


@pytest.mark.parametrize("stream", [None, Full(io.BytesIO())], ids=["closed", "full"])
def test_nobody_listening_to_progress_stops_no_work(
    stream: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    clock = iter([0.0, 60.0, 61.0])
    monkeypatch.setattr(cli_console.time, "monotonic", lambda: next(clock))
    with cli_console.progress() as tell:
        tell("loading")
    cli_console.note("a note")
    cli_console.complain("an error")
    Lines().say("one of 40 cells")
    assert not capsys.readouterr().out, "standard output holds results alone"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and a POSIX shell")
@pytest.mark.parametrize("shell", [">&-", "> /dev/full"], ids=["closed", "full"])
def test_what_cannot_be_printed_is_kept_in_a_file(
    shell: str, model: str, root: Path, tmp_path: Path
) -> None:
    arguments = ["compare", "-m", model, *QUICK, "-H", "gd", "-C", "none", "--json"]
    done = in_a_process(root, tmp_path, *arguments, shell=shell)
    assert done.returncode == 1
    (kept,) = tmp_path.iterdir()
    assert kept.name == "iclgd-compare.json"
    assert json.loads(kept.read_text())["rows"]
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith("note: standard output takes nothing")
    assert str(kept) in last


# -- errors ----------------------------------------------------------------------------------------

ERRORS = {
    "an unknown command": (["compar"], "Did you mean 'compare'"),
    "an unknown option": (["compare", "--shot", "3"], "--shots"),
    "no draws": (["compare", "--draws", "0"], "--draws is 0; it must be 1 or more"),
    "fewer twins than none": (["compare", "--twins", "-1"], "--twins is -1; it must be 0 or more"),
    "a setting of no form": (["compare", "--set", "epochs=4"], "NAME.KEY=VALUE"),
    "a setting of no hypothesis": (["compare", "--set", "gd.epoch=4"], "Did you mean 'epochs'"),
    "a setting that is no number": (
        ["compare", "--set", "lcgd.epochs=many"],
        "lcgd: epochs must be an integer, not 'many'",
    ),
    "a setting that would do nothing": (
        ["compare", "-H", "ladder", "--set", "ladder.rank=4"],
        "ladder: rank=4 does nothing beside rung=1: it needs rung=4.",
    ),
    "a rate of a hypothesis that is no number": (
        ["compare", "--set", "gd.lr=abc"],
        "gd: lr must be a number or None, not 'abc'",
    ),
    "a file that is not there": (["compare", "--import", "./lost.py"], "no file './lost.py'"),
    "a number that is none": (["compare", "--shots", "many"], "--shots"),
    "no shots": (["compare", "--shots", "0"], "--shots"),
    "an unknown task": (["compare", "--task", "sst3"], "Did you mean"),
    "an unknown protocol": (["compare", "--protocol", "defualt"], "Did you mean 'default'"),
    "an unknown hypothesis": (["compare", "-H", "lcdg"], "Did you mean 'lcgd'"),
    "an unknown control": (["compare", "-C", "shufled"], "Did you mean 'shuffled'"),
    "none beside a control": (
        ["compare", "-C", "none", "-C", "zero"],
        "--control none stands alone",
    ),
    "none beside a control of a sweep": (
        ["sweep", "lr", "-C", "none", "-C", "random"],
        "--control none stands alone",
    ),
    "none beside a control of heads": (
        ["mediate", "-C", "none", "-C", "random"],
        "--control none stands alone",
    ),
    "none beside a hypothesis": (
        ["mediate", "-H", "gd", "-H", "none"],
        "--hypothesis none stands alone",
    ),
    "an unknown control of a sweep": (["sweep", "lr", "-C", "rndom"], "Did you mean 'random'"),
    "an unknown control of heads": (["mediate", "-C", "rndom"], "Did you mean 'random'"),
    "a setting of no hypothesis of a sweep": (
        ["sweep", "lr", "--set", "gd.epochs=2", "-H", "lcgd"],
        "'gd', which is not compared",
    ),
    "a value that is none": (["sweep", "lr", "-v", "fast"], "lr takes a number, not 'fast'"),
    "a sweep of no models": (["sweep", "model"], "model needs at least one value"),
    "a rate that is none": (["compare", "--lr", "fast"], "matched"),
    "a rate below zero": (["compare", "--lr=-1"], "positive"),
    "an infinite rate": (["compare", "--lr", "inf"], "positive"),
    "an unknown kind of file": (["compare", "--out", "x.csv"], ".parquet"),
    "a file without a kind": (["compare", "--out", "x"], "no suffix"),
    "an unknown kind of file of a sweep": (
        ["sweep", "lr", "--out", "x.csv"],
        "ends in '.csv'; give a .parquet or .html file",
    ),
    "an unknown kind of file of heads": (
        ["mediate", "--out", "x.csv"],
        "ends in '.csv'; give a .parquet or .html file",
    ),
    "an unknown kind of file of rates": (
        ["calibrate", "--out", "x.parquet"],
        "ends in '.parquet'; give a .html file",
    ),
    "a model that is not there": (
        ["compare", "--model", "./nowhere", "--data", "embedded"],
        "nowhere",
    ),
    "a model that nobody knows": (["compare", "--model", "embeded"], "Did you mean 'embedded'"),
    "a dtype that is none": (
        ["compare", "--model", "MODEL", "--data", "embedded", "--dtype", "float31"],
        "float32",
    ),
    "rows that are not there": (
        ["compare", "--model", "MODEL", "--data", "./nowhere"],
        "nowhere",
    ),
    "too many shots": (
        ["compare", "--model", "MODEL", "--data", "embedded", "--shots", "300"],
        "300 demonstrations",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_an_error_is_one_line_and_exit_code_2(
    case: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, told = ERRORS[case]
    assert run([model if argument == "MODEL" else argument for argument in arguments]) == 2
    out, err = words(capsys)
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("[")]  # without progress
    assert len(lines) == 1
    assert lines[0].startswith("iclgd: ")
    assert told in lines[0]


def test_a_folder_is_no_file_to_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "x.parquet"
    folder.mkdir()
    assert run(["compare", "--out", str(folder)]) == 2
    assert "is a folder" in words(capsys)[1]


def test_a_file_that_cannot_be_written_is_an_error_before_anything_is_computed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    out = tmp_path / "file" / "x.parquet"
    assert run(["compare", "-m", "./nowhere", "--out", str(out)]) == 2
    assert f"{out} cannot be written" in words(capsys)[1]


def test_a_file_in_a_folder_that_is_not_there_yet_can_be_written(tmp_path: Path) -> None:
    check_output(tmp_path / "new" / "folder" / "x.parquet", cli_compare.KINDS)


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(cli_compare, "run_request", broken)
    with pytest.raises(ZeroDivisionError, match="a defect"):
        run(["compare"])


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
def test_an_interruption_is_one_line_and_exit_code_130(root: Path) -> None:
    code = (
        "import signal, sys, time\nfrom iclgd_lens.cli import app, compare as cli_compare\n"
        # A test run in the background inherits an ignored SIGINT, as no user's terminal has.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait(*_):\n    print('started', flush=True)\n    time.sleep(60)\n"
        "cli_compare.run_request = wait\nsys.argv = ['iclgd', 'compare']\napp.main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=root,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "started\n"
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=30)
    assert child.returncode == 130
    assert err.strip() == "iclgd: interrupted"


@pytest.mark.skipif(os.name == "nt", reason="closes a pipe the POSIX way")
def test_a_reader_that_has_seen_enough_is_no_error(root: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "iclgd_lens", "tasks"], cwd=root,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    assert child.stderr.read() == ""
    assert child.wait(timeout=60) != 2


def test_the_module_is_the_command(model: str, root: Path) -> None:
    command = [sys.executable, "-m", "iclgd_lens", "compare", "-m", model, *QUICK, "-C", "oracle"]
    done = subprocess.run(
        [*command, "--json"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["provenance"]["model"]["name"] == "tiny"
    # What libraries say at start-up is silenced; what remains is progress.
    assert all(line.startswith("[") for line in done.stderr.splitlines()), done.stderr


# -- progress and quiet ----------------------------------------------------------------------------


def test_quick_work_is_silent_and_slow_work_says_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 3.5])
    monkeypatch.setattr(cli_console.time, "monotonic", lambda: next(clock))
    with cli_console.progress() as tell:
        tell("quick")
        tell("slow [red]")
    out, err = words(capsys)
    assert out == ""
    assert err == "[  3.5 s] slow [red]\n"


def test_a_terminal_gets_a_spinner(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    console = Console(force_terminal=True, width=80, record=True, file=open(os.devnull, "w"))
    monkeypatch.setattr(cli_console, "messages", lambda: console)
    with cli_console.progress() as tell:
        tell("working [on it]")
        time.sleep(0.3)
    assert "working [on it]" in console.export_text()


def test_quiet_ends_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    class OwnWarning(UserWarning):
        pass

    OwnWarning.__module__ = "iclgd_lens.anything"
    before = (dict(os.environ), warnings.filters[:], warnings.showwarning)
    with cli_console.quiet_libraries():
        warnings.warn("of a library", FutureWarning, stacklevel=1)
        warnings.warn("of this\npackage", OwnWarning, stacklevel=1)
    assert words(capsys)[1] == "note: of this package\n"
    assert (dict(os.environ), warnings.filters[:], warnings.showwarning) == before


def test_libraries_loaded_by_a_command_say_nothing_of_retries(root: Path) -> None:
    code = (
        "from iclgd_lens.cli.console import quiet_libraries\n"
        "with quiet_libraries():\n"
        "    from huggingface_hub.utils import logging as hub\n"
        "    from datasets.utils import logging as rows\n"
        "    print(hub.get_verbosity(), rows.get_verbosity())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["40", "40"]  # logging.ERROR


def test_the_help_of_compare_names_every_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "--help"]) == 0
    out = " ".join(words(capsys)[0].replace("│", " ").split())
    assert f"[default: ({', '.join(DEFAULT_CONTROLS)})]" in out
    assert "[default: (gd, lcgd)]" in out


def test_help_shows_no_type_behind_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["compare"], ["bench"], ["models"], ["calibrate"]):
        assert run([*command, "--help"]) == 0
        assert "bool" not in words(capsys)[0].lower()
    assert run(["compare", "--help"]) == 0
    out = words(capsys)[0]
    assert re.search(r"--json +Print one", out)
    assert re.search(r"--model +-m +<?\w+>? ", out, flags=re.IGNORECASE)


def test_models_give_one_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    (told,) = re.findall(r"TransformerLens's (\d+) names", words(capsys)[0])
    assert run(["models", "--json"]) == 0
    document = json.loads(words(capsys)[0])
    assert len(document["names"]) == int(told)
    assert not {*document["embedded"]} & {*document["names"]}


def test_one_set_of_defaults_for_python_the_command_line_and_plans() -> None:
    plan = Plan.model_fields
    assert plan["seeds"].default == tuple(range(defaults.DRAWS))
    for name in ("shots", "queries", "twins", "twin_queries"):
        assert plan[name].default == getattr(defaults, name.upper())
    command = inspect.signature(cli_app.compare).parameters
    library = inspect.signature(lens.compare).parameters
    drawing = inspect.signature(lens.load_episodes).parameters
    for name in ("shots", "queries", "draws"):
        assert command[name].default == getattr(defaults, name.upper()) == drawing[name].default
    assert command["twins"].default == defaults.TWINS == library["twins"].default
    swept = inspect.signature(lens.sweep).parameters
    for name in ("queries", "draws"):
        assert swept[name].default == getattr(defaults, f"SWEEP_{name.upper()}")


@pytest.mark.parametrize(
    "function",
    [
        lens.compare,
        lens.mediate,
        lens.sweep,
        lens.load_episode,
        lens.load_episodes,
        lens.check_rows,
    ],
)
def test_a_shared_default_is_written_down_once(function: Callable[..., Any]) -> None:
    names = ("hypotheses", "shots", "queries", "draws", "twins", "twin_queries")
    (node,) = ast.parse(inspect.getsource(inspect.unwrap(function))).body
    assert isinstance(node, ast.FunctionDef)
    last = zip(reversed(node.args.args), reversed(node.args.defaults), strict=False)
    for argument, value in (*last, *zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)):
        assert argument.arg not in names or value is None or not literal(value), argument.arg


def literal(value: ast.expr) -> bool:
    """Whether a default is written out: 16, or ("gd", "lcgd"); a single draw is no default's."""
    return not isinstance(value, ast.Name | ast.Attribute) and ast.literal_eval(value) != 1


def test_mediate_prints_heads_and_their_agreement_and_writes_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "heads.html"
    options = ["mediate", "--shots", "4", "--queries", "4", "--draws", "1", "-H", "lcgd"]
    options += ["--lr", "0.1", "-C", "oracle", "--no-visibility"]
    assert run([*options, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    oracle = next(line for line in found["agreement"] if line["hypothesis"] == "oracle")
    assert oracle["spearman"] == pytest.approx(1)
    assert found["verification"]["sentence"] in found["sentence"]
    assert len([line for line in found["heads"] if line["score"] == "necessity"]) == 16
    assert found["curves"]["ICL"]["heads"][-1] == 16
    assert out.read_text(encoding="utf-8").count('<figure id="figure') >= 5
    assert run(["mediate", "--out", str(tmp_path / "heads.txt")]) == 2
    assert ".parquet or .html" in capsys.readouterr().err


def test_sweep_prints_a_factor_and_refuses_what_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sweep.html"
    options = ["sweep", "label_noise", "-v", "0", "-v", "1", "--shots", "4", "--queries", "4"]
    options += ["--lr", "0.1", "-H", "lcgd", "-C", "shuffled", "--out", str(out)]
    assert run(options) == 0
    printed = capsys.readouterr().out
    assert "along share of wrong labels" in printed
    assert '<figure id="figure0"' in out.read_text(encoding="utf-8")
    assert run(["sweep", "label_nois"]) == 2
    assert "Did you mean 'label_noise'?" in capsys.readouterr().err


def test_a_sweeps_values_are_read_as_numbers_are_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def swept(model: Any, task: str, factor: str, values: list[Any], **_: Any) -> None:
        raise lens.LensError(f"{factor}: {values}")

    monkeypatch.setattr("iclgd_lens.sweeps.sweep_job.sweep", swept)
    assert run(["sweep", "lr", "-v", "1e-3", "-v", "2", "-v", ".5", "--data", "embedded"]) == 2
    assert "lr: [0.001, 2, 0.5]" in words(capsys)[1]
    assert run(["sweep", "lr", "-v", "["]) == 2
    assert "--value: '[' is no value" in words(capsys)[1]


CLAIM = """
paper: one
claim: two
refuted_by: three
shots: 4
queries: 4
sweeps: [{factor: order, hypotheses: [gd, lcgd], lr: 0.3, scores: [SimAOU_label, AUC]}]
"""


def test_a_claim_is_measured_as_its_file_says_but_for_what_the_command_line_gives(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "claim.yaml").write_text(CLAIM)
    monkeypatch.chdir(tmp_path)
    options = ["sweep", "claim.yaml", "--lr", "0.01", "-v", "0", "-v", "2", "-H", "lcgd"]
    options += ["-C", "none", "--draws", "1"]
    assert run([*options, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)
    assert {line["value_of_factor"] for line in document["lines"]} == {0, 2}
    assert {line["hypothesis"] for line in document["lines"]} == {"ZS", "ICL", "lcgd"}
    assert {line["n"] for line in document["lines"] if line["score"] == "AUC"} == {4}
    spread = {line["hypothesis"]: line["spread"] for line in document["spread"]}
    assert spread["ZS"] == 0 < spread["lcgd"] < spread["ICL"]
    assert run(options) == 0
    assert "SimAOU_label was not measured" in capsys.readouterr().out
    assert run([*options, "--task", "mr", "--seed", "1"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "claim.yaml is a claim, which says itself what --task and --seed would" in told
